"""What django-q2 runs for endpoints. Thin: the work is in functions that a test calls directly."""

import asyncio
import logging
from datetime import timedelta

from django.utils import timezone

from endpoints import detection, operations, probe, sync
from endpoints.models import Endpoint, HealthCheck
from endpoints.probe import Probe, Unreachable

log = logging.getLogger(__name__)

HEALTH_CHECK_DAYS = 30
CHUNK = 5000


def sync_models(endpoint_id: str, detect: bool = False) -> str:
    """Bring an endpoint's model list up to date, after looking again at its type if `detect`."""
    endpoint = Endpoint.objects.select_related("options").filter(pk=endpoint_id).first()
    if endpoint is None:
        return "the endpoint is gone"
    try:
        kind, offer = asyncio.run(_look(endpoint, operations.secret(endpoint), detect))
    except (Unreachable, sync.SyncFailed) as error:
        log.info("models of %s not synced: %s", endpoint.name, error)
        return str(error)
    if kind != endpoint.endpoint_type:
        endpoint.endpoint_type = kind
        endpoint.save(update_fields=["endpoint_type"])
    try:
        result = sync.store(endpoint, offer.models, offer.slots, offer.remark)
    except sync.SyncFailed as error:
        return str(error)
    return f"{len(result.models)} models, {result.added} added, {result.removed} removed"


async def _look(endpoint: Endpoint, key: str | None, detect: bool) -> tuple[str, sync.Offer]:
    kind = endpoint.endpoint_type
    async with probe.session() as session:
        ask = Probe(session, endpoint.base_url, key, timeout=10)
        if detect:
            try:
                kind = await detection.detect(ask)
            except detection.Unsupported as error:
                log.info("type of %s kept as it is: %s", endpoint.name, error)
        return kind, await sync.fetch(ask, kind)


def prune_health_checks() -> int:
    """Delete checks older than 30 days, a few thousand at a time: never a long lock."""
    cutoff = timezone.now() - timedelta(days=HEALTH_CHECK_DAYS)
    deleted = 0
    while ids := list(HealthCheck.objects.filter(checked_at__lt=cutoff).values_list("id", flat=True)[:CHUNK]):
        deleted += HealthCheck.objects.filter(id__in=ids).delete()[0]
    return deleted
