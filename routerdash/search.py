"""Everything by its name or id, from one box: places, endpoints, models, keys, requests.

What is looked through is in memory; the database is asked for a few keys and for one request by its primary key. The
history is never searched, nor are the ids that clients give their requests: no index answers that.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.views.decorators.cache import never_cache
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.directory import KeyEntry
from access.models import ApiKey
from endpoints.registry import registry
from metrics import queries
from routerdash import navigation

MOST = 8  # of each kind
LONGEST = 200  # characters that are looked for
ID_CHARACTERS = 8  # from so many on, it may be the beginning of an id

PLACE, ENDPOINT, MODEL, KEY, REQUEST = "place", "endpoint", "model", "key", "request"


@dataclass(frozen=True, slots=True)
class Found:
    kind: str
    name: str
    url: str
    detail: str = ""


def find(text: str, *, keys: bool) -> list[Found]:
    """At most eight of each kind; `keys`: may whoever asks know of everybody's keys?"""
    text = text.strip()[:LONGEST]
    if not text:
        return []
    sought = text.casefold()
    return [*_endpoints(sought), *_models(sought), *(_keys(text) if keys else ()), *_requests(text)]


def places(request: HttpRequest, text: str) -> list[Found]:
    """Pages of the dashboard, by what the rail calls them."""
    sought = text.strip().casefold()
    every = (link for group in navigation.links(request) for link in group)
    return [Found(PLACE, str(it.label), it.url) for it in every if sought and sought in str(it.label).casefold()]


def _best(sought: str, names: Iterable[str]) -> list[str]:
    """Those that begin so go before those that only contain it."""
    hits = [name for name in names if sought in name.casefold()]
    return sorted(hits, key=lambda name: (not name.casefold().startswith(sought), name.casefold()))[:MOST]


def _endpoints(sought: str) -> Iterator[Found]:
    """By name or address, or by the beginning of the id."""
    every = {f"{it.name}\0{it.base_url}": it for it in registry.all()}
    whole = [it for it in every.values() if len(sought) >= ID_CHARACTERS and it.id.startswith(sought)]
    for entry in whole or [every[name] for name in _best(sought, every)]:
        yield Found(ENDPOINT, entry.name, reverse("endpoint", args=[entry.id]), entry.base_url)


def _models(sought: str) -> Iterator[Found]:
    servers: dict[str, list[Any]] = {}
    for entry in registry.all():
        for model in entry.models:
            servers.setdefault(model.id, []).append(entry)
    for name in _best(sought, servers):
        offered = servers[name]
        yield Found(MODEL, name, reverse("model", args=[name]), ", ".join(it.name for it in offered[:3]))


def _keys(text: str) -> Iterator[Found]:
    """By name, or by the beginning of the key, of which ten characters are stored."""
    rows = ApiKey.objects.filter(Q(name__icontains=text) | Q(key_prefix__startswith=text[:10])).select_related(
        "created_by"
    )
    for row in rows.order_by("name")[:MOST]:
        detail = f"{row.key_prefix or ''}… {row.created_by}"
        yield Found(KEY, row.name, reverse("admin:access_apikey_change", args=[row.pk]), detail)


def _requests(text: str) -> Iterator[Found]:
    try:
        wanted = str(uuid.UUID(text))
    except ValueError:
        return
    queries.flushed()
    told = queries.request(wanted)
    if told is not None:
        yield Found(REQUEST, wanted, reverse("request", args=[wanted]), told["model"] or "")


@never_cache
@login_required
def page(request: HttpRequest) -> HttpResponse:
    """The whole page, or for the box in the top bar the list alone."""
    text = request.GET.get("q", "").replace("\0", "").strip()[:LONGEST]
    user: Any = request.user
    found = [*places(request, text), *find(text, keys=user.is_staff)] if text else []
    template = "inc/search_found.html" if request.headers.get("HX-Request") == "true" else "search.html"
    response = render(request, template, {"sought": text, "found": found})
    response.headers["Vary"] = "HX-Request, Cookie"
    return response


class FoundSerializer(serializers.Serializer[Found]):
    kind = serializers.ChoiceField(choices=[ENDPOINT, MODEL, KEY, REQUEST])
    name = serializers.CharField()
    url = serializers.CharField(help_text="The path of its page.")
    detail = serializers.CharField(help_text="Its address, its servers, its owner, its model.")


class SearchSerializer(serializers.Serializer[Any]):
    found = FoundSerializer(many=True)


class Search(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("q", str, required=True, description="At most 200 characters")],
        responses=SearchSerializer,
    )
    def get(self, request: Request) -> Response:
        """Endpoints and models by a part of their name, a request by its id; for administrators' sessions also keys, by
        name or beginning. At most eight of each.
        """
        text = request.query_params.get("q", "")
        if not text.strip() or len(text) > LONGEST or "\0" in text:
            raise ValidationError({"q": f"Say what to look for, in 1 to {LONGEST} characters."})
        person: Any = request.user
        by_key = isinstance(request.auth, KeyEntry)
        return Response({"found": [asdict(it) for it in find(text, keys=person.is_staff and not by_key)]})


URLS = [path("search", page, name="search")]
API_URLS: list[tuple[str, Any, str]] = [("api/search", Search, "api-search")]
