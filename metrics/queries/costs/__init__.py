"""Costs of requests, as API and pages show them."""
