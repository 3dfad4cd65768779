"""The list of conversations, and the page of one. Needs the database."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from metrics.api.conversations import ConversationPageQuerySerializer
from metrics.pages import options
from metrics.pages.request_filters import PERIODS, FilterLink, without_errors
from metrics.queries.figures import Moment
from metrics.queries.requests import lookups
from metrics.queries.requests.conversations import TURNS
from metrics.queries.requests.filters import BadCursor
from metrics.queries.requests.history import SCANNED_ROWS
from metrics.queries.requests.lookups import ConversationPage
from metrics.queries.stored import flushed

SHOWN_TURNS = 100  # on the page of a conversation


@never_cache
@login_required
def conversation_list(request: HttpRequest) -> HttpResponse:
    parameters = {name: str(value) for name, value in request.GET.items() if value}
    query, notes = without_errors(ConversationPageQuerySerializer, parameters)
    behind = not flushed()
    conversations_page = _page(query, parameters, notes)
    moment, values = Moment.now(), query.validated_data
    filters = {name: value for name, value in parameters.items() if name not in ("cursor", "limit")}
    chosen = {name: str(values.get(name) or "") for name in ("model", "endpoint_id", "api_key_id")}
    context = {
        "found": conversations_page,
        "notes": notes,
        "behind": behind,
        "filtered": bool(filters),
        "chosen": chosen,
        "since": parameters.get("since", ""),
        "periods": list(_periods(parameters)),
        "every_time": _url(parameters, since=""),
        "models": sorted(options.models(moment, chosen["model"])),
        "endpoints": sorted((name, key) for key, name in options.endpoints(moment, chosen["endpoint_id"]).items()),
        "keys": sorted((name, key) for key, name in options.keys(moment, chosen["api_key_id"]).items()),
        "existing_endpoints": {entry.id for entry in registry.all()},
        "older": conversations_page.page.next and _url(parameters, cursor=conversations_page.page.next.encode()),
        "newer": conversations_page.page.previous
        and _url(parameters, cursor=conversations_page.page.previous.encode()),
        "first": _url(parameters),
        "scanned": SCANNED_ROWS,
        "most": TURNS,
        "kept_days": settings.ROUTERDASH.history_retention_days,
    }
    return render(request, "conversations/page.html", context)


def _page(query: ConversationPageQuerySerializer, parameters: dict[str, str], notes: list[str]) -> ConversationPage:
    values: dict[str, Any] = query.validated_data
    try:
        return lookups.conversation_page(query.request_filter, values.get("cursor"), values["limit"])
    except BadCursor:
        notes.append(_("This page does not exist; the first page is shown."))
        parameters.pop("cursor")
        return lookups.conversation_page(query.request_filter, None, values["limit"])


def _url(parameters: dict[str, str], **other: str) -> str:
    """Return the URL of the first page with these parameters; empty ones are left out."""
    merged = {name: value for name, value in {**parameters, "cursor": "", **other}.items() if value}
    return reverse("conversations") + (f"?{urlencode(merged)}" if merged else "")


def _periods(parameters: dict[str, str]) -> Iterator[FilterLink]:
    for value, label in PERIODS:
        on = parameters.get("since") == value
        yield {"icon": "", "label": label, "on": on, "url": _url(parameters, since=value)}


@never_cache
@login_required
def conversation_page(request: HttpRequest, conversation: str) -> HttpResponse:
    behind = not flushed()
    stored_conversation = lookups.conversation(conversation)
    if stored_conversation is None:
        raise Http404
    context = {
        "conversation": stored_conversation.payload,
        "turns": stored_conversation.turns[-SHOWN_TURNS:],
        "behind": behind,
        "existing_endpoints": {entry.id for entry in registry.all()},
        "requests_url": f"{reverse('requests')}?{urlencode({'conversation': conversation})}",
        "most": TURNS,
    }
    return render(request, "conversations/conversation.html", context)


URLS = [
    path("conversations", conversation_list, name="conversations"),
    path("conversations/<str:conversation>", conversation_page, name="conversation"),
]
