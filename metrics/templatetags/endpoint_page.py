"""Template filters and tags of an endpoint's page: charts and texts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from endpoints.edit_log import API_KEY, BREAKER, STATE, Edit
from endpoints.models import EDITED_OPTIONS, Endpoint, EndpointOptions, OperatorState, Status
from metrics.queries import uptime
from metrics.queries.uptime import CELLS, LATER, HealthTimeline
from metrics.templatetags.figures import NO_VALUE, count, day_month, rate

register = template.Library()

GRID_HEIGHT = 104.0
LABELS = 5  # dates below the grid
LOW = 0.99  # a day below that is named

CLASSES = {
    LATER: "day-later", "online": "day-online", "pending": "day-unknown", uptime.UNKNOWN: "day-unknown",
    "draining": "day-draining", "disabled": "day-disabled", "error": "day-error", "offline": "day-offline",
}  # fmt: skip
FILLS = {
    "day-error": mark_safe(' fill="url(#hatch-bad)"'),
    "day-unknown": mark_safe(' fill="url(#dots)"'),  # an unknown state must not look like a quiet day
}


@register.filter
def up(seconds: dict[str, float]) -> str:
    """Format the online share of the measured time in percent; never 100 while any of it was not online."""
    return rate(seconds[Status.ONLINE], measured(seconds))


@register.filter
def measured(seconds: dict[str, float]) -> float:
    return sum(seconds[state] for state in uptime.MEASURED)


@register.simple_tag
def health_grid(timeline: HealthTimeline) -> SafeString:
    """Return a chart with a column for each day, from midnight to midnight. Screen readers get a text instead."""
    width = 100 / len(timeline.days)
    every = -(-len(timeline.days) // LABELS)
    marks: list[tuple[str, str, str, str, str, SafeString | str]] = []
    words: list[tuple[str, str, str, str]] = []
    low: list[str] = []
    for position, day in enumerate(timeline.days):
        for state, first, cells in day.runs:
            top, height = first * GRID_HEIGHT / CELLS, cells * GRID_HEIGHT / CELLS
            marks.append(
                (
                    CLASSES[state],
                    f"{position * width:.3f}",
                    f"{width:.3f}",
                    f"{top:.2f}",
                    f"{height:.2f}",
                    FILLS.get(CLASSES[state], ""),
                )
            )
        middle = f"{(position + 0.5) * width:.3f}"
        if day.uptime is not None and day.uptime < LOW:
            low.append(f"{day_month(day.date)} {up(day.seconds)}")
            words.append(("low", middle, "118", up(day.seconds).replace(" ", "")))
        if position % every == every // 2:
            words.append(("", middle, "134", day_month(day.date)))
    between = [(f"{position * width:.3f}",) for position in range(1, len(timeline.days))]
    text = ngettext("Health of %(count)d day.", "Health of %(count)d days.", len(timeline.days))
    label = text % {"count": len(timeline.days)}
    if low:
        label += " " + _("Uptime below 99 percent on: %(days)s.") % {"days": ", ".join(low)}
    return format_html(
        '<svg class="days" role="img" aria-label="{}"><defs><pattern id="hatch-bad" width="5" height="5" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch-back" width="5" height="5"/>'
        '<path class="hatch-line" d="M1 0v5"/></pattern><pattern id="dots" width="6" height="6" '
        'patternUnits="userSpaceOnUse"><rect class="dots-back" width="6" height="6"/>'
        '<circle class="dot" cx="3" cy="3" r="1"/></pattern></defs>{}{}{}</svg>',
        label,
        format_html_join("", '<rect class="{}" x="{}%" width="{}%" y="{}" height="{}"{}/>', marks),
        format_html_join("", '<line class="between" x1="{0}%" x2="{0}%" y1="0" y2="104"/>', between),
        format_html_join("", '<text class="{}" x="{}%" y="{}" text-anchor="middle">{}</text>', words),
    )


@register.simple_tag
def latency_line(latencies: Sequence[int | None]) -> SafeString | str:
    """Return a line of the last checks, from 0 to the slowest, with a gap for each check without a latency."""
    measured_values = [value for value in latencies if value is not None]
    if len(measured_values) < 2:
        return ""
    top, step = max(measured_values), 200 / (len(latencies) - 1)
    path, drawing = "", False
    for position, value in enumerate(latencies):
        if value is not None:
            path += f"{'L' if drawing else 'M'}{position * step:.1f} {34 - value / top * 32:.1f}"
        drawing = value is not None
    label = _("Latency of the latest %(count)s health checks: %(low)s to %(high)s ms.")
    texts = {"count": count(len(latencies)), "low": count(min(measured_values)), "high": count(top)}
    return format_html(
        '<svg class="line" role="img" aria-label="{}" viewBox="0 0 200 36" preserveAspectRatio="none">'
        '<path d="{}"/></svg> <span class="muted">0–{} ms</span>',
        label % texts,
        path,
        texts["high"],
    )


@register.simple_tag
def drain_left(since: datetime | None, until: datetime | None) -> str:
    """Return the rest of a drain until its deadline, in percent."""
    if since is None or until is None or until <= since:
        return "0"
    return f"{max(0.0, min(1.0, (until - timezone.now()) / (until - since))) * 100:.2f}"


@register.filter
def total(days: Sequence[Any]) -> int:
    return sum(day.total for day in days)


@register.filter
def unknown(seconds: dict[str, float]) -> float:
    """Return the seconds in an unknown state, those before the first check included."""
    return seconds[uptime.UNKNOWN] + seconds[Status.PENDING]


@register.filter
def instant(text: str | None) -> datetime | None:
    """Parse a moment in the format of the JSON API."""
    return None if text is None else datetime.fromisoformat(text)


@register.filter
def offered(models: dict[str, Any], name: str) -> Any:
    return models.get(name)


@register.filter
def deadline_word(seconds: int) -> str:
    if not seconds:
        return _("end them now")
    if seconds < 60:
        return ngettext("after %(count)d second", "after %(count)d seconds", seconds) % {"count": seconds}
    minutes = seconds // 60
    return ngettext("after %(count)d minute", "after %(count)d minutes", minutes) % {"count": minutes}


@register.filter
def changed_fields(edit: Edit) -> list[str]:
    """Return the changes of an edit, one field per line: `Health check interval (s): 30 → 60`."""
    return [_changed_field(name, *pair) for name, pair in edit.values.items()]


def _changed_field(name: str, before: Any, after: Any) -> str:
    if before is None and after is None:
        return _field(name)
    return _("%(field)s: %(before)s → %(after)s") % {
        "field": _field(name),
        "before": _value(name, before),
        "after": _value(name, after),
    }


def _field(name: str) -> str:
    if name in (API_KEY, "forget_api_key"):
        return _("API key of the server")
    if name == BREAKER:
        return _("Circuit breaker reset")
    model: Any = EndpointOptions if name in (*EDITED_OPTIONS, STATE) else Endpoint
    names = {field.name for field in model._meta.get_fields()}
    return capfirst(str(model._meta.get_field(name).verbose_name)) if name in names else name


def _value(name: str, value: Any) -> str:
    if value in (None, "", []):
        return NO_VALUE
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    if name == STATE and value in OperatorState.values:
        return str(OperatorState(value).label)
    return count(value) if isinstance(value, int) else str(value)
