"""How figures are written on pages. static/js/format.js writes them the same way."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from gateway import bounds

register = template.Library()

NOTHING = "—"  # never measured, as against a measured 0
_SPANS = {86400: "d", 3600: "h", 60: "min", 1: "s"}  # seconds -> unit
_JAPANESE_SPANS = {86400: "日", 3600: "時間", 60: "分", 1: "秒"}


@register.simple_tag
@lru_cache(maxsize=256)
def icon(name: str, css: str = "") -> SafeString:
    """A symbol of the sprite, for the eye alone: the word stands beside it."""
    return format_html(
        '<svg class="i {}" aria-hidden="true"><use href="{}#{}"></use></svg>', css, static("img/icons.svg"), name
    )


def _number(value: float, digits: int = 0) -> str:
    """Rounded half up as browsers do, and written as English and Japanese both do it."""
    return SafeString(f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,f}")


@register.filter
def count(value: int | None) -> str:
    """A whole number with separators."""
    if value is None:
        return NOTHING
    return SafeString(value) if -1000 < value < 1000 else _number(value)  # most are small, and a page has hundreds


@register.filter
def bound_title(name: str) -> str:
    """What a bound on resources limits, for people; its name where another release counted it."""
    bound = bounds.BY_NAME.get(name)
    return name if bound is None else _(bound.title)


@register.filter
def speed(value: float | None) -> str:
    """Tokens a second: three digits that mean something."""
    if value is None:
        return NOTHING
    return _number(value, 0 if value >= 100 else 1)


@register.filter
def span(seconds: float | None) -> str:
    """Whole seconds, minutes from two of them on, hours and days from two of them on. No time is less than none, even
    if two clocks say so.
    """
    if seconds is None:
        return NOTHING
    seconds = max(0, seconds)
    size = next((size for size in (86400, 3600, 60) if seconds >= 2 * size), 1)
    return f"{_number(seconds // size)} {(_JAPANESE_SPANS if get_language() == 'ja' else _SPANS)[size]}"


@register.filter
def compact(value: int | None) -> str:
    """From a million on, three digits that mean something: `61.8 M`. The full figure stands beside it."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value is not None and value >= size:
            short = value / size
            return f"{_number(short, 2 if short < 9.995 else 1 if short < 99.95 else 0)} {unit}"
    return count(value)


@register.filter
def units(text: str) -> SafeString:
    """A figure and, small and grey, its unit."""
    figure, blank, unit = text.partition(" ")
    return format_html('{}<span class="unit">{}</span>', figure, unit) if blank else format_html("{}", figure)


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
def share(part: int, whole: int) -> str:
    """Percent with one decimal; rounded up, so that 0 is nothing at all."""
    return f"{_number(math.ceil(1000 * part / whole) / 10, 1)} %" if whole else NOTHING


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
    return NOTHING if value is None else SafeString(_time(timezone.localtime(value), form))


def _time(local: datetime, form: str) -> str:
    """Digits and signs that no page has to escape."""
    exact = local.isoformat(sep=" ", timespec="milliseconds")
    return f'<time datetime="{local.isoformat()}" title="{exact}">{local.strftime(form)}</time>'


@register.simple_tag
def hour_rows(times: Iterable[tuple[datetime, Mapping[str, int]]], columns: Iterable[str]) -> SafeString:
    """Rows of a table with a moment and counts: of hundreds, a loop in the template takes three times as long."""
    zone, names = timezone.get_current_timezone(), tuple(columns)
    rows = (
        "".join([f'<td class="n">{count(slot[name])}</td>' for name in names]).join(
            (f'<tr><th scope="row">{_time(at.astimezone(zone), "%Y-%m-%d %H:%M")}</th>', "</tr>")
        )
        for at, slot in times
    )
    return SafeString("".join(rows))


@register.filter
def instant(text: str | None) -> datetime | None:
    """A moment as the API tells it."""
    return None if text is None else datetime.fromisoformat(text)


