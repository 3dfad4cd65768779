"""Fair shares of a worker: buffered bytes and time of the event loop, for each client.

A client is an address (a /64 network for IPv6), and in addition an API key once it is known. Bytes of a body are
reserved before they are read if their number is known, so that a request that is being received can always be received
to its end. A request without room is not read until others have ended, and is refused after SPACE_WAIT_SECONDS.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.fast.write_batch import WriteBatch

SPACE_WAIT_SECONDS = 30.0  # a request that waits for room is refused after this time
MAX_STEPS = 64  # of one client in an iteration of the event loop: reads, header blocks, and bytes of bodies
BYTES_PER_STEP = 1 << 16  # of a body; with reads of 256 KiB, a client sends 3.2 MiB in an iteration
COUNTED_STEPS = MAX_STEPS // 2  # so many steps let the iteration be counted, if nothing else does
RESERVED_FOR_SMALL = 1 / 8  # part of a share, and of all buffers, that only small requests may take
REFUSED_AT_ONCE = 100  # requests without room that are refused in one iteration
SLOWED_PER_HIT = 50  # a client that was slowed so often counts as one hit of the limit
RESUMED_AT_ONCE = 8  # connections of slowed clients that are read again in one iteration


class PacedConnection(Protocol):
    """A connection whose reads can be postponed; implemented by gateway.http.paced_reading."""

    def hold_back(self) -> bool:
        """Stop reading. Return False if the connection is held back already, or closed."""

    def read_again(self) -> None:
        """Parse the postponed bytes, and read on."""


class Share:
    """The part of a worker that one client may use."""

    __slots__ = ("connections", "held", "held_back", "iteration", "limit", "name", "slowed", "steps", "users")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit  # bytes
        self.held = 0  # bytes
        self.users = 0  # connections and reservations that refer to it
        self.connections: set[PacedConnection] = set()  # of an address
        self.iteration = 0  # of the event loop, in which the steps were taken
        self.steps = 0
        self.slowed = 0  # times
        self.held_back: deque[PacedConnection] | None = None  # connections that are not read, while it is slowed

    def has_used_up(self, iteration: int) -> bool:
        """Return True if the client has taken all its steps of this iteration of the event loop."""
        return self.iteration == iteration and self.steps > MAX_STEPS

    def __repr__(self) -> str:
        return f"<Share {self.name} {self.held} of {self.limit}>"


class Reservation:
    """Bytes of one request or one connection, which count in several shares at once."""

    __slots__ = ("shares", "size")

    def __init__(self, shares: tuple[Share, ...]) -> None:
        self.shares = shares
        self.size = 0


class WaitingReservation:
    """A reservation that waits to grow to `size`. It is granted before `until` (time.monotonic()), or refused then."""

    __slots__ = ("granted", "refused", "reservation", "size", "until")

    def __init__(
        self,
        reservation: Reservation,
        size: int,
        until: float,
        granted: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        self.reservation = reservation
        self.size = size
        self.until = until
        self.granted = granted
        self.refused = refused


class Buffers:
    """Accounts of the bytes that a worker buffers for its clients."""

    def __init__(self, limit: int) -> None:
        """Create accounts of `limit` bytes in all. An address or a key may have half of it. Pages of an address may
        have an eighth, because they need no key.
        """
        self.limit = limit
        self.held = 0
        self.shares: dict[str, Share] = {}
        # By the first of their shares, in the order of their arrival:
        self._waiting: dict[Share, dict[WaitingReservation, None]] = {}
        self._granting = False

    # Shares

    def enter(self, client: str, connection: PacedConnection, *, is_proxy: bool) -> Share:
        """Return the share of a connection's address. A proxy has a larger one: it connects for many clients."""
        share = self.address(client, is_proxy=is_proxy)
        share.users += 1
        share.connections.add(connection)
        return share

    def exit(self, share: Share, connection: PacedConnection) -> None:
        share.connections.discard(connection)
        self._drop_user(share)

    def address(self, client: str, *, is_proxy: bool = False) -> Share:
        return self._share("address " + client, self.limit if is_proxy else self.limit // 2)

    def pages(self, client: str) -> Share:
        return self._share("pages " + client, self.limit // 8)

    def key(self, key: str) -> Share:
        return self._share("key " + key, self.limit // 2)

    def _share(self, name: str, limit: int) -> Share:
        """Return a share for `open` or `enter`. It exists as long as anything refers to it."""
        share = self.shares.get(name)
        if share is None:
            share = self.shares[name] = Share(name, limit)
        return share

    def _drop_user(self, share: Share) -> None:
        share.users -= 1
        if not share.users:
            del self.shares[share.name]

    # Bytes

    def open(self, *shares: Share) -> Reservation:
        """Return an empty reservation. It must be closed."""
        for share in shares:
            share.users += 1
        return Reservation(shares)

    def close(self, reservation: Reservation) -> None:
        """Give back the whole reservation. It may be called again."""
        self._add(reservation, -reservation.size)
        shares, reservation.shares = reservation.shares, ()
        for share in shares:
            self._drop_user(share)

    def has_space(self, reservation: Reservation, more: int, *, large: bool = False) -> bool:
        """Return True if the reservation may grow by `more` bytes. A large one leaves a part for small requests."""
        kept = RESERVED_FOR_SMALL if large else 0.0
        if self.held + more > self.limit * (1 - kept):
            return False
        return all(share.held + more <= share.limit * (1 - kept) for share in reservation.shares)

    def grow(self, reservation: Reservation, size: int, *, large: bool = False) -> bool:
        """Grow the reservation to `size` bytes. Return False if there is no room. A large one has to wait if others of
        its share wait already. It never shrinks.
        """
        more = size - reservation.size
        if more <= 0:
            return True
        if (large and reservation.shares[0] in self._waiting) or not self.has_space(reservation, more, large=large):
            return False
        self._add(reservation, more)
        return True

    def put(self, reservation: Reservation, size: int) -> None:
        """Set the size of bytes that are buffered already, whether there is room or not."""
        self._add(reservation, size - reservation.size)

    def _add(self, reservation: Reservation, more: int) -> None:
        reservation.size += more
        self.held += more
        for share in reservation.shares:
            share.held += more
        if more < 0 and self._waiting:
            self._grant()

    # Waiting for room

    def wait(self, waiting: WaitingReservation) -> None:
        self._waiting.setdefault(waiting.reservation.shares[0], {})[waiting] = None

    def cancel(self, waiting: WaitingReservation) -> None:
        """Stop waiting. It may be called again."""
        queue = self._waiting.get(waiting.reservation.shares[0])
        if queue is not None and waiting in queue:
            del queue[waiting]
            if not queue:
                del self._waiting[waiting.reservation.shares[0]]

    def expire(self, now: float) -> None:
        """Refuse requests that have waited too long. It is called twice a second, and refuses only REFUSED_AT_ONCE, so
        that it does not block the event loop.
        """
        late = [waiting for queue in self._waiting.values() for waiting in queue if waiting.until <= now]
        for waiting in late[:REFUSED_AT_ONCE]:
            self.cancel(waiting)
            waiting.refused()
        if self._waiting:
            self._grant()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for room."""
        return sum(map(len, self._waiting.values()))

    def _grant(self) -> None:
        """Grant waiting reservations: the share with the fewest bytes first, and within a share in their order."""
        if self._granting:
            return
        self._granting = True
        try:
            for share in sorted(self._waiting, key=lambda each: each.held):
                queue = self._waiting.get(share)
                while queue:
                    waiting = next(iter(queue))
                    more = waiting.size - waiting.reservation.size
                    if not self.has_space(waiting.reservation, more, large=True):
                        break
                    self.cancel(waiting)
                    self.put(waiting.reservation, waiting.size)
                    waiting.granted()
        finally:
            self._granting = False


class Pacer:
    """Shares the event loop among clients. A client that takes more than MAX_STEPS in an iteration is slowed: none of
    its connections is read, then some are in each iteration, until all of them were.
    """

    def __init__(self, writes: WriteBatch, on_limit: Callable[[], None]) -> None:
        """Create a pacer. `on_limit` is called when a client was slowed too often for a mere burst."""
        self._writes = writes  # counts the iterations
        self._on_limit = on_limit
        self._shares: deque[Share] = deque()
        self._scheduled = False

    def slow_down(self, share: Share, connection: PacedConnection) -> None:
        """Hold back all connections of a client that has used up its steps; `connection` was read last."""
        if share.held_back is None:
            share.held_back = deque()
            self._shares.append(share)
            share.slowed += 1
            if share.slowed % SLOWED_PER_HIT == 0:
                self._on_limit()
            self._hold_back(share, [each for each in share.connections if each is not connection])
        self._hold_back(share, (connection,))
        if not self._scheduled:
            self._scheduled = True
            self._writes.loop.call_soon(self._next)

    def _hold_back(self, share: Share, connections: Iterable[PacedConnection]) -> None:
        assert share.held_back is not None
        for connection in connections:
            if connection.hold_back():
                share.held_back.append(connection)

    def _next(self) -> None:
        """Read some connections of each slowed client, in the next iteration."""
        self._scheduled = False
        writes = self._writes
        writes.iteration += 1
        shares = deque(self._shares)
        for _ in range(RESUMED_AT_ONCE):
            # A client with much postponed work may have used up its steps of this iteration already.
            while shares and (not shares[0].held_back or shares[0].has_used_up(writes.iteration)):
                shares.popleft()
            if not shares:
                break
            share = shares[0]
            shares.rotate(-1)
            assert share.held_back
            share.held_back.popleft().read_again()
        for share in [each for each in self._shares if not each.held_back]:
            share.held_back = None
            self._shares.remove(share)
        if self._shares:
            self._shares.rotate(-1)
            if not self._scheduled:
                self._scheduled = True
                writes.loop.call_soon(self._next)
