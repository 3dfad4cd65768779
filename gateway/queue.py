"""Where requests wait while every endpoint that has their model works on as many as it takes.

One queue for a gateway, bounded, and fair: API keys take turns, whatever each has waiting; within a key, who came
first goes first (of those that wait for what has become free). A place is given up at once by a client that leaves.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from gateway import drive
from gateway.balancer import FULL, Decision

T = TypeVar("T")


class Waiter(Generic[T]):
    """One request in the queue: for whom, for what, and since when."""

    __slots__ = ("_wake", "asked", "decision", "key", "line", "since", "tried", "until")

    def __init__(self, asked: T, key: str, line: str, tried: list[str], since: float, until: float) -> None:
        self.asked = asked
        self.key = key
        self.line = line  # names all that wait for the same endpoints
        self.tried = tried  # endpoints that failed to answer it
        self.since = since
        self.until = until
        self.decision: Decision | None = FULL  # while it waits
        self._wake: drive.Drive | asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until a decision is there, or `until` has passed."""
        while self.decision is FULL and time.monotonic() < self.until:
            self._wake = drive.waiter()
            await self._wake
        self._wake = None

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Queue(Generic[T]):
    """`decide(waiter)` is asked for each that could go: FULL if it has to stay. What it decides is taken at once."""

    def __init__(
        self,
        decide: Callable[[Waiter[T]], Decision | None],
        told: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`told(count)` hears of each change of the length."""
        self._decide = decide
        self._told = told
        # By key, in the order of their turns; each with its lines.
        self._keys: OrderedDict[str, dict[str, deque[Waiter[T]]]] = OrderedDict()
        self._lines: dict[str, int] = {}  # over all keys: how many wait in each
        self._due = False
        self.length = 0

    def __iter__(self) -> Iterator[Waiter[T]]:
        """All that wait, in the order in which they would go if they all waited for the same."""
        turns = [
            iter(sorted((waiter for line in lines.values() for waiter in line), key=lambda it: it.since))
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
        """Has somebody come before who wants the same?"""
        return line in self._lines

    def waiting(self, key: str) -> int:
        """How many requests of a key wait here."""
        return sum(map(len, self._keys.get(key, {}).values()))

    def add(self, waiter: Waiter[T]) -> None:
        """One that comes again, since what it waited for failed it, goes before all that came after it."""
        line = self._keys.setdefault(waiter.key, {}).setdefault(waiter.line, deque())
        if line and line[0].since > waiter.since:
            line.appendleft(waiter)
        else:
            line.append(waiter)
        self._lines[waiter.line] = self._lines.get(waiter.line, 0) + 1
        self.length += 1
        self._told(self.length)

    def remove(self, waiter: Waiter[T]) -> None:
        """It has been decided on, or gives up."""
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
        self._told(self.length)

    def has_place(self, key: str, waiting: int, most: int, workers: int) -> bool:
        """May one more of this key wait? `waiting` requests do in all workers, of at most `most`.

        A key has half of the places and one more. What it has in other workers is not known: once half of all places
        are taken, it has its part of each worker.
        """
        half = most // 2 + 1
        return self.waiting(key) < (half if waiting < half else -(-half // workers))

    def nudge(self, loop: asyncio.AbstractEventLoop) -> None:
        """Something may have become free. Looked at once, at the end of this turn of the loop."""
        if self.length and not self._due:
            self._due = True
            loop.call_soon(self._nudged)

    def _nudged(self) -> None:
        self._due = False
        self.dispatch()

    def dispatch(self) -> None:
        """Let go whoever can: a key at a time, in turn."""
        full: set[str] = set()  # lines for which nothing is free
        went = True
        while went and len(full) < len(self._lines):
            went = False
            for key in list(self._keys):
                waiter = self._next(key, full)
                if waiter is not None:
                    went = True
                    self.remove(waiter)
                    if key in self._keys:
                        self._keys.move_to_end(key)
                    waiter.wake()

    def _next(self, key: str, full: set[str]) -> Waiter[T] | None:
        """The first of a key that can go now, with its decision."""
        lines = [line for name, line in self._keys.get(key, {}).items() if name not in full]
        for line in sorted(lines, key=lambda it: it[0].since):
            for waiter in line:
                waiter.decision = self._decide(waiter)
                if waiter.decision is not FULL:
                    return waiter
                if not waiter.tried:  # else those behind it may go where it has been
                    full.add(waiter.line)
                    break
        return None

    def look_around(self, now: float) -> None:
        """Many times a second: another worker may have made room; somebody may have waited too long."""
        if not self.length:
            return
        self.dispatch()
        for waiter in [it for it in self if it.until <= now]:
            self.remove(waiter)
            waiter.wake()
