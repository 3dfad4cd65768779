"""All models over all endpoints, and one of them. Both need the database, for what was asked for."""

import json
import time
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway.kinds import BY_NAME, CAN_CHAT, CAPABILITIES, CHAT, KINDS
from metrics import catalogue, queries
from metrics.catalogue import STATES
from metrics.catalogue_api import ModelsQuerySerializer
from metrics.queries import Moment

PAGE = 40
SHOWN_OFFERS = 4  # of a row of the list; its own page has all
FILTERS = ("q", "capability", "endpoint_id", "state")


@never_cache
@login_required
def models(request: HttpRequest) -> HttpResponse:
    """A parameter that means nothing is left out, and named."""
    asked = {name: value for name, value in request.GET.dict().items() if value and name != "page"}
    given = {name: value for name, value in asked.items() if name in (*FILTERS, "sort")}
    query = ModelsQuerySerializer(data=given)
    if not query.is_valid():
        given = {name: value for name, value in given.items() if name not in query.errors}
        query = ModelsQuerySerializer(data=given)
        query.is_valid(raise_exception=True)
    ignored = sorted(asked.keys() - given.keys())
    behind = not queries.flushed()
    moment = Moment.now()
    found = catalogue.models(moment, query.wanted)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    context: dict[str, Any] = {
        "page": page,
        "wanted": query.wanted,
        "filtered": any(given.get(name) for name in FILTERS),
        "ignored": ignored,
        "behind": behind,
        "capabilities": CAPABILITIES,
        "states": STATES,
        "endpoints": sorted(moment.entries, key=lambda entry: entry.name),
        "shown_offers": SHOWN_OFFERS,
        "links": {sort: "?" + urlencode({**given, "sort": sort}) for sort in catalogue.SORTS},
        "previous": "?" + urlencode({**given, "page": str(page.number - 1)}),
        "next": "?" + urlencode({**given, "page": str(page.number + 1)}),
    }
    return render(request, "models.html", context)


@never_cache
@login_required
def model(request: HttpRequest, name: str) -> HttpResponse:
    behind = not queries.flushed()
    found = catalogue.model(Moment.now(), name)
    if found is None:
        raise Http404
    kinds = [kind for kind in KINDS if kind.name in found["supported_apis"]]
    kind = BY_NAME.get(request.GET.get("kind", ""))
    if kind not in kinds:
        kind = next(iter(kinds), BY_NAME[CHAT])
    context = {
        "it": found,
        "behind": behind,
        "kinds": kinds,
        "kind": kind,
        "route": catalogue.route(name, kind.name, time.time()),
        "known": {entry.id for entry in registry.all()},
        "snippets": _snippets(found["id"]),
        "chats": CAN_CHAT in found["capabilities"] or not found["capabilities"],
    }
    return render(request, "model.html", context)


def _snippets(name: str) -> dict[str, str]:
    """The name as Python and JavaScript write it, and a body as a shell takes it between single quotes."""
    asked = {"model": name, "messages": [{"role": "user", "content": "Say hello."}]}
    return {"name": json.dumps(name), "curl": json.dumps(asked).replace("'", "'\\''")}


URLS = [path("models/<path:name>", model, name="model")]
