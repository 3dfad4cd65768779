"""Operations on endpoints for API, pages and admin: detect the type, test the connection, sync the models."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from django.utils import timezone

from endpoints import detection, health, probe, sync
from endpoints.checks import assumed_slots
from endpoints.checks.model_lists import ListedModel, SyncFailed
from endpoints.checks.result import Check
from endpoints.endpoint_fields import words_or_none
from endpoints.models import Endpoint, Kind
from endpoints.probe import Probe, ProbeSession, Unreachable
from gateway.base import causes
from gateway.base.sealing import Unsealable
from gateway.providers.table import provider_of
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings

T = TypeVar("T")

INSPECT_SECONDS = 15.0
AT_ONCE = 32  # endpoints that one action queries in parallel


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Data that a server reports before anything is stored. `problem` is the reason for a missing model list."""

    kind: str
    latency_ms: int | None
    models: list[ListedModel] = field(default_factory=list)
    slots: int | None = None
    problem: str | None = None

    @property
    def assumed_slots(self) -> int | None:
        """Requests at a time that are assumed for the server, once it is added."""
        return None if self.slots else assumed_slots.of_new(self.kind) or None


@dataclass(frozen=True, slots=True)
class TestResult:
    """Result of a connection test. `models_found` are the names in the model list; None without a list."""

    success: bool
    latency_ms: int | None
    error: str | None
    models_found: list[str] | None


def detect(base_url: str, api_key: str | None, connection: ConnectionSettings = PLAIN) -> Kind:
    """Return the type of the server. Raises Unreachable or detection.Unsupported."""

    async def run() -> Kind:
        async with probe.session() as session:
            return await detection.detect(Probe(session, base_url, api_key, settings=connection))

    return asyncio.run(run())


async def inspect_with(client: Probe, seconds: float) -> ServerInfo:
    """Return type, latency (ms) and models of a server within `seconds`. The type of a cloud is not detected.

    Raises Unreachable or detection.Unsupported.
    """
    try:
        async with asyncio.timeout(seconds):
            kind: str = await detection.detect(client) if client.provider is None else client.provider.kind
            check = await health.check(client, kind)
            try:
                model_list = await sync.fetch(client, kind)
            except (Unreachable, SyncFailed) as error:
                return ServerInfo(kind, check.latency_ms, problem=check.error or check.remark or str(error))
    except TimeoutError:
        raise Unreachable(causes.NO_RESPONSE.format(seconds=f"{seconds:g}")) from None
    problem = check.error or check.remark
    return ServerInfo(kind, check.latency_ms, model_list.models, model_list.slots or None, problem)


def inspect_server(
    base_url: str,
    api_key: str | None,
    cloud_type: str | None = None,
    api_version: str | None = None,
    connection: ConnectionSettings = PLAIN,
) -> ServerInfo:
    """Return type, latency (ms) and models of a server. Raises Unreachable or detection.Unsupported."""
    provider = provider_of(cloud_type) if cloud_type else None

    async def run() -> ServerInfo:
        async with probe.session() as session:
            client = Probe(session, base_url, api_key, provider=provider, api_version=api_version, settings=connection)
            return await inspect_with(client, INSPECT_SECONDS)

    return asyncio.run(run())


def probe_of(endpoint: Endpoint, session: ProbeSession, key: str | None, timeout: float = 5.0) -> Probe:
    """Return the client of an endpoint, with the authentication of its cloud if it is one."""
    api_version = endpoint.options_or_default.api_version
    sealed = endpoint.options_or_default.sealed_connection
    return Probe(
        session, endpoint.base_url, key, timeout, provider_of(endpoint.kind), api_version, sealed_connection=sealed
    )


def secret(endpoint: Endpoint) -> str | None:
    """Return the API key of the server. Raises Unreachable if it is sealed with a missing encryption key."""
    try:
        return endpoint.api_key
    except Unsealable:
        raise Unreachable(causes.KEY_UNSEALABLE) from None


