"""What django-q2 runs for figures. Thin: the work is in functions that a test calls directly."""

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from metrics.fold import Cell, local_date
from metrics.models import MinuteRollUp, RequestHistory
from metrics.writer import DAYS, KINDS, cell_row

CHUNK = 2000
MINUTE_ROLLUP_DAYS = 8  # the timeline looks back an hour, the average a day


def prune_history() -> int:
    """Delete history rows beyond retention, and minute roll-ups that no figure looks back to; figures stay."""
    cutoff = timezone.now() - timedelta(days=settings.ROUTERDASH.history_retention_days)
    deleted = 0
    while ids := list(RequestHistory.objects.filter(completed_at__lt=cutoff).values_list("id", flat=True)[:CHUNK]):
        with transaction.atomic():
            _keep_adopted(ids)
            deleted += RequestHistory.objects.filter(id__in=ids).delete()[0]
    oldest = int(time.time() // 60) - MINUTE_ROLLUP_DAYS * 24 * 60
    MinuteRollUp.objects.filter(minute__lt=oldest).delete()
    return deleted


def _keep_adopted(ids: Sequence[UUID]) -> None:
    """Rows that the reference wrote are in no roll-up yet: they are now, before they go."""
    zone = settings.ROUTERDASH.zone
    days: dict[tuple[str, str, str, str, str], Cell] = {}
    for row in RequestHistory.objects.filter(id__in=ids, outcome=None):
        ok = row.status == "success"
        date = local_date(int(row.completed_at.timestamp() // 60), zone)
        kind = KINDS.get(row.request_type, row.request_type.lower())
        cell = Cell(
            requests_ok=ok,
            requests_failed=not ok,
            attempts_ok=ok,
            attempts_failed=not ok,
            input_tokens=row.input_tokens or 0,
            output_tokens=row.output_tokens or 0,
            ok_duration_us=row.duration_ms * 1000 if ok else 0,
        )
        key = (date, str(row.endpoint_id), row.model, kind, str(row.api_key_id or ""))
        days.setdefault(key, Cell()).add(cell)
    with connection.cursor() as cursor:
        for key in sorted(days):
            cursor.execute(DAYS, cell_row(key, days[key]))
