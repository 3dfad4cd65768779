"""Long work on the event loop, cut into slices: one slice in each turn of the loop, whichever request it is for."""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

from gateway import drive

T = TypeVar("T")
Slices = Generator[None, None, T]  # yields after each slice of a few milliseconds; returns the result


class Turns:
    """One for the event loop of a process. Work is served in turn, so that none keeps the others waiting."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[drive.Drive | asyncio.Future[None]] = deque()

    async def run(self, slices: Slices[T]) -> T:
        """Run the work to its end; what it returns or raises. Each slice has a turn of its own."""
        await self.next()
        return await self.run_on(slices)

    async def run_on(self, slices: Slices[T]) -> T:
        """The same with the first slice at once, for work that mostly needs no second one."""
        while True:
            try:
                next(slices)
            except StopIteration as end:
                found: T = end.value
                return found
            await self.next()

    async def next(self) -> None:
        """Until a later turn in which no other long work runs."""
        waiter = drive.waiter()
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._go_on)
        await waiter

    def _go_on(self) -> None:
        """Wake the first of those that wait. It stays in front until its slice is done: no second call is due."""
        waiter = self._waiting[0]
        try:
            if not waiter.done():
                waiter.set_result(None)
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._loop.call_soon(self._go_on)


def at_once(slices: Slices[T]) -> T:
    """The result of work that need not be cut."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            found: T = end.value
            return found


def only(work: Callable[[], T]) -> Slices[T]:
    """Work of one slice."""
    return work()
    yield  # which makes this a generator
