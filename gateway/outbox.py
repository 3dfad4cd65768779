"""What one turn of the event loop has to write: records into the journal, and only then bytes to clients and servers.

Under load many requests end in one turn. Their records are one write, and whoever gets their bytes is woken once
instead of for each. What is put here leaves at the end of the turn, in the order in which it was put.
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

Body = bytes | bytearray  # of a request: what grew is the second
Data = Body | memoryview

MAX_BYTES = 128 << 10  # more than that does not wait for the turn's end


class Outbox:
    """One for the event loop of a process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.before: Callable[[], None] = lambda: None  # what has to be done before any byte leaves
        self.loop = loop
        self.turn = 0  # counts the turns in which something was written or read
        self._writes: list[tuple[asyncio.Transport, Data]] = []
        self._size = 0
        self._due = False

    def write(self, transport: asyncio.Transport, data: Data) -> None:
        """What others wrote to the transport before, they must have written through here."""
        self._writes.append((transport, data))
        self._size += len(data)
        if self._size > MAX_BYTES or not self._due:
            self._see_to_it()

    def put(self, size: int) -> None:
        """Something of so many bytes is to be written, if only by `before`."""
        self._size += size
        if self._size > MAX_BYTES or not self._due:
            self._see_to_it()

    def flush(self) -> None:
        """Write everything now: before a connection is closed, say."""
        try:
            self.before()
        except Exception:
            log.exception("what comes before the answers failed; they go on")
        writes, self._writes = self._writes, []
        self._size = 0
        for transport, data in writes:
            if not transport.is_closing():
                transport.write(data)

    def _see_to_it(self) -> None:
        if self._size > MAX_BYTES:
            self.flush()
        else:
            self._due = True
            self.loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._due = False
        self.turn += 1
        self.flush()
