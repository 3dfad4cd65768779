"""Requests of the history in Django's database: pages, single requests, searches."""

import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypedDict

from django.conf import settings

from endpoints.openapi.payload_fields import Help, TimeText
from endpoints.registry import registry
from gateway.ipc.record import OK
from gateway.registry.prices import Price
from metrics import sql
from metrics.costs.of_request import cost_details, price_of
from metrics.queries.api_keys import key_names
from metrics.queries.requests import conversations, history
from metrics.queries.requests.conversations import Conversation, ConversationPayload, is_key
from metrics.queries.requests.filters import ERROR, Cursor, RequestFilter
from metrics.queries.requests.history import NumberedPage, RequestPage
from metrics.queries.requests.payload import RequestDetailPayload, RequestPayload, request_payload
from metrics.queries.requests.rows import COLUMNS
from metrics.queries.slices import figure_slices
from metrics.queries.stored import run_sql
from metrics.sql import SqlRow
from metrics.storage import database, rollups
from metrics.storage.database import vendor
from metrics.times import json_time, parse_time

_CONVERSATION = COLUMNS.index("conversation")


class RequestPagePayload(TypedDict):
    requests: list[RequestPayload]
    next: Annotated[str | None, Help("`cursor` of the next page; null if there are no older requests.")]
    previous: Annotated[
        str | None, Help("`cursor` of the page with newer requests; null if this page has the newest ones.")
    ]
    looked_back_to: Annotated[TimeText | None, Help("Requests before this time are not scanned yet; null if all are.")]


def request_page(request_filter: RequestFilter, cursor: str | None, size: int) -> RequestPage:
    """Return a page of the history, newest first. Two queries. Raises BadCursor."""
    position = Cursor.decode(cursor, vendor()) if cursor else None
    return history.page(run_sql, vendor(), request_filter, position, size)


def request_page_payload(page: RequestPage) -> RequestPagePayload:
    return {
        "requests": [request_payload(row, registry.name) for row in page.rows],
        "next": page.next.encode() if page.next else None,
        "previous": page.previous.encode() if page.previous else None,
        "looked_back_to": json_time(page.looked_back_to) if page.next else None,
    }


def numbered_page(request_filter: RequestFilter, skip: int, size: int) -> NumberedPage:
    """Return the requests after the newest `skip`, and the number of matches (`NumberedPage`). At most seven queries.

    Beyond the number of rows that are counted, roll-ups give the total if they can.
    """
    with database.read_moment():
        page = history.numbered(run_sql, vendor(), request_filter, skip, size)
        total = _summed_requests(request_filter) if page.capped else None
    return page if total is None else replace(page, count=total, capped=False)


_STORED = {OK: "requests_ok", ERROR: "requests_failed + requests_cancelled"}  # columns of the roll-ups
_ALL_STORED = " + ".join(_STORED.values())


