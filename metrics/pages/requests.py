"""One request of the history: the way it took, and why. Needs the database."""

import uuid
from datetime import timedelta

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway.balancer import MOST_NOTED
from metrics import history, queries, waterfall


@never_cache
@login_required
def request_detail(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
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


URLS = [path("requests/<uuid:request_id>", request_detail, name="request")]
