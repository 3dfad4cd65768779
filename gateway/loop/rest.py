"""Pace of periodic work: a process without clients rests. It wakes when one connects, before its first byte is read."""

import asyncio
import contextlib
from collections.abc import Callable

REST_SECONDS = 1.0  # between two runs of periodic work while the process rests


class Rest:
    """Sleep of periodic work, which is longer while nothing can happen between two runs."""

    def __init__(self, is_busy: Callable[[], bool] = lambda: True) -> None:
        self._is_busy = is_busy
        self._woken = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.resting = False

    def on_wake(self, listener: Callable[[], None]) -> None:
        """Call `listener` at the end of each rest, for work that a client must not find undone."""
        self._listeners.append(listener)

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`; if the process rests, for up to REST_SECONDS, or until it wakes."""
        if self._is_busy():
            self.wake()
            await asyncio.sleep(seconds)
            return
        self.resting = True
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, REST_SECONDS)):
                await self._woken.wait()

    def wake(self) -> None:
        """End the rest, if there is one."""
        if self.resting:
            self.resting = False
            self._woken.set()
            for listener in self._listeners:
                listener()
