"""Health checks: every endpoint at its own interval, all in parallel, each within five seconds. Runs in control."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import aiohttp
from django.db import Error, close_old_connections
from django.utils import timezone

from endpoints.models import Endpoint, Kind, Status
from endpoints.probe import Answer, Probe, Unreachable, session
from endpoints.registry import Entry, Registry

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
STORING_THREADS = 2
JITTER = 0.1  # of the interval, so that endpoints do not all ask at once


@dataclass(frozen=True, slots=True)
class Check:
    """What one probe found. A pass without a latency is one that the endpoint's traffic vouched for."""

    success: bool
    latency_ms: int | None
    error: str | None
    at: datetime


async def check(probe: Probe, kind: str, delivered: Callable[[], bool] = lambda: False) -> Check:
    """Probe an endpoint. `delivered` says whether it sent bytes to clients just now: then a timeout only means busy."""
    at = timezone.now()
    started = time.perf_counter()
    try:
        answer = await _own_health(probe) if kind == Kind.XLLM else None
        if answer is None:
            started = time.perf_counter()
            answer = await probe.passes("/v1/models")
    except Unreachable as error:
        if str(error).startswith("no answer") and delivered():
            return Check(True, None, None, at)
        return Check(False, None, str(error), at)
    if not answer.ok:
        return Check(False, None, f"HTTP {answer.status}", at)
    return Check(True, max(1, round((time.perf_counter() - started) * 1000)), None, at)


async def _own_health(probe: Probe) -> Answer | None:
    """xLLM's own health API; None when that fails, and its list of models must do."""
    try:
        answer = await probe.passes("/api/health")
    except Unreachable:
        return None
    return answer if answer.ok else None


def record(endpoint_id: str, found: Check) -> Endpoint | None:
    """Store a check; its caller's registry follows by signal. Raises django.db.Error."""
    return Endpoint.record_check(
        endpoint_id, success=found.success, latency_ms=found.latency_ms, error=found.error, at=found.at
    )


class HealthChecker:
    """One task an endpoint, started and ended as the registry changes."""

    def __init__(
        self,
        registry: Registry,
        secret: Callable[[Entry], str | None],
        last_byte: Callable[[str], float],
        came_up: Callable[[str, bool], None],
        database_away: Callable[[], bool] = lambda: False,
    ) -> None:
        """`last_byte(id)`: when (seconds since 1970) it last sent traffic; `came_up(id, recovered)`: it passed."""
        self._registry = registry
        self._secret = secret
        self._last_byte = last_byte
        self._came_up = came_up
        self._database_away = database_away
        # Threads of its own: while the database is locked, each of these waits for it, and nothing else shall.
        self._threads = ThreadPoolExecutor(STORING_THREADS, "health")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._asked: dict[str, tuple[object, ...]] = {}  # what the last question to each rested on
        self._session: aiohttp.ClientSession | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with session() as self._session:
            try:
                while True:
                    self._changed.clear()
                    self._match_tasks()
                    await self._changed.wait()
            finally:
                for task in self._tasks.values():
                    task.cancel()
                self._threads.shutdown(wait=False, cancel_futures=True)

    def registry_changed(self) -> None:
        """Endpoints came or went. Call in the loop's thread."""
        self._changed.set()

    def nudge(self, endpoint_id: str) -> None:
        """Check this one now: a client's connection to it was refused. Call in the loop's thread."""
        if endpoint_id in self._nudges:
            self._nudges[endpoint_id].set()

    def _match_tasks(self) -> None:
        wanted = {entry.id: _asked(entry) for entry in self._registry.all()} if self._registry.loaded else {}
        for gone in self._tasks.keys() - wanted.keys():
            self._tasks.pop(gone).cancel()
            del self._nudges[gone], self._asked[gone]
        for endpoint_id, asked in wanted.items():
            if endpoint_id not in self._tasks:
                self._nudges[endpoint_id] = asyncio.Event()
                self._tasks[endpoint_id] = asyncio.create_task(self._watch(endpoint_id), name=f"health {endpoint_id}")
            elif asked != self._asked[endpoint_id]:
                self._nudges[endpoint_id].set()
            self._asked[endpoint_id] = asked

    async def _watch(self, endpoint_id: str) -> None:
        nudge = self._nudges[endpoint_id]
        while True:
            nudge.clear()
            entry = self._registry.get(endpoint_id)
            if entry is None:
                return
            try:
                await self._check(entry)
            except Exception:
                log.exception("health check of %s failed by itself", entry.name)
            pause = entry.health_check_interval_secs * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            try:
                await asyncio.wait_for(nudge.wait(), pause)
            except TimeoutError:
                pass

    async def _check(self, entry: Entry) -> None:
        assert self._session is not None
        interval = entry.health_check_interval_secs
        found = await check(
            Probe(self._session, entry.base_url, self._secret(entry), TIMEOUT_SECONDS),
            entry.kind,
            lambda: time.time() - self._last_byte(entry.id) <= interval,
        )
        await asyncio.get_running_loop().run_in_executor(self._threads, self._store, entry, found)
        if found.success:
            self._came_up(entry.id, entry.status in (Status.OFFLINE, Status.ERROR, Status.PENDING))

    def _store(self, entry: Entry, found: Check) -> None:
        if self._database_away():
            self._note(entry, found)
            return
        close_old_connections()
        try:
            after = record(entry.id, found)
        except Error as error:
            log.warning("the check of %s could not be stored: %s", entry.name, error)
            self._note(entry, found)
        else:
            if after is not None and after.status != entry.status:
                log.info("%s: %s → %s%s", entry.name, entry.status, after.status, _because(found))
        finally:
            close_old_connections()

    def _note(self, entry: Entry, found: Check) -> None:
        """Without a database, checks go on in memory."""
        self._registry.note_check(entry.id, success=found.success, latency_ms=found.latency_ms, error=found.error)


def _asked(entry: Entry) -> tuple[object, ...]:
    """An edit of any of these is looked at right away, not after the old interval."""
    secret = entry.sealed_api_key or entry.plain_api_key
    return entry.base_url, entry.health_check_interval_secs, entry.kind, secret


def _because(found: Check) -> str:
    return f" ({found.error})" if found.error else ""
