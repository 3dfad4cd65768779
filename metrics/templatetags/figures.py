"""Template filters and tags that format figures on pages. static/js/format.js uses the same formats."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from endpoints import capabilities, causes
from gateway.base import bounds

register = template.Library()

NO_VALUE = "—"  # never measured, as against a measured 0
_SPANS = {86400: "d", 3600: "h", 60: "min", 1: "s"}  # seconds -> unit
_UNIT = re.compile(r"([^ %]+)(?: |(?=%))(.+)")
_JAPANESE_SPANS = {86400: "日", 3600: "時間", 60: "分", 1: "秒"}


@register.simple_tag
@lru_cache(maxsize=256)
def icon(name: str, css: str = "") -> SafeString:
    """Return a symbol of the sprite. Screen readers skip it, because a word stands beside it."""
    return format_html(
        '<svg class="i {}" aria-hidden="true"><use href="{}#{}"></use></svg>', css, static("img/icons.svg"), name
    )


def _number(value: float, digits: int = 0) -> str:
    """Format a number with separators, as English and Japanese both write it. Rounds half up, as browsers do."""
    return SafeString(f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,f}")


@register.filter
def count(value: int | None) -> str:
    """Format a whole number with separators."""
    if value is None:
        return NO_VALUE
    return (
        SafeString(value) if -1000 < value < 1000 else _number(value)
    )  # most counts are small, and a page has hundreds


@register.filter
def bound_title(name: str) -> str:
    """Return the title of a bound; its name if it is a bound of another release."""
    bound = bounds.BY_NAME.get(name)
    return name if bound is None else _(bound.title)


@register.filter
def cause(stored: str | None) -> str:
    """Return the text of a stored cause of an error in the language of the page."""
    return causes.shown(stored or "")


@register.filter
def capability(word: str) -> str:
    """Return the name of a capability."""
    return capabilities.label(word)


@register.filter
def speed(value: float | None) -> str:
    """Format a speed in tokens per second: a whole number from 100 on, else one decimal."""
    if value is None:
        return NO_VALUE
    return _number(value, 0 if value >= 100 else 1)


@register.filter
def span(seconds: float | None) -> str:
    """Format a duration in whole days, hours or minutes, from two of the unit on; else in whole seconds.

    A negative duration, which clocks that differ can cause, is shown as 0.
    """
    if seconds is None:
        return NO_VALUE
    seconds = max(0, seconds)
    size = next((size for size in (86400, 3600, 60) if seconds >= 2 * size), 1)
    return f"{_number(seconds // size)} {(_JAPANESE_SPANS if get_language() == 'ja' else _SPANS)[size]}"


@register.filter
def compact(value: int | None) -> str:
    """Format a count from a million on with three significant digits: `61.8 M`. The full figure stands beside it."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value is not None and value >= size:
            short = value / size
            return f"{_number(short, 2 if short < 9.995 else 1 if short < 99.95 else 0)} {unit}"
    return count(value)


@register.filter
def units(text: str) -> SafeString:
    """Return a figure with its unit in small grey type."""
    match = _UNIT.fullmatch(text)
    return format_html('{}<span class="unit">{}</span>', *match.groups()) if match else format_html("{}", text)


@register.filter
def duration(milliseconds: float | None) -> str:
    """Format a duration in milliseconds: `340 ms`, or `1.84 s` from a second on."""
    if milliseconds is None:
        return NO_VALUE
    if milliseconds < 999.5:
        return f"{_number(milliseconds)} ms"
    return f"{_number(milliseconds / 1000, 2)} s"


@register.filter
def rate(good: float, total: float) -> str:
    """Format a success rate in percent, rounded down: two decimals from 99 on, else one."""
    if not total:
        return NO_VALUE
    if good == total:
        return _percent(100)
    percent = 100 * good / total
    digits = 2 if percent >= 99 else 1
    return _percent(math.floor(percent * 10**digits) / 10**digits, digits)  # never 100 while anything failed


def _percent(value: float, digits: int = 0) -> str:
    """Write a percentage; Japanese has no blank before the sign."""
    return f"{_number(value, digits)}{percent_sign()}"


def percent_sign() -> str:
    """Return the percent sign with the blank that stands before it in the language of the page."""
    return "%" if get_language() == "ja" else " %"


@register.filter
def percentage(percent: float) -> str:
    """Write a percentage with one decimal."""
    return _percent(percent, 1)


@register.filter
def share(part: int, whole: int) -> str:
    """Format a share in percent with one decimal. It is rounded up, so only an empty part is 0."""
    return _percent(math.ceil(1000 * part / whole) / 10, 1) if whole else NO_VALUE


@register.filter
def fraction(part: float | None) -> str:
    """Format a part of 1 in percent with one decimal."""
    return NO_VALUE if part is None else _percent(100 * part, 1)


@register.filter
def age(moment: datetime | None) -> str:
    """Format the age of a moment, in the units of `span`."""
    if moment is None:
        return NO_VALUE
    now = timezone.now()
    if now - moment < timedelta(minutes=1):  # also if the clock that measured it is ahead
        return _("just now")
    return _("%(time)s ago") % {"time": span((now - moment).total_seconds())}


@register.filter
def left(moment: datetime | None) -> float | None:
    """Return the seconds until a moment; 0 once it has passed."""
    return None if moment is None else max(0.0, (moment - timezone.now()).total_seconds())


@register.filter
def moment(value: datetime | None) -> str:
    """Format a moment to the second, in the viewer's zone, with the date format of tables."""
    return NO_VALUE if value is None else timezone.localtime(value).strftime("%Y-%m-%d %H:%M:%S")


