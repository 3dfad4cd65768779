"""Queue of requests that wait for a slot while every endpoint with their model is full.

A gateway has one queue. It is fair: API keys take turns, however many requests each has waiting; within a
key the oldest request that can use the free slot goes first. If a client disconnects, its request leaves at once. The
number of places is limited over all gateways (gateway.limits.queue_places).

Bulk requests give way: they have turns of their own, after all others. After BULK_SECONDS they age, and are treated as
interactive ones, so that they do not starve.

A request may also wait for a limit of its API key, of its user, or of everyone. It holds back the other requests of its
key, and no others: these may use the endpoints that it leaves free.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from typing import Generic, TypeVar

from gateway.base.queue_class import BULK_SECONDS
from gateway.fast import coroutine_runner
from gateway.routing.balancer import DECLINED, FULL, HELD, Decision

T = TypeVar("T")

MAX_DECLINED = 4  # requests of a key and line that decline a free endpoint, until later ones have to wait, too
MAX_ALL_DECLINED = 64  # of all keys, in one dispatch


class Waiter(Generic[T]):
    """A waiting request."""

    __slots__ = (
        "_wake",
        "decision",
        "gives_way",
        "is_aged",
        "item",
        "key",
        "line",
        "since",
        "tried",
        "until",
        "wanted",
    )

    def __init__(
        self,
        item: T,
        key: str,
        line: str,
        tried: list[str],
        since: float,
        until: float,
        *,
        gives_way: bool = False,
    ) -> None:
        self.item = item
        self.key = key
        self.line = line  # name of the requests that wait for the same endpoints
        self.tried = tried  # endpoints where an attempt has failed
        self.since = since  # decides its place in the line of its key
        self.until = until
        self.gives_way = gives_way  # to all that do not: it is a bulk request
        self.is_aged = False  # a bulk request that gives way no more
        self.decision: Decision | None = FULL  # FULL while it waits
        self._wake: coroutine_runner.CoroutineRunner | asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait for a decision, at most until `until`."""
        while self.decision is FULL and time.monotonic() < self.until:
            self._wake = coroutine_runner.waiter()
            await self._wake
        self._wake = None

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


Decide = Callable[[Waiter[T]], Decision | None]


class Turns(Generic[T]):
    """Waiting requests of one class: keys in the order of their turns, each with its lines."""

    def __init__(self) -> None:
        self.keys: OrderedDict[str, dict[str, deque[Waiter[T]]]] = OrderedDict()
        self.lines: dict[str, int] = {}  # requests of all keys in each line
        self.length = 0
        self.wanted: dict[str, int] = {}  # endpoints that each line waits for, as in QueuedRequests.wanted
        self.held: set[str] = set()  # keys whose requests wait for a limit, as of the last dispatch
        self._declined = 0  # in this dispatch

    def __iter__(self) -> Iterator[Waiter[T]]:
        """Iterate over the waiting requests in the order of their turns."""
        turns = [
            iter(sorted((waiter for line in lines.values() for waiter in line), key=lambda waiter: waiter.since))
            for lines in self.keys.values()
        ]
        while turns:
            left = []
            for turn in turns:
                if (waiter := next(turn, None)) is not None:
                    yield waiter
                    left.append(turn)
            turns = left

    def add(self, waiter: Waiter[T], wanted: int) -> None:
        """Add a request, as `Queue.add` does."""
        line = self.keys.setdefault(waiter.key, {}).setdefault(waiter.line, deque())
        if line and line[0].since > waiter.since:
            line.appendleft(waiter)
        else:
            line.append(waiter)
        self.lines[waiter.line] = self.lines.get(waiter.line, 0) + 1
        self.wanted[waiter.line] = self.wanted.get(waiter.line, 0) | wanted
        self.length += 1

    def remove(self, waiter: Waiter[T]) -> bool:
        """Remove a request; return False if it is not here."""
        lines = self.keys.get(waiter.key, {})
        line = lines.get(waiter.line)
        if line is None or waiter not in line:
            return False
        line.remove(waiter)
        if not line:
            del lines[waiter.line]
        if not lines:
            del self.keys[waiter.key]
            self.held.discard(waiter.key)
        self.lines[waiter.line] -= 1
        if not self.lines[waiter.line]:
            del self.lines[waiter.line], self.wanted[waiter.line]
        self.length -= 1
        return True

    def waits_for(self, line: str, key: str) -> bool:
        """Return True if a request of this key that comes to a line must wait behind one that is here."""
        if not self.held:
            return line in self.lines
        return key in self.held or self._is_free_in(line)

    def _is_free_in(self, line: str) -> bool:
        """Return True if a request waits in this line that no limit holds back."""
        return any(line in lines for key, lines in self.keys.items() if key not in self.held)

    @property
    def number_held(self) -> int:
        """Number of requests that limits hold back."""
        return sum(len(line) for key in self.held for line in self.keys[key].values())

    def all_wanted(self) -> int:
        """Return the endpoints that requests wait for which no limit holds back, as in QueuedRequests.wanted."""
        if not self.held:
            return reduce(or_, self.wanted.values(), 0)
        return reduce(or_, (wanted for line, wanted in self.wanted.items() if self._is_free_in(line)), 0)

    def oldest(self) -> list[Waiter[T]]:
        """Return the first request of each line of each key."""
        return [line[0] for lines in self.keys.values() for line in lines.values()]

    def served(self, decide: Decide[T]) -> Iterator[Waiter[T]]:
        """Remove every request that has a free slot, one key after another, and yield it with its decision."""
        full: set[str] = set()  # lines without a free slot
        self.held.clear()
        self._declined = 0
        progressed = True
        while progressed and len(full) < len(self.lines):
            progressed = False
            for key in list(self.keys):
                waiter = self._next(key, full, decide)
                if waiter is not None:
                    progressed = True
                    self.remove(waiter)
                    if key in self.keys:
                        self.keys.move_to_end(key)
                    yield waiter

    def _next(self, key: str, full: set[str], decide: Decide[T]) -> Waiter[T] | None:
        """Return the first request of a key that has a free slot, with its decision.

        Once a limit holds one back, only those of the key can go on that have been taken from the limits before: they
        return after a failed attempt.
        """
        lines = [line for name, line in self.keys.get(key, {}).items() if name not in full]
        for line in sorted(lines, key=lambda waiters: waiters[0].since):
            declined = 0
            for waiter in line:
                if key in self.held and not waiter.tried:
                    continue
                decision = decide(waiter)
                if decision is HELD:
                    self.held.add(key)
                    continue
                if decision is DECLINED:
                    declined += 1
                    self._declined += 1
                    if declined == MAX_DECLINED:
                        break
                    if self._declined >= MAX_ALL_DECLINED:
                        return None
                    continue
                if decision is not FULL:
                    waiter.decision = decision
                    return waiter
                if not waiter.tried:  # otherwise requests behind it may use the endpoints that it has tried
                    full.add(waiter.line)
                    break
        return None


