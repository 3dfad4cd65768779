"""Template tag for the snippets of a first request, with the public URL of this RouterDash."""

from django import template

from access import snippets as texts
from access.client_snippets import client_snippets as texts_of_clients

register = template.Library()


@register.inclusion_tag("keys/snippets.html", takes_context=True)
def snippets(context: template.Context, key: str = "") -> dict[str, object]:
    return {"snippets": texts.snippets(context["public_url"], key or texts.UNKNOWN_KEY), "key": key}


@register.inclusion_tag("keys/snippets.html", takes_context=True)
def client_snippets(context: template.Context, key: str = "", model: str = "") -> dict[str, object]:
    """Show the settings of every client. Only a key that was just created is in them."""
    snippets_of_clients = texts_of_clients(context["public_url"], key or texts.UNKNOWN_KEY, model)
    return {"snippets": snippets_of_clients, "key": key}
