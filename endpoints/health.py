"""Health checks: each endpoint at its own interval, many in parallel, each within five seconds. They run in control.

Checks of many endpoints are spread over their interval, and results are stored in batches (endpoints.checks.collector).
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from django.db import DataError, Error, IntegrityError, close_old_connections, connection
from django.utils import timezone

from endpoints import clouds
from endpoints.checks.collector import Collector, Results
from endpoints.checks.result import Check
from endpoints.models import Endpoint, Kind, Status, next_status
from endpoints.probe import Probe, ProbeResponse, ProbeSession, Unreachable, decode, session
from endpoints.registry import Entry, Registry
from gateway.providers.table import provider_of

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
MAX_CHECKS = 512  # at a time: enough for 1,000 servers that hang and are checked every 10 s
FIRST_CHECKS_PER_SECOND = 200  # of endpoints that appear together, at a start above all
JITTER = 0.1  # fraction of the interval, so that checks do not meet
FIRST_JITTER = 0.5  # of the first interval, which spreads the checks of endpoints that appeared together


async def check(probe: Probe, kind: str, delivered: Callable[[], bool] = lambda: False) -> Check:
    """Probe an endpoint. If `delivered` reports that it just sent bytes to clients, a timeout only means busy."""
    moment = timezone.now()
    started = time.perf_counter()
    try:
        response = await _own_health(probe) if kind == Kind.XLLM else None
        if response is None:
            started = time.perf_counter()
            response = await (probe.get_without_body(probe.list_path) if probe.provider is None else _cloud(probe))
    except Unreachable as error:
        if str(error).startswith("no answer") and delivered():
            return Check(True, None, None, moment)
        return Check(False, None, str(error), moment)
    latency_ms = max(1, round((time.perf_counter() - started) * 1000))
    if not response.ok:
        if probe.provider is not None and (remark := clouds.remark(probe.provider, response.status, response.body)):
            return Check(True, latency_ms, None, moment, remark)
        return Check(False, None, f"HTTP {response.status}", moment)
    return Check(True, latency_ms, None, moment)


async def _cloud(probe: Probe) -> ProbeResponse:
    """Return the response with the list of models, which costs no tokens. It has a body only if it is an error."""
    status, body = await probe.get_text(probe.list_path)
    return ProbeResponse(status) if 200 <= status < 300 else ProbeResponse(status, decode(body))


async def _own_health(probe: Probe) -> ProbeResponse | None:
    """Return the response of xLLM's own health API; None if that fails and the model list has to serve instead."""
    try:
        response = await probe.get_without_body("/api/health")
    except Unreachable:
        return None
    return response if response.ok else None


def record(endpoint_id: str, result: Check) -> Endpoint | None:
    """Store a check; a signal updates the registry of this process. Raises django.db.Error."""
    return Endpoint.record_check(
        endpoint_id,
        success=result.success,
        latency_ms=result.latency_ms,
        error=result.error,
        checked_at=result.checked_at,
        remark=result.remark,
    )


