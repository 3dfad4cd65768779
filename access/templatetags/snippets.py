"""Template tag for the snippets of a first request, with the public URL of this RouterDash."""

from django import template

from access import snippets as texts

register = template.Library()


@register.inclusion_tag("keys/snippets.html", takes_context=True)
def snippets(context: template.Context, key: str = "") -> dict[str, object]:
    return {"snippets": texts.snippets(context["public_url"], key or texts.UNKNOWN_KEY), "key": key}
