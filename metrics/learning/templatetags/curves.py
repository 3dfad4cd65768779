"""The curve of what adaptive routing has learned, as SVG: time for each output token against requests in flight."""

import math

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from metrics.learning.learned_models import LearnedModel
from metrics.templatetags.figures import count, duration

register = template.Library()

WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 8, 126  # of the plot
LEAST_IN_FLIGHT = 4
MARKS = (0.5, 1.0)  # grid lines, as a part of the height


@register.simple_tag
def learned_curve(learned: LearnedModel) -> SafeString | str:
    """Return the learned line with its samples as dots; nothing without a line. The figures stand beside it."""
    points, first = learned.points, learned.token_seconds(1)
    if first is None:
        return ""
    most = max([LEAST_IN_FLIGHT, *(math.ceil(point.in_flight) for point in points)])
    last = learned.token_seconds(most) or first
    times = sorted(point.token_ms for point in points)
    # The slowest twentieth of the samples is drawn at the upper edge, so that the others can be told apart.
    top = 1.15 * max([1000 * last, *times[: max(1, round(0.95 * len(times)))][-1:]])

    def x(in_flight: float) -> float:
        return LEFT + (RIGHT - LEFT) * (in_flight - 1) / (most - 1)

    def y(token_ms: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * min(1.0, token_ms / top)

    dots = "".join(f"M{x(point.in_flight):.1f} {y(point.token_ms):.1f}h0" for point in points)
    line = f"M{x(1):.1f} {y(1000 * first):.1f}L{x(most):.1f} {y(1000 * last):.1f}"
    grid = [(f"{y(top * part):.1f}", f"{y(top * part) + 3.5:.1f}", _milliseconds(top * part)) for part in MARKS]
    ticks = [(f"{x(number):.1f}", number) for number in _ticks(most)]
    text = _("Time for each output token, from %(low)s alone to %(high)s with %(most)s requests in flight.")
    label = text % {"low": duration(1000 * first), "high": duration(1000 * last), "most": count(most)}
    return format_html(
        '<svg class="curve" role="img" aria-label="{}" viewBox="0 0 {} {}">{}'
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>{}<path class="dots" d="{}"/><path class="fit" d="{}"/>'
        "</svg>",
        label,
        WIDTH,
        HEIGHT,
        format_html_join(
            "",
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{{0}}" y2="{{0}}"/>'
            f'<text x="{LEFT - 6}" y="{{1}}" text-anchor="end">{{2}}</text>',
            grid,
        ),
        LEFT,
        RIGHT,
        BOTTOM,
        BOTTOM,
        format_html_join("", f'<text x="{{}}" y="{BOTTOM + 16}" text-anchor="middle">{{}}</text>', ticks),
        dots,
        line,
    )


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _ticks(most: int) -> list[int]:
    """Return at most five whole numbers from 1 to `most`."""
    step = math.ceil((most - 1) / 4)
    return list(range(1, most + 1, step))