class Queue(Generic[T]):
    """Fair queue of two classes.

    `decide(waiter)` returns the decision for a waiter; FULL if it must wait, and all others in its line, too; DECLINED
    if it had better wait, although others may use the endpoint that is free; HELD if a limit holds back all requests
    of its key. Any other decision is final.
    """

    def __init__(
        self,
        decide: Decide[T],
        on_change: Callable[[int, int, int], None] = lambda length, bulk, wanted: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty queue.

        `on_change(length, bulk, wanted)` is called after each change: with the number of requests, those among them
        that give way, and the endpoints that the others want.
        """
        self._decide = decide
        self._on_change = on_change
        self._clock = clock
        self._first: Turns[T] = Turns()
        self._bulk: Turns[T] = Turns()
        self._aged: set[tuple[str, str]] = set()  # keys and lines with an aged request
        self._due = False
        self.length = 0

    def __iter__(self) -> Iterator[Waiter[T]]:
        """Iterate over the waiting requests in the order of their turns."""
        yield from self._first
        yield from self._bulk

    def waits_for(self, line: str, key: str = "", *, gives_way: bool = False) -> bool:
        """Return True if an earlier request waits for the same endpoints that need not give way to this one of a key.

        Those of other keys do not count while a limit holds them back.
        """
        return self._first.waits_for(line, key) or (gives_way and self._bulk.waits_for(line, key))

    @property
    def has_held(self) -> bool:
        """True if limits hold back requests."""
        return bool(self._first.held or self._bulk.held)

    def add(self, waiter: Waiter[T], wanted: int = 0) -> None:
        """Add a request. One that returns after a failed attempt goes before all that came after it.

        `wanted`: the endpoints that it waits for, as in QueuedRequests.wanted.
        """
        (self._bulk if waiter.gives_way else self._first).add(waiter, wanted)
        self._changed()

    def remove(self, waiter: Waiter[T]) -> None:
        """Remove a request that has a decision, or whose client has disconnected."""
        if (self._bulk if waiter.gives_way else self._first).remove(waiter):
            self._removed(waiter)

    def nudge(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dispatch at the end of this iteration of the event loop, because a slot may be free."""
        if self.length and not self._due:
            self._due = True
            loop.call_soon(self._nudged)

    def _nudged(self) -> None:
        self._due = False
        self.dispatch()

    def dispatch(self) -> None:
        """Release every request that has a free slot, one key after another: bulk requests last."""
        if self._bulk.length:
            self._age()
        had_held = self.has_held
        for turns in (self._first, self._bulk):
            for waiter in turns.served(self._decide):
                self._removed(waiter)
                waiter.wake()
        if had_held or self.has_held:
            self._changed()

    def dispatch_and_expire(self, now: float) -> None:
        """Dispatch, and end expired waits: another worker may have freed a slot. Called many times a second."""
        if not self.length:
            return
        self.dispatch()
        for waiter in [waiter for waiter in self if waiter.until <= now]:
            self.remove(waiter)
            waiter.wake()

    def _age(self) -> None:
        """Let bulk requests that have waited for BULK_SECONDS stand in line with the others.

        They follow one at a time in each line of a key, and at its end: many of one age must not delay the key's
        other requests.
        """
        now = self._clock()
        for waiter in self._bulk.oldest():
            if now - waiter.since >= BULK_SECONDS and (waiter.key, waiter.line) not in self._aged:
                wanted = self._bulk.wanted[waiter.line]
                self._bulk.remove(waiter)
                self._aged.add((waiter.key, waiter.line))
                waiter.gives_way, waiter.is_aged, waiter.since = False, True, now
                self._first.add(waiter, wanted)
                self._changed()

    def _removed(self, waiter: Waiter[T]) -> None:
        if waiter.is_aged:
            self._aged.discard((waiter.key, waiter.line))
        self._changed()

    def _changed(self) -> None:
        """Publish the requests. Those that limits hold back count as bulk requests: others need not wait for them."""
        first, self.length = self._first, self._first.length + self._bulk.length
        self._on_change(self.length, self._bulk.length + first.number_held, first.all_wanted())
