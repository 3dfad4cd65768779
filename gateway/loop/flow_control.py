"""Flow control of one connection: back-pressure on the peer, and back-pressure of a peer that reads slowly."""

import asyncio


class FlowControl:
    """Whether a connection is read, and whether more may be written to it."""

    __slots__ = ("_transport", "_writable", "lost", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable: asyncio.Event | None = None  # created by the first wait: few peers read slowly
        self.read_paused = False
        self.write_paused = False
        self.lost = False  # the connection is: nothing may be written any more

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Called by the transport, which has many bytes that the peer has not read."""
        self.write_paused = True
        if self._writable is not None:
            self._writable.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> None:
        """Wait until the peer has read enough."""
        if self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()
