"""Page of a model name: its steps, what serves them now, and the comparison of a step's targets."""

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from endpoints.model_names.name_cache import model_names
from metrics.model_names import comparison
from metrics.model_names.comparison import DEFAULT_SPAN, SPANS, ComparisonPayload, IntervalPayload
from metrics.model_names.states import NameView
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed

SPAN_LABELS = {"1h": _("1 hour"), "6h": _("6 hours"), "24h": _("24 hours"), "7d": _("7 days")}
# Figures of the comparison: name, label, and the filter that shows them.
ROWS = (
    ("error_share", _("Errors"), "share"),
    ("duration_p50", _("Duration, median"), "seconds"),
    ("duration_p95", _("Duration, p95"), "seconds"),
    ("first_token_p50", _("Time to first token, median"), "seconds"),
    ("first_token_p95", _("Time to first token, p95"), "seconds"),
    ("tokens_per_second", _("Tokens per second, median"), "speed"),
)


@never_cache
@login_required
def model_name(request: HttpRequest, name_id: uuid.UUID) -> HttpResponse:
    name = model_names.get(str(name_id))
    if name is None:
        raise Http404
    shared = [number for number, step in enumerate(name.steps, 1) if len(step.targets) > 1]
    step, span = request.GET.get("step", ""), request.GET.get("range", DEFAULT_SPAN)
    number = int(step) if step.isascii() and step.isdigit() and len(step) < 3 and int(step) in shared else None
    number = number or next(iter(shared), None)
    span = span if span in SPANS else DEFAULT_SPAN
    behind = not flushed()
    compared = None if number is None else comparison.compare(name, number, span)
    context: dict[str, Any] = {
        "name": name,
        "state": NameView.of(Moment.now()).state(name),
        "behind": behind,
        "comparison": compared,
        "rows": [] if compared is None else _rows(compared),
        "shared_steps": shared,
        "spans": SPAN_LABELS,
    }
    return render(request, "model_names/page.html", context)


class ComparedCell(NamedTuple):
    """A figure of one target. `differs`: from that of the first target; None: too few requests."""

    interval: IntervalPayload
    differs: bool | None
    is_first: bool


class FigureRow(NamedTuple):
    """A line of the table: one figure of all targets."""

    label: str | Promise
    form: str
    cells: list[ComparedCell]


def _rows(compared: ComparisonPayload) -> list[FigureRow]:
    significant = {(one["target"], one["figure"]): one["significant"] for one in compared["differences"]}
    sides: list[Any] = list(compared["targets"])
    return [
        FigureRow(label, form, [_cell(side, index, figure, form, significant) for index, side in enumerate(sides)])
        for figure, label, form in ROWS
    ]


def _cell(
    side: Any, index: int, figure: str, form: str, significant: Mapping[tuple[int, str], bool | None]
) -> ComparedCell:
    return ComparedCell(_shown(side[figure], form), significant.get((index, figure)), not index)


def _shown(interval: IntervalPayload, form: str) -> IntervalPayload:
    """Return value and bounds as the template's filters take them: durations in milliseconds."""
    if form != "seconds":
        return interval
    value, low, high = (
        None if seconds is None else seconds * 1000
        for seconds in (interval["value"], interval["low"], interval["high"])
    )
    return {"value": value, "low": low, "high": high, "requests": interval["requests"]}


URLS = [path("model-names/<uuid:name_id>", model_name, name="model-name")]
