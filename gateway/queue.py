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

    __slots__ = ("_wake", "asked", "decision", "key", "model", "since", "tried", "until")

    def __init__(self, asked: T, key: str, model: str, tried: list[str], since: float, until: float) -> None:
        self.asked = asked
        self.key = key
        self.model = model
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
        # By key, in the order of their turns; each with its models, and who waits for them.
        self._keys: OrderedDict[str, dict[str, deque[Waiter[T]]]] = OrderedDict()
        self._models: dict[str, int] = {}
        self._due = False
        self.length = 0

    def __iter__(self) -> Iterator[Waiter[T]]:
        """All that wait, in the order in which they would go if they all waited for the same."""
        lines = [
            iter(sorted((waiter for line in models.values() for waiter in line), key=lambda it: it.since))
            for models in self._keys.values()
        ]
        while lines:
            left = []
            for line in lines:
                if (waiter := next(line, None)) is not None:
                    yield waiter
                    left.append(line)
            lines = left

    def waits_for(self, model: str) -> bool:
        """Has somebody come before who wants the same?"""
        return model in self._models

    def add(self, waiter: Waiter[T]) -> None:
        """One that comes again, since what it waited for failed it, has its old place."""
        line = self._keys.setdefault(waiter.key, {}).setdefault(waiter.model, deque())
        if line and line[0].since > waiter.since:
            line.appendleft(waiter)
        else:
            line.append(waiter)
        self._models[waiter.model] = self._models.get(waiter.model, 0) + 1
        self.length += 1
        self._told(self.length)

    def remove(self, waiter: Waiter[T]) -> None:
        """It has been decided on, or gives up."""
        models = self._keys.get(waiter.key, {})
        line = models.get(waiter.model)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del models[waiter.model]
        if not models:
            del self._keys[waiter.key]
        self._models[waiter.model] -= 1
        if not self._models[waiter.model]:
            del self._models[waiter.model]
        self.length -= 1
        self._told(self.length)

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
        full: set[str] = set()  # models for which nothing is free
        went = True
        while went and len(full) < len(self._models):
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
        models = self._keys.get(key, {})
        heads = [line[0] for model, line in models.items() if model not in full]
        for waiter in sorted(heads, key=lambda it: it.since):
            waiter.decision = self._decide(waiter)
            if waiter.decision is not FULL:
                return waiter
            if not waiter.tried:
                full.add(waiter.model)
        return None

    def look_around(self, now: float) -> None:
        """Many times a second: another worker may have made room; somebody may have waited too long."""
        if not self.length:
            return
        self.dispatch()
        for waiter in [it for it in self if it.until <= now]:
            self.remove(waiter)
            waiter.wake()
