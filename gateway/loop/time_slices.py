"""Time slices: long work on the event loop is cut up, and yields to the event loop after each slice.

One slice runs in each iteration of the loop, whichever request it belongs to.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

from gateway.fast import coroutine_runner

T = TypeVar("T")
Slices = Generator[None, None, T]  # yields after each slice of a few milliseconds; returns the result


class TimeSlices:
    """Scheduler of the long work of one event loop. Works take turns, so that none blocks the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[coroutine_runner.CoroutineRunner | asyncio.Future[None]] = deque()

    async def run(self, slices: Slices[T]) -> T:
        """Run the work, and return its result or raise its error. Each slice runs in another iteration."""
        await self.next()
        return await self.start_now(slices)

    async def start_now(self, slices: Slices[T]) -> T:
        """Run the work as `run` does, but its first slice at once. This suits work that rarely needs a second one."""
        while True:
            try:
                next(slices)
            except StopIteration as end:
                result: T = end.value
                return result
            await self.next()

    async def next(self) -> None:
        """Yield to the event loop, until a later iteration in which no other long work runs."""
        waiter = coroutine_runner.waiter()
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._resume)
        await waiter

    def _resume(self) -> None:
        """Wake the first waiter. It stays in front until its slice is done, so that no second call is scheduled."""
        waiter = self._waiting[0]
        try:
            if not waiter.done():
                waiter.set_result(None)
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._loop.call_soon(self._resume)


def run_unsliced(slices: Slices[T]) -> T:
    """Run the work in one call, and return its result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result


def one_slice(work: Callable[[], T]) -> Slices[T]:
    """Wrap a function as work of one slice."""
    yield from ()  # makes this function a generator
    return work()
