"""What a person does to an endpoint, from API, pages and admin alike: look what it is, test it, sync its models."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from django.utils import timezone

from endpoints import detection, health, probe, sync
from endpoints.models import Endpoint, Kind
from endpoints.probe import Probe, Unreachable
from gateway.sealing import Unsealable

T = TypeVar("T")

LOOK_SECONDS = 15.0
AT_ONCE = 32  # endpoints that one action asks


@dataclass(frozen=True, slots=True)
class Look:
    """What a server tells before anything is stored. `problem`: why it names no models."""

    kind: Kind
    latency_ms: int | None
    models: list[sync.Offered] = field(default_factory=list)
    slots: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class TestResult:
    """A connection test's outcome; `models_found` names the models it lists, None where it gives no list."""

    success: bool
    latency_ms: int | None
    error: str | None
    models_found: list[str] | None


def detect(base_url: str, api_key: str | None) -> Kind:
    """Ask what is there. Raises Unreachable or detection.Unsupported."""

    async def ask() -> Kind:
        async with probe.session() as session:
            return await detection.detect(Probe(session, base_url, api_key))

    return asyncio.run(ask())


async def look_with(asking: Probe, seconds: float) -> Look:
    """Raises Unreachable or detection.Unsupported."""
    try:
        async with asyncio.timeout(seconds):
            kind = await detection.detect(asking)
            checked = await health.check(asking, kind)
            try:
                offer = await sync.fetch(asking, kind)
            except (Unreachable, sync.SyncFailed) as error:
                return Look(kind, checked.latency_ms, problem=checked.error or str(error))
    except TimeoutError:
        raise Unreachable(f"no answer within {seconds:g} s") from None
    return Look(kind, checked.latency_ms, offer.models, offer.slots or None, checked.error)


def look(base_url: str, api_key: str | None) -> Look:
    """What is there, how fast it answers and which models it has. Raises Unreachable or detection.Unsupported."""

    async def ask() -> Look:
        async with probe.session() as session:
            return await look_with(Probe(session, base_url, api_key), LOOK_SECONDS)

    return asyncio.run(ask())


def secret(endpoint: Endpoint) -> str | None:
    """The key to ask it with. Raises Unreachable if that is sealed with an encryption key we do not have."""
    try:
        return endpoint.api_key
    except Unsealable:
        raise Unreachable("its API key cannot be opened with this encryption key; store it again") from None


def test(endpoint: Endpoint) -> TestResult:
    """Probe it now, and store the outcome as any health check's."""
    return test_all([endpoint])[0]


def test_all(chosen: Iterable[Endpoint]) -> list[TestResult]:
    """Probe all of them at once, so that a hundred slow ones take no longer than one; store what was found."""
    endpoints = list(chosen)
    return [_recorded(endpoint, found) for endpoint, found in zip(endpoints, _ask_all(endpoints, _test), strict=True)]


def sync_models(endpoint: Endpoint) -> sync.SyncResult:
    """Bring its model list up to date now. Raises Unreachable or sync.SyncFailed."""
    (result,) = sync_all([endpoint])
    if isinstance(result, Exception):
        raise result
    return result


def sync_all(chosen: Iterable[Endpoint]) -> list[sync.SyncResult | Unreachable | sync.SyncFailed]:
    """Those of all of them, asked at once; for each what came of it, or why nothing did."""
    endpoints = list(chosen)
    return [_synced(endpoint, offer) for endpoint, offer in zip(endpoints, _ask_all(endpoints, _fetch), strict=True)]


Tested = tuple[health.Check, list[str] | None]


async def _test(endpoint: Endpoint, asking: Probe) -> Tested:
    found = await health.check(asking, endpoint.endpoint_type)
    if not found.success:
        return found, None
    try:
        return found, [model.id for model in sync.parse(await asking.get("/v1/models"))]
    except (Unreachable, sync.SyncFailed):
        return found, None


def _recorded(endpoint: Endpoint, told: Tested | Unreachable) -> TestResult:
    if isinstance(told, Unreachable):
        told = health.Check(False, None, str(told), timezone.now()), None
    found, models = told
    health.record(str(endpoint.pk), found)
    return TestResult(found.success, found.latency_ms, found.error, models)


async def _fetch(endpoint: Endpoint, asking: Probe) -> sync.Offer | sync.SyncFailed | Unreachable:
    try:
        return await sync.fetch(replace(asking, timeout=10), endpoint.endpoint_type)
    except (Unreachable, sync.SyncFailed) as error:
        return error


def _synced(
    endpoint: Endpoint, offer: sync.Offer | sync.SyncFailed | Unreachable
) -> sync.SyncResult | sync.SyncFailed | Unreachable:
    if isinstance(offer, Exception):
        return offer
    try:
        return sync.store(endpoint, offer.models, offer.slots, offer.remark)
    except sync.SyncFailed as error:
        return error


def _ask_all(endpoints: list[Endpoint], question: Callable[[Endpoint, Probe], Awaitable[T]]) -> list[T | Unreachable]:
    """The answers, in the order of the endpoints; Unreachable for one whose key cannot be opened."""
    keys = [_key_or_why_not(endpoint) for endpoint in endpoints]  # from the database, so not in the loop

    async def ask() -> list[T | Unreachable]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(endpoint: Endpoint, key: str | Unreachable | None) -> T | Unreachable:
            if isinstance(key, Unreachable):
                return key
            async with limit:
                return await question(endpoint, Probe(session, endpoint.base_url, key))

        async with probe.session() as session:
            return await asyncio.gather(*map(one, endpoints, keys))

    return asyncio.run(ask())


def _key_or_why_not(endpoint: Endpoint) -> str | Unreachable | None:
    try:
        return secret(endpoint)
    except Unreachable as error:
        return error
