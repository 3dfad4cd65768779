"""Retention of bodies (ROUTERDASH_BODY_RETENTION_DAYS): deletes them, and keeps the history rows without them.

As with client addresses, whole days of UTC are done once, in small transactions, so that the database writer can commit
in between. What a row then has is what a row has whose bodies were never stored.
"""

import time
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction

from metrics import sql
from metrics.storage.history_rows import model_and_body
from metrics.storage.settings_rows import BODIES_BEFORE, store_setting, stored_day
from metrics.times import sql_midnight

CHUNK = 500  # bodies of 64 KiB each, twice
LATE_DAYS = 2  # records that reach the database later than that, after an outage, keep their bodies
_FIRST = date(1970, 1, 1)
_UPDATE = "UPDATE request_history SET request_body = %s, response_body = NULL WHERE id = %s"


class _Row(NamedTuple):
    """A history row with a body."""

    id: str
    model: str
    completed_at: str | datetime


def delete_due() -> int:
    """Delete all bodies that are due, and return their number of history rows."""
    config = settings.ROUTERDASH
    if config.body_days >= config.history_retention_days:
        return 0  # they are deleted with their rows
    end = datetime.fromtimestamp(time.time(), UTC).date() - timedelta(days=config.body_days)
    done = stored_day(BODIES_BEFORE)
    if done is not None and done >= end:
        return 0
    first = _FIRST if done is None else done - timedelta(days=LATE_DAYS)
    since, until, last_id = sql_midnight(first, connection.vendor), sql_midnight(end, connection.vendor), None
    deleted = 0
    while rows := _rows_with_bodies(since, until, last_id):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(_UPDATE, [(model_and_body(row.model)[1], row.id) for row in rows])
        since, last_id = rows[-1].completed_at, rows[-1].id
        deleted += len(rows)
    store_setting(BODIES_BEFORE, end.isoformat())
    return deleted


def _rows_with_bodies(since: str | datetime, until: str | datetime, after_id: str | None) -> list[_Row]:
    """Return the next rows, oldest first: those of the moment `since` with a greater id than `after_id`, then later
    ones. A few without a body may be among them, whose model has an unusual name.
    """
    placeholder = "'{\"model\": \"' || model || '\"}'"
    where = [
        "completed_at >= %s",
        "completed_at < %s",
        f"(response_body IS NOT NULL OR CAST(request_body AS TEXT) <> {placeholder})",
    ]
    parameters: list[str | datetime] = [since, until]
    if after_id is not None:
        where.append("(completed_at > %s OR id > %s)")
        parameters += [since, after_id]
    columns = ["id", "model", "completed_at"]
    statement = sql.select(columns, "request_history", where=where, order_by="completed_at, id", limit=CHUNK)
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [_Row(*row) for row in cursor.fetchall()]
