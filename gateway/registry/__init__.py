"""Registry store: endpoints, models and API keys, in files that control writes and gateways read."""
