"""Every save or delete of an endpoint, its options or its models: counted for other processes, read again on commit."""

from functools import partial
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from endpoints import changes
from endpoints.models import HEALTH_FIELDS, Endpoint, EndpointModel, EndpointOptions
from endpoints.registry import registry


def changed(endpoint_id: object, *, count: bool = True) -> None:
    """Call inside the transaction of an edit that sends no signal (bulk operations) or was not yet announced."""
    if count:
        changes.bump(changes.ENDPOINTS)
    transaction.on_commit(partial(registry.refresh, str(endpoint_id)))


@receiver(post_save, sender=Endpoint, dispatch_uid="endpoints.endpoint_saved")
def endpoint_saved(instance: Endpoint, update_fields: frozenset[str] | None, **kwargs: Any) -> None:
    """A health check's save concerns this process alone: no other one reads status from its own cache."""
    only_health = update_fields is not None and update_fields <= set(HEALTH_FIELDS)
    changed(instance.pk, count=not only_health)


@receiver(post_delete, sender=Endpoint, dispatch_uid="endpoints.endpoint_deleted")
def endpoint_deleted(instance: Endpoint, **kwargs: Any) -> None:
    changed(instance.pk)


@receiver([post_save, post_delete], sender=EndpointOptions, dispatch_uid="endpoints.options_changed")
@receiver([post_save, post_delete], sender=EndpointModel, dispatch_uid="endpoints.model_changed")
def part_changed(instance: EndpointOptions | EndpointModel, **kwargs: Any) -> None:
    changed(instance.endpoint_id)
