"""The list of requests with its filters, and exports of it. Needs the database."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple, TypedDict
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from gateway.base import bounds
from metrics.api.request_serializers import ExportQuerySerializer
from metrics.exports import downloads
from metrics.pages import options
from metrics.pages.request import RequestContext, request_context
from metrics.pages.request_filters import (
    PAGED,
    ListQuery,
    canonical_url,
    filter_chips,
    filter_links,
    form_fields,
    parse_query,
    period_links,
)
from metrics.queries.api_keys import key_names
from metrics.queries.figures import Moment
from metrics.queries.requests.filters import BadCursor, Cursor
from metrics.queries.requests.history import SCANNED_ROWS, SCATTERED_ROWS, RequestPage
from metrics.queries.requests.lookups import find_requests, request_page
from metrics.queries.requests.payload import RequestPayload, request_payload
from metrics.queries.requests.waterfall import WaterfallBar, waterfall_bars
from metrics.queries.stored import flushed
from metrics.times import parse_time, stored_text


class RequestRow(NamedTuple):
    """A request in the list."""

    record: RequestPayload
    ended: datetime
    key: str | None
    spans: list[WaterfallBar]
    cursor: str  # of older requests
    form: str  # format of its time


class RowsContext(TypedDict):
    rows: list[RequestRow]
    scale_ms: float  # length of the small timelines
    existing_endpoints: set[str]  # ids of endpoints
    link: str
    chosen: str


@never_cache
@login_required
def request_list(request: HttpRequest) -> HttpResponse:
    url = canonical_url(request)
    if url is not None:
        return redirect(url)
    behind = not flushed()
    search_text = request.GET.get("q", "")
    if search_text:
        matches = find_requests(search_text[:1000])
        if len(matches) == 1:
            return redirect("request", request_id=matches[0]["id"])
        if matches:
            return redirect(f"{reverse('requests')}?{urlencode({'request_id': search_text})}")
    list_query = parse_query(request.GET.dict())
    if request.GET.get("part") == "drawer":
        return _drawer(request, list_query)
    if request.GET.get("part") == "rows":
        return _new_rows(request, list_query, behind=behind)
    return _list(request, list_query, search_text=search_text, behind=behind)


def _new_rows(request: HttpRequest, list_query: ListQuery, *, behind: bool) -> HttpResponse:
    """Return the rows since the time `after`, for an open list. `behind`: further rows are not in the database yet."""
    request_filter, after = list_query.query.request_filter, parse_time(request.GET.get("after", ""))
    if after is not None:
        request_filter = replace(
            request_filter, since=after if request_filter.since is None else max(after, request_filter.since)
        )
    page = request_page(request_filter, None, list_query.size)
    context = _rows_context(request, list_query, list(_rows(page, {})))
    return render(request, "requests/rows.html", {**context, "more_to_come": behind})


def _rows_context(request: HttpRequest, list_query: ListQuery, rows: list[RequestRow]) -> RowsContext:
    return {
        "rows": rows,
        "scale_ms": _requested_scale(request) or _scale(rows),
        "existing_endpoints": {entry.id for entry in registry.all()},
        "link": list_query.page_url + ("&" if "?" in list_query.page_url else "?"),
        "chosen": request.GET.get("id", ""),
    }


def _list(
    request: HttpRequest, list_query: ListQuery, *, search_text: str = "", behind: bool = False, status: int = 200
) -> HttpResponse:
    page = _page(list_query, search_text)
    if (
        page.previous is None
        and page.next is not None
        and "cursor" in list_query.parameters
        and len(page.rows) < list_query.size
    ):
        return redirect(list_query.url())  # an incomplete page of the newest requests
    moment, chosen = Moment.now(), str(list_query.query.validated_data.get("api_key_id") or "")
    keys = options.keys(moment, chosen)
    context = {
        **_rows_context(request, list_query, list(_rows(page, keys))),
        "list_query": list_query,
        "page": page,
        "size": list_query.size,
        "search_text": search_text,
        "behind": behind,
        "now": timezone.now(),
        "tail_on": list_query.url(tail="1") if "until" not in list_query.parameters else None,
        "tail_off": list_query.url("tail"),
        "older": page.next and list_query.url(cursor=page.next.encode()),
        "newer": page.previous and list_query.url(cursor=page.previous.encode()),
        "first": list_query.url(),
        "chips": list(filter_chips(list_query, keys)),
        "choices": list(filter_links(list_query)),
        "periods": list(period_links(list_query)),
        "every_time": list_query.url("since", "until"),
        "fields": form_fields(list_query, moment, keys),
        "exports": urlencode(list_query.filters),
        "stops": SCANNED_ROWS,
        "stops_scattered": SCATTERED_ROWS,
        "kept_days": settings.ROUTERDASH.history_retention_days,
        **(_open_request(request) or {"is_missing": bool(request.GET.get("id"))}),
        "closed": list_query.page_url,
    }
    return render(request, "requests/page.html", context, status=status)


def _page(list_query: ListQuery, search_text: str) -> RequestPage:
    if search_text:
        return RequestPage([], None, None)
    values = list_query.query.validated_data
    try:
        return request_page(list_query.query.request_filter, values.get("cursor"), list_query.size)
    except BadCursor:
        list_query.notes.append(_("This page does not exist; the first page is shown."))
        list_query.parameters.pop("cursor")
        return request_page(list_query.query.request_filter, None, list_query.size)


def _rows(page: RequestPage, known: Mapping[str, str]) -> Iterator[RequestRow]:
    """Yield the rows. `known` are names of API keys, by id; others are read from the database."""
    today = timezone.localdate()
    payloads = [request_payload(row, registry.name) for row in page.rows]
    keys = {**known, **key_names(request["api_key_id"] for request in payloads if request["api_key_id"] not in known)}
    for row, request in zip(page.rows, payloads, strict=True):
        ended = parse_time(row[1]) or datetime.fromtimestamp(0, UTC)
        cursor = Cursor(stored_text(row[1]), str(row[0])).encode()
        form = "%H:%M:%S" if timezone.localdate(ended) == today else "%m-%d %H:%M:%S"
        key = keys.get(request["api_key_id"] or "")
        yield RequestRow(request, ended, key, list(waterfall_bars(request)), cursor, form)


def _scale(rows: list[RequestRow]) -> float:
    """Return the length of the small timelines: a few far longer requests do not flatten the others."""
    lengths = sorted(row.record["duration_ms"] for row in rows)
    return float(lengths[round(0.95 * (len(lengths) - 1))]) if lengths else 0.0


def _requested_scale(request: HttpRequest) -> float | None:
    """Return the length that the rows of an open page have already."""
    text = request.GET.get("scale", "")
    return float(text) if len(text) < 20 and text.replace(".", "", 1).isdecimal() and text.isascii() else None


def _open_request(request: HttpRequest) -> RequestContext | None:
    """Return the request that the URL of the list names; None if it names none, or there is none."""
    try:
        return request_context(request, str(uuid.UUID(request.GET.get("id", ""))))
    except ValueError:
        return None


def _drawer(request: HttpRequest, list_query: ListQuery) -> HttpResponse:
    context = _open_request(request)
    if context is None:
        raise Http404
    return render(request, "requests/drawer.html", {**context, "closed": list_query.page_url})


@never_cache
@login_required
def export(request: HttpRequest) -> HttpResponseBase:
    """Send an export of the requests that match; the list with a note if it cannot be started."""
    parameters = {name: str(value) for name, value in request.GET.items() if value and name not in PAGED}
    query = ExportQuerySerializer(data=parameters)
    if not query.is_valid():
        list_query = parse_query(parameters)
        list_query.notes.append(_("The export was not started."))
        return _list(request, list_query, status=400)
    values = query.validated_data
    name = values.get("progress")
    try:
        return downloads.export_response(query.request_filter, values["format"], request.user.pk, name and str(name))
    except downloads.ExportBoundReached as full:
        list_query = parse_query(parameters)
        list_query.notes.append(_bound_note(full))
        response = _list(request, list_query, status=429)
        response.headers["Retry-After"] = str(downloads.RETRY_SECONDS)
        return response


def _bound_note(full: downloads.ExportBoundReached) -> str:
    if full.bound is bounds.USER_EXPORTS:
        most = downloads.MAX_PER_USER
        text = ngettext(
            "You already have %(count)s export running, which is the limit. Try again in a moment.",
            "You already have %(count)s exports running, which is the limit. Try again in a moment.",
            most,
        )
    else:
        most = downloads.MAX_AT_ONCE
        text = ngettext(
            "%(count)s export is already running, which is the limit. Try again in a moment.",
            "%(count)s exports are already running, which is the limit. Try again in a moment.",
            most,
        )
    return text % {"count": most}


URLS = [
    path("requests", request_list, name="requests"),
    path("requests/export", export, name="requests-export"),
]