@register.simple_tag
def when(value: datetime | None, form: str = "%Y-%m-%d %H:%M:%S") -> SafeString | str:
    """Return a moment in the viewer's zone, in the strftime format `form`. The title has milliseconds and offset."""
    return NO_VALUE if value is None else SafeString(_time(timezone.localtime(value), form))


def _time(local: datetime, form: str) -> str:
    """Return a `time` element. Its values are digits and signs, so nothing needs escaping."""
    exact = local.isoformat(sep=" ", timespec="milliseconds")
    return f'<time datetime="{local.isoformat()}" title="{exact}">{local.strftime(form)}</time>'


@register.simple_tag
def hour_rows(times: Iterable[tuple[datetime, Mapping[str, int]]], columns: Iterable[str]) -> SafeString:
    """Return table rows with a moment and counts. For hundreds, a loop in the template takes three times as long."""
    zone, names = timezone.get_current_timezone(), tuple(columns)
    rows = (
        "".join([f'<td class="n">{count(slot[name])}</td>' for name in names]).join(
            (f'<tr><th scope="row">{_time(hour.astimezone(zone), "%Y-%m-%d %H:%M")}</th>', "</tr>")
        )
        for hour, slot in times
    )
    return SafeString("".join(rows))


@register.filter
def instant(text: str | None) -> datetime | None:
    """Parse a moment in the format of the API."""
    return None if text is None else datetime.fromisoformat(text)


@register.filter
def since(value: datetime) -> str:
    """Format a moment of today as its time, and an earlier one as its day."""
    local = timezone.localtime(value)
    if local.date() == timezone.localdate():
        return local.strftime("%H:%M")
    return day_month(local)


@register.filter
def day_month(day: date | datetime) -> str:
    """Write a day without its year, in the shortest form."""
    local = timezone.localtime(day) if isinstance(day, datetime) else day
    return date_format(local, "n月j日" if get_language() == "ja" else "j M")


@register.filter
def elapsed(value: datetime) -> str:
    return span(max(0.0, (timezone.now() - value).total_seconds()))


@register.filter
def clock(minute: str) -> str:
    """Format a minute of the timeline in the viewer's zone."""
    return timezone.localtime(datetime.fromisoformat(minute)).strftime("%H:%M")


@register.simple_tag
def latency(entry: Any) -> SafeString:
    """Return the latency of an endpoint, with its age if the endpoint is offline and no longer measured.

    static/js/endpoint_status.js changes its texts and classes, never its elements.
    """
    measured = entry.latency_ms is not None
    old = measured and entry.status == "offline"
    seen = timezone.localtime(entry.last_seen).isoformat() if entry.last_seen else ""
    figure = format_html('{}<span class="unit">ms</span>', count(entry.latency_ms)) if measured else NO_VALUE
    title = format_html(' title="{}"', _("Measured %(when)s") % {"when": seen}) if old else ""
    return format_html(
        '<span class="{}" data-latency{}><span>{}</span><small{}>{}<span data-age="{}">{}</span></small></span>',
        "stale" if old else "" if measured else "muted",
        title,
        figure,
        "" if old else SafeString(" hidden"),
        icon("clock"),
        seen if old else "",
        "" if not old else elapsed(entry.last_seen) if entry.last_seen else NO_VALUE,
    )


@register.filter
def item(mapping: dict[str, Any], key: str) -> Any:
    return mapping.get(key)


@register.simple_tag
def options(choices: Iterable[tuple[str, Any]], chosen: str = "") -> SafeString:
    """Return the options of a select from pairs of value and label. There may be hundreds."""
    marked = ((value, SafeString(" selected") if value == chosen else "", label) for value, label in choices)
    return format_html_join("", '<option value="{}"{}>{}</option>', marked)


SPARK_WIDTH, SPARK_HEIGHT = 80, 32


@register.simple_tag
def spark(values: Sequence[float | None], key: str, low: float | None = 0.0) -> SafeString:
    """Return a sparkline: no axis, the last point marked, gaps bridged.

    The scale starts at `low`, or at the lowest value if `low` is None. The script of the overview fetches it
    again when minutes have changed.
    """
    points = _spark_points(values, low)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"{points[0][0]:.1f},32 {line} {points[-1][0]:.1f},32" if points else ""
    last = f"M{points[-1][0]:.1f} {points[-1][1]:.1f}h0" if points else ""
    return format_html(
        '<svg class="spark" viewBox="0 0 80 32" preserveAspectRatio="none" aria-hidden="true" data-part="spark-{}">'
        '<polygon class="a" points="{}"/><polyline class="l" points="{}"/><path class="p" d="{}"/></svg>',
        key,
        area,
        line,
        last,
    )


def _spark_points(values: Sequence[float | None], low: float | None) -> list[tuple[float, float]]:
    measured = [value for value in values if value is not None]
    if not measured:
        return []
    lowest = min(measured) if low is None else low
    height, step = max(measured) - lowest or 1, SPARK_WIDTH / max(1, len(values) - 1)
    return [
        (position * step, 30 - (value - lowest) / height * 26)
        for position, value in enumerate(values)
        if value is not None
    ]


@register.simple_tag
def meter(value: int, maximum: int | None, css: str = "") -> SafeString | str:
    """Return a bar that is filled to `value` of `maximum`, nothing without `maximum`.

    The style sheet cuts it into blocks for up to eight. static/js/overview.js changes the width of its filled part.
    """
    if not maximum:
        return ""
    filled = f"{min(100, 100 * value / maximum):.1f}"
    full = " full" if value >= maximum and not css else ""
    return format_html(
        '<svg class="meter {}{}" aria-hidden="true" data-most="{}"><rect class="t" width="100%" height="100%"/>'
        '<rect class="f" width="{}%" height="100%"/></svg>',
        css,
        full,
        maximum,
        filled,
    )
