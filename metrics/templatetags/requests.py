"""How the words of records are written on pages, and how their time is drawn."""

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from metrics import waterfall, words
from metrics.waterfall import Span

register = template.Library()

register.filter("outcome_word", words.outcome)
register.filter("reason_word", words.reason)
register.filter("route_word", words.route)
register.filter("phase_word", words.phase)
register.filter("excluded_word", words.left_out)

# Classes of the bars.
_CSS = {
    waterfall.QUEUE: "wf-queue",
    waterfall.ATTEMPT: "wf-whole",
    waterfall.FIRST_TOKEN: "wf-first",
    waterfall.STREAM: "wf-stream",
}
_LEAST = 0.9  # percent: a part is never too short to see


def _css(span: Span) -> str:
    bad = waterfall.went_wrong(span.outcome) and span.what != waterfall.FIRST_TOKEN
    return "wf-bad" if bad else _CSS[span.what]


@register.simple_tag
def mini(spans: list[Span], scale_ms: float) -> SafeString:
    """All of a request's time in one small bar, which ends where the scale does."""
    parts = []
    for span in spans:
        start, length = (100 * value / scale_ms if scale_ms else 0.0 for value in (span.start_ms, span.length_ms))
        if start < 100:
            parts.append((_css(span), f"{start:.1f}", f"{max(_LEAST, min(length, 100 - start)):.1f}"))
    rects = format_html_join("", '<rect class="{}" x="{}%" width="{}%" height="100%"/>', parts)
    return format_html('<svg class="wf mini" aria-hidden="true">{}</svg>', rects)


@register.simple_tag
def bar(span: Span, total_ms: float) -> SafeString:
    """A part of a request's time on the scale of the whole. The figure stands beside it."""
    start, length = (100 * value / total_ms if total_ms else 0.0 for value in (span.start_ms, span.length_ms))
    length = max(_LEAST, length)
    return format_html(
        '<svg class="wf" aria-hidden="true"><rect class="wf-bg" width="100%" height="100%"/>'
        '<rect class="{}" x="{}%" width="{}%" height="100%" rx="1"/></svg>',
        _css(span),
        f"{min(start, 100 - length):.2f}",
        f"{length:.2f}",
    )
