"""The admin of endpoints, their models and health checks, and of model names."""

from endpoints.admin import endpoint, lists, model_name  # Django registers them by importing this package

__all__ = ["endpoint", "lists", "model_name"]
