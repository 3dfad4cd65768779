"""One request of the history: its page, its drawer beside the list, and its bodies. Needs the database."""

import uuid
from datetime import datetime, timedelta
from typing import TypedDict

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway.registry.prices import Price
from gateway.registry.schema import Speeds
from gateway.routing.balancer import MAX_RECORDED_SCORES
from metrics.memory.runtime import runtime
from metrics.queries.requests import bodies
from metrics.queries.requests.explanation import RequestExplanation, explanation
from metrics.queries.requests.lookups import priced_request
from metrics.queries.requests.payload import RequestDetailPayload
from metrics.queries.requests.waterfall import WaterfallBar, total_ms, waterfall_bars
from metrics.queries.stored import flushed
from metrics.times import parse_time


class RequestContext(TypedDict):
    record: RequestDetailPayload
    ended: datetime
    arrived: datetime
    spans: list[WaterfallBar]
    total_ms: float
    max_scores: int
    explanation: RequestExplanation | None
    existing_endpoints: set[str]  # ids of endpoints
    has_bodies: bool
    store_bodies: str
    may_see_bodies: bool
    price: Price | None
    currency: str


def request_context(request: HttpRequest, request_id: str) -> RequestContext | None:
    """Return the context of the page and the drawer; None if there is no such request."""
    detail_and_price = priced_request(request_id)
    if detail_and_price is None:
        return None
    detail, price = detail_and_price
    ended = parse_time(detail["completed_at"])
    assert ended is not None
    context: RequestContext = {
        "record": detail,
        "ended": ended,
        "arrived": ended - timedelta(milliseconds=detail["duration_ms"]),
        "spans": list(waterfall_bars(detail)),
        "total_ms": total_ms(detail),
        "max_scores": MAX_RECORDED_SCORES,
        "explanation": explanation(detail, _speeds(detail)),
        "existing_endpoints": {entry.id for entry in registry.all()},
        "has_bodies": bodies.are_stored(request_id),
        "store_bodies": settings.ROUTERDASH.store_bodies,
        "may_see_bodies": bodies.may_view(request.user),
        "price": price,
        "currency": settings.ROUTERDASH.currency,
    }
    return context


def _speeds(request: RequestDetailPayload) -> Speeds | None:
    """Return what was learned about the model at the endpoint of the request; None if nothing was."""
    routes = runtime.installation.routes(request["model"]) if request["endpoint_id"] else []
    model_id = next((model.id for facts, model in routes if facts.id == request["endpoint_id"]), None)
    if model_id is None:
        return None
    return runtime.installation.speeds(str(request["endpoint_id"]), model_id, request["kind"])


@never_cache
@login_required
def request_page(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
    flushed()
    context = request_context(request, str(request_id))
    if context is None:
        raise Http404
    return render(request, "request/page.html", {**context})


@never_cache
@login_required
def request_bodies(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
    if not bodies.may_view(request.user):
        raise PermissionDenied
    flushed()
    context = request_context(request, str(request_id))
    stored = bodies.view_bodies(request.user, str(request_id))
    if context is None or stored is None:
        raise Http404
    return render(request, "request/page.html", {**context, "bodies": stored.shown})


URLS = [
    path("requests/<uuid:request_id>", request_page, name="request"),
    path("requests/<uuid:request_id>/bodies", request_bodies, name="request-bodies"),
]
