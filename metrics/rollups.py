"""How roll-ups are written: sums and histograms are added to the rows of a span of time, inside a transaction.

There is one writer, so a histogram is read, added to, and written back; a sum is added to by the database.
"""

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter, itemgetter
from typing import Any

from django.db import connection

from gateway.peer import client_of
from metrics import histogram
from metrics.database import find, storable
from metrics.fold import CELL_COLUMNS, Cell, ClientCell, ClientKey
from metrics.histogram import Histogram

MINUTES_KEPT_DAYS = 8  # the timeline looks back an hour, the average a day
_DIMENSIONS = ("endpoint_id", "model", "kind", "api_key_id")
_HISTOGRAMS = ("durations", "first_tokens")
_sums = attrgetter(*CELL_COLUMNS)


@dataclass(frozen=True, slots=True)
class RollUpTable:
    """Its statements. `span` is the column that says which minute, day or month."""

    name: str
    span: str
    histograms: tuple[str, ...] = _HISTOGRAMS

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.span, *_DIMENSIONS)

    @property
    def write(self) -> str:
        keys = self.keys
        columns = (*keys, *CELL_COLUMNS, *self.histograms)
        # COALESCE: rows of releases that did not count this yet
        sums = [f"{name} = COALESCE({self.name}.{name}, 0) + excluded.{name}" for name in CELL_COLUMNS]
        replaced = [f"{name} = COALESCE(excluded.{name}, {self.name}.{name})" for name in self.histograms]
        return (
            f"INSERT INTO {self.name} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608
            f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join((*sums, *replaced))}"
        )


def upsert_of(table: str, keys: tuple[str, ...], sums: tuple[str, ...], **others: str) -> str:
    """A statement that adds `sums` to a row, or makes it; `others` say what becomes of their columns."""
    columns = (*keys, *sums, *others)
    added = [f"{name} = {table}.{name} + excluded.{name}" for name in sums]
    made = [f"{name} = {becomes.format(table=table)}" for name, becomes in others.items()]
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join((*added, *made))}"
    )


MINUTES = RollUpTable("rollup_minutes", "minute")
DAYS = RollUpTable("rollup_days", "date")
MONTHS = RollUpTable("rollup_months", "month", histograms=())


def upsert(cursor: Any, table: RollUpTable, cells: Mapping[Any, Cell]) -> None:
    """Add the cells to a table; `cells` by (span, endpoint, model, kind, key). In order of their keys: two writers that
    meet on PostgreSQL never wait for each other in a circle.
    """
    rows: dict[tuple[Any, ...], Cell] = {}
    for key in sorted(cells):
        stored_as = key if "".join(key[1:]).isprintable() else (key[0], *map(storable, key[1:]))
        rows[stored_as] = rows[stored_as] + cells[key] if stored_as in rows else cells[key]
    if not rows:
        return
    if not table.histograms:
        cursor.executemany(table.write, [(*key, *_sums(cell)) for key, cell in rows.items()])
        return
    # Without a duration there is no first token either, and nothing to add to what is stored.
    stored = find(cursor, table.name, table.keys, _HISTOGRAMS, [key for key, cell in rows.items() if cell.durations])
    cursor.executemany(table.write, [_row(key, cell, *stored.get(key, (None, None))) for key, cell in rows.items()])


def upsert_days(cursor: Any, days: Mapping[Any, Cell]) -> None:
    """Add the cells to days and to their months."""
    upsert(cursor, DAYS, days)
    cells: dict[Any, Cell] = {}
    for (date, *rest), cell in days.items():
        key = (date[:7], *rest)
        cells[key] = cells[key] + cell if key in cells else cell
    upsert(cursor, MONTHS, cells)


CLIENT_SUMS = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
CLIENT_HOURS, CLIENT_DAYS, ALL_CLIENTS = "rollup_client_hours", "rollup_client_days", "rollup_all_clients"
CLIENT_KEYS = {CLIENT_HOURS: ("hour", "client_ip"), CLIENT_DAYS: ("day", "client_ip", "api_key_id", "model")}
_LATEST = "CASE WHEN {table}.last_us > excluded.last_us THEN {table}.last_us ELSE excluded.last_us END"
_WRITE_CLIENTS = {
    CLIENT_HOURS: upsert_of(CLIENT_HOURS, CLIENT_KEYS[CLIENT_HOURS], CLIENT_SUMS, last_us=_LATEST),
    CLIENT_DAYS: upsert_of(CLIENT_DAYS, CLIENT_KEYS[CLIENT_DAYS], CLIENT_SUMS),
}
CLIENT_COLUMNS = {CLIENT_HOURS: (*CLIENT_SUMS, "last_us"), CLIENT_DAYS: CLIENT_SUMS}
_WRITE_ALL_CLIENTS = upsert_of(ALL_CLIENTS, ("hour",), (*CLIENT_SUMS, "clients"))
_client_sums = attrgetter(*CLIENT_SUMS)
_client_columns = {table: attrgetter(*columns) for table, columns in CLIENT_COLUMNS.items()}


