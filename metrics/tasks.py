"""Tasks that django-q2 runs for figures: retention."""

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from endpoints.fields import iso
from endpoints.slices import slices
from metrics import sql
from metrics.learning import past_rows, window_rows
from metrics.models import MinuteRollUp
from metrics.storage import rollups
from metrics.storage.retention import addresses, bodies, history

log = logging.getLogger(__name__)

CHUNK = 2000
MAX_PARAMETERS = 500  # in one statement


def prune_history() -> int:
    """Delete old history rows, bodies and minute roll-ups, and remove client addresses that are due. Figures do not
    change.

    Returns the number of deleted history rows.
    """
    for one in slices():
        one.before_pruning(settings.ROUTERDASH)
    cutoff = timezone.now() - timedelta(days=settings.ROUTERDASH.history_retention_days)
    history.note_deleted_before(cutoff)
    deleted = 0
    while ids := _older_than(cutoff):
        with transaction.atomic():
            deleted += _delete(ids)
    _prune_minutes(int(time.time() // 60) - rollups.MINUTES_KEPT_DAYS * 24 * 60)
    bodies.delete_due()
    addresses.remove_due()
    window_rows.forget_deleted_keys()
    past_rows.prune(round(time.time() * 1e6))
    return deleted


def _prune_minutes(oldest: int) -> None:
    """Delete one hour per transaction, so that the database writer can commit in between, even after a long outage."""
    while (first := MinuteRollUp.objects.order_by("minute").values_list("minute", flat=True).first()) is not None:
        if first >= oldest:
            return
        MinuteRollUp.objects.filter(minute__lt=min(oldest, first + 60)).delete()


def _older_than(cutoff: datetime) -> list[Any]:
    """Return ids as they are in the table: some ids of adopted rows may be no UUIDs, which the ORM would reject."""
    bound = cutoff if connection.vendor == "postgresql" else iso(cutoff)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM request_history WHERE completed_at < %s LIMIT %s", (bound, CHUNK))
        return [row[0] for row in cursor.fetchall()]


def _delete(ids: Sequence[Any]) -> int:
    deleted = 0
    with connection.cursor() as cursor:
        for start in range(0, len(ids), MAX_PARAMETERS):
            chunk = ids[start : start + MAX_PARAMETERS]
            cursor.execute(sql.delete("request_history", f"id IN {sql.placeholders(len(chunk))}"), chunk)
            deleted += cursor.rowcount
    return deleted
