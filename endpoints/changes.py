"""Counters that tell other processes of edits: bumped in the transaction of the edit, polled by control."""

from django.db import models, transaction
from django.db.models import F

ENDPOINTS, ACCESS, STARTS, FIGURES = "endpoints", "access", "starts", "figures"


def bump(name: str) -> None:
    """Count a change. A transaction that rolls back takes the count with it."""
    from endpoints.models import ChangeCounter

    with transaction.atomic():
        counted = ChangeCounter.objects.filter(name=name)
        if not counted.update(value=F("value") + 1):
            ChangeCounter.objects.get_or_create(name=name, defaults={"value": 0})
            counted.update(value=F("value") + 1)


def read() -> dict[str, int]:
    """All counters, by name."""
    from endpoints.models import ChangeCounter

    counters: models.QuerySet[ChangeCounter] = ChangeCounter.objects.all()
    return {counter.name: counter.value for counter in counters}