@register.filter
def since(value: datetime) -> str:
    """Today the time, before that the day."""
    local = timezone.localtime(value)
    if local.date() == timezone.localdate():
        return local.strftime("%H:%M")
    return date_format(local, "n月j日" if get_language() == "ja" else "j M")


@register.filter
def elapsed(value: datetime) -> str:
    return span(max(0.0, (timezone.now() - value).total_seconds()))


@register.filter
def clock(minute: str) -> str:
    """A minute of the timeline in the viewer's zone."""
    return timezone.localtime(datetime.fromisoformat(minute)).strftime("%H:%M")


@register.simple_tag
def latency(entry: Any) -> SafeString:
    """An endpoint's: with its age where the endpoint is offline, since nobody measures it then."""
    if entry.latency_ms is None:
        return format_html('<span class="muted" data-latency>{}</span>', NOTHING)
    measured = format_html('{}<span class="unit">ms</span>', count(entry.latency_ms))
    if entry.status != "offline":
        return format_html("<span data-latency>{}</span>", measured)
    seen, ago = "", SafeString(NOTHING)
    if entry.last_seen:
        seen = timezone.localtime(entry.last_seen).isoformat()
        ago = format_html('<span data-age="{}">{}</span>', seen, elapsed(entry.last_seen))
    return format_html(
        '<span class="stale" data-latency title="{}"><span>{}</span><small>{}{}</small></span>',
        _("Last measured %(when)s") % {"when": seen},
        measured,
        icon("clock"),
        ago,
    )


@register.filter
def item(mapping: dict[str, Any], key: str) -> Any:
    return mapping.get(key)


@register.simple_tag
def options(choices: Iterable[tuple[str, Any]], chosen: str = "") -> SafeString:
    """Of a select that may have hundreds: values and what they are called."""
    marked = ((value, SafeString(" selected") if value == chosen else "", label) for value, label in choices)
    return format_html_join("", '<option value="{}"{}>{}</option>', marked)


SPARK_WIDTH, SPARK_HEIGHT = 80, 32


@register.simple_tag
def spark(values: Sequence[float | None], key: str, low: float | None = 0.0) -> SafeString:
    """A line for context: no axis, the last point marked; a gap is stepped over. From `low`, None: from the lowest."""
    points = _spark_points(values, low)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"{points[0][0]:.1f},32 {line} {points[-1][0]:.1f},32" if points else ""
    last = f"M{points[-1][0]:.1f} {points[-1][1]:.1f}h0" if points else ""
    return format_html(
        '<svg class="spark" viewBox="0 0 80 32" preserveAspectRatio="none" aria-hidden="true" data-spark="{}">'
        '<polygon class="a" points="{}"/><polyline class="l" points="{}"/><path class="p" d="{}"/></svg>',
        key,
        area,
        line,
        last,
    )


def _spark_points(values: Sequence[float | None], low: float | None) -> list[tuple[float, float]]:
    known = [value for value in values if value is not None]
    if not known:
        return []
    least = min(known) if low is None else low
    height, step = max(known) - least or 1, SPARK_WIDTH / max(1, len(values) - 1)
    return [(at * step, 30 - (it - least) / height * 26) for at, it in enumerate(values) if it is not None]


BLOCKS = 8


@register.simple_tag
def meter(value: int, most: int | None, css: str = "") -> SafeString | str:
    """A block for each of up to eight, beyond that a ruler; nothing where there is no most."""
    if not most:
        return ""
    if most <= BLOCKS:
        width = 100 / most
        gap = 1.2 if most > 1 else 0
        parts = [
            ("f" if at < value else "t", f"{at * width + (gap if at else 0):.2f}", f"{width - (gap if at else 0):.2f}")
            for at in range(most)
        ]
    else:
        parts = [("t", "0", "100"), ("f", "0", f"{min(100, 100 * value / most):.1f}")]
    blocks = format_html_join("", '<rect class="{}" x="{}%" width="{}%" height="100%"/>', parts)
    full = " full" if value >= most and not css else ""
    return format_html('<svg class="meter {}{}" aria-hidden="true" data-most="{}">{}</svg>', css, full, most, blocks)
