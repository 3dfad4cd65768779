"""Addresses of the busiest models, API keys and clients on the overview."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from django import template
from django.urls import reverse

register = template.Library()


@register.filter
def rank_url(row: Mapping[str, Any]) -> str:
    """Return the address of a row's requests or of its client; nothing for requests without an API key."""
    if "ip" in row:
        return reverse("client", args=[row["ip"]])
    query = {"model": row["model_id"]} if "model_id" in row else {"api_key_id": row["api_key_id"]}
    return f"{reverse('requests')}?{urlencode(query, quote_via=quote)}" if all(query.values()) else ""