def connection(endpoint: Endpoint) -> ConnectionSettings:
    """Return the connection settings. Raises Unreachable if they are sealed with a missing encryption key."""
    try:
        return endpoint.connection
    except Unsealable:
        raise Unreachable(causes.UNSEALABLE) from None


def test(endpoint: Endpoint) -> TestResult:
    """Probe an endpoint now, and store the result as a health check."""
    return test_all([endpoint])[0]


def test_all(chosen: Iterable[Endpoint]) -> list[TestResult]:
    """Probe endpoints in parallel, so that many slow ones take no longer than one, and store the results."""
    endpoints = list(chosen)
    return [
        _recorded(endpoint, outcome) for endpoint, outcome in zip(endpoints, _query_all(endpoints, _test), strict=True)
    ]


def sync_models(endpoint: Endpoint) -> sync.SyncResult:
    """Sync the models of an endpoint now. Raises Unreachable or SyncFailed."""
    (result,) = sync_all([endpoint])
    if isinstance(result, Exception):
        raise result
    return result


def sync_all(chosen: Iterable[Endpoint]) -> list[sync.SyncResult | Unreachable | SyncFailed]:
    """Sync the models of endpoints, queried in parallel. Return the result or the error of each."""
    endpoints = list(chosen)
    return [
        _synced(endpoint, model_list)
        for endpoint, model_list in zip(endpoints, _query_all(endpoints, _fetch), strict=True)
    ]


TestOutcome = tuple[Check, list[str] | None]


async def _test(endpoint: Endpoint, client: Probe) -> TestOutcome:
    check = await health.check(client, endpoint.kind)
    if not check.success:
        return check, None
    try:
        return check, [model.id for model in (await sync.list_models(client, _allowed(endpoint)))[0]]
    except (Unreachable, SyncFailed):
        return check, None


def _allowed(endpoint: Endpoint) -> Sequence[str] | None:
    return words_or_none(endpoint.options_or_default.allowed_models)


def _recorded(endpoint: Endpoint, outcome: TestOutcome | Unreachable) -> TestResult:
    if isinstance(outcome, Unreachable):
        outcome = Check(False, None, str(outcome), timezone.now()), None
    check, models = outcome
    health.record(str(endpoint.pk), check)
    return TestResult(check.success, check.latency_ms, check.error, models)


async def _fetch(endpoint: Endpoint, client: Probe) -> sync.ModelList | SyncFailed | Unreachable:
    try:
        return await sync.fetch(replace(client, timeout=10), endpoint.kind, _allowed(endpoint))
    except (Unreachable, SyncFailed) as error:
        return error


def _synced(
    endpoint: Endpoint, model_list: sync.ModelList | SyncFailed | Unreachable
) -> sync.SyncResult | SyncFailed | Unreachable:
    if isinstance(model_list, Exception):
        return model_list
    try:
        return sync.store(endpoint, model_list.models, model_list.slots, model_list.remark)
    except SyncFailed as error:
        return error


def _query_all(endpoints: list[Endpoint], query: Callable[[Endpoint, Probe], Awaitable[T]]) -> list[T | Unreachable]:
    """Return the results in the order of the endpoints; Unreachable for one whose API key cannot be decrypted."""
    keys = [_key_or_why_not(endpoint) for endpoint in endpoints]  # read from the database, so outside the event loop

    async def run() -> list[T | Unreachable]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def query_one(endpoint: Endpoint, key: str | Unreachable | None) -> T | Unreachable:
            if isinstance(key, Unreachable):
                return key
            async with limit:
                return await query(endpoint, probe_of(endpoint, session, key))

        async with probe.session() as session:
            return await asyncio.gather(*map(query_one, endpoints, keys))

    return asyncio.run(run())


def _key_or_why_not(endpoint: Endpoint) -> str | Unreachable | None:
    try:
        return secret(endpoint)
    except Unreachable as error:
        return error
