"""Pace of periodic work: a process without clients rests. It wakes when one connects, before its first byte is read.

A wake-up costs more than most of this work, so work that need not be often runs at multiples of its period: all that is
due in a second runs at once.
"""

import asyncio
import time
from collections.abc import Callable

REST_SECONDS = 1.0  # between two runs of periodic work while the process rests


def until_next(seconds: float) -> float:
    """Return the seconds until the next multiple of a period on the monotonic clock: more than 0, at most `seconds`.

    They are whole milliseconds, as the timers of uvloop are, so that timers of the same moment expire together.
    """
    period = max(1, round(seconds * 1000))
    return (period - int(time.monotonic() * 1000) % period) / 1000


async def sleep_until_next(seconds: float) -> None:
    """Sleep until the next multiple of a period."""
    await asyncio.sleep(until_next(seconds))


class Pauses:
    """Sleeps that can be ended. They cost less than `asyncio.timeout`, which cancels the task at each end."""

    def __init__(self) -> None:
        self._sleepers: set[asyncio.Future[None]] = set()

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, or until `end`."""
        loop = asyncio.get_running_loop()
        sleeper = loop.create_future()
        self._sleepers.add(sleeper)
        timer = loop.call_later(seconds, _wake, sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._sleepers.discard(sleeper)

    def end(self) -> None:
        """End all present sleeps."""
        for sleeper in self._sleepers:
            _wake(sleeper)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class Rest:
    """Sleep of periodic work, which is longer while nothing can happen between two runs."""

    def __init__(self, is_busy: Callable[[], bool] = lambda: True) -> None:
        self._is_busy = is_busy
        self._pauses = Pauses()
        self._listeners: list[Callable[[], None]] = []
        self.resting = False

    def on_wake(self, listener: Callable[[], None]) -> None:
        """Call `listener` at the end of each rest, for work that a client must not find undone."""
        self._listeners.append(listener)

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`; if the process rests, until the next REST_SECONDS, or until it wakes."""
        if self._is_busy():
            self.wake()
            await asyncio.sleep(seconds)
            return
        self.resting = True
        await self._pauses.sleep(until_next(max(seconds, REST_SECONDS)))

    def wake(self) -> None:
        """End the rest, if there is one."""
        if self.resting:
            self.resting = False
            self._pauses.end()
            for listener in self._listeners:
                listener()
