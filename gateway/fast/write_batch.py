"""Write batching: bytes are written at once, unless a record waits; then they follow it at the end of the iteration.

Under load many requests end in one iteration of the event loop. Their records are one write to the journal. No byte is
written before the records that were added before it, and bytes keep the order in which they were added. Even those that
are written at once are sent at the end of the iteration, by uvloop, which wakes each peer once.

Set ENABLED to False to write each record at once.
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.base.types import Data

log = logging.getLogger(__name__)

ENABLED = True
MAX_BYTES = 128 << 10  # a larger batch is written before the end of the iteration


class WriteBatch:
    """Pending records and bytes of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.before_flush: Callable[[], None] = lambda: None  # runs before any byte is sent: it writes the journal
        self.loop = loop
        self.iteration = 0  # counts the iterations of the event loop in which something waited, or was to be counted
        self.holding = False  # a record waits to be written, and all bytes for it
        self._writes: list[tuple[asyncio.Transport, Data]] = []
        self._size = 0
        self._scheduled = False

    def write(self, transport: asyncio.Transport, data: Data) -> None:
        """Write bytes: now, or after the records that wait."""
        if not self.holding:
            if not transport.is_closing():
                transport.write(data)
            return
        self._writes.append((transport, data))
        self._size += len(data)
        if self._size > MAX_BYTES:
            self.flush()

    def add_record(self, size: int) -> None:
        """Hold back all bytes from now on, until `before_flush` has written a record of `size` bytes."""
        self.holding = True
        self._size += size
        if not ENABLED or self._size > MAX_BYTES:
            self.flush()
        else:
            self.count_iteration()

    def count_iteration(self) -> None:
        """Have this iteration of the event loop counted, and flush at its end."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._end_iteration)

    def flush(self) -> None:
        """Write everything now, as is needed before a connection is closed."""
        try:
            self.before_flush()
        except Exception:
            log.exception("journal flush failed; the pending responses are sent anyway")
        self._size = 0
        self.holding = False
        if not self._writes:
            return
        writes, self._writes = self._writes, []
        for transport, data in writes:
            if not transport.is_closing():
                transport.write(data)

    def _end_iteration(self) -> None:
        self._scheduled = False
        self.iteration += 1
        self.flush()
