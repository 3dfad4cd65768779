"""Live events (SSE) of open pages: all figures when a page opens, then changes, encoded once for all pages.

    event: overview   the whole payload: metrics.queries.overview.live_figures, and `endpoints`
    event: changes    `stats`, and `endpoints` by id, with the fields that changed; `history` and `minutes` with the
                      minutes that changed; `speeds` with the rows that changed, or `all_speeds` when other models are
                      the busiest; the other parts as a whole

A page follows the endpoints that the overview shows, or those that it names (`Followed`): an event does not grow with
the number of other endpoints. When the overview shows other endpoints, `shown` has their ids, and `endpoints` has the
new ones with all fields.

An id is `<epoch>-<number>`: a page that reconnects with its last id (Last-Event-ID) gets the events that it missed. At
most four are sent per second, fewer while very many pages are open, and only after a change.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from django.db import close_old_connections

from endpoints.registry import registry
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.runtime import runtime
from metrics.queries import breakers, figures, overview
from metrics.queries.figures import Moment
from metrics.queries.live.shown_endpoints import shown_endpoints
from metrics.queries.overview import LiveFigures
from metrics.queries.payloads import LiveEndpointPayload

MIN_GAP_SECONDS = 0.25
MAX_SENDS_PER_SECOND = 400  # over all pages, because gateways relay these events besides their requests
HEARTBEAT_SECONDS = 10.0
CACHED_EVENTS = 120  # events, for pages that reconnect
MAX_PENDING = 4  # events that a page has not read; with more, it gets the whole overview again
MAX_FOLLOWED = 150  # endpoints that a page may name

_encode = msgspec.json.Encoder().encode

Changes = Mapping[str, Any]
Payload = TypeVar("Payload", bound=Mapping[str, Any])


Followed = frozenset[str] | None  # ids of endpoints; None: those that the overview shows


class Listener:
    """An open page, with the events that are not sent yet."""

    def __init__(self, followed: Followed) -> None:
        self.followed = followed
        self.pending: deque[bytes] = deque()
        self.behind = False  # it missed an event, so it needs the whole overview
        self.woken = asyncio.Event()

    def put(self, event: bytes) -> None:
        if len(self.pending) >= MAX_PENDING:
            self.behind = True
            self.pending.clear()
        if not self.behind:
            self.pending.append(event)
        self.woken.set()


@dataclass(frozen=True, slots=True)
class State:
    """Figures of one moment."""

    figures: LiveFigures
    shown: tuple[str, ...]  # ids of the endpoints of the overview, in its order
    followed: frozenset[str]  # all ids that any page follows, also of endpoints that do not exist
    endpoints: Mapping[str, LiveEndpointPayload]  # by id: those of `followed` that exist


@dataclass(frozen=True, slots=True)
class Change:
    """Changes between two states, kept without the states: pages that reconnect get them later."""

    number: int
    parts: Changes  # without endpoints
    endpoints: Mapping[str, Changes]  # by id; all fields of those that were not followed before
    shown: tuple[str, ...]  # after the change
    newly_shown: Mapping[str, LiveEndpointPayload]
    is_shown_changed: bool
    followed: frozenset[str]  # before the change
    events: dict[Followed, bytes] = field(default_factory=dict)  # encoded

    @classmethod
    def between(cls, number: int, before: State, now: State) -> "Change":
        changed = {name: _fields(before.endpoints.get(name, {}), row) for name, row in now.endpoints.items()}
        return cls(
            number,
            changes(before.figures, now.figures),
            {name: fields for name, fields in changed.items() if fields},
            now.shown,
            {name: now.endpoints[name] for name in now.shown if name not in before.shown},
            before.shown != now.shown,
            before.followed,
        )

    def data(self, followed: Followed) -> Changes:
        """Return the changes for pages that follow these endpoints."""
        ids = self.shown if followed is None else followed
        rows: dict[str, Any] = {name: self.endpoints[name] for name in ids if name in self.endpoints}
        if followed is None:
            rows |= self.newly_shown
        parts = {**self.parts, "endpoints": rows} if rows else self.parts
        return {**parts, "shown": self.shown} if followed is None and self.is_shown_changed else parts


class Hub:
    """Open pages and the events sent to all of them. It runs in control's event loop; a thread reads the figures."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._sent_at = float("-inf")
        self._sent_versions: tuple[object, ...] = ()
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._state: State | None = None
        self._whole: dict[Followed, bytes] = {}  # encoded overviews of the present state
        self._changes: deque[Change] = deque(maxlen=CACHED_EVENTS)
        self._sending = asyncio.Lock()

    @property
    def has_listeners(self) -> bool:
        """True while a page is open."""
        return bool(self._listeners)

    async def publish(self) -> None:
        """Send the changes since the last event, if there are any."""
        now = time.monotonic()
        if not self._listeners or now - self._sent_at < max(
            MIN_GAP_SECONDS, len(self._listeners) / MAX_SENDS_PER_SECOND
        ):
            return
        if self._versions() == self._sent_versions and now - self._sent_at < HEARTBEAT_SECONDS:
            return
        async with self._sending:
            await self._advance()

    async def listen(self, last_id: str = "", followed: Followed = None) -> AsyncGenerator[bytes]:
        """Yield events, first those that a page with this last id has missed, or the whole overview."""
        async with self._sending:
            if not self._is_current(followed):
                await self._advance(followed)
            listener = Listener(followed)
            self._listeners.add(listener)
            missed = self._missed(last_id, followed)
            first = b"retry: 2000\n\n" + (self._everything(followed) if missed is None else missed)
        try:
            yield first
            while True:
                await listener.woken.wait()
                listener.woken.clear()
                if listener.behind:
                    listener.behind = False
                    yield self._everything(followed)
                while listener.pending:
                    yield listener.pending.popleft()
        finally:
            self._listeners.discard(listener)

    async def missed(self, last_id: str = "", followed: Followed = None) -> bytes:
        """Return the events that a page with this last id has missed, for pages that poll."""
        stream = self.listen(last_id, followed)
        try:
            return await anext(stream)
        finally:
            await stream.aclose()

    def _is_current(self, followed: Followed) -> bool:
        """Return True if a new page can begin with the last figures."""
        # No state exists yet if the first page disconnected while its figures were read.
        if self._state is None or time.monotonic() - self._sent_at >= MIN_GAP_SECONDS:
            return False
        return followed is None or followed <= self._state.followed

    async def _advance(self, more: Followed = None) -> None:
        """Send the next event: the changes from the last figures to the present ones. `more` endpoints are followed."""
        self._sent_at, versions = time.monotonic(), self._versions()
        followed = frozenset[str](more or ()).union(*(listener.followed or () for listener in self._listeners))
        before, self._state = self._state, await asyncio.to_thread(_read, followed)
        self._sent_versions = versions  # not earlier: after an error, the next call sends them
        self._number += 1
        self._whole.clear()
        if before is None:
            for listener in self._listeners:
                listener.put(self._everything(listener.followed))
            return
        change = Change.between(self._number, before, self._state)
        self._changes.append(change)
        for listener in self._listeners:
            listener.put(self._encoded(change, listener.followed))

    def _everything(self, followed: Followed) -> bytes:
        if followed not in self._whole:
            assert self._state is not None  # set before the first page is sent anything
            state = self._state
            ids = state.shown if followed is None else sorted(followed)
            rows = [state.endpoints[name] for name in ids if name in state.endpoints]
            data = _encode({**state.figures, "endpoints": rows})
            self._whole[followed] = self._event(self._number, b"overview", data)
        return self._whole[followed]

    def _missed(self, last_id: str, followed: Followed) -> bytes | None:
        """Return the events after this one; None if they are not cached any more."""
        epoch, _, number = last_id.partition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        missed = [change for change in self._changes if change.number > int(number)]
        if len(missed) != self._number - int(number):
            return None
        if followed is not None and not all(followed <= change.followed for change in missed):
            return None  # these endpoints were not followed then
        return b"".join(self._encoded(change, followed) for change in missed)

    def _encoded(self, change: Change, followed: Followed) -> bytes:
        if followed not in change.events:
            change.events[followed] = self._event(change.number, b"changes", _encode(change.data(followed)))
        return change.events[followed]

    def _event(self, number: int, name: bytes, data: bytes) -> bytes:
        return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (self._epoch.encode(), number, name, data)

    def _versions(self) -> tuple[object, ...]:
        now = time.time()
        minute = int(now // 60)
        return (
            runtime.follower.trackers.version,
            runtime.follower.waiting,
            registry.version,
            endpoint_events.version,
            dict(runtime.installation.in_flight()),
            runtime.installation.waiting(),
            # A breaker becomes half open by time alone.
            {key: (due, breakers.state(due, now)) for key, due in runtime.installation.trials().items()},
            runtime.installation.aside(),
            runtime.installation.unrecorded(),
            runtime.installation.bound_hits.totals(),
            tuple(runtime.installation.bound_hits.recent(now)),
            minute,
        )


def _read(followed: frozenset[str]) -> State:
    """Return the present figures, and the endpoints of these ids and of the overview."""
    try:
        moment = Moment.now()
        shown = shown_endpoints.of(moment)
        ids = followed.union(entry.id for entry in shown)
        entries = [entry for entry in moment.entries if entry.id in ids]
        endpoints = {row["id"]: row for row in figures.live_endpoints(moment, entries)}
        return State(overview.live_figures(moment), tuple(entry.id for entry in shown), ids, endpoints)
    finally:
        close_old_connections()  # Django closes none in a thread of the pool


def changes(before: LiveFigures, now: LiveFigures) -> Changes:
    """Return the changes that a page with `before` needs, without those of endpoints."""
    parts: dict[str, Any] = {
        "stats": _fields(before["stats"], now["stats"]),
        "history": _rows(before["history"], now["history"], _minute),
        "minutes": _rows(before["minutes"], now["minutes"], _minute),
    }
    if list(map(_model, before["speeds"])) == list(map(_model, now["speeds"])):
        parts["speeds"] = _rows(before["speeds"], now["speeds"], _model)
    else:
        parts["all_speeds"] = now["speeds"]
    whole = {name: now[name] for name in _WHOLE if before[name] != now[name]}  # type: ignore[literal-required]  # also if they are empty now
    return {"generated_at": now["generated_at"]} | {name: part for name, part in parts.items() if part} | whole


_WHOLE = (
    "speeds_known", "busiest", "attention", "attention_count", "marks", "states", "endpoints_digest", "states_digest",
)  # fmt: skip


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}


def _rows(old: Iterable[Payload], new: Iterable[Payload], key: Callable[[Payload], object]) -> list[Payload]:
    before = {key(row): row for row in old}
    return [row for row in new if before.get(key(row)) != row]


def _minute(row: Mapping[str, Any]) -> object:
    return row["minute"]


def _model(row: Mapping[str, Any]) -> object:
    return row["endpoint_id"], row["model_id"], row["api_kind"]


hub = Hub()
