"""Snippets for a first request, with the address of this RouterDash, on any page."""

from typing import Any

from django import template

from access import snippets as texts

register = template.Library()


@register.inclusion_tag("inc/snippets.html", takes_context=True)
def snippets(context: template.Context, key: str = "") -> dict[str, Any]:
    return {"snippets": texts.snippets(context["public_url"], key or texts.UNKNOWN_KEY), "key": key}
