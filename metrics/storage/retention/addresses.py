"""Retention of client addresses (ROUTERDASH_CLIENT_RETENTION_DAYS): removes them, and keeps all figures.

A history row loses its address. Roll-ups of clients are added to a row without an address, for each hour and for each
day, API key and model. This is done by whole days of UTC, in small transactions, so that the database writer can
commit in between.
"""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from metrics import sql
from metrics.counting.cells import ClientCell
from metrics.storage import rollups
from metrics.storage.settings_rows import REMOVED_ADDRESS, REMOVED_BEFORE, REMOVING_BEFORE, store_setting, stored_day
from metrics.times import sql_midnight

CHUNK = 2000
LATE_DAYS = 2  # records that reach the database later than that, after an outage, keep their addresses
_FIRST = date(1970, 1, 1)


def remove_due() -> int:
    """Remove all addresses that are due. Return the number of history rows that lost one."""
    days = settings.ROUTERDASH.client_retention_days
    if not days:
        return 0
    end = datetime.fromtimestamp(time.time(), UTC).date() - timedelta(days=days)
    done = stored_day(REMOVED_BEFORE)
    if done is not None and done >= end:
        return 0
    # Stored before the first removal: from now on, reads expect no addresses before this day.
    started = stored_day(REMOVING_BEFORE)
    store_setting(REMOVING_BEFORE, max(end, started or end).isoformat())
    removed = _remove_from_history(None if done is None else done - timedelta(days=LATE_DAYS), end)
    number = (end - _FIRST).days
    _remove_from_rollups(rollups.CLIENT_HOURS, 24 * number)
    _remove_from_rollups(rollups.CLIENT_DAYS, number)
    store_setting(REMOVED_BEFORE, end.isoformat())
    return removed


def _remove_from_history(first: date | None, end: date) -> int:
    """Remove addresses of the rows from one day to another, oldest first, so that each row is read once."""
    since, until = sql_midnight(first or _FIRST, connection.vendor), sql_midnight(end, connection.vendor)
    removed = 0
    while rows := _rows_with_address(since, until):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany("UPDATE request_history SET client_ip = NULL WHERE id = %s", [(row[0],) for row in rows])
        since = rows[-1][1]
        removed += len(rows)
    return removed


def _rows_with_address(since: str | datetime, until: str | datetime) -> list[tuple[str, str | datetime]]:
    where = ["completed_at >= %s", "completed_at < %s", "client_ip IS NOT NULL"]
    statement = sql.select(["id", "completed_at"], "request_history", where=where, order_by="completed_at", limit=CHUNK)
    with connection.cursor() as cursor:
        cursor.execute(statement, (since, until))
        rows: list[tuple[str, str | datetime]] = cursor.fetchall()
        return rows


def _remove_from_rollups(table: str, end: int) -> None:
    """Remove addresses from all hours or days before `end`."""
    for span in _spans(table, end):
        while _merge_addresses(table, span) == CHUNK:
            pass


def _spans(table: str, end: int) -> Iterator[int]:
    """Yield hours or days that have addresses, oldest first."""
    name, span = rollups.CLIENT_KEYS[table][0], -1
    statement = sql.select(f"MIN({name})", table, where=[f"{name} > %s", f"{name} < %s", "client_ip <> %s"])
    with connection.cursor() as cursor:
        while True:
            cursor.execute(statement, (span, end, REMOVED_ADDRESS))
            ((span,),) = cursor.fetchall()
            if span is None:
                return
            yield span


def _merge_addresses(table: str, span: int) -> int:
    """Add some rows of an hour or day to the row without an address, and return their number.

    The rows are deleted and returned by one statement, so concurrent writes are neither lost nor counted twice.
    """
    keys, sums = rollups.CLIENT_KEYS[table], rollups.CLIENT_COLUMNS[table]
    keys_to_change = sql.select(keys, table, where=[f"{keys[0]} = %s", "client_ip <> %s"], limit=CHUNK)
    statement = sql.delete(table, f"({', '.join(keys)}) IN ({keys_to_change})", returning=(*keys, *sums))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, (span, REMOVED_ADDRESS))
        rows = cursor.fetchall()
        cells: dict[tuple[Any, ...], ClientCell] = {}
        for hour_or_day, _, *rest in rows:
            key = (hour_or_day, REMOVED_ADDRESS, *rest[: len(keys) - 2])
            values = (int(value or 0) for value in rest[len(keys) - 2 :])
            cells.setdefault(key, ClientCell()).add(ClientCell(*values))
        rollups.write_clients(cursor, table, cells)
        if table == rollups.CLIENT_HOURS:
            rollups.count_clients(cursor, span)
    return len(rows)
