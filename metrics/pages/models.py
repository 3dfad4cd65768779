"""The list of models over all endpoints, and the page of one. Both need the database, for requests."""

import json
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway.base.request_kinds import BY_NAME, CAN_CHAT, CAPABILITIES, CHAT, KINDS
from metrics.api.models import ModelsQuerySerializer
from metrics.api.routing_serializers import RouteQuerySerializer
from metrics.model_names import states as name_states
from metrics.pages import options
from metrics.queries import model_figures
from metrics.queries.figures import Moment
from metrics.queries.model_figures import STATES
from metrics.queries.routing.current_route import RouteQuestion, current_route
from metrics.queries.stored import flushed

PAGE = 40
SHOWN_OFFERS = 4  # of a row of the list; its own page has all
FILTERS = ("q", "capability", "endpoint_id", "state")


@never_cache
@login_required
def models(request: HttpRequest) -> HttpResponse:
    """Show the list. Invalid parameters are ignored, and named."""
    parameters = {name: value for name, value in request.GET.dict().items() if value and name != "page"}
    values = {name: value for name, value in parameters.items() if name in (*FILTERS, "sort")}
    query = ModelsQuerySerializer(data=values)
    if not query.is_valid():
        values = {name: value for name, value in values.items() if name not in query.errors}
        query = ModelsQuerySerializer(data=values)
        query.is_valid(raise_exception=True)
    ignored = sorted(parameters.keys() - values.keys())
    behind = not flushed()
    moment = Moment.now()
    rows = model_figures.models(moment, query.model_filter)
    page = Paginator(rows, PAGE).get_page(request.GET.get("page"))
    offered = options.endpoints(moment, query.model_filter.endpoint_id)
    context: dict[str, Any] = {
        "page": page,
        "shows_names": page.number == 1 and not any(values.get(name) for name in FILTERS),
        "names": name_states.states(moment),
        "model_filter": query.model_filter,
        "filtered": any(values.get(name) for name in FILTERS),
        "ignored": ignored,
        "behind": behind,
        "capabilities": CAPABILITIES,
        "states": STATES,
        "endpoints": sorted((entry for entry in moment.entries if entry.id in offered), key=lambda entry: entry.name),
        "shown_offers": SHOWN_OFFERS,
        "links": {sort: "?" + urlencode({**values, "sort": sort}) for sort in model_figures.SORTS},
        "previous": "?" + urlencode({**values, "page": str(page.number - 1)}),
        "next": "?" + urlencode({**values, "page": str(page.number + 1)}),
    }
    return render(request, "models/page.html", context)


@never_cache
@login_required
def model(request: HttpRequest, name: str) -> HttpResponse:
    behind = not flushed()
    payload = model_figures.model(Moment.now(), name)
    if payload is None:
        raise Http404
    kinds = [kind for kind in KINDS if kind.name in payload["supported_apis"]]
    kind = BY_NAME.get(request.GET.get("kind", ""))
    if kind not in kinds:
        kind = next(iter(kinds), BY_NAME[CHAT])
    tokens = _tokens(request.GET)
    context = {
        "model": payload,
        "winning_name": name_states.winning_name(name),
        "behind": behind,
        "kinds": kinds,
        "kind": kind,
        "route": current_route(
            RouteQuestion(name, kind.name, tokens.get("prompt_tokens"), tokens.get("output_tokens"))
        ),
        "tokens": tokens,
        "existing_endpoints": {entry.id for entry in registry.all()},
        "snippets": _snippets(payload["id"]),
        "chats": CAN_CHAT in payload["capabilities"] or not payload["capabilities"],
    }
    return render(request, "models/model.html", context)


def _tokens(parameters: Mapping[str, str]) -> dict[str, int]:
    """Return the numbers of tokens for which the route is asked; invalid ones are ignored."""
    values = {name: parameters[name] for name in ("prompt_tokens", "output_tokens") if parameters.get(name)}
    query = RouteQuerySerializer(data={"model": "any", **values})
    wrong = () if query.is_valid() else query.errors
    return {name: int(value) for name, value in values.items() if name not in wrong}


def _snippets(name: str) -> dict[str, str]:
    """Return the name as a Python and JavaScript literal, and a body to put between a shell's single quotes."""
    body = {"model": name, "messages": [{"role": "user", "content": "Say hello."}]}
    return {"name": json.dumps(name), "curl": json.dumps(body).replace("'", "'\\''")}


URLS = [path("models/<path:name>", model, name="model")]
