"""What django-q2 runs for figures. Thin: the work is in functions that a test calls directly."""

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from endpoints.fields import iso
from metrics import adopted, forgetting, rollups
from metrics.models import MinuteRollUp

log = logging.getLogger(__name__)

CHUNK = 2000
MOST_PARAMETERS = 500  # of a statement


def prune_history() -> int:
    """Delete history rows beyond retention, and minute roll-ups that no figure looks back to, and forget addresses that
    are due; figures stay.
    """
    adopted.catch_up(settings.ROUTERDASH.zone, log.info)  # what llmlb served is counted before it goes
    cutoff = timezone.now() - timedelta(days=settings.ROUTERDASH.history_retention_days)
    deleted = 0
    while ids := _older_than(cutoff):
        with transaction.atomic():
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
