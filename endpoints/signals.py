"""Signal handlers for saves and deletes of endpoints, their options and their models, and of model names.

Each change refreshes the registry of this process on commit. Triggers of the database log it for other processes
(endpoints.changes).
"""

from functools import partial
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from endpoints.model_names import name_cache
from endpoints.model_names.tables import NamedModel, NameStep, NameTarget
from endpoints.models import Endpoint, EndpointModel, EndpointOptions, checks_recorded
from endpoints.registry import registry


def changed(endpoint_id: object) -> None:
    """Announce an edit that sends no signal (bulk operations). Call this inside the transaction of the edit."""
    transaction.on_commit(partial(registry.refresh, str(endpoint_id)))


@receiver(post_save, sender=Endpoint, dispatch_uid="endpoints.endpoint_saved")
def endpoint_saved(instance: Endpoint, **kwargs: Any) -> None:
    changed(instance.pk)


@receiver(checks_recorded, dispatch_uid="endpoints.checks_recorded")
def take_checks(endpoints: list[Endpoint], **kwargs: Any) -> None:
    """Announce health checks to this process only: no other reads the status from its cache."""
    transaction.on_commit(partial(registry.take_checks, endpoints))


@receiver(post_delete, sender=Endpoint, dispatch_uid="endpoints.endpoint_deleted")
def endpoint_deleted(instance: Endpoint, **kwargs: Any) -> None:
    changed(instance.pk)


@receiver([post_save, post_delete], sender=EndpointOptions, dispatch_uid="endpoints.options_changed")
@receiver([post_save, post_delete], sender=EndpointModel, dispatch_uid="endpoints.model_changed")
def part_changed(instance: EndpointOptions | EndpointModel, **kwargs: Any) -> None:
    changed(instance.endpoint_id)


@receiver([post_save, post_delete], sender=NamedModel, dispatch_uid="endpoints.model_name_changed")
def model_name_changed(instance: NamedModel, **kwargs: Any) -> None:
    name_cache.changed(instance.pk)


@receiver([post_save, post_delete], sender=NameStep, dispatch_uid="endpoints.name_step_changed")
@receiver([post_save, post_delete], sender=NameTarget, dispatch_uid="endpoints.name_target_changed")
def name_part_changed(instance: NameStep | NameTarget, **kwargs: Any) -> None:
    name_cache.changed(instance.named_id)
