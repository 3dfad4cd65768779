"""Memory that one client's connection reserves in the shares of its client (gateway.http.client_shares)."""

import time
from collections.abc import Callable

from gateway.base import bounds
from gateway.base.addresses import client_of
from gateway.base.bounds import Bound
from gateway.http.admission import Admission
from gateway.http.client_shares import (
    SPACE_WAIT_SECONDS,
    Buffers,
    PacedConnection,
    Reservation,
    Share,
    WaitingReservation,
)
from gateway.http.exchange import BUFFER_BYTES, Exchange
from gateway.http.request_bounds import SMALL_BODY_BYTES, body_bound, no_buffer_space

CHUNK_RESERVE_BYTES = 64 << 10  # reserved ahead for a body of unknown length
STREAM_RESERVE_BYTES = (1 << 20) + 2 * BUFFER_BYTES  # reserved for a streamed body

NO_SHARE = Share("none", 0)


class Reservations:
    """All reservations of one connection."""

    __slots__ = ("_buffers", "_own", "_unsent", "share", "waiting")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._own: Reservation | None = None  # for bytes that belong to no running request
        self._unsent: Reservation | None = None  # for responses that the client has not yet read
        self.share = NO_SHARE  # the share of its address, while the connection is counted
        self.waiting: WaitingReservation | None = None  # the running or next request waits for room

    def enter(self, ip: str | None, connection: PacedConnection, *, is_proxy: bool) -> None:
        self.share = self._buffers.enter(client_of(ip or ""), connection, is_proxy=is_proxy)

    def exit(self, connection: PacedConnection) -> None:
        """Give back all reservations but those of requests."""
        for reservation in (self._own, self._unsent):
            if reservation is not None:
                self._buffers.close(reservation)
        self._own = self._unsent = None
        self._buffers.exit(self.share, connection)
        self.share = NO_SHARE

    # Requests

    def open(self, exchange: Exchange) -> Reservation:
        """Return the reservation of a request, which counts for its address and its API key."""
        if exchange.reservation is not None:
            return exchange.reservation
        buffers, own = self._buffers, self.share
        client = client_of(exchange.head.peer.ip) if exchange.head.peer.ip else ""
        address = own if not client or own.name == "address " + client else buffers.address(client)
        if exchange.api_key is not None:
            shares: tuple[Share, ...] = (buffers.key(exchange.api_key.id), address)
        elif exchange.line.path.startswith(b"/v1/"):
            shares = (address,)
        else:
            shares = (buffers.pages(client), address)
        exchange.reservation = reservation = buffers.open(*shares)
        return reservation

    def put(self, exchange: Exchange, size: int) -> None:
        """Count bytes of a request that are buffered already."""
        self._buffers.put(self.open(exchange), size)

    def grow(self, exchange: Exchange, size: int) -> None:
        """Reserve `size` bytes in all for a request. Raises Refusal (503) if there is no room."""
        reservation = self.open(exchange)
        if not self._buffers.grow(reservation, size):
            raise no_buffer_space(self._full(reservation, size))

    def grow_or_wait(
        self, exchange: Exchange, size: int, granted: Callable[[], None], refused: Callable[[], None]
    ) -> tuple[bool, Bound | None]:
        """Reserve `size` bytes for a body that is being received. Return (True, None) if they are reserved.

        Otherwise return (False, bound): the request waits for room, and `granted` or `refused` is called later. If the
        bytes received so far have no room either, the request cannot wait, and `waiting` is None. The bound is None if
        it waits already.
        """
        buffers, reservation = self._buffers, self.open(exchange)
        if buffers.grow(reservation, size, large=size > SMALL_BODY_BYTES):
            return True, None
        if self.waiting is not None:
            return False, None
        full = self._full(reservation, size)
        if buffers.grow(reservation, exchange.body_bytes):
            until = time.monotonic() + SPACE_WAIT_SECONDS
            self.waiting = WaitingReservation(reservation, size, until, granted, refused)
            buffers.wait(self.waiting)
        return False, full

    def close(self, exchange: Exchange) -> bool:
        """Give back the reservation of a request. Return True if it waited for room."""
        reservation, exchange.reservation = exchange.reservation, None
        if reservation is None:
            return False
        waiting = self.waiting
        waited = waiting is not None and waiting.reservation is reservation
        if waiting is not None and waited:
            self._buffers.cancel(waiting)
            self.waiting = None
        self._buffers.close(reservation)
        return waited

    # The connection

    def charge(self, size: int) -> Bound | None:
        """Count `size` bytes of an incomplete header block and of waiting requests. Return the bound that is reached
        if there is no room.
        """
        buffers, own = self._buffers, self._own
        if not size:
            if own is not None:
                buffers.close(own)
                self._own = None
            return None
        if own is None:
            own = self._own = buffers.open(self.share)
        if size <= own.size:
            buffers.put(own, size)
        elif not buffers.grow(own, size):
            return self._full(own, size)
        return None

    @property
    def has_charge(self) -> bool:
        return self._own is not None

    @property
    def has_unsent(self) -> bool:
        return self._unsent is not None

    def charge_unsent(self, unsent: int, running: Exchange | None) -> Bound | None:
        """Count bytes of responses that the client has not yet read. Return the bound that is reached if there is no
        room. The running request's reservation covers a part of them.
        """
        if running is not None and running.reservation is not None:
            unsent -= running.reservation.size
        buffers, reservation = self._buffers, self._unsent
        if unsent > SMALL_BODY_BYTES:
            if reservation is None:
                reservation = self._unsent = buffers.open(self.share)
            buffers.put(reservation, unsent)
            if not buffers.has_space(reservation, 0):
                return self._full(reservation, 0)
        elif reservation is not None:
            buffers.close(reservation)
            self._unsent = None
        return None

    def _full(self, reservation: Reservation, size: int) -> Bound:
        """Return the bound that keeps the reservation from growing to `size`."""
        full = self._buffers.held + size - reservation.size > self._buffers.limit
        return bounds.BUFFERS if full else bounds.CLIENT_BUFFERS


def needed(exchange: Exchange, admission: Admission) -> int:
    """Return the bytes to reserve for the body of a request: all of them, as far as their number is known."""
    if exchange.refusal is not None or exchange.complete or exchange.received:
        return 0
    length = exchange.length
    if length is not None:
        return min(length, STREAM_RESERVE_BYTES) if exchange.reader else length
    unknown = STREAM_RESERVE_BYTES if exchange.reader else exchange.body_bytes + CHUNK_RESERVE_BYTES
    return min(unknown, body_bound(exchange, admission)[0])
