"""What a person does to an endpoint, from API and admin alike: look what it is, test it, sync its models."""

import asyncio
from dataclasses import dataclass

from django.utils import timezone

from endpoints import detection, health, probe, sync
from endpoints.models import Endpoint, Kind
from endpoints.probe import Probe, Unreachable
from gateway.sealing import Unsealable


@dataclass(frozen=True, slots=True)
class TestResult:
    """A connection test's outcome; `models_found` counts the models it lists."""

    success: bool
    latency_ms: int | None
    error: str | None
    models_found: int | None


def detect(base_url: str, api_key: str | None) -> Kind:
    """Ask what is there. Raises Unreachable or detection.Unsupported."""

    async def ask() -> Kind:
        async with probe.session() as session:
            return await detection.detect(Probe(session, base_url, api_key))

    return asyncio.run(ask())


def secret(endpoint: Endpoint) -> str | None:
    """The key to ask it with. Raises Unreachable if that is sealed with an encryption key we do not have."""
    try:
        return endpoint.api_key
    except Unsealable:
        raise Unreachable("its API key cannot be opened with this encryption key; store it again") from None


def test(endpoint: Endpoint) -> TestResult:
    """Probe it now, and store the outcome as any health check's."""

    async def ask(key: str | None) -> tuple[health.Check, int | None]:
        async with probe.session() as session:
            asking = Probe(session, endpoint.base_url, key)
            found = await health.check(asking, endpoint.endpoint_type)
            if not found.success:
                return found, None
            try:
                return found, len(sync.parse(await asking.get("/v1/models")))
            except (Unreachable, sync.SyncFailed):
                return found, None

    try:
        found, models = asyncio.run(ask(secret(endpoint)))
    except Unreachable as error:
        found, models = health.Check(False, None, str(error), timezone.now()), None
    health.record(str(endpoint.pk), found)
    return TestResult(found.success, found.latency_ms, found.error, models)


def sync_models(endpoint: Endpoint) -> sync.SyncResult:
    """Bring its model list up to date now. Raises Unreachable or sync.SyncFailed."""

    async def ask(key: str | None) -> sync.Offer:
        async with probe.session() as session:
            return await sync.fetch(Probe(session, endpoint.base_url, key, timeout=10), endpoint.endpoint_type)

    offer = asyncio.run(ask(secret(endpoint)))
    return sync.store(endpoint, offer.models, offer.slots)
