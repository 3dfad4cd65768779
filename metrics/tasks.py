"""What django-q2 runs for figures. Thin: the work is in functions that a test calls directly."""

import time
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from metrics.models import MinuteRollUp, RequestHistory

CHUNK = 2000
MINUTE_ROLLUP_DAYS = 8  # the timeline looks back an hour, the average a day


def prune_history() -> int:
    """Delete history rows beyond retention, and minute roll-ups that no figure looks back to; figures stay."""
    cutoff = timezone.now() - timedelta(days=settings.ROUTERDASH.history_retention_days)
    deleted = 0
    while ids := list(RequestHistory.objects.filter(completed_at__lt=cutoff).values_list("id", flat=True)[:CHUNK]):
        deleted += RequestHistory.objects.filter(id__in=ids).delete()[0]
    oldest = int(time.time() // 60) - MINUTE_ROLLUP_DAYS * 24 * 60
    MinuteRollUp.objects.filter(minute__lt=oldest).delete()
    return deleted
