"""How figures are written on pages. static/js/format.js writes them the same way."""

import math
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _

register = template.Library()

NOTHING = "—"  # never measured, as against a measured 0


@register.simple_tag
@lru_cache(maxsize=256)
def icon(name: str, css: str = "") -> SafeString:
    """A symbol of the sprite, for the eye alone: the word stands beside it."""
    return format_html(
        '<svg class="i {}" aria-hidden="true"><use href="{}#{}"></use></svg>', css, static("img/icons.svg"), name
    )


def _number(value: float, digits: int = 0) -> str:
    """Rounded half up as browsers do; Django alone would cut the digits off."""
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return number_format(rounded, digits, force_grouping=True)


@register.filter
def count(value: int | None) -> str:
    """A whole number with separators."""
    if value is None:
        return NOTHING
    return str(value) if -1000 < value < 1000 else _number(value)  # most are small, and a page has hundreds


@register.filter
def speed(value: float | None) -> str:
    """Tokens a second: three digits that mean something."""
    if value is None:
        return NOTHING
    return _number(value, 0 if value >= 100 else 1)


@register.filter
def span(seconds: float | None) -> str:
    """Whole seconds, minutes from two of them on, hours from two of them on."""
    if seconds is None:
        return NOTHING
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{_number(seconds // size)} {unit}"
    return f"{_number(seconds // 1)} s"


@register.filter
def duration(milliseconds: float | None) -> str:
    """`340 ms`, from a second on `1.84 s`."""
    if milliseconds is None:
        return NOTHING
    if milliseconds < 1000:
        return f"{_number(milliseconds)} ms"
    return f"{_number(milliseconds / 1000, 2)} s"


@register.filter
def rate(good: float, total: float) -> str:
    """Percent: two decimals from 99 on, else one."""
    if not total:
        return NOTHING
    if good == total:
        return f"{_number(100)} %"
    percent = 100 * good / total
    digits = 2 if percent >= 99 else 1
    return f"{_number(math.floor(percent * 10**digits) / 10**digits, digits)} %"  # never 100 while anything failed


@register.filter
def age(moment: datetime | None) -> str:
    if moment is None:
        return NOTHING
    now = timezone.now()
    if now - moment < timedelta(minutes=1):  # also where the clock that measured it is ahead
        return _("just now")
    return _("%(time)s ago") % {"time": timesince(moment, now, depth=1)}


@register.filter
def left(moment: datetime | None) -> float | None:
    """Seconds until then; 0 once it has passed."""
    return None if moment is None else max(0.0, (moment - timezone.now()).total_seconds())


@register.filter
def moment(value: datetime | None) -> str:
    """To the second, in the viewer's zone, as days are written in tables."""
    return NOTHING if value is None else timezone.localtime(value).strftime("%Y-%m-%d %H:%M:%S")


@register.simple_tag
def when(value: datetime | None, form: str = "%Y-%m-%d %H:%M:%S") -> SafeString | str:
    """A moment in the viewer's zone (`form` as strftime has it), the exact instant with its offset on hover."""
    if value is None:
        return NOTHING
    local = timezone.localtime(value)
    exact = local.isoformat(sep=" ", timespec="milliseconds")
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), exact, local.strftime(form))


@register.filter
def clock(minute: str) -> str:
    """A minute of the timeline in the viewer's zone."""
    return timezone.localtime(datetime.fromisoformat(minute)).strftime("%H:%M")


@register.filter
def item(mapping: dict[str, Any], key: str) -> Any:
    return mapping.get(key)
