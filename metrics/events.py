"""Live events for open pages: one encoding of the figures for all of them, at most four times a second."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from endpoints.registry import registry
from metrics import queries
from metrics.teller import folder, surroundings

MIN_GAP_SECONDS = 0.25
HEARTBEAT_SECONDS = 10.0


class Hub:
    """Who listens, and what they were told last. Lives in control's event loop."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._told_at = 0.0
        self._told: tuple[object, ...] = ()
        self._number = 0

    async def tell(self) -> None:
        """Send the figures if any has changed since the last time."""
        now = time.monotonic()
        if not self._listeners or now - self._told_at < MIN_GAP_SECONDS:
            return
        seen = self._seen()
        if seen == self._told and now - self._told_at < HEARTBEAT_SECONDS:
            return
        self._told, self._told_at = seen, now
        event = await asyncio.to_thread(self._event)
        for queue in self._listeners:
            if queue.full():  # a page that does not keep up gets the newest figures, not all of them
                queue.get_nowait()
            queue.put_nowait(event)

    async def listen(self) -> AsyncIterator[bytes]:
        """Events, beginning with the present figures."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=2)
        self._listeners.add(queue)
        try:
            yield b"retry: 2000\n\n" + await asyncio.to_thread(self._event)
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def _seen(self) -> tuple[object, ...]:
        minute = int(time.time() // 60)
        return (
            folder.trackers.version,
            folder.waiting,
            registry.version,
            dict(surroundings.in_flight()),
            surroundings.unrecorded(),
            minute,
        )

    def _event(self) -> bytes:
        self._number += 1
        return b"id: %d\nevent: overview\ndata: %b\n\n" % (self._number, msgspec.json.encode(queries.live()))


hub = Hub()
