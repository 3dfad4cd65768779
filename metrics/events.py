"""Live events for open pages: the figures whole when a page opens, then what has changed, encoded once for all pages.

    event: overview   everything that board.live tells
    event: changes    `stats` and `endpoints` (by id) with the fields that changed; `history` and `minutes` with the
                      minutes that did; `speeds` with the rows that did, or, where other models are the busiest now,
                      `all_speeds`; `speeds_known`, how many there are; `busiest`, `attention` and `marks` whole

An id is `<epoch>-<number>`: a page that comes back with its last one (Last-Event-ID) gets what it missed. At most four
are sent a second, fewer while very many pages are open, and only when something has changed.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from django.db import close_old_connections

from endpoints.registry import registry
from metrics import board, breakers
from metrics.marks import marks
from metrics.teller import folder, surroundings

MIN_GAP_SECONDS = 0.25
MOST_SENDS = 400  # a second, over all pages: each goes through a gateway, which has requests to relay
HEARTBEAT_SECONDS = 10.0
REMEMBERED = 120  # events, for pages that come back
MOST_PENDING = 4  # events that a page has not taken; beyond that it gets everything anew

_encode = msgspec.json.Encoder().encode

State = dict[str, Any]


class Listener:
    """An open page: what it has not been sent yet."""

    def __init__(self) -> None:
        self.pending: deque[bytes] = deque()
        self.behind = False  # it missed an event, so the next ones are of no use to it
        self.woken = asyncio.Event()

    def put(self, event: bytes) -> None:
        if len(self.pending) >= MOST_PENDING:
            self.behind = True
            self.pending.clear()
        if not self.behind:
            self.pending.append(event)
        self.woken.set()


class Hub:
    """Who listens, and what all of them were told. Lives in control's event loop; figures are read in a thread."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._told_at = float("-inf")
        self._seen_then: tuple[object, ...] = ()
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._state: State = {}
        self._whole: tuple[int, bytes] = (-1, b"")  # of which number, encoded
        self._changes: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
        self._telling = asyncio.Lock()

    async def tell(self) -> None:
        """Send what has changed, if anything has since the last time."""
        now = time.monotonic()
        if not self._listeners or now - self._told_at < max(MIN_GAP_SECONDS, len(self._listeners) / MOST_SENDS):
            return
        if self._seen() == self._seen_then and now - self._told_at < HEARTBEAT_SECONDS:
            return
        async with self._telling:
            await self._advance()

    async def listen(self, last_id: str = "") -> AsyncGenerator[bytes]:
        """Events, beginning with what a page of this last id does not know: all present figures, if it has none."""
        async with self._telling:
            if time.monotonic() - self._told_at >= MIN_GAP_SECONDS:
                await self._advance()
            listener = Listener()
            self._listeners.add(listener)
            missed = self._missed(last_id)
            first = b"retry: 2000\n\n" + (self._everything() if missed is None else missed)
        try:
            yield first
            while True:
                await listener.woken.wait()
                listener.woken.clear()
                if listener.behind:
                    listener.behind = False
                    yield self._everything()
                while listener.pending:
                    yield listener.pending.popleft()
        finally:
            self._listeners.discard(listener)

    async def missed(self, last_id: str = "") -> bytes:
        """What a page of this last id does not know, for those that no stream reaches: they ask again and again."""
        stream = self.listen(last_id)
        try:
            return await anext(stream)
        finally:
            await stream.aclose()

    async def _advance(self) -> None:
        """One event more: from the figures of before to those of now."""
        self._told_at, seen = time.monotonic(), self._seen()
        self._state, changed = await asyncio.to_thread(_step, self._state)
        self._seen_then = seen  # only now: what could not be told is tried again
        self._number += 1
        if changed is None:  # other endpoints, or nothing was told before
            self._changes.clear()
            event = self._everything()
        else:
            event = self._event(b"changes", changed)
            self._changes.append((self._number, event))
        for listener in self._listeners:
            listener.put(event)

    def _everything(self) -> bytes:
        if self._whole[0] != self._number:
            self._whole = (self._number, self._event(b"overview", _encode(self._state)))
        return self._whole[1]

    def _missed(self, last_id: str) -> bytes | None:
        """What came after an event; None if that is not known any more."""
        epoch, _, number = last_id.partition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        events = [event for at, event in self._changes if at > int(number)]
        return b"".join(events) if len(events) == self._number - int(number) else None

    def _event(self, name: bytes, data: bytes) -> bytes:
        return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (self._epoch.encode(), self._number, name, data)

    def _seen(self) -> tuple[object, ...]:
        now = time.time()
        minute = int(now // 60)
        return (
            folder.trackers.version,
            folder.waiting,
            registry.version,
            marks.version,
            dict(surroundings.in_flight()),
            surroundings.waiting(),
            # A breaker becomes half open by time alone.
            {key: (due, breakers.state(due, now)) for key, due in surroundings.trials().items()},
            surroundings.unrecorded(),
            surroundings.bounds.totals(),
            tuple(surroundings.bounds.recent(now)),
            minute,
        )


def _step(before: State) -> tuple[State, bytes | None]:
    """The figures of now, and what has changed since `before`, encoded; None where that is everything."""
    try:
        now = board.live()
    finally:
        close_old_connections()  # of a thread of the pool, if it had to ask: nobody else would
    changed = changes(before, now)
    return now, None if changed is None else _encode(changed)


def changes(before: State, now: State) -> State | None:
    """What a page that shows `before` needs to show `now`; None: everything, since endpoints came or went."""
    if not before or [it["id"] for it in before["endpoints"]] != [it["id"] for it in now["endpoints"]]:
        return None
    found: State = {"generated_at": now["generated_at"]}
    pairs = zip(before["endpoints"], now["endpoints"], strict=True)
    parts: dict[str, Any] = {
        "stats": _fields(before["stats"], now["stats"]),
        "endpoints": {new["id"]: _fields(old, new) for old, new in pairs if old != new},
        "history": _rows(before["history"], now["history"], _minute),
        "minutes": _rows(before["minutes"], now["minutes"], _minute),
    }
    if list(map(_model, before["speeds"])) == list(map(_model, now["speeds"])):
        parts["speeds"] = _rows(before["speeds"], now["speeds"], _model)
    else:
        parts["all_speeds"] = now["speeds"]
    whole = {name: now[name] for name in _WHOLE if before[name] != now[name]}  # also where nothing is left
    return found | {name: part for name, part in parts.items() if part} | whole


_WHOLE = ("speeds_known", "busiest", "attention", "marks")


def _fields(old: State, new: State) -> State:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}


def _rows(old: list[State], new: list[State], key: Any) -> list[State]:
    known = {key(row): row for row in old}
    return [row for row in new if known.get(key(row)) != row]


def _minute(row: State) -> object:
    return row["minute"]


def _model(row: State) -> object:
    return row["endpoint_id"], row["model_id"], row["api_kind"]


hub = Hub()
