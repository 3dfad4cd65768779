"""Figures of usage beside those of before, and their shares."""

from typing import Any

from django import template
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from metrics.templatetags.figures import NOTHING, _number, count

register = template.Library()

MINUS = "\N{MINUS SIGN}"


@register.filter
def change(now: int, before: int) -> str:
    """`+1,234 (+12.3 %)`; of nothing there is no percentage."""
    return f"{_signed(now - before)} ({percent(now, before)})" if before else _signed(now - before)


@register.filter
def percent(now: int, before: int) -> str:
    """How much more or less than before; a dash where that was nothing."""
    if not before:
        return NOTHING
    value = 100 * (now - before) / before
    text = _number(abs(value), 0 if abs(value) >= 100 else 1)
    return f"{_sign(value)}{text} %"


def _signed(value: int) -> str:
    return f"{_sign(value)}{count(abs(value))}"


def _sign(value: float) -> str:
    return "+" if value > 0 else MINUS if value < 0 else "±"


@register.simple_tag
def share(part: int, whole: int) -> SafeString:
    """A bar as long as a part is of the whole, for the eye alone: figures stand beside it."""
    length = 100 * part / whole if whole else 0
    return format_html(
        '<svg class="share" aria-hidden="true"><rect class="share-bg" width="100%" height="100%"/>'
        '<rect class="share-part" width="{}%" height="100%"/></svg>',
        f"{length:.2f}",
    )


# Of the heatmap: none, and quarters of the busiest hour.
SHADES = ("heat-0", "heat-1", "heat-2", "heat-3", "heat-4")


@register.filter
def shade(level: int) -> str:
    return SHADES[level]


@register.simple_tag(takes_context=True)
def here(context: dict[str, Any], *drop: str, **change: Any) -> str:
    """This page's address with other parameters: some without, some changed."""
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
    """What a row of usage is called."""
    if by == "endpoint":
        return row["endpoint_name"] or (_("deleted: %(id)s") % {"id": row["endpoint_id"]} if row["endpoint_id"] else "")
    if by == "key":
        return row["api_key_name"] or (_("deleted: %(id)s") % {"id": row["api_key_id"]} if row["api_key_id"] else "")
    name: str | None = row["username"] if by == "user" else row["model_id"] if by == "model" else row[by]
    return name or ""
