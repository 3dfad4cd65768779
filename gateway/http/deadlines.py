"""Deadlines of one client's connection: keep-alive, slow clients that send, and slow clients that do not read.

The process checks all connections twice a second, instead of a timer for each.
"""

from gateway.base import bounds
from gateway.base.bounds import Bound

KEEP_ALIVE_SECONDS = 75  # between two requests on a connection
RECEIVE_SECONDS = 60.0  # for a whole header block, and between two reads of a body
SLOWEST = 1024  # bytes a second: of a body over the last SLOW_SECONDS, and of a response over SEND_SECONDS
SLOW_SECONDS = 30.0
MAX_BODY_SECONDS = 600.0  # for a whole body
MAX_STREAMED_SECONDS = 3600.0  # for a whole streamed body, without the time in which its endpoint does not read
SEND_SECONDS = 120.0  # in which a client must read SLOWEST bytes a second, if a response waits for it
STOPPING_SECONDS = 1.0  # without a byte, while the process drains


class Deadlines:
    """The deadlines of one connection. All times are of time.monotonic()."""

    __slots__ = ("_measured_bytes", "_measured_since", "_slow_at", "_stuck_since", "_unsent", "paused_since",
                 "quiet_since", "receiving_since")  # fmt: skip

    def __init__(self, now: float) -> None:
        self.quiet_since = now  # when the last bytes were received
        self.receiving_since = now  # when the request began; later, by the time in which it was not read
        self.paused_since = 0.0  # reading, by back-pressure of a streamed body; 0.0 if it is not paused
        self._unsent = 0  # bytes that wait until the client reads them
        self._stuck_since = now
        self._measured_since = -1.0  # `receiving_since` of the body whose speed is measured
        self._measured_bytes = 0
        self._slow_at = 0.0  # when that body is too slow, unless more of it is received

    def exclude(self, since: float, now: float) -> None:
        """Exclude the time from `since` to `now`, in which the connection was not read: the client was not slow."""
        self.quiet_since = now
        self.receiving_since += now - since
        self._measured_since += now - since
        self._slow_at += now - since

    def is_quiet(self, now: float, *, receiving: bool, stopping: bool) -> bool:
        """Return True if no bytes were received for too long. `receiving`: a part of a request was received."""
        limit = RECEIVE_SECONDS if receiving else KEEP_ALIVE_SECONDS
        return now - self.quiet_since > (STOPPING_SECONDS if stopping else limit)

    def exceeded_by_header_block(self, now: float) -> Bound | None:
        """Return the bound that an incomplete header block exceeds, if any."""
        return bounds.SLOW_HEADER if now - self.receiving_since > RECEIVE_SECONDS else None

    def exceeded_by_body(self, received: int, now: float, *, streams: bool) -> Bound | None:
        """Return the bound that an incomplete body exceeds, if any. `received` are the bytes of it so far."""
        if self._measured_since != self.receiving_since:
            self._measured_since, self._measured_bytes = self.receiving_since, 0
            self._slow_at = self.receiving_since + SLOW_SECONDS
        # Each byte extends the deadline, but never beyond the window: a burst at the beginning does not last for hours.
        extension = (received - self._measured_bytes) / SLOWEST
        self._measured_bytes = received
        self._slow_at = min(self._slow_at + extension, now + SLOW_SECONDS)
        if now > self._slow_at:
            return bounds.SLOW_BODY
        longest = MAX_STREAMED_SECONDS if streams else MAX_BODY_SECONDS
        return bounds.LONG_BODY if now - self.receiving_since > longest else None

    def is_stuck(self, unsent: int, now: float) -> bool:
        """Return True if a slow client has, for too long, hardly read anything. `unsent` are the bytes that wait for
        it now. Such a connection must be aborted: closing it would wait until the bytes are read.
        """
        if not unsent or not self._unsent or self._unsent - unsent >= SLOWEST * SEND_SECONDS:
            self._unsent, self._stuck_since = unsent, now
        elif unsent > self._unsent:
            self._unsent = unsent  # more was written
        return now - self._stuck_since > SEND_SECONDS