def _summed_requests(request_filter: RequestFilter) -> int | None:
    """Return the number of rows of the history: its first minute is counted, later ones are in the roll-ups.

    Return None if the roll-ups cannot give it: if llmlb wrote rows, or the first minute is no longer in the roll-ups.
    They support filters by endpoint and outcome only.
    """
    if request_filter != RequestFilter(
        endpoint_id=request_filter.endpoint_id, outcome=request_filter.outcome
    ) or not _has_all(request_filter.outcome):
        return None
    if run_sql(sql.select("1", "request_history", where="outcome IS NULL", limit=1), ()):
        return None
    first = parse_time(run_sql(sql.select("MIN(completed_at)", "request_history"), ())[0][0])
    if first is None or first < datetime.now(UTC) - timedelta(days=rollups.MINUTES_KEPT_DAYS):
        return None
    day = first.astimezone(settings.ROUTERDASH.zone)
    midnight = (day + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    minute = int(first.timestamp()) // 60
    until = datetime.fromtimestamp((minute + 1) * 60, UTC)
    return (
        history.count(run_sql, vendor(), replace(request_filter, until=until))
        + _sum("rollup_minutes", request_filter, "minute > %s AND minute < %s", minute, int(midnight.timestamp()) // 60)
        + _sum("rollup_days", request_filter, "date > %s", day.date().isoformat())
    )


def _sum(table: str, request_filter: RequestFilter, time: str, *values: object) -> int:
    """Sum the requests of a roll-up table in a time."""
    stored = _ALL_STORED if request_filter.outcome is None else _STORED[request_filter.outcome]
    where, only = (
        ((time,), ())
        if request_filter.endpoint_id is None
        else ((time, "endpoint_id = %s"), (request_filter.endpoint_id,))
    )
    ((total,),) = run_sql(sql.select(f"SUM({stored})", table, where=where), (*values, *only))
    return int(total or 0)


def _has_all(outcome: str | None) -> bool:
    """Return True if every request of this outcome gets a row of the history."""
    return outcome == ERROR or (outcome in (None, OK) and settings.ROUTERDASH.history == "all")


def request_row(request_id: str) -> SqlRow | None:
    """Return one request as the database has it; None if there is none. One query."""
    return history.row_of(run_sql, request_id)


def request_detail(request_id: str) -> RequestDetailPayload | None:
    """Return one request as `priced_request` does, without the row of its price."""
    detail_and_price = priced_request(request_id)
    return None if detail_and_price is None else detail_and_price[0]


def priced_request(request_id: str) -> tuple[RequestDetailPayload, Price | None] | None:
    """Return one request with all names and the parts of its cost, and the row of its price; None if there is none.

    At most three queries; with rates of own hardware, one more and up to three for each hour of the request.
    """
    row = request_row(request_id)
    if row is None:
        return None
    request = request_payload(row, registry.name)
    key, price = request["api_key_id"], price_of(request)
    detail: RequestDetailPayload = {
        **request,
        "api_key_name": key and key_names([key]).get(key),
        **cost_details(request, price),
        "hardware_costs": [cost for one in figure_slices() for cost in one.request_costs(row, time.time())],
    }
    return detail, price


def find_requests(text: str) -> list[RequestPayload]:
    """Return the request of this id, else the last with this client's id, at most two. At most two queries."""
    try:
        row = request_row(str(uuid.UUID(text)))
    except ValueError:
        row = None
    rows = [row] if row is not None else request_page(RequestFilter(request_id=text), None, 2).rows
    return [request_payload(row, registry.name) for row in rows]


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Conversations, the one with the latest request first. `page` has the last request of each, and the cursors."""

    conversations: list[ConversationPayload]
    page: RequestPage


class ConversationPagePayload(TypedDict):
    conversations: list[ConversationPayload]
    next: Annotated[str | None, Help("`cursor` of the next page; null if there is none.")]
    previous: Annotated[str | None, Help("`cursor` of the page with later requests.")]
    looked_back_to: Annotated[TimeText | None, Help("Requests before this time are not scanned yet; null if all are.")]


def conversation_page(request_filter: RequestFilter, cursor: str | None, size: int) -> ConversationPage:
    """Return a page of conversations whose last request meets the filter. Four queries. Raises BadCursor."""
    page = request_page(replace(request_filter, last_turns=True), cursor, size)
    keys = [str(row[_CONVERSATION]) for row in page.rows]
    by_key = conversations.conversations(run_sql, vendor(), keys, registry.name)
    payloads = [by_key[key].payload for key in keys if key in by_key]
    names = key_names(payload["api_key_id"] for payload in payloads)
    for payload in payloads:
        payload["api_key_name"] = names.get(payload["api_key_id"] or "")
    return ConversationPage(payloads, page)


def conversation_page_payload(conversations_page: ConversationPage) -> ConversationPagePayload:
    pages = request_page_payload(replace(conversations_page.page, rows=[]))
    return {
        "conversations": conversations_page.conversations,
        "next": pages["next"],
        "previous": pages["previous"],
        "looked_back_to": pages["looked_back_to"],
    }


def conversation(key: str) -> Conversation | None:
    """Return one conversation with its requests; None if the history has none of it. Two queries."""
    if not is_key(key):
        return None
    stored_conversation = conversations.conversations(run_sql, vendor(), [key], registry.name).get(key)
    if stored_conversation is not None:
        key_id = stored_conversation.payload["api_key_id"]
        stored_conversation.payload["api_key_name"] = key_id and key_names([key_id]).get(key_id)
    return stored_conversation