def upsert_clients(cursor: Any, cells: Mapping[ClientKey, ClientCell]) -> None:
    """Add the cells to the hours and days of clients, in order of their keys as well, and to the hours of all."""
    hours: dict[tuple[Any, ...], ClientCell] = {}
    days: dict[tuple[Any, ...], ClientCell] = {}
    for (hour, client_ip, api_key_id, model), cell in cells.items():
        client_ip = storable(client_ip)
        hours.setdefault((hour, client_ip), ClientCell()).add(cell)
        days.setdefault((hour // 24, client_ip, api_key_id, storable(model)), ClientCell()).add(cell)
    come = _come(cursor, hours)
    write_clients(cursor, CLIENT_HOURS, hours)
    write_clients(cursor, CLIENT_DAYS, days)
    every: dict[int, ClientCell] = {}
    for (hour, _), cell in hours.items():
        every.setdefault(hour, ClientCell()).add(cell)
    if every:
        rows = [(hour, *_client_sums(cell), come[hour]) for hour, cell in sorted(every.items())]
        cursor.executemany(_WRITE_ALL_CLIENTS, rows)


def _come(cursor: Any, hours: Collection[tuple[int, str]]) -> Counter[int]:
    """How many clients each hour does not have yet. Most batches have none, and read a row for each address."""
    there = find(cursor, CLIENT_HOURS, CLIENT_KEYS[CLIENT_HOURS], ("hour",), list(hours))
    come: Counter[int] = Counter()
    networks: dict[int, set[str]] = {}
    for hour, address in hours:
        if (hour, address) in there or not address:
            continue
        if ":" in address:
            networks.setdefault(hour, set()).add(client_of(address))
        else:
            come[hour] += 1
    for hour, fresh in networks.items():
        come[hour] += sum(not any(it == network for it in _networks(cursor, hour, network)) for network in fresh)
    return come


def _networks(cursor: Any, hour: int, near: str = "") -> Iterator[str]:
    """The IPv6 clients of an hour, address after address. `near` one, its own come first or nearly so: whoever has
    thousands of addresses does not cost more with each.
    """
    begin = _beginning(near)
    where, values = "client_ip LIKE %s", [f"{begin}%" if begin else "%:%"]
    if begin and connection.vendor == "sqlite":  # by the table's key, which is in the order of bytes
        where, values = "client_ip >= %s AND client_ip < %s", [begin, begin[:-1] + ";"]
    cursor.execute(f"SELECT client_ip FROM {CLIENT_HOURS} WHERE hour = %s AND {where}", (hour, *values))  # noqa: S608
    return (client_of(address) for (address,) in iter(cursor.fetchone, None))


def _beginning(network: str) -> str:
    """How the text of each address of an IPv6 network begins: zeros may be left out, what comes before them may not."""
    if "/" not in network:
        return ""
    first = int(ipaddress.ip_network(network).network_address)
    groups = takewhile(bool, (first >> bits & 0xFFFF for bits in (112, 96, 80, 64)))
    return "".join(f"{group:x}:" for group in groups)


def count_clients(cursor: Any, hour: int) -> None:
    """Anew, since addresses were taken away."""
    # First of all its lock: on PostgreSQL, what the writer adds from here on comes behind what is counted.
    cursor.execute(f"UPDATE {ALL_CLIENTS} SET clients = clients WHERE hour = %s", (hour,))  # noqa: S608
    sql = f"SELECT COUNT(*) FROM {CLIENT_HOURS} WHERE hour = %s AND client_ip <> '' AND client_ip NOT LIKE '%%:%%'"  # noqa: S608
    cursor.execute(sql, (hour,))
    ((others,),) = cursor.fetchall()
    clients = others + len(set(_networks(cursor, hour)))
    cursor.execute(f"UPDATE {ALL_CLIENTS} SET clients = %s WHERE hour = %s", (clients, hour))  # noqa: S608


def write_clients(cursor: Any, table: str, cells: Mapping[tuple[Any, ...], ClientCell]) -> None:
    """Add to rows of CLIENT_HOURS or CLIENT_DAYS, by their keys."""
    columns = _client_columns[table]
    if cells:
        rows = [(*key, *columns(cell)) for key, cell in sorted(cells.items(), key=_key)]
        cursor.executemany(_WRITE_CLIENTS[table], rows)


_key = itemgetter(0)


def _row(key: tuple[Any, ...], cell: Cell, durations: str | None, first_tokens: str | None) -> tuple[Any, ...]:
    return (*key, *_sums(cell), _merged(durations, cell.durations), _merged(first_tokens, cell.first_tokens))


def _merged(stored: str | None, new: Histogram) -> str | None:
    if not new:
        return None
    counts = histogram.unpack(stored)
    histogram.add(counts, new)
    return histogram.pack(counts)
