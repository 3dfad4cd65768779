"""The admin of endpoints, their models and health checks."""

from endpoints.admin import endpoint, lists  # Django registers them by importing this package

__all__ = ["endpoint", "lists"]
