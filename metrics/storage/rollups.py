"""Writing roll-ups: sums and histograms are added to the rows of a span of time, inside a transaction.

There is one writer. The database adds sums. SQLite also adds histograms, with a function of this process; on
PostgreSQL they are read, added to and written back.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from operator import attrgetter, itemgetter
from typing import Any

from django.db import connection
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from gateway.base.addresses import client_of
from metrics import sql
from metrics.counting import histogram, key_use
from metrics.counting.cells import CELL_COLUMNS, Cell, ClientCell, ClientKey, ServedKey
from metrics.counting.fold import Fold
from metrics.counting.token_details import DETAIL_COLUMNS, NOT_REPORTED
from metrics.sql import Vendor
from metrics.storage import database
from metrics.storage.bulk import Upsert, find
from metrics.texts import storable

MERGE_HISTOGRAMS = "merge_histograms"  # function in SQLite: the sum of two stored histograms
MINUTES_KEPT_DAYS = 8  # the timeline needs one hour, averages need one day
_DIMENSIONS = ("endpoint_id", "model", "kind", "api_key_id")
_HISTOGRAMS = ("durations", "first_tokens")
_sums = attrgetter(*CELL_COLUMNS)


@dataclass(frozen=True, slots=True)
class RollUpTable:
    """A table of roll-ups. `span` is the column with the minute, day or month."""

    name: str
    span: str
    histograms: tuple[str, ...] = _HISTOGRAMS

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.span, *_DIMENSIONS)

    def statement(self, details: bool) -> Upsert:
        """Return the statement that adds rows, with the columns of `details` or without."""
        return _statement(self, details, database.vendor())


def _nullable_sums(table: str) -> dict[str, str]:
    """Return the sums of the columns of details, where null and a number are that number."""
    return {
        name: f"COALESCE({table}.{name} + excluded.{name}, {table}.{name}, excluded.{name})" for name in DETAIL_COLUMNS
    }


@lru_cache(maxsize=16)
def _statement(table: RollUpTable, details: bool, vendor: Vendor) -> Upsert:
    # COALESCE: rows of earlier releases have null in newer columns
    expressions = {name: f"COALESCE({table.name}.{name}, 0) + excluded.{name}" for name in CELL_COLUMNS}
    for name in table.histograms:
        stored, new = f"{table.name}.{name}", f"excluded.{name}"
        replaced = f"COALESCE({new}, {stored})"
        if vendor == "sqlite":
            both = f"{stored} IS NOT NULL AND {new} IS NOT NULL"
            replaced = f"CASE WHEN {both} THEN {MERGE_HISTOGRAMS}({stored}, {new}) ELSE {replaced} END"
        expressions[name] = replaced
    if details:
        expressions |= _nullable_sums(table.name)
    return Upsert(table.name, table.keys, expressions=expressions)


@receiver(connection_created, dispatch_uid="metrics.merge_histograms")
def _add_functions(connection: Any, **kwargs: Any) -> None:
    if connection.vendor == "sqlite":
        connection.connection.create_function(MERGE_HISTOGRAMS, 2, _merged_texts, deterministic=True)


def _merged_texts(stored: str | None, new: str) -> str | None:
    return histogram.merged(stored, histogram.unpack(new))


if connection.connection is not None:
    _add_functions(connection)  # it was opened before this module was loaded


MINUTES = RollUpTable("rollup_minutes", "minute")
DAYS = RollUpTable("rollup_days", "date")
MONTHS = RollUpTable("rollup_months", "month", histograms=())


def _by_stored_key(
    cells: Mapping[Any, Cell], stored: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> dict[tuple[Any, ...], Cell]:
    """Return cells by their keys as the database stores them, in the order of the keys."""
    rows: dict[tuple[Any, ...], Cell] = {}
    for key in sorted(cells):
        stored_as = stored(key)
        rows[stored_as] = rows[stored_as] + cells[key] if stored_as in rows else cells[key]
    return rows


def upsert(cursor: Any, table: RollUpTable, cells: Mapping[Any, Cell]) -> None:
    """Add cells, by (span, endpoint, model, kind, API key), to a table.

    Rows are written in the order of their keys, so that two writers cannot deadlock on PostgreSQL.
    """
    rows = _by_stored_key(cells, lambda key: (key[0], *map(storable, key[1:])))
    if not rows:
        return
    stored: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    if table.histograms and database.vendor() == "postgresql":
        # A cell without durations has no first tokens either, so the stored histograms do not change.
        changed = [key for key, cell in rows.items() if cell.durations]
        stored = find(cursor, table.name, table.keys, table.histograms, changed)
    histograms = attrgetter(*table.histograms) if table.histograms else lambda cell: ()
    written = [
        (*key, *_sums(cell), *map(histogram.merged, stored.get(key, _NONE_STORED), histograms(cell)))
        for key, cell in rows.items()
    ]
    details = any([cell.details is not None for cell in rows.values()])
    if details:
        written = [(*row, *(cell.details or NOT_REPORTED)) for row, cell in zip(written, rows.values(), strict=True)]
    table.statement(details).write(cursor, written)


_NONE_STORED = (None, None)


def upsert_days(cursor: Any, days: Mapping[Any, Cell]) -> None:
    """Add cells, by (date, endpoint, model, kind, API key), to days and months."""
    upsert(cursor, DAYS, days)
    cells: dict[Any, Cell] = {}
    for (date, *rest), cell in days.items():
        key = (date[:7], *rest)
        cells[key] = cells[key] + cell if key in cells else cell
    upsert(cursor, MONTHS, cells)


SERVED_DAYS = "rollup_served_days"
SERVED_KEYS = ("date", *_DIMENSIONS, "served", "canonical", "step")
SERVED_SUMS = (
    "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "ok_duration_us",
)  # fmt: skip
_WRITE_SERVED = Upsert(SERVED_DAYS, SERVED_KEYS, added=SERVED_SUMS, expressions=_nullable_sums(SERVED_DAYS))
_served_sums = attrgetter(*SERVED_SUMS)


def upsert_served(cursor: Any, cells: Mapping[ServedKey, Cell]) -> None:
    """Add the requests of which the asked name says too little to the days of served models."""
    rows = _by_stored_key(cells, lambda key: (key[0], *map(storable, key[1:-1]), key[-1]))
    _WRITE_SERVED.write(
        cursor, [(*key, *_served_sums(cell), *(cell.details or NOT_REPORTED)) for key, cell in rows.items()]
    )


CLIENT_SUMS = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
CLIENT_HOURS, CLIENT_DAYS, ALL_CLIENTS = "rollup_client_hours", "rollup_client_days", "rollup_all_clients"
CLIENT_KEYS = {CLIENT_HOURS: ("hour", "client_ip"), CLIENT_DAYS: ("day", "client_ip", "api_key_id", "model")}
_LATEST = f"CASE WHEN {CLIENT_HOURS}.last_us > excluded.last_us THEN {CLIENT_HOURS}.last_us ELSE excluded.last_us END"
_WRITE_CLIENTS = {
    CLIENT_HOURS: Upsert(CLIENT_HOURS, CLIENT_KEYS[CLIENT_HOURS], added=CLIENT_SUMS, expressions={"last_us": _LATEST}),
    CLIENT_DAYS: Upsert(CLIENT_DAYS, CLIENT_KEYS[CLIENT_DAYS], added=CLIENT_SUMS),
}
CLIENT_COLUMNS = {CLIENT_HOURS: (*CLIENT_SUMS, "last_us"), CLIENT_DAYS: CLIENT_SUMS}
_WRITE_ALL_CLIENTS = Upsert(ALL_CLIENTS, ["hour"], added=(*CLIENT_SUMS, "clients"))
_client_sums = attrgetter(*CLIENT_SUMS)
_client_columns = {table: attrgetter(*columns) for table, columns in CLIENT_COLUMNS.items()}


LAST_USES, REFUSED_DAYS = "api_key_last_uses", "rollup_refused_days"
_LATER_USE = (
    f"CASE WHEN {LAST_USES}.last_used_us > excluded.last_used_us THEN {LAST_USES}.last_used_us "
    "ELSE excluded.last_used_us END"
)
_WRITE_LAST_USES = Upsert(LAST_USES, ["api_key_id"], expressions={"last_used_us": _LATER_USE})
_WRITE_REFUSED = Upsert(REFUSED_DAYS, ["date", "api_key_id", "code", "limit_name"], added=["requests_rejected"])


def upsert_key_use(cursor: Any, fold: Fold) -> None:
    """Store the last use of API keys, and add their rejected requests to days. Rows are in the order of keys."""
    _WRITE_LAST_USES.write(
        cursor, sorted((storable(key), last_use) for key, last_use in key_use.last_uses(fold).items())
    )
    refused = sorted((*map(storable, key), count) for key, count in key_use.refusals(fold).items())
    _WRITE_REFUSED.write(cursor, refused)


def upsert_clients(cursor: Any, cells: Mapping[ClientKey, ClientCell]) -> None:
    """Add cells to the hours and days of clients, and to the hours of all clients. Rows are in the order of keys."""
    hours: dict[tuple[Any, ...], ClientCell] = {}
    days: dict[tuple[Any, ...], ClientCell] = {}
    for (hour, client_ip, api_key_id, model), cell in cells.items():
        client_ip = storable(client_ip)
        hours.setdefault((hour, client_ip), ClientCell()).add(cell)
        days.setdefault((hour // 24, client_ip, api_key_id, storable(model)), ClientCell()).add(cell)
    new_clients = _new_clients(cursor, hours)
    write_clients(cursor, CLIENT_HOURS, hours)
    write_clients(cursor, CLIENT_DAYS, days)
    all_clients: dict[int, ClientCell] = {}
    for (hour, _), cell in hours.items():
        all_clients.setdefault(hour, ClientCell()).add(cell)
    if all_clients:
        rows = [(hour, *_client_sums(cell), new_clients[hour]) for hour, cell in sorted(all_clients.items())]
        _WRITE_ALL_CLIENTS.write(cursor, rows)


def _new_clients(cursor: Any, hours: Collection[tuple[int, str]]) -> Counter[int]:
    """Return the number of new clients of each hour. Most batches have none, and read one row for each address."""
    stored = find(cursor, CLIENT_HOURS, CLIENT_KEYS[CLIENT_HOURS], ("hour",), list(hours))
    new_clients: Counter[int] = Counter()
    networks: dict[int, set[str]] = {}
    for hour, address in hours:
        if (hour, address) in stored or not address:
            continue
        if ":" in address:
            networks.setdefault(hour, set()).add(client_of(address))
        else:
            new_clients[hour] += 1
    for hour, fresh in networks.items():
        new_clients[hour] += sum(network not in _networks(cursor, hour, network) for network in fresh)
    return new_clients


def _networks(cursor: Any, hour: int, near: str = "") -> Iterator[str]:
    """Yield the IPv6 clients of an hour, once for each address.

    With `near`, only addresses with its prefix are read, so a client with thousands of addresses stays cheap.
    """
    prefix = _prefix(near)
    if prefix:
        where, values = sql.starts_with("client_ip", prefix, database.vendor())
    else:
        where, values = "client_ip LIKE %s", ["%:%"]
    cursor.execute(sql.select("client_ip", CLIENT_HOURS, where=["hour = %s", where]), (hour, *values))
    return (client_of(address) for (address,) in iter(cursor.fetchone, None))


def _prefix(network: str) -> str:
    """Return the common prefix of the texts of all addresses of an IPv6 network: its groups before the first zero."""
    if "/" not in network:
        return ""
    first = int(ipaddress.ip_network(network).network_address)
    groups = takewhile(bool, (first >> bits & 0xFFFF for bits in (112, 96, 80, 64)))
    return "".join(f"{group:x}:" for group in groups)


def count_clients(cursor: Any, hour: int) -> None:
    """Count the clients of an hour again, after addresses were removed."""
    # Take the lock first: on PostgreSQL, clients that the writer adds from now on are added after this count.
    cursor.execute(sql.update(ALL_CLIENTS, "clients = clients", "hour = %s"), (hour,))
    others = ["hour = %s", "client_ip <> ''", "client_ip NOT LIKE '%%:%%'"]
    cursor.execute(sql.select("COUNT(*)", CLIENT_HOURS, where=others), (hour,))
    ((count,),) = cursor.fetchall()
    clients = count + len(set(_networks(cursor, hour)))
    cursor.execute(sql.update(ALL_CLIENTS, "clients = %s", "hour = %s"), (clients, hour))


def write_clients(cursor: Any, table: str, cells: Mapping[tuple[Any, ...], ClientCell]) -> None:
    """Add cells, by their keys, to CLIENT_HOURS or CLIENT_DAYS."""
    columns = _client_columns[table]
    if cells:
        rows = [(*key, *columns(cell)) for key, cell in sorted(cells.items(), key=_key)]
        _WRITE_CLIENTS[table].write(cursor, rows)


_key = itemgetter(0)
