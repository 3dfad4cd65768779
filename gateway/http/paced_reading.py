"""Reading of one client's connection: the reasons why it is paused, and reads that are postponed."""

from collections.abc import Callable

from gateway.loop.flow_control import FlowControl

# Why a connection is not read, as bits:
PIPELINE = 1  # requests wait behind the running one
ENDPOINT = 2  # back-pressure: the endpoint reads a streamed body too slowly
BUFFER_SPACE = 4  # the running request waits for room in the buffers
PACE = 8  # the client has used up its steps of an iteration of the event loop


def _is_closed() -> bool:
    return True


def _discard(data: bytes) -> None:
    """Receive bytes of a closed connection."""


class PacedReading:
    """The reading side of one connection, which the Pacer holds back."""

    __slots__ = ("_deliver", "_flow", "_is_closing", "postponed", "reasons")

    def __init__(self, flow: FlowControl, is_closing: Callable[[], bool], deliver: Callable[[bytes], None]) -> None:
        """Create it for the flow control of a transport. `deliver` parses postponed bytes."""
        self._flow: FlowControl | None = flow  # None after `close`
        self._is_closing = is_closing
        self._deliver = deliver
        self.reasons = 0  # why reading is paused
        self.postponed = b""  # bytes that were read and not yet parsed

    def close(self) -> None:
        """Discard the postponed bytes; no more bytes are read."""
        self._flow = None
        self.postponed = b""
        self._is_closing, self._deliver = _is_closed, _discard  # instead of those that refer to the connection

    def pause(self, reason: int) -> None:
        if not self.reasons and self._flow is not None:
            self._flow.pause_reading()
        self.reasons |= reason

    def resume(self, reasons: int) -> None:
        """Remove reasons for a pause, and read on if none is left."""
        if self.reasons:
            self.reasons &= ~reasons
            self._resume()

    def _resume(self) -> None:
        if not self.reasons and self._flow is not None and not self._is_closing():
            self._flow.resume_reading()

    def postpone(self, data: bytes) -> None:
        """Keep bytes until `read_again`."""
        self.postponed = self.postponed + data if self.postponed else data

    # For the Pacer

    def hold_back(self) -> bool:
        if self.reasons & PACE or self._flow is None or self._is_closing():
            return False
        self.pause(PACE)
        return True

    def read_again(self) -> None:
        if self._flow is None:
            return
        self.reasons &= ~PACE
        data, self.postponed = self.postponed, b""
        self._deliver(data)
        self._resume()
