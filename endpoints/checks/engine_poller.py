"""Poller of engines: reads which models are in memory and how many requests run, often while that matters.

An endpoint has at most one poll at a time. A poll that fails changes nothing about its health; after some failures its
state counts as unknown. States are published together, at most once in TICK_SECONDS, and only if they changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from endpoints.engine_reports import NOTHING, POLLED_KINDS, EngineReading, EngineReport, read_engine
from endpoints.models import OperatorState, Status
from endpoints.probe import Probe, ProbeSession, Unreachable, session
from endpoints.registry import Entry, Registry
from gateway.loop.rest import sleep_until_next
from gateway.registry.schema import EngineState

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
REST_TICK_SECONDS = 2.0  # while no endpoint has requests or loads a model; and of many endpoints, whose ticks are long
MANY = 500
BUSY_SECONDS = 1.0  # between two polls while requests of ours run there, or a model loads
IDLE_SECONDS = 15.0
ABSENT_SECONDS = 600.0  # of a server that reports nothing, also if it was offline meanwhile
TIMEOUT_SECONDS = 2.0
MAX_FAILURES = 3  # in a row, after which the state is unknown
MAX_POLLS = 64  # at a time
REPEAT_SECONDS = 20.0  # requests of others are published again, because gateways do not trust old counts

States = dict[str, EngineState | None]


@dataclass(slots=True)
class _Polled:
    """What is known about one endpoint."""

    settings: tuple[object, ...]
    due: float = 0.0
    busy: bool = False  # requests of ours run there
    failures: int = 0
    is_absent: bool = False  # the server reported nothing
    most_loaded: int = 1
    others: int = 0  # at the last poll, before the least of two is taken
    state: EngineState | None = None
    is_known: bool = False  # `state` is current; before, the registry store may have one of an earlier process
    read_at: float = 0.0  # seconds since 1970, of the last report
    counts_requests: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class EnginePoller:
    """Polls the engines of all endpoints. Its methods run in one event loop; `publish` in a thread."""

    def __init__(
        self,
        registry: Registry,
        secret: Callable[[Entry], str | None],
        in_flight: Callable[[str], int],
        publish: Callable[[States], None],
        generation: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`in_flight(id)`: our requests at an endpoint. `generation()` of the registry store: all is published anew
        when it changes. `now`: seconds since 1970.
        """
        self._registry = registry
        self._secret = secret
        self._in_flight = in_flight
        self._publish = publish
        self._generation = generation
        self._clock = clock
        self._now = now
        self._polled: dict[str, _Polled] = {}
        self._published: States = {}
        self._published_generation = 0
        self._session: ProbeSession | None = None

    async def run(self) -> None:
        """Poll until cancelled."""
        async with session(MAX_POLLS) as self._session:
            try:
                while True:
                    try:
                        self.start_due()
                        if changed := self.take_changed():
                            await asyncio.to_thread(self._publish, changed)
                    except Exception:
                        log.exception("internal error while engines were polled; the next polls follow")
                    await sleep_until_next(self.tick_seconds)
            finally:
                for polled in self._polled.values():
                    if polled.task is not None:
                        polled.task.cancel()

    @property
    def tick_seconds(self) -> float:
        """Seconds until the next look at what is due."""
        if len(self._polled) >= MANY:
            return REST_TICK_SECONDS
        is_active = any(
            polled.busy
            or polled.others
            or polled.task is not None
            or (polled.state is not None and polled.state.loading)
            for polled in self._polled.values()
        )  # what a running poll reports is published at the next look
        return TICK_SECONDS if is_active else REST_TICK_SECONDS

    def reading(self, endpoint_id: str) -> EngineReading | None:
        """Return what the engine of an endpoint last reported; None if that is unknown. Any thread may call this."""
        polled = self._polled.get(endpoint_id)
        if polled is None or (state := polled.state) is None:
            return None
        others = state.others if polled.counts_requests else None
        return EngineReading(state.loaded, state.loading, others, datetime.fromtimestamp(polled.read_at, UTC))

    def start_due(self) -> None:
        """Start the polls that are due, and forget endpoints that are gone or get no requests."""
        if not self._registry.loaded:
            return
        entries = {entry.id: entry for entry in self._registry.all() if _is_polled(entry)}
        for gone in self._polled.keys() - entries.keys():
            self._leave(gone)
        now, delay = self._clock(), 0.0
        running = sum(polled.task is not None for polled in self._polled.values())
        for endpoint_id, entry in entries.items():
            settings = (
                entry.base_url,
                entry.kind,
                entry.sealed_api_key or entry.plain_api_key,
                entry.sealed_connection,
            )
            polled = self._polled.get(endpoint_id)
            if polled is None or polled.settings != settings:
                self._forget(endpoint_id)
                polled = self._polled[endpoint_id] = _Polled(settings)
            is_busy = self._in_flight(endpoint_id) > 0
            if is_busy and not polled.busy and polled.state is not None:
                polled.due = min(polled.due, now)
            polled.busy = is_busy
            if polled.task is None and polled.due <= now and running < MAX_POLLS:
                running += 1
                polled.task = asyncio.create_task(self._poll(entry, polled, delay), name=f"engine {endpoint_id}")
                if len(entries) >= MANY:  # not all polls of a tick at once: they would keep a core busy
                    delay += REST_TICK_SECONDS / MAX_POLLS

    def _leave(self, endpoint_id: str) -> None:
        """Forget an endpoint that is not polled now. One that comes and goes, and reports nothing, stays known."""
        polled = self._polled[endpoint_id]
        if polled.is_absent and self._registry.get(endpoint_id) is not None:
            polled.busy = False
        else:
            self._forget(endpoint_id)

    def _forget(self, endpoint_id: str) -> None:
        polled = self._polled.pop(endpoint_id, None)
        if polled is not None and polled.task is not None:
            polled.task.cancel()

    async def _poll(self, entry: Entry, polled: _Polled, delay: float) -> None:
        assert self._session is not None
        if delay:
            await asyncio.sleep(delay)
        began_at, before = self._now(), self._in_flight(entry.id)
        probe = Probe(
            self._session,
            entry.base_url,
            self._secret(entry),
            TIMEOUT_SECONDS,
            sealed_connection=entry.sealed_connection,
        )
        try:
            report = await read_engine(probe, entry.kind)
        except Unreachable:
            report = None
        except Exception:
            log.exception("internal error while the engine of %s was polled", entry.name)
            report = None
        finally:
            polled.task = None
        self.note(entry, polled, report, max(before, self._in_flight(entry.id)), began_at)

    def note(self, entry: Entry, polled: _Polled, report: EngineReport | None, own: int, began_at: float) -> None:
        """Take a report; None: the poll failed. `own`: our requests there meanwhile, at most. `began_at`: when the poll
        began; a model may have been loaded since.
        """
        polled.failures = polled.failures + 1 if report is None else 0
        polled.is_absent = report == NOTHING
        if report is None:
            polled.state = None if polled.failures >= MAX_FAILURES else polled.state
        elif report.is_empty:
            polled.state = None
        else:
            polled.state = self._state(entry, polled, report, own, began_at)
        polled.is_known = polled.is_known or report is not None or polled.failures >= MAX_FAILURES
        polled.due = self._clock() + _pause(polled, report)

    def _state(self, entry: Entry, polled: _Polled, report: EngineReport, own: int, now: float) -> EngineState:
        """Return the new state. Of two counts of others the lesser is taken: one of ours may just have ended."""
        others = max(0, (report.requests or 0) - own)
        polled.read_at, polled.counts_requests = now, report.requests is not None
        polled.others, others = others, min(others, polled.others)
        loaded = None if report.loaded is None else _own_names(report.loaded, entry)
        polled.most_loaded = max(polled.most_loaded, len(loaded or ()))
        state = EngineState(now, loaded, _own_names(report.loading, entry), polled.most_loaded, others)
        before = polled.state
        is_same = before is not None and _reported(before) == _reported(state)
        if before is not None and is_same and not (others and now - before.read_at >= REPEAT_SECONDS):
            return before
        return state

    def take_changed(self) -> States:
        """Return the states that are to be published; None: it is unknown, or the engine reports nothing."""
        if (generation := self._generation()) != self._published_generation:
            self._published_generation = generation
            self._published = {}
        current: States = {endpoint_id: polled.state for endpoint_id, polled in self._polled.items() if polled.is_known}
        published = self._published
        changed = {
            endpoint_id: state
            for endpoint_id, state in current.items()
            if endpoint_id not in published or published[endpoint_id] != state
        }
        changed |= dict.fromkeys(published.keys() - current.keys())
        self._published = current
        return changed


def _is_polled(entry: Entry) -> bool:
    return (
        entry.kind in POLLED_KINDS
        and entry.status in (Status.ONLINE, Status.ERROR)
        and entry.operator_state == OperatorState.ENABLED
    )


def _reported(state: EngineState) -> tuple[object, ...]:
    """Return what makes a difference. The order of the models changes with each request, and gateways know it."""
    loaded = None if state.loaded is None else frozenset(state.loaded)
    return loaded, state.loading, state.most_loaded, state.others


def _pause(polled: _Polled, report: EngineReport | None) -> float:
    """Return the seconds until the next poll."""
    if report == NOTHING:
        return ABSENT_SECONDS
    if report is None:
        return IDLE_SECONDS
    return BUSY_SECONDS if polled.busy or report.loading or polled.others else IDLE_SECONDS


def _own_names(names: tuple[str, ...], entry: Entry) -> tuple[str, ...]:
    """Return the names as the endpoint's list of models has them: it may lack the tag, which is `latest` then."""
    ids = entry.models.ids
    return tuple(
        next((spelling for spelling in (name, name.removesuffix(":latest"), f"{name}:latest") if spelling in ids), name)
        for name in names
    )
