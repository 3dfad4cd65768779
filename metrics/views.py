"""The pages of figures: rendered whole by the server, kept up to date by events."""

import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway.balancer import MOST_NOTED
from metrics import history, queries, waterfall
from metrics.queries import Moment


@never_cache
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    """Needs no database: everything on it is in memory."""
    moment = Moment.now()
    context = {"live": queries.live(moment), "entries": _entries(moment), "shown": queries.SPEEDS_SHOWN}
    return render(request, "overview.html", context)


def _entries(moment: Moment) -> list[dict[str, Any]]:
    """Endpoints as the table shows them: the worst first, then by name."""
    order = {"offline": 0, "error": 1, "pending": 2, "online": 3}
    rows = [row | {"entry": entry} for row, entry in zip(queries.endpoints(moment), moment.entries, strict=True)]
    return sorted(rows, key=lambda row: (order.get(row["status"], 0), row["name"]))


@never_cache
@login_required
def endpoint(request: HttpRequest, endpoint_id: uuid.UUID) -> HttpResponse:
    """One endpoint: counters, models, the last seven days. The daily rows need the database."""
    entry = registry.get(str(endpoint_id))
    if entry is None:
        raise Http404
    behind = not queries.flushed()
    moment = Moment.now()
    row = next((row for row in queries.endpoints(moment) if row["id"] == entry.id), None)
    if row is None:
        raise Http404  # deleted a moment ago
    context = {
        "entry": entry,
        "row": row,
        "stats": queries.stats(moment),
        "behind": behind,
        "today": queries.today_stats(entry.id, moment),
        "days": queries.daily_stats(entry.id, 7, moment.figures.date),
        "models": queries.model_stats(entry.id),
        "speeds": queries.model_tps(entry.id, moment),
        "checks": queries.transitions(entry.id),
    }
    return render(request, "endpoint.html", context)


@never_cache
@login_required
def request_page(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
    """One request of the history: the way it took, and why. Needs the database."""
    queries.flushed()
    told = queries.request(str(request_id))
    if told is None:
        raise Http404
    ended = history.moment(told["completed_at"])
    assert ended is not None
    context = {
        "it": told,
        "ended": ended,
        "arrived": ended - timedelta(milliseconds=told["duration_ms"]),
        "spans": list(waterfall.spans(told)),
        "total_ms": waterfall.total_ms(told),
        "most_noted": MOST_NOTED,
        "known": {entry.id for entry in registry.all()},
    }
    return render(request, "request.html", context)
