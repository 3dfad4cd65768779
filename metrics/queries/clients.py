"""Ranking of clients by the requests that they sent, from the roll-ups of clients.

A client is an IPv4 address, or an IPv6 /64, in which a machine changes its address. Its requests are all those that
the history takes, so also those that it cancelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, TypedDict

from endpoints.openapi.payload_fields import Help, TimeText
from gateway.base.addresses import client_of
from metrics import sql
from metrics.queries.alert_threshold import threshold
from metrics.queries.client_hours import SENT, hour_now, of_addresses
from metrics.queries.stored import run_sql
from metrics.sql import SqlRow
from metrics.storage.database import vendor
from metrics.storage.settings_rows import REMOVED_ADDRESS, REMOVING_BEFORE, stored_day
from metrics.times import json_time

RANGES = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}  # in hours, the present one included
SORTS = ("requests", "failed", "tokens", "last_seen")

_COUNTS = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
SUMS = (f"SUM({SENT})", *(f"SUM({name})" for name in _COUNTS[1:]))


# Sums of one client.
class ClientTotalsPayload(TypedDict):
    request_count: Annotated[int, Help("Includes failed and cancelled requests, not rejected ones.")]
    failed_count: int
    cancelled_count: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    last_seen: TimeText | None


class _ClientAddress(TypedDict):
    ip: Annotated[str, Help("An IPv4 address, or a /64 of IPv6.")]


class RankedPayload(_ClientAddress, ClientTotalsPayload):
    is_alert: Annotated[
        bool,
        Help("True if the client sent at least `ip_alert_threshold` requests in this UTC hour or the previous one."),
    ]
    api_key_count: Annotated[int, Help("API keys used on the UTC days that the range touches.")]


@dataclass(slots=True)
class ClientTotals:
    """Sums of one client, and its addresses."""

    ip: str = ""
    addresses: list[str] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    last_us: int | None = None
    recent_requests: int = 0  # in its busier hour of the last two

    def add(self, sums: Sequence[int], last_us: int | None = None) -> None:
        """Add a row of SUMS."""
        requests, failed, cancelled, tokens_in, tokens_out = map(int, sums)
        self.requests += requests
        self.failed += failed
        self.cancelled += cancelled
        self.input_tokens += tokens_in
        self.output_tokens += tokens_out
        if last_us is not None:
            self.last_us = max(self.last_us or 0, int(last_us))

    def payload(self, last_us: int | None) -> ClientTotalsPayload:
        return {
            "request_count": self.requests,
            "failed_count": self.failed,
            "cancelled_count": self.cancelled,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "last_seen": None if last_us is None else json_time(datetime.fromtimestamp(last_us / 1e6, UTC)),
        }


def counted_since() -> datetime | None:
    """Return the hour of the first request that was counted by client; None before the first."""
    ((hour,),) = run_sql(sql.select("MIN(hour)", "rollup_client_hours"), ())
    return None if hour is None else datetime.fromtimestamp(int(hour) * 3600, UTC)


def addresses_since() -> datetime | None:
    """Return the time before which addresses are removed; None if none are."""
    day = stored_day(REMOVING_BEFORE)
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ClientRanking:
    """Clients in order. Figures that need a look-up per address are read only for the rows that are shown."""

    first: int  # hour
    threshold: int
    clients: list[ClientTotals]

    def __len__(self) -> int:
        return len(self.clients)

    def beginning(self, text: str) -> "ClientRanking":
        """Return the clients whose address begins with a text."""
        return ClientRanking(
            self.first, self.threshold, [client for client in self.clients if client.ip.startswith(text)]
        )

    @property
    def greatest(self) -> int:
        return max((client.requests for client in self.clients), default=0)

    @property
    def marked(self) -> int:
        return sum(client.recent_requests >= self.threshold for client in self.clients)

    def payloads(self, start: int, stop: int) -> list[RankedPayload]:
        """Return some clients. Keys are counted over the days (UTC) that the hours lie in. Two queries."""
        shown = self.clients[start:stop]
        addresses = [address for client in shown for address in client.addresses]
        last, used = _last_requests(self.first, addresses), _keys_used(self.first // 24, addresses)
        return [
            {
                "ip": client.ip,
                **client.payload(_latest(client, last)),
                "is_alert": client.recent_requests >= self.threshold,
                "api_key_count": len(set().union(*(used.get(address, ()) for address in client.addresses))),
            }
            for client in shown
        ]


def ranking(hours: int, sort: str = "requests") -> ClientRanking:
    """Return every client of the last hours, the greatest first; equal ones by name. At most four queries."""
    first = hour_now() - hours + 1
    clients: dict[str, ClientTotals] = {}
    for address, *sums in _sums(first):
        ip = client_of(address)
        totals = clients.get(ip) or clients.setdefault(ip, ClientTotals(ip=ip))
        totals.add(sums)
        totals.addresses.append(address)
    for ip, count in _recent_requests().items():
        if ip in clients:
            clients[ip].recent_requests = count
    orders: dict[str, Callable[[ClientTotals], int]] = {
        "requests": lambda client: client.requests,
        "failed": lambda client: client.failed,
        "tokens": lambda client: client.input_tokens + client.output_tokens,
    }
    if sort == "last_seen":
        last = _last_requests(first, [address for client in clients.values() for address in client.addresses])
        orders[sort] = lambda client: _latest(client, last) or 0
    by_name = sorted(clients.values(), key=lambda client: client.ip)
    return ClientRanking(first, threshold(), sorted(by_name, key=orders[sort], reverse=True))


def _sums(first: int) -> list[SqlRow]:
    """Return SUMS by address from an hour on. Whole days (UTC) have few rows: hours are read for the first day only."""
    first_whole_day = -(-first // 24)
    hours = sql.select(("client_ip", *_COUNTS), "rollup_client_hours", where="hour >= %s AND hour < %s")
    # The first grouping is by day, in the order of the table's key, which leaves a tenth to sort.
    days = sql.select(
        ("client_ip", *(f"SUM({name}) AS {name}" for name in _COUNTS)),
        "rollup_client_days",
        where="day >= %s",
        group_by="day, client_ip",
    )
    parts = sql.subquery(f"{hours} UNION ALL {days}", "parts")
    statement = sql.select(("client_ip", *SUMS), parts, where="client_ip <> %s", group_by="client_ip")
    return run_sql(statement, [first, first_whole_day * 24, first_whole_day, REMOVED_ADDRESS])


def _last_requests(first: int, addresses: Sequence[str]) -> dict[str, int]:
    """Return the end of each address's last request from an hour on, in µs since 1970."""
    listed, values = sql.listed(addresses, vendor())
    where = ("client_ip = listed.value", "hour >= %s", "last_us IS NOT NULL")
    last = sql.select("last_us", "rollup_client_hours", where=where, order_by="hour DESC", limit=1)
    rows = run_sql(sql.select(("listed.value", f"({last})"), listed), [first, *values])
    return {address: int(last_us) for address, last_us in rows if last_us is not None}


def _latest(client: ClientTotals, last: Mapping[str, int]) -> int | None:
    return max((last[address] for address in client.addresses if address in last), default=None)


def _keys_used(day: int, addresses: Sequence[str]) -> dict[str, set[str]]:
    """Return the API keys that each address used from a day on."""
    where, values = of_addresses(addresses)
    conditions = ["day >= %s", "api_key_id <> ''", *where]
    used: dict[str, set[str]] = {}
    statement = sql.select("DISTINCT client_ip, api_key_id", "rollup_client_days", where=conditions)
    for address, key in run_sql(statement, [day, *values]):
        used.setdefault(address, set()).add(key)
    return used


def _recent_requests() -> dict[str, int]:
    """Return each client's requests in the present hour or in the last whole one, whichever had more."""
    hours: dict[tuple[str, int], int] = {}
    statement = sql.select(("client_ip", "hour", SENT), "rollup_client_hours", where="hour > %s")
    for address, hour, count in run_sql(statement, [hour_now() - 2]):
        key = (client_of(address), int(hour))
        hours[key] = hours.get(key, 0) + int(count)
    latest: dict[str, int] = {}
    for (client, _), count in hours.items():
        latest[client] = max(latest.get(client, 0), count)
    return latest
