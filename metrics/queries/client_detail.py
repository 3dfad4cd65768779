"""One client: its addresses, all-time sums, API keys and last requests."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypedDict

from endpoints.openapi.payload_fields import Help, TimeText, UuidText
from gateway.base.addresses import client_of
from metrics import sql
from metrics.queries.api_keys import key_names
from metrics.queries.client_hours import SENT, SharedModelPayload, client_models, first_day, of_addresses
from metrics.queries.clients import SUMS, ClientTotals
from metrics.queries.requests.filters import RequestFilter
from metrics.queries.requests.lookups import request_page
from metrics.queries.requests.payload import RequestPayload, request_payload
from metrics.queries.requests.rows import has_page
from metrics.queries.stored import run_sql
from metrics.storage.database import vendor
from metrics.times import json_time

RECENT = 20  # requests
RECENT_ADDRESSES = 5  # of a network whose last requests are read


class BadClient(ValueError):
    """Text that is neither an address nor an IPv6 network of 64 bits."""


class ClientSummaryPayload(TypedDict):
    total_requests: int
    failed_requests: int
    cancelled_requests: int
    first_seen: Annotated[TimeText | None, Help("Beginning of the hour of the first request.")]
    last_seen: TimeText | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    addresses: Annotated[list[str], Help("Addresses of the client, the last used one first.")]


class ClientKeyPayload(TypedDict):
    api_key_id: UuidText
    name: str | None
    request_count: int


class HourOfDayPayload(TypedDict):
    hour: int
    count: int


class RecentPayload(TypedDict):
    id: str
    timestamp: TimeText | None
    model: str
    status: Annotated[str, Help("`success` or `error`.")]
    duration_ms: float


class ClientDetailPayload(ClientSummaryPayload):
    """All-time sums; zeros for an unknown client."""

    recent_requests: Annotated[
        list[RecentPayload], Help("The last requests, at most 20, of the five addresses used last.")
    ]
    model_distribution: list[SharedModelPayload]
    hourly_pattern: Annotated[list[HourOfDayPayload], Help("Requests by hour of the day, UTC.")]


def parse_client(text: str) -> str:
    """Return the canonical text of a client: any address, or a /64. Raises BadClient."""
    try:
        if "/" not in text:
            return str(ipaddress.ip_address(text))
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadClient(text) from None
    if network.version != 6 or network.prefixlen != 64:
        raise BadClient(text)
    return str(network)


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """Addresses of one client, the last seen one first, and its all-time sums."""

    addresses: list[str]
    totals: ClientTotals
    first_hour: int | None

    @property
    def payload(self) -> ClientSummaryPayload:
        first = None if self.first_hour is None else datetime.fromtimestamp(self.first_hour * 3600, UTC)
        totals = self.totals.payload(self.totals.last_us)
        return {
            "total_requests": totals["request_count"],
            "failed_requests": totals["failed_count"],
            "cancelled_requests": totals["cancelled_count"],
            "first_seen": json_time(first),
            "input_tokens": totals["input_tokens"],
            "output_tokens": totals["output_tokens"],
            "total_tokens": totals["total_tokens"],
            "last_seen": totals["last_seen"],
            "addresses": self.addresses,
        }


def client_summary(client: str) -> ClientSummary:
    """Return the sums of a client of `parse_client` over all time. One query, by the index of addresses."""
    if "/" in client:
        where, values = sql.starts_with("client_ip", _first_part(client), vendor())
    else:
        where, values = "client_ip = %s", [client]
    columns = ("client_ip", "MIN(hour)", "MAX(last_us)", *SUMS)
    statement = sql.select(columns, "rollup_client_hours", where=where, group_by="client_ip")
    totals, last, first_hours = ClientTotals(), {}, []
    for address, first_hour, last_us, *sums in run_sql(statement, values):
        if address == client or client_of(address) == client:
            totals.add(sums, last_us)
            last[address] = int(last_us or 0)
            first_hours.append(int(first_hour))
    addresses = sorted(last, key=lambda address: (-last[address], address))
    return ClientSummary(addresses, totals, min(first_hours, default=None))


def _first_part(network: str) -> str:
    """Return the common first part of the text of every address of a network, with its colon."""
    first = int(ipaddress.ip_network(network).network_address)
    return "::" if first == 0 else f"{first >> 112:x}:"


def client_detail(client: str) -> ClientDetailPayload:
    """Return everything of a client of `parse_client`."""
    summary = client_summary(client)
    recent: list[RecentPayload] = [
        {
            "id": request["id"],
            "timestamp": request["completed_at"],
            "model": request["model"],
            "status": "success" if request["outcome"] == "ok" else "error",
            "duration_ms": request["duration_ms"],
        }
        for request in recent_requests(summary.addresses)
    ]
    return {
        **summary.payload,
        "recent_requests": recent,
        "model_distribution": client_models(None, summary.addresses),
        "hourly_pattern": hourly_pattern(summary.addresses),
    }


def client_keys(addresses: Sequence[str]) -> list[ClientKeyPayload]:
    """Return the API keys that were ever used, the most requests first. Two queries."""
    where, values = of_addresses(addresses)
    columns = ("api_key_id", f"SUM({SENT})")
    statement = sql.select(columns, "rollup_client_days", where=["day >= %s", *where], group_by="api_key_id")
    counts = [(str(key), int(count)) for key, count in run_sql(statement, [first_day(None), *values]) if key]
    names = key_names(key for key, _count in counts)
    return [
        {"api_key_id": key, "name": names.get(key), "request_count": count}
        for key, count in sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    ]


def hourly_pattern(addresses: Sequence[str]) -> list[HourOfDayPayload]:
    """Return requests by hour of the day, UTC, over all time. One query."""
    where, values = of_addresses(addresses)
    columns = ("hour %% 24 AS hour", f"SUM({SENT})")
    statement = sql.select(columns, "rollup_client_hours", where=["hour > %s", *where], group_by="hour %% 24")
    counts = {int(hour): int(count) for hour, count in run_sql(statement, [0, *values])}
    return [{"hour": hour, "count": counts.get(hour, 0)} for hour in range(24)]


def recent_requests(addresses: Sequence[str]) -> list[RequestPayload]:
    """Return the last requests of the history. Two queries for each of at most five addresses."""
    requests: list[RequestPayload] = []
    for address in addresses[:RECENT_ADDRESSES]:
        page = request_page(RequestFilter(client_ip=address), None, RECENT)
        requests.extend(request_payload(row) for row in page.rows if has_page(row))
    return sorted(requests, key=lambda request: (request["completed_at"] or "", request["id"]), reverse=True)[:RECENT]
