"""Search box for pages, endpoints, models, API keys and requests, by name or id.

Most of the searched data is in memory. The database is queried for a few keys, and for one request by its primary key.
The history is never searched, and neither are the request ids of clients: no index supports that.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.directory import KeyEntry
from access.models import ApiKey
from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Choices, Help
from endpoints.page_parts import HEADER, wants_part
from endpoints.registry import registry
from metrics.queries.requests.lookups import request_detail
from metrics.queries.stored import flushed
from routerdash.web import navigation

MAX_HITS = 8  # results of each kind
MAX_CHARACTERS = 200  # characters of the search text that are used
ID_CHARACTERS = 8  # shortest text that is matched with the beginning of an id

PLACE, ENDPOINT, MODEL, KEY, REQUEST = "place", "endpoint", "model", "key", "request"


@dataclass(frozen=True, slots=True)
class SearchHit:
    kind: str
    name: str
    url: str
    detail: str = ""


def find(text: str, *, keys: bool) -> list[SearchHit]:
    """Return at most eight results of each kind. `keys` permits API keys of all users in the results."""
    text = text.strip()[:MAX_CHARACTERS]
    if not text:
        return []
    needle = text.casefold()
    return [*_endpoints(needle), *_models(needle), *(_keys(text) if keys else ()), *_requests(text)]


def places(request: HttpRequest, text: str) -> list[SearchHit]:
    """Return the pages of the dashboard whose label in the navigation contains the text."""
    needle = text.strip().casefold()
    every = (link for group in navigation.links(request) for link in group)
    return [
        SearchHit(PLACE, str(link.label), link.url) for link in every if needle and needle in str(link.label).casefold()
    ]


def _best(needle: str, names: Iterable[str]) -> list[str]:
    """Return at most MAX_HITS matching names; names that begin with the text precede those that only contain it."""
    hits = [name for name in names if needle in name.casefold()]
    return sorted(hits, key=lambda name: (not name.casefold().startswith(needle), name.casefold()))[:MAX_HITS]


def _endpoints(needle: str) -> Iterator[SearchHit]:
    """Yield endpoints by name or address, or by the beginning of the id."""
    every = {f"{entry.name}\0{entry.base_url}": entry for entry in registry.all()}
    whole = [entry for entry in every.values() if len(needle) >= ID_CHARACTERS and entry.id.startswith(needle)]
    for entry in whole or [every[name] for name in _best(needle, every)]:
        yield SearchHit(ENDPOINT, entry.name, reverse("endpoint", args=[entry.id]), entry.base_url)


def _models(needle: str) -> Iterator[SearchHit]:
    servers: dict[str, list[Any]] = {}
    for entry in registry.all():
        for model in entry.models:
            servers.setdefault(model.id, []).append(entry)
    for name in _best(needle, servers):
        offered = servers[name]
        yield SearchHit(MODEL, name, reverse("model", args=[name]), ", ".join(entry.name for entry in offered[:3]))


def _keys(text: str) -> Iterator[SearchHit]:
    """Yield API keys by name, or by the beginning of the key, of which ten characters are stored."""
    rows = ApiKey.objects.filter(Q(name__icontains=text) | Q(key_prefix__startswith=text[:10])).select_related(
        "created_by"
    )
    for row in rows.order_by("name")[:MAX_HITS]:
        detail = f"{row.key_prefix or ''}… {row.created_by}"
        yield SearchHit(KEY, row.name, reverse("admin:access_apikey_change", args=[row.pk]), detail)


def _requests(text: str) -> Iterator[SearchHit]:
    try:
        request_id = str(uuid.UUID(text))
    except ValueError:
        return
    flushed()
    detail = request_detail(request_id)
    if detail is not None:
        yield SearchHit(REQUEST, request_id, reverse("request", args=[request_id]), detail["model"] or "")


@never_cache
@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Render the whole page, or only the list for the box in the top bar."""
    text = request.GET.get("q", "").replace("\0", "").strip()[:MAX_CHARACTERS]
    user: Any = request.user
    hits = [*places(request, text), *find(text, keys=user.is_staff)] if text else []
    template = "layout/search_results.html" if wants_part(request) else "search.html"
    response = render(request, template, {"sought": text, "found": hits})
    response.headers["Vary"] = f"{HEADER}, Cookie"
    return response


class FoundPayload(TypedDict):
    kind: Annotated[str, Choices((ENDPOINT, MODEL, KEY, REQUEST))]
    name: str
    url: Annotated[str, Help("Path of the page.")]
    detail: Annotated[str, Help("Address of an endpoint, endpoints of a model, owner of a key, or model of a request.")]


class SearchPayload(TypedDict):
    found: list[FoundPayload]


class Search(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("q", str, required=True, description="Search text of at most 200 characters.")],
        responses=SearchPayload,
    )
    def get(self, request: Request) -> Response:
        """Find endpoints and models by a part of their name, and a request by its id. Sessions of administrators also
        find API keys, by name or beginning. At most eight of each are returned.
        """
        text = request.query_params.get("q", "")
        if not text.strip() or len(text) > MAX_CHARACTERS or "\0" in text:
            text = _("Enter a search text of 1 to %(longest)s characters.") % {"longest": MAX_CHARACTERS}
            raise ValidationError({"q": text})
        user: Any = request.user
        by_key = isinstance(request.auth, KeyEntry)
        hits = find(text, keys=user.is_staff and not by_key)
        payload: SearchPayload = {
            "found": [{"kind": hit.kind, "name": hit.name, "url": hit.url, "detail": hit.detail} for hit in hits]
        }
        return Response(payload)


URLS = [path("search", page, name="search")]
API_URLS: list[tuple[str, Any, str]] = [("api/search", Search, "api-search")]
