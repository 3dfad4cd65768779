"""The JSON API, Prometheus metrics and event streams."""
