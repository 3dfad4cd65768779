"""Queue of requests that wait for a slot while every endpoint with their model is full.

A gateway has one queue. It is fair: API keys take turns, however many requests each has waiting; within a
key the oldest request that can use the free slot goes first. If a client disconnects, its request leaves at once. The
number of places is limited over all gateways (Services.take_queue_place).
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from gateway.loop import coroutine_runner
from gateway.routing.balancer import DECLINED, FULL, Decision

T = TypeVar("T")

MAX_DECLINED = 4  # requests of a key and line that decline a free endpoint, until later ones have to wait, too
MAX_ALL_DECLINED = 64  # of all keys, in one dispatch


class Waiter(Generic[T]):
    """A waiting request."""

    __slots__ = ("_wake", "decision", "item", "key", "line", "since", "tried", "until")

    def __init__(self, item: T, key: str, line: str, tried: list[str], since: float, until: float) -> None:
        self.item = item
        self.key = key
        self.line = line  # name of the requests that wait for the same endpoints
        self.tried = tried  # endpoints where an attempt has failed
        self.since = since
        self.until = until
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


class Queue(Generic[T]):
    """Fair queue.

    `decide(waiter)` returns the decision for a waiter; FULL if it must wait, and all others in its line, too; DECLINED
    if it had better wait, although others may use the endpoint that is free. Any other decision is final.
    """

    def __init__(
        self,
        decide: Callable[[Waiter[T]], Decision | None],
        on_length_change: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Create an empty queue. `on_length_change(count)` is called after each change of its length."""
        self._decide = decide
        self._on_length_change = on_length_change
        # Keys in the order of their turns, each with its lines.
        self._keys: OrderedDict[str, dict[str, deque[Waiter[T]]]] = OrderedDict()
        self._lines: dict[str, int] = {}  # requests of all keys in each line
        self._due = False
        self._declined = 0  # in this dispatch
        self.length = 0

    def __iter__(self) -> Iterator[Waiter[T]]:
        """Iterate over the waiting requests in the order of their turns."""
        turns = [
            iter(sorted((waiter for line in lines.values() for waiter in line), key=lambda waiter: waiter.since))
            for lines in self._keys.values()
        ]
        while turns:
            left = []
            for turn in turns:
                if (waiter := next(turn, None)) is not None:
                    yield waiter
                    left.append(turn)
            turns = left

    def waits_for(self, line: str) -> bool:
        """Return True if an earlier request waits for the same endpoints."""
        return line in self._lines

    def add(self, waiter: Waiter[T]) -> None:
        """Add a request. One that returns after a failed attempt goes before all that came after it."""
        line = self._keys.setdefault(waiter.key, {}).setdefault(waiter.line, deque())
        if line and line[0].since > waiter.since:
            line.appendleft(waiter)
        else:
            line.append(waiter)
        self._lines[waiter.line] = self._lines.get(waiter.line, 0) + 1
        self.length += 1
        self._on_length_change(self.length)

    def remove(self, waiter: Waiter[T]) -> None:
        """Remove a request that has a decision, or whose client has disconnected."""
        lines = self._keys.get(waiter.key, {})
        line = lines.get(waiter.line)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del lines[waiter.line]
        if not lines:
            del self._keys[waiter.key]
        self._lines[waiter.line] -= 1
        if not self._lines[waiter.line]:
            del self._lines[waiter.line]
        self.length -= 1
        self._on_length_change(self.length)

    def nudge(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dispatch at the end of this iteration of the event loop, because a slot may be free."""
        if self.length and not self._due:
            self._due = True
            loop.call_soon(self._nudged)

    def _nudged(self) -> None:
        self._due = False
        self.dispatch()

    def dispatch(self) -> None:
        """Release every request that has a free slot, one key after another."""
        full: set[str] = set()  # lines without a free slot
        self._declined = 0
        progressed = True
        while progressed and len(full) < len(self._lines):
            progressed = False
            for key in list(self._keys):
                waiter = self._next(key, full)
                if waiter is not None:
                    progressed = True
                    self.remove(waiter)
                    if key in self._keys:
                        self._keys.move_to_end(key)
                    waiter.wake()

    def _next(self, key: str, full: set[str]) -> Waiter[T] | None:
        """Return the first request of a key that has a free slot, with its decision."""
        lines = [line for name, line in self._keys.get(key, {}).items() if name not in full]
        for line in sorted(lines, key=lambda waiters: waiters[0].since):
            declined = 0
            for waiter in line:
                decision = self._decide(waiter)
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

    def dispatch_and_expire(self, now: float) -> None:
        """Dispatch, and end expired waits: another worker may have freed a slot. Called many times a second."""
        if not self.length:
            return
        self.dispatch()
        for waiter in [waiter for waiter in self if waiter.until <= now]:
            self.remove(waiter)
            waiter.wake()
