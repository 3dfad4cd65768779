"""Template filters and tags of requests: texts of stored words, and charts of a request's time."""

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from metrics import labels
from metrics.queries.requests import explanation, waterfall
from metrics.queries.requests.waterfall import WaterfallBar
from metrics.templatetags.figures import NO_VALUE

register = template.Library()

register.filter("outcome_word", labels.outcome)
register.filter("reason_word", labels.reason)
register.filter("route_word", labels.route)
register.filter("phase_word", labels.phase)
register.filter("queue_class_word", labels.queue_class)
register.filter("excluded_word", labels.excluded)
register.filter("step_reason_word", labels.step_reason)
register.filter("finish_reason_word", labels.finish_reason)
register.filter("api_name", labels.api)
register.filter("part_word", labels.part)
register.filter("confidence_word", labels.confidence)
register.filter("candidates", explanation.candidates)

# CSS classes of the bars.
_CSS = {
    waterfall.QUEUE: "wf-queue",
    waterfall.ATTEMPT: "wf-whole",
    waterfall.FIRST_TOKEN: "wf-first",
    waterfall.STREAM: "wf-stream",
}
_LEAST = 0.9  # percent: the shortest part is still visible


def _css(span: WaterfallBar) -> str:
    bad = waterfall.is_failure(span.outcome) and span.what != waterfall.FIRST_TOKEN
    return "wf-bad" if bad else _CSS[span.what]


@register.filter
def times(ratio: float | None) -> str:
    """Format a ratio: `1.1 ×`."""
    return NO_VALUE if ratio is None else f"{ratio:,.1f} ×"


@register.simple_tag
def mini(spans: list[WaterfallBar], scale_ms: float) -> SafeString:
    """Return all of a request's time as one small bar, cut off at the end of the scale."""
    parts = []
    for span in spans:
        start, length = (100 * value / scale_ms if scale_ms else 0.0 for value in (span.start_ms, span.length_ms))
        if start < 100:
            parts.append((_css(span), f"{start:.1f}", f"{max(_LEAST, min(length, 100 - start)):.1f}"))
    rects = format_html_join("", '<rect class="{}" x="{}%" width="{}%" height="100%"/>', parts)
    return format_html('<svg class="wf mini" aria-hidden="true">{}</svg>', rects)


@register.simple_tag
def bar(span: WaterfallBar, total_ms: float) -> SafeString:
    """Return a bar for a part of a request's time, on the scale of the whole. The figure stands beside it."""
    start, length = (100 * value / total_ms if total_ms else 0.0 for value in (span.start_ms, span.length_ms))
    length = max(_LEAST, length)
    return format_html(
        '<svg class="wf" aria-hidden="true"><rect class="wf-bg" width="100%" height="100%"/>'
        '<rect class="{}" x="{}%" width="{}%" height="100%" rx="1"/></svg>',
        _css(span),
        f"{min(start, 100 - length):.2f}",
        f"{length:.2f}",
    )
