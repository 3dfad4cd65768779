"""Counters that notify other processes of edits: bumped in the transaction of the edit, polled by control."""

from django.db import connection, transaction
from django.db.models import F

from endpoints.changes.models import ChangeCounter

ENDPOINTS, ACCESS, STARTS, FIGURES = "endpoints", "access", "starts", "figures"


def bump(name: str) -> None:
    """Count a change. A rollback of the transaction also reverts the count."""
    with transaction.atomic():
        counted = ChangeCounter.objects.filter(name=name)
        if not counted.update(value=F("value") + 1):
            ChangeCounter.objects.get_or_create(name=name, defaults={"value": 0})
            counted.update(value=F("value") + 1)


def read() -> dict[str, int]:
    """Return all counters by name. Plain SQL, as control reads them several times a second."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, value FROM change_counters")
        return dict(cursor.fetchall())
