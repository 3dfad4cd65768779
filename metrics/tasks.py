"""What django-q2 runs for figures. Thin: the work is in functions that a test calls directly."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from endpoints.fields import iso
from metrics import forgetting, rollups
from metrics.fold import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    PRUNED_ADOPTED,
    REQUESTS_FAILED,
    REQUESTS_OK,
    Cell,
    local_date,
)
from metrics.models import MinuteRollUp, RequestHistory
from metrics.rows import KINDS
from metrics.writer import TOTALS

CHUNK = 2000
MOST_PARAMETERS = 500  # of a statement


def prune_history() -> int:
    """Delete history rows beyond retention, and minute roll-ups that no figure looks back to, and forget addresses that
    are due; figures stay.
    """
    cutoff = timezone.now() - timedelta(days=settings.ROUTERDASH.history_retention_days)
    deleted = 0
    while ids := _older_than(cutoff):
        with transaction.atomic():
            _keep_adopted(ids)
            deleted += _delete(ids)
    _prune_minutes(int(time.time() // 60) - rollups.MINUTES_KEPT_DAYS * 24 * 60)
    forgetting.forget()
    return deleted


def _prune_minutes(oldest: int) -> None:
    """An hour at a time: after a long pause there is much to delete, and the writer must get its turn."""
    while (first := MinuteRollUp.objects.order_by("minute").values_list("minute", flat=True).first()) is not None:
        if first >= oldest:
            return
        MinuteRollUp.objects.filter(minute__lt=min(oldest, first + 60)).delete()


def _older_than(cutoff: datetime) -> list[Any]:
    """Ids as they are in the table: among adopted ones there may be some that are no UUIDs."""
    bound = cutoff if connection.vendor == "postgresql" else iso(cutoff)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM request_history WHERE completed_at < %s LIMIT %s", (bound, CHUNK))
        return [row[0] for row in cursor.fetchall()]


def _delete(ids: Sequence[Any]) -> int:
    deleted = 0
    with connection.cursor() as cursor:
        for at in range(0, len(ids), MOST_PARAMETERS):
            some = ids[at : at + MOST_PARAMETERS]
            cursor.execute(f"DELETE FROM request_history WHERE id IN ({_marks(some)})", some)  # noqa: S608
            deleted += cursor.rowcount
    return deleted


def _marks(values: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def _adopted(ids: Sequence[Any]) -> Iterator[RequestHistory]:
    """Those that the reference wrote, but for any whose moment cannot be read."""
    for at in range(0, len(ids), MOST_PARAMETERS):
        some = ids[at : at + MOST_PARAMETERS]
        sql = f"SELECT * FROM request_history WHERE outcome IS NULL AND id IN ({_marks(some)})"  # noqa: S608
        yield from (row for row in RequestHistory.objects.raw(sql, some) if row.completed_at is not None)


def _keep_adopted(ids: Sequence[Any]) -> None:
    """Rows that the reference wrote are in no roll-up yet: they are now, before they go."""
    zone = settings.ROUTERDASH.zone
    days: dict[tuple[str, str, str, str, str], Cell] = {}
    for row in _adopted(ids):
        ok = row.status == "success"
        date = local_date(int(row.completed_at.timestamp() // 60), zone)
        kind = KINDS.get(row.request_type, row.request_type.lower())
        cell = Cell(
            requests_failed=not ok,
            attempts_ok=ok,
            attempts_failed=not ok,
            input_tokens=row.input_tokens or 0,
            output_tokens=row.output_tokens or 0,
        )
        if ok:
            cell.answered(max(0, row.duration_ms) * 1000, None)
        key = (date, str(row.endpoint_id), row.model, kind, str(row.api_key_id or ""))
        days.setdefault(key, Cell()).add(cell)
    with connection.cursor() as cursor:
        rollups.upsert_days(cursor, days)
        for name in (REQUESTS_OK, REQUESTS_FAILED, INPUT_TOKENS, OUTPUT_TOKENS) if days else ():
            cursor.execute(TOTALS, (PRUNED_ADOPTED + name, sum(getattr(cell, name) for cell in days.values())))
