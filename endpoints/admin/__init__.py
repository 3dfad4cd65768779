"""The admin of endpoints, their models and health checks. That of model names is in their own folder."""

from endpoints.admin import endpoint, lists  # Django registers them by importing this package
from endpoints.model_names import admin as model_names

__all__ = ["endpoint", "lists", "model_names"]