class HealthChecker:
    """Scheduler of health checks, with one task per endpoint, started and ended as the registry changes."""

    def __init__(
        self,
        registry: Registry,
        secret: Callable[[Entry], str | None],
        last_byte: Callable[[str], float],
        came_up: Callable[[str, bool], None],
        database_away: Callable[[], bool] = lambda: False,
        refuse_moved_files: Callable[[], None] = lambda: None,
    ) -> None:
        """Create a checker.

        `last_byte(id)` is the time (seconds since 1970) of the endpoint's last traffic. `came_up(id, recovered)` is
        called after each success. `refuse_moved_files()` is called before each batch is stored; it raises
        django.db.Error if the thread's connection leads to a SQLite file that was moved away.
        """
        self._registry = registry
        self._secret = secret
        self._last_byte = last_byte
        self._came_up = came_up
        self._database_away = database_away
        self._refuse_moved_files = refuse_moved_files
        # This thread waits while the database is locked, so nothing else uses it.
        self._threads = ThreadPoolExecutor(1, "health")
        self._collector = Collector(self._store, self._threads)
        self._free = asyncio.Semaphore(MAX_CHECKS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._settings: dict[str, tuple[object, ...]] = {}  # see `_settings_of`; the values of the last check
        self._session: ProbeSession | None = None
        self._changed = asyncio.Event()
        self._changed_ids: set[str] | None = None  # None: any endpoint may have changed

    async def run(self) -> None:
        """Run health checks until cancelled."""
        async with session(MAX_CHECKS) as self._session:
            storing = asyncio.create_task(self._collector.run())
            try:
                while True:
                    self._changed.clear()
                    self._match_tasks(self._take_changed())
                    await self._changed.wait()
            finally:
                for task in (*self._tasks.values(), storing):
                    task.cancel()
                self._threads.shutdown(wait=False, cancel_futures=True)

    def registry_changed(self, ids: Collection[str] | None = None) -> None:
        """Start and end tasks after a change of these endpoints; None: any. Call this in the event loop's thread."""
        self._changed_ids = None if ids is None or self._changed_ids is None else self._changed_ids | set(ids)
        self._changed.set()

    def nudge(self, endpoint_id: str) -> None:
        """Check an endpoint now, because it refused a connection. Call this in the event loop's thread."""
        if endpoint_id in self._nudges:
            self._nudges[endpoint_id].set()

    def _take_changed(self) -> Collection[str]:
        """Return the endpoints that have changed since the last call, or all, oldest first, if any may have."""
        changed, self._changed_ids = self._changed_ids, set()
        if changed is not None:
            return changed
        entries = self._registry.all() if self._registry.loaded else ()
        return dict.fromkeys([*(entry.id for entry in entries), *self._tasks])

    def _match_tasks(self, ids: Collection[str]) -> None:
        entries = map(self._registry.get, ids)
        current = {entry.id: _settings_of(entry) for entry in entries if entry is not None}
        for removed in (self._tasks.keys() & ids) - current.keys():
            self._tasks.pop(removed).cancel()
            del self._nudges[removed], self._settings[removed]
        added = 0
        for endpoint_id, settings in current.items():
            if endpoint_id not in self._tasks:
                self._nudges[endpoint_id] = asyncio.Event()
                watch = self._watch(endpoint_id, added / FIRST_CHECKS_PER_SECOND)
                self._tasks[endpoint_id] = asyncio.create_task(watch, name=f"health {endpoint_id}")
                added += 1
            elif settings != self._settings[endpoint_id]:
                self._nudges[endpoint_id].set()
            self._settings[endpoint_id] = settings

    async def _watch(self, endpoint_id: str, delay: float) -> None:
        nudge = self._nudges[endpoint_id]
        jitter = FIRST_JITTER
        await _pause(nudge, delay)
        while True:
            nudge.clear()
            entry = self._registry.get(endpoint_id)
            if entry is None:
                return
            try:
                await self._check(entry)
            except Exception:
                log.exception(
                    "internal error in the health check of %s; the next one runs after its interval", entry.name
                )
            share = random.uniform(1 - jitter, 1 + JITTER)  # noqa: S311
            await _pause(nudge, entry.health_check_interval_secs * share)
            jitter = JITTER

    async def _check(self, entry: Entry) -> None:
        assert self._session is not None
        interval = entry.health_check_interval_secs
        async with self._free:  # not a limit of the session: the timeout would include the wait for it
            result = await check(
                Probe(
                    self._session,
                    entry.base_url,
                    self._secret(entry),
                    TIMEOUT_SECONDS,
                    provider_of(entry.kind),
                    entry.api_version,
                    sealed_connection=entry.sealed_connection,
                ),
                entry.kind,
                lambda: time.time() - self._last_byte(entry.id) <= interval,
            )
        status, _ = next_status(entry.status, entry.error_count, success=result.success)
        await self._collector.put(entry, result, urgent=status != entry.status)
        if result.success:
            self._came_up(entry.id, entry.status in (Status.OFFLINE, Status.ERROR, Status.PENDING))

    def _store(self, results: Results) -> None:
        if self._database_away():
            self._note(results)
            return
        try:
            self._record(results)
        finally:
            _release_connection()

    def _record(self, results: Results) -> None:
        try:
            self._refuse_moved_files()
            stored = Endpoint.record_checks([(entry.id, result) for entry, result in results])
        except Error as error:
            if isinstance(error, DataError | IntegrityError) and len(results) > 1:
                for one in results:  # the others do not depend on the one that the database refuses
                    self._record([one])
                return
            log.warning("%d health checks could not be stored; they are kept in memory: %s", len(results), error)
            self._note(results)
            return
        for entry, result in results:
            after = stored.get(entry.id)
            if after is not None and after.status != entry.status:
                log.info("%s: %s → %s%s", entry.name, entry.status, after.status, _error_suffix(result))

    def _note(self, results: Results) -> None:
        """Store results only in memory, while there is no database."""
        self._registry.note_checks([(entry.id, result) for entry, result in results])


def _release_connection() -> None:
    """Close this thread's connection, or return it to the idle ones. One to a SQLite file stays open unless it failed.

    While health changes many times a second, opening the file and reading its schema took a third of each batch.
    """
    if connection.vendor != "sqlite" or connection.errors_occurred:
        close_old_connections()


async def _pause(nudge: asyncio.Event, seconds: float) -> None:
    """Wait, or until a nudge."""
    try:
        await asyncio.wait_for(nudge.wait(), seconds)
    except TimeoutError:
        pass


def _settings_of(entry: Entry) -> tuple[object, ...]:
    """Return the values whose change triggers an immediate check instead of one after the old interval."""
    secret = entry.sealed_api_key or entry.plain_api_key
    return (
        *(entry.base_url, entry.health_check_interval_secs, entry.kind, entry.api_version, secret),
        entry.sealed_connection,
    )


def _error_suffix(result: Check) -> str:
    return f" ({result.error})" if result.error else ""
