"""One endpoint: counters, models, the last seven days. The daily rows need the database."""

import uuid

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from metrics import queries
from metrics.queries import Moment


@never_cache
@login_required
def endpoint(request: HttpRequest, endpoint_id: uuid.UUID) -> HttpResponse:
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


URLS = [path("endpoints/<uuid:endpoint_id>", endpoint, name="endpoint")]
