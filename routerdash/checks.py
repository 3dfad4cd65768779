"""System checks for combinations of settings that are each valid but not together."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register
def no_pool_where_we_fork(**kwargs: Any) -> list[CheckMessage]:
    """Report a connection pool in the background process. django-q2 forks its workers, and all would share the pool."""
    if settings.ROUTERDASH_ROLE == "background" and settings.DATABASES["default"].get("OPTIONS", {}).get("pool"):
        return [Error("The background process must not use a connection pool.", id="routerdash.E001")]
    return []
