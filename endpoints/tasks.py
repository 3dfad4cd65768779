"""Tasks of endpoints, run by django-q2. The work is in functions that a test calls directly."""

import asyncio
import logging
from datetime import timedelta

from django.utils import timezone

from endpoints import detection, operations, probe, sync
from endpoints.checks import assumed_slots
from endpoints.checks.model_lists import SyncFailed
from endpoints.endpoint_fields import words_or_none
from endpoints.models import Endpoint, HealthCheck
from endpoints.probe import Unreachable

log = logging.getLogger(__name__)

HEALTH_CHECK_DAYS = 30
CHUNK = 5000


def sync_models(endpoint_id: str, detect: bool = False) -> str:
    """Sync the models of an endpoint. If `detect` is set, detect its type first."""
    endpoint = Endpoint.objects.select_related("options").filter(pk=endpoint_id).first()
    if endpoint is None:
        return "the endpoint has been deleted"
    try:
        kind, model_list = asyncio.run(_fetch(endpoint, operations.secret(endpoint), detect))
    except (Unreachable, SyncFailed) as error:
        log.info("the models of %s could not be synced; the stored ones stay: %s", endpoint.name, error)
        return str(error)
    if kind != endpoint.kind:
        endpoint.endpoint_type = kind
        endpoint.save(update_fields=["endpoint_type"])
        assumed_slots.follow_kind(endpoint)
    try:
        result = sync.store(endpoint, model_list.models, model_list.slots, model_list.remark)
    except SyncFailed as error:
        return str(error)
    return f"{len(result.models)} models, {result.added} added, {result.removed} removed"


async def _fetch(endpoint: Endpoint, key: str | None, detect: bool) -> tuple[str, sync.ModelList]:
    kind = endpoint.kind
    allowed = words_or_none(endpoint.options_or_default.allowed_models)
    async with probe.session() as session:
        client = operations.probe_of(endpoint, session, key, timeout=10)
        if detect and client.provider is None:
            try:
                kind = await detection.detect(client)
            except detection.Unsupported as error:
                log.info("the type of %s could not be detected; the stored one stays: %s", endpoint.name, error)
        return kind, await sync.fetch(client, kind, allowed)


def prune_health_checks() -> int:
    """Delete health checks older than 30 days in batches, which avoids long locks. Return the number deleted."""
    cutoff = timezone.now() - timedelta(days=HEALTH_CHECK_DAYS)
    deleted = 0
    while ids := list(HealthCheck.objects.filter(checked_at__lt=cutoff).values_list("id", flat=True)[:CHUNK]):
        deleted += HealthCheck.objects.filter(id__in=ids).delete()[0]
    return deleted
