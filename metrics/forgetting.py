"""Clients' addresses are forgotten after a while, where ROUTERDASH_CLIENT_RETENTION_DAYS says so; figures stay.

A row of the history loses its address; rows of roll-ups are added to one without an address, for each hour and for each
day, key and model. By whole days of UTC, in small transactions, so that the writer gets its turn.
"""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from endpoints.fields import iso
from metrics import clients, rollups
from metrics.fold import ClientCell

CHUNK = 2000
LATE_DAYS = 2  # so long may the database have been away, and what it got late is found
NOBODY = clients.FORGOTTEN
_FIRST = date(1970, 1, 1)


def forget() -> int:
    """What is due now; how many rows of the history lost an address."""
    days = settings.ROUTERDASH.client_retention_days
    if not days:
        return 0
    end = datetime.fromtimestamp(time.time(), UTC).date() - timedelta(days=days)
    done = clients.stored_day(clients.GONE_BEFORE)
    if done is not None and done >= end:
        return 0
    # First of all: from now on nobody expects addresses before it.
    begun = clients.stored_day(clients.FORGOTTEN_BEFORE)
    clients.store_setting(clients.FORGOTTEN_BEFORE, max(end, begun or end).isoformat())
    forgotten = _forget_in_history(None if done is None else done - timedelta(days=LATE_DAYS), end)
    number = (end - _FIRST).days
    _forget_in_rollups(rollups.CLIENT_HOURS, 24 * number)
    _forget_in_rollups(rollups.CLIENT_DAYS, number)
    clients.store_setting(clients.GONE_BEFORE, end.isoformat())
    return forgotten


def _forget_in_history(first: date | None, end: date) -> int:
    """Oldest first, so that nothing is looked at twice."""
    since, until = _bound(first or _FIRST), _bound(end)
    forgotten = 0
    while rows := _with_address(since, until):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany("UPDATE request_history SET client_ip = NULL WHERE id = %s", [(it[0],) for it in rows])
        since = rows[-1][1]
        forgotten += len(rows)
    return forgotten


def _with_address(since: str | datetime, until: str | datetime) -> list[tuple[str, str | datetime]]:
    sql = (
        "SELECT id, completed_at FROM request_history WHERE completed_at >= %s AND completed_at < %s "
        "AND client_ip IS NOT NULL ORDER BY completed_at LIMIT %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, (since, until, CHUNK))
        rows: list[tuple[str, str | datetime]] = cursor.fetchall()
        return rows


def _bound(day: date) -> str | datetime:
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return moment if connection.vendor == "postgresql" else iso(moment)


def _forget_in_rollups(table: str, end: int) -> None:
    """`end` is the first hour or day that is left alone."""
    for span in _spans(table, end):
        while _add_to_nobody(table, span) == CHUNK:
            pass


def _spans(table: str, end: int) -> Iterator[int]:
    """Hours or days with addresses, oldest first."""
    name, found = rollups.CLIENT_KEYS[table][0], -1
    sql = f"SELECT MIN({name}) FROM {table} WHERE {name} > %s AND {name} < %s AND client_ip <> %s"  # noqa: S608
    with connection.cursor() as cursor:
        while True:
            cursor.execute(sql, (found, end, NOBODY))
            ((found,),) = cursor.fetchall()
            if found is None:
                return
            yield found


def _add_to_nobody(table: str, span: int) -> int:
    """Some rows of one hour or day; how many. What is added is what was taken away, whoever writes meanwhile."""
    keys, sums = rollups.CLIENT_KEYS[table], rollups.CLIENT_COLUMNS[table]
    names = ", ".join(keys)
    some = f"SELECT {names} FROM {table} WHERE {keys[0]} = %s AND client_ip <> %s LIMIT {CHUNK}"  # noqa: S608
    sql = f"DELETE FROM {table} WHERE ({names}) IN ({some}) RETURNING {', '.join((*keys, *sums))}"  # noqa: S608
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql, (span, NOBODY))
        rows = cursor.fetchall()
        cells: dict[tuple[Any, ...], ClientCell] = {}
        for hour_or_day, _, *rest in rows:
            key = (hour_or_day, NOBODY, *rest[: len(keys) - 2])
            cells.setdefault(key, ClientCell()).add(ClientCell(*(int(it or 0) for it in rest[len(keys) - 2 :])))
        rollups.write_clients(cursor, table, cells)
        if table == rollups.CLIENT_HOURS:
            rollups.count_clients(cursor, span)
    return len(rows)
