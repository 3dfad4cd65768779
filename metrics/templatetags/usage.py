"""Template filters and tags of usage: changes since the period before, shares, and links."""

from typing import Any

from django import template
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from metrics.templatetags.figures import NO_VALUE, _number, count, percent_sign

register = template.Library()

MINUS = "\N{MINUS SIGN}"


@register.filter
def change(now: int, before: int) -> str:
    """Format a change: `+1,234 (+12.3 %)`. If the earlier value is 0, there is no percentage."""
    return f"{_signed(now - before)} ({percent(now, before)})" if before else _signed(now - before)


@register.filter
def percent(now: int, before: int) -> str:
    """Format a relative change in percent; a dash if the earlier value is 0."""
    if not before:
        return NO_VALUE
    value = 100 * (now - before) / before
    text = _number(abs(value), 0 if abs(value) >= 100 else 1)
    return f"{_sign(value)}{text}{percent_sign()}"


def _signed(value: int) -> str:
    return f"{_sign(value)}{count(abs(value))}"


def _sign(value: float) -> str:
    return "+" if value > 0 else MINUS if value < 0 else "±"


@register.simple_tag
def share(part: int, whole: int) -> SafeString:
    """Return a bar with the share of a part. Screen readers skip it, because figures stand beside it."""
    length = 100 * part / whole if whole else 0
    return format_html(
        '<svg class="share" aria-hidden="true"><rect class="share-bg" width="100%" height="100%"/>'
        '<rect class="share-part" width="{}%" height="100%"/></svg>',
        f"{length:.2f}",
    )


# CSS classes of the heatmap: no requests, then four levels up to the busiest hour.
SHADES = ("heat-0", "heat-1", "heat-2", "heat-3", "heat-4")


@register.filter
def shade(level: int) -> str:
    return SHADES[level]


@register.simple_tag(takes_context=True)
def here(context: dict[str, Any], *drop: str, **change: Any) -> str:
    """Return the URL of this page without the parameters `drop`, and with those of `change` replaced."""
    request: HttpRequest = context["request"]
    query = request.GET.copy()
    for name in (*drop, *change):
        query.pop(name, None)
    for name, value in change.items():
        if value not in (None, ""):
            query[name] = str(value)
    return f"{request.path}?{query.urlencode()}" if query else request.path


@register.simple_tag
def row_name(row: dict[str, Any], by: str) -> str:
    """Return the name of a usage row: of a deleted endpoint or API key, its id; empty for none."""
    if by == "endpoint":
        return row["endpoint_name"] or (_("deleted: %(id)s") % {"id": row["endpoint_id"]} if row["endpoint_id"] else "")
    if by == "key":
        return row["api_key_name"] or (_("deleted: %(id)s") % {"id": row["api_key_id"]} if row["api_key_id"] else "")
    if by == "external":
        return "" if row["external"] is None else _("External endpoints") if row["external"] else _("Own endpoints")
    if by == "step":
        return _("Step %(number)s") % {"number": row["step"]} if row["step"] else ""
    fields = {"user": "username", "model": "model_id", "served": "served_model", "canonical": "canonical_name"}
    name: str | None = row[fields.get(by, by)]
    return name or ""
