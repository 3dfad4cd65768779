"""Who sends requests: figures by client, from the roll-ups of clients. The history is not looked at,
but for the last few requests of one client.

A client is an IPv4 address, or an IPv6 /64: within one, a machine changes its address as it likes. What it sent is
every request that the history takes, so those that it cancelled, too.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from typing import Any

import msgspec
from django.db import connection
from django.utils import timezone

from gateway.peer import client_of
from metrics import queries
from metrics.history import Wanted, has_page, json_time, told
from metrics.models import Setting

RANGES = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}  # in hours, the present one among them
HEATMAP_HOURS = 7 * 24
SORTS = ("requests", "failed", "tokens", "last_seen")
RECENT = 20
RECENT_ADDRESSES = 5  # of a network: the last requests of so many are looked for

THRESHOLD = "ip_alert_threshold"
DEFAULT_THRESHOLD = 100

FORGOTTEN = ""  # in the roll-ups: requests whose addresses were forgotten (metrics.forgetting)
# What that has got to, as settings: days of UTC. What ended before the first has no address any more, or is losing it.
FORGOTTEN_BEFORE, GONE_BEFORE = OURS = ("client_addresses_forgotten_before", "client_addresses_gone_before")

_SENT = "requests_ok + requests_failed + requests_cancelled"
_COLUMNS = "client_ip, requests_ok, requests_failed, requests_cancelled, input_tokens, output_tokens"
_SUMS = f"SUM({_SENT}), SUM(requests_failed), SUM(requests_cancelled), SUM(input_tokens), SUM(output_tokens)"

_OF_DAYS = ", ".join(f"SUM({name}) AS {name}" for name in _COLUMNS.split(", ")[1:])


class BadClient(ValueError):
    """Neither an address nor a network of IPv6 with 64 bits."""


def named(text: str) -> str:
    """A client as somebody writes it: any address, or a /64. Raises BadClient."""
    try:
        if "/" not in text:
            return str(ipaddress.ip_address(text))
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadClient(text) from None
    if network.version != 6 or network.prefixlen != 64:
        raise BadClient(text)
    return str(network)


@dataclass(slots=True)
class Sent:
    """What one client sent."""

    ip: str = ""
    addresses: list[str] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    last_us: int | None = None
    lately: int = 0  # in its busier hour of the last two

    def add(self, sums: Sequence[Any]) -> None:
        requests, failed, cancelled, tokens_in, tokens_out, last_us = sums
        self.requests += int(requests)
        self.failed += int(failed)
        self.cancelled += int(cancelled)
        self.input_tokens += int(tokens_in)
        self.output_tokens += int(tokens_out)
        if last_us is not None:
            self.last_us = max(self.last_us or 0, int(last_us))

    @property
    def told(self) -> dict[str, Any]:
        return {
            "request_count": self.requests,
            "failed_count": self.failed,
            "cancelled_count": self.cancelled,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "last_seen": json_time(_moment(self.last_us)),
        }


def hour_now() -> int:
    return int(time.time() // 3600)


def first_day(hours: int | None) -> int:
    """The day, since 1970 in UTC, in which the first of the last hours lies; None: the first there may be."""
    return 0 if hours is None else (hour_now() - hours + 1) // 24


def counted_since() -> datetime | None:
    """The hour with the first request that was counted by client; None: there was none yet."""
    ((hour,),) = _rows("SELECT MIN(hour) FROM rollup_client_hours")
    return None if hour is None else datetime.fromtimestamp(int(hour) * 3600, UTC)


def addresses_since() -> datetime | None:
    """Addresses of before are forgotten; None: none are."""
    day = stored_day(FORGOTTEN_BEFORE)
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Clients in order. What takes a look at each address is only told of those that are shown."""

    first: int  # hour
    threshold: int
    clients: list[Sent]

    def __len__(self) -> int:
        return len(self.clients)

    def beginning(self, text: str) -> "Ranking":
        """Those whose address begins so."""
        return Ranking(self.first, self.threshold, [it for it in self.clients if it.ip.startswith(text)])

    @property
    def greatest(self) -> int:
        return max((it.requests for it in self.clients), default=0)

    @property
    def marked(self) -> int:
        return sum(it.lately >= self.threshold for it in self.clients)

    def told(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Some of them. Two queries. Keys are those of the days (UTC) that the hours lie in."""
        shown = self.clients[start:stop]
        addresses = [address for it in shown for address in it.addresses]
        last, used = _last(self.first, addresses), _keys_used(self.first // 24, addresses)
        return [
            {
                "ip": it.ip,
                **it.told | {"last_seen": json_time(_moment(_latest(it, last)))},
                "is_alert": it.lately >= self.threshold,
                "api_key_count": len(set().union(*(used.get(address, ()) for address in it.addresses))),
            }
            for it in shown
        ]


def ranking(hours: int, sort: str = "requests") -> Ranking:
    """Every client of the last hours, the greatest first; equal ones by name. At most four queries."""
    first = hour_now() - hours + 1
    clients: dict[str, Sent] = {}
    for address, *sums in _sent(first):
        ip = client_of(address)
        sent = clients.get(ip) or clients.setdefault(ip, Sent(ip=ip))
        sent.add((*sums, None))
        sent.addresses.append(address)
    for ip, count in _lately().items():
        if ip in clients:
            clients[ip].lately = count
    places: dict[str, Callable[[Sent], int]] = {
        "requests": lambda it: it.requests,
        "failed": lambda it: it.failed,
        "tokens": lambda it: it.input_tokens + it.output_tokens,
    }
    if sort == "last_seen":
        last = _last(first, [address for it in clients.values() for address in it.addresses])
        places[sort] = lambda it: _latest(it, last) or 0
    named = sorted(clients.values(), key=lambda it: it.ip)
    return Ranking(first, threshold(), sorted(named, key=places[sort], reverse=True))


def _sent(first: int) -> Iterable[tuple[Any, ...]]:
    """What each address that is not forgotten sent from an hour on. Whole days (UTC) have few rows; so hours are only
    looked at for the rest of the first day.
    """
    whole = -(-first // 24)
    # First by day, in the order of the table's key: so there is a tenth to sort.
    sums = (
        f"SELECT client_ip, {_SUMS} FROM (SELECT {_COLUMNS} FROM rollup_client_hours WHERE hour >= %s AND hour < %s "  # noqa: S608
        f"UNION ALL SELECT client_ip, {_OF_DAYS} FROM rollup_client_days WHERE day >= %s GROUP BY day, client_ip) AS "
        "parts WHERE client_ip <> %s GROUP BY client_ip"
    )
    return _rows(sums, first, whole * 24, whole, FORGOTTEN)


def _last(first: int, addresses: Sequence[str]) -> dict[str, int]:
    """When the last request of each ended, from an hour on."""
    listed, values = _listed(addresses)
    sql = (
        "SELECT listed.value, (SELECT last_us FROM rollup_client_hours WHERE client_ip = listed.value AND hour >= %s "  # noqa: S608
        f"AND last_us IS NOT NULL ORDER BY hour DESC LIMIT 1) FROM {listed}"
    )
    return {address: int(last) for address, last in _rows(sql, first, *values) if last is not None}


def _latest(client: Sent, last: Mapping[str, int]) -> int | None:
    return max((last[address] for address in client.addresses if address in last), default=None)


def _keys_used(day: int, addresses: Sequence[str]) -> dict[str, set[str]]:
    """By each address from a day on."""
    where, values = _of(addresses)
    sql = f"SELECT DISTINCT client_ip, api_key_id FROM rollup_client_days WHERE day >= %s AND api_key_id <> ''{where}"  # noqa: S608
    used: dict[str, set[str]] = {}
    for address, key in _rows(sql, day, *values):
        used.setdefault(address, set()).add(key)
    return used


def _lately() -> dict[str, int]:
    """How many requests each client sent in the present hour or in the last whole one, whichever had more."""
    hours: dict[tuple[str, int], int] = {}
    sql = f"SELECT client_ip, hour, {_SENT} FROM rollup_client_hours WHERE hour > %s"  # noqa: S608
    for address, hour, count in _rows(sql, hour_now() - 2):
        key = (client_of(address), int(hour))
        hours[key] = hours.get(key, 0) + int(count)
    found: dict[str, int] = {}
    for (client, _), count in hours.items():
        found[client] = max(found.get(client, 0), count)
    return found


@dataclass(frozen=True, slots=True)
class Hours:
    """Each of the last hours, oldest first, those without a request as well. Hours since 1970, UTC."""

    first: int
    rows: list[dict[str, Any]]

    def heatmap(self, zone: tzinfo) -> list[dict[str, int]]:
        """Of the last seven days, by day of the week (0: Sunday) and hour of whoever lives in this zone."""
        counts = dict.fromkeys(((day, hour) for day in range(7) for hour in range(24)), 0)
        for number, row in enumerate(self.rows):
            local = datetime.fromtimestamp((self.first + number) * 3600, zone)
            if number >= len(self.rows) - HEATMAP_HOURS:
                counts[local.isoweekday() % 7, local.hour] += row["request_count"]
        return [{"day_of_week": day, "hour": hour, "count": count} for (day, hour), count in counts.items()]


def by_hour(hours: int, addresses: Sequence[str] | None = None) -> Hours:
    """Of all clients, or of these addresses of one. One query."""
    first = hour_now() - hours + 1
    if addresses is None:
        sums = f"{_SENT}, requests_failed, input_tokens, output_tokens, clients"
        rows = _rows(f"SELECT hour, {sums} FROM rollup_all_clients WHERE hour >= %s", first)  # noqa: S608
    else:
        where, values = _of(addresses)
        sums = f"SUM({_SENT}), SUM(requests_failed), SUM(input_tokens), SUM(output_tokens)"
        sql = f"SELECT hour, {sums} FROM rollup_client_hours WHERE hour >= %s{where} GROUP BY hour"  # noqa: S608
        rows = [(*row, int(row[1] > 0)) for row in _rows(sql, first, *values)]
    found = {int(hour): [int(value) for value in sums] for hour, *sums in rows}
    names = ("request_count", "failed_count", "input_tokens", "output_tokens", "unique_ips")
    none = [0] * len(names)
    return Hours(
        first,
        [
            {
                "hour": datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H:00:00"),
                **dict(zip(names, found.get(hour, none), strict=True)),
            }
            for hour in range(first, first + hours)
        ],
    )


def models(hours: int | None, addresses: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """What was asked for on the days (UTC) that these hours lie in (None: ever), the most requests first. One query."""
    where, values = _of(addresses)
    sql = f"SELECT model, SUM({_SENT}) FROM rollup_client_days WHERE day >= %s{where} GROUP BY model"  # noqa: S608
    counts = [(str(model), int(count)) for model, count in _rows(sql, first_day(hours), *values)]
    total = sum(count for _, count in counts)
    return [
        {"model": model, "request_count": count, "percentage": round(100 * count / total, 1)}
        for model, count in sorted(counts, key=lambda it: (-it[1], it[0]))
        if count
    ]


def keys(addresses: Sequence[str]) -> list[dict[str, Any]]:
    """Which API keys were ever used, the most requests first. Two queries."""
    where, values = _of(addresses)
    sql = f"SELECT api_key_id, SUM({_SENT}) FROM rollup_client_days WHERE day >= %s{where} GROUP BY api_key_id"  # noqa: S608
    counts = [(str(key), int(count)) for key, count in _rows(sql, first_day(None), *values) if key]
    names = queries.key_names()
    return [
        {"api_key_id": key, "name": names.get(key), "request_count": count}
        for key, count in sorted(counts, key=lambda it: (-it[1], it[0]))
    ]


@dataclass(frozen=True, slots=True)
class Seen:
    """Addresses of one client, the one that was seen last first, and all that they ever sent."""

    addresses: list[str]
    sent: Sent
    first_hour: int | None

    @property
    def told(self) -> dict[str, Any]:
        first = None if self.first_hour is None else datetime.fromtimestamp(self.first_hour * 3600, UTC)
        told = self.sent.told
        return {
            "total_requests": told.pop("request_count"),
            "failed_requests": told.pop("failed_count"),
            "cancelled_requests": told.pop("cancelled_count"),
            "first_seen": json_time(first),
            **told,
            "addresses": self.addresses,
        }


def seen(client: str) -> Seen:
    """Of an address or a network as `named` gives it, over all time. One query, by the index of addresses."""
    where, values = "client_ip = %s", (client,)
    if "/" in client:
        where, values = _begins(_first_part(client))
    sql = (
        f"SELECT client_ip, MIN(hour), {_SUMS}, MAX(last_us) FROM rollup_client_hours WHERE {where} GROUP BY client_ip"  # noqa: S608
    )
    sent, last, first_hours = Sent(), {}, []
    for address, first_hour, *sums in _rows(sql, *values):
        if address == client or client_of(address) == client:
            sent.add(sums)
            last[address] = int(sums[-1] or 0)
            first_hours.append(int(first_hour))
    addresses = sorted(last, key=lambda address: (-last[address], address))
    return Seen(addresses, sent, min(first_hours, default=None))


def hourly_pattern(addresses: Sequence[str]) -> list[dict[str, int]]:
    """Requests by hour of the day, UTC, over all time. One query."""
    where, values = _of(addresses)
    sql = f"SELECT hour %% 24 AS hour, SUM({_SENT}) FROM rollup_client_hours WHERE hour > %s{where} GROUP BY hour %% 24"  # noqa: S608
    counts = {int(hour): int(count) for hour, count in _rows(sql, 0, *values)}
    return [{"hour": hour, "count": counts.get(hour, 0)} for hour in range(24)]


def recent(addresses: Sequence[str]) -> list[dict[str, Any]]:
    """The last requests, among the latest that the history has. Two queries for each of at most five addresses."""
    found: list[dict[str, Any]] = []
    for address in addresses[:RECENT_ADDRESSES]:
        page = queries.requests(Wanted(client_ip=address), None, RECENT)
        found.extend(told(row) for row in page.rows if has_page(row))
    return sorted(found, key=lambda it: (it["completed_at"] or "", it["id"]), reverse=True)[:RECENT]


# The threshold


def threshold() -> int:
    """So many requests in an hour have a client marked."""
    return effective(Setting.objects.filter(key=THRESHOLD).values_list("value", flat=True).first())


def whole(text: str) -> int | None:
    """A threshold as somebody wrote it; None for what cannot be one."""
    text = text.strip()
    return int(text) if 1 <= len(text) <= 18 and text.isascii() and text.isdigit() and int(text) else None


def effective(stored: str | None) -> int:
    """The reference's row may hold anything."""
    return whole(stored or "") or DEFAULT_THRESHOLD


def setting(key: str) -> str:
    """What is stored under a key, empty where nothing is; of the threshold, what it means."""
    stored = Setting.objects.filter(key=key).values_list("value", flat=True).first()
    return str(effective(stored)) if key == THRESHOLD else (stored or "")


def store_setting(key: str, value: str) -> None:
    Setting.objects.update_or_create(
        key=key, defaults={"value": value, "updated_at": timezone.now().astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")}
    )


def stored_day(key: str) -> date | None:
    """None where none is stored, or none that can be read."""
    try:
        return date.fromisoformat(setting(key))
    except ValueError:
        return None


def _of(addresses: Sequence[str] | None) -> tuple[str, tuple[Any, ...]]:
    """A condition for any number of addresses."""
    if addresses is None:
        return "", ()
    listed, values = _listed(addresses)
    return f" AND client_ip IN (SELECT value FROM {listed})", values  # noqa: S608


def _listed(addresses: Sequence[str]) -> tuple[str, tuple[Any, ...]]:
    """A table of them."""
    if connection.vendor == "postgresql":
        return "unnest(CAST(%s AS text[])) AS listed (value)", (list(addresses),)
    return "json_each(%s) AS listed", (msgspec.json.encode(list(addresses)).decode(),)


def _first_part(network: str) -> str:
    """How the text of every address of a network begins."""
    first = int(ipaddress.ip_network(network).network_address)
    return "::" if first == 0 else f"{first >> 112:x}:"


def _begins(prefix: str) -> tuple[str, tuple[Any, ...]]:
    if connection.vendor == "postgresql":
        return "client_ip LIKE %s", (f"{prefix}%",)
    return "client_ip >= %s AND client_ip < %s", (prefix, prefix[:-1] + ";")  # behind the colon; by the index


def _moment(us: int | None) -> datetime | None:
    return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)


def _rows(sql: str, *values: Any) -> Iterable[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())
