"""Costs of own hardware, as API and pages show them."""
