"""What each client holds of a worker: bytes that are buffered for it, and steps of the event loop.

A client is an address (of IPv6 its /64), and in addition an API key once one is known. Bytes are reserved before they
are read where their number is known, so that requests that are being received can always be received to their end: what
finds no room waits, unread, until others have ended, and is refused after ROOM_SECONDS.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gateway.outbox import Outbox

if TYPE_CHECKING:
    from gateway.protocol import GatewayProtocol

ROOM_SECONDS = 30.0  # that a request waits for room before it is refused
MOST_STEPS = 64  # of one client in a turn of the event loop: each is a read of at most 256 KiB, or a request's head
KEPT_FOR_SMALL = 1 / 8  # of a client's part of the memory, and of the whole
REFUSED_AT_ONCE = 100  # requests that have waited for room in vain
TURNS_OF_A_HIT = 50  # in which a client took more than its part
RESUMED_AT_ONCE = 8  # connections of slowed clients that are read again in one turn


class Share:
    """One client's part of a worker."""

    __slots__ = ("connections", "held", "limit", "line", "name", "slowed", "steps", "turn", "users")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit  # bytes
        self.held = 0  # bytes
        self.users = 0  # connections and holds that refer to it
        self.connections: set[GatewayProtocol] = set()  # of an address
        self.turn = 0  # the one that the steps were made in
        self.steps = 0
        self.slowed = 0  # times
        self.line: deque[GatewayProtocol] | None = None  # while it is slowed: connections that are not read

    def __repr__(self) -> str:
        return f"<Share {self.name} {self.held} of {self.limit}>"


class Hold:
    """Bytes that one request, or one connection, holds of several shares at once."""

    __slots__ = ("shares", "size")

    def __init__(self, shares: tuple[Share, ...]) -> None:
        self.shares = shares
        self.size = 0


class Claim:
    """A hold that waits to grow. Until `until` (time.monotonic()) it may be granted, then it is refused."""

    __slots__ = ("granted", "hold", "refused", "size", "until")

    def __init__(
        self, hold: Hold, size: int, until: float, granted: Callable[[], None], refused: Callable[[], None]
    ) -> None:
        self.hold = hold
        self.size = size
        self.until = until
        self.granted = granted
        self.refused = refused


class Buffers:
    """The bytes that a worker buffers for its clients."""

    def __init__(self, limit: int) -> None:
        """`limit`: of all clients together, in bytes. An address or a key may have half of it, pages of an address
        an eighth: whoever sends to them need not be known.
        """
        self.limit = limit
        self.held = 0
        self.shares: dict[str, Share] = {}
        self._claims: dict[Share, dict[Claim, None]] = {}  # by the first of their shares, in their order
        self._granting = False

    # Shares

    def enter(self, client: str, connection: "GatewayProtocol", *, many: bool) -> Share:
        """The share of a connection's address. `many`: it is a proxy, which speaks for many clients."""
        share = self.address(client, many=many)
        share.users += 1
        share.connections.add(connection)
        return share

    def exit(self, share: Share, connection: "GatewayProtocol") -> None:
        share.connections.discard(connection)
        self._let_go(share)

    def address(self, client: str, *, many: bool = False) -> Share:
        return self._share("address " + client, self.limit if many else self.limit // 2)

    def pages(self, client: str) -> Share:
        return self._share("pages " + client, self.limit // 8)

    def key(self, key: str) -> Share:
        return self._share("key " + key, self.limit // 2)

    def _share(self, name: str, limit: int) -> Share:
        """To be given to `open` or `enter`: it is known as long as somebody refers to it."""
        share = self.shares.get(name)
        if share is None:
            share = self.shares[name] = Share(name, limit)
        return share

    def _let_go(self, share: Share) -> None:
        share.users -= 1
        if not share.users:
            del self.shares[share.name]

    # Bytes

    def open(self, *shares: Share) -> Hold:
        """Of nothing yet. Must be closed."""
        for share in shares:
            share.users += 1
        return Hold(shares)

    def close(self, hold: Hold) -> None:
        """Give back all of it. May be called again."""
        self._add(hold, -hold.size)
        shares, hold.shares = hold.shares, ()
        for share in shares:
            self._let_go(share)

    def has_room(self, hold: Hold, more: int, *, large: bool = False) -> bool:
        """`large`: a part stays free for requests that are small."""
        kept = KEPT_FOR_SMALL if large else 0.0
        if self.held + more > self.limit * (1 - kept):
            return False
        return all(share.held + more <= share.limit * (1 - kept) for share in hold.shares)

    def grow(self, hold: Hold, size: int, *, large: bool = False) -> bool:
        """To so many bytes, if there is room. Never shrinks. `large`: after all others of the share that wait."""
        more = size - hold.size
        if more <= 0:
            return True
        if (large and hold.shares[0] in self._claims) or not self.has_room(hold, more, large=large):
            return False
        self._add(hold, more)
        return True

    def put(self, hold: Hold, size: int) -> None:
        """It has this size already, whether there is room or not."""
        self._add(hold, size - hold.size)

    def _add(self, hold: Hold, more: int) -> None:
        hold.size += more
        self.held += more
        for share in hold.shares:
            share.held += more
        if more < 0 and self._claims:
            self._grant()

    # Waiting for room

    def wait(self, claim: Claim) -> None:
        self._claims.setdefault(claim.hold.shares[0], {})[claim] = None

    def leave(self, claim: Claim) -> None:
        """It is not wanted any more. May be called again."""
        line = self._claims.get(claim.hold.shares[0])
        if line is not None and claim in line:
            del line[claim]
            if not line:
                del self._claims[claim.hold.shares[0]]

    def expire(self, now: float) -> None:
        """Refuse what has waited for too long, some of it: called twice a second, this must not take a whole turn."""
        late = [claim for line in self._claims.values() for claim in line if claim.until <= now]
        for claim in late[:REFUSED_AT_ONCE]:
            self.leave(claim)
            claim.refused()
        if self._claims:
            self._grant()

    @property
    def waiting(self) -> int:
        """Requests that wait for room."""
        return sum(map(len, self._claims.values()))

    def _grant(self) -> None:
        """Whoever holds least goes first; within a share, who came first."""
        if self._granting:
            return
        self._granting = True
        try:
            for share in sorted(self._claims, key=lambda it: it.held):
                line = self._claims.get(share)
                while line:
                    claim = next(iter(line))
                    if not self.has_room(claim.hold, claim.size - claim.hold.size, large=True):
                        break
                    self.leave(claim)
                    self.put(claim.hold, claim.size)
                    claim.granted()
        finally:
            self._granting = False


class Pacer:
    """Lets no client have a turn of the event loop for itself: who takes more than MOST_STEPS in one is slowed. All its
    connections are not read for now, then some in each turn, until all of them were.
    """

    def __init__(self, outbox: Outbox, slowed: Callable[[], None]) -> None:
        """`slowed` hears of a client each time that it was slowed so often that it is no mere burst."""
        self._outbox = outbox  # which counts the turns
        self._slowed = slowed
        self._shares: deque[Share] = deque()
        self._due = False

    def slow_down(self, share: Share, connection: "GatewayProtocol") -> None:
        """The client has had its part of this turn; `connection` has just been read."""
        if share.line is None:
            share.line = deque()
            self._shares.append(share)
            share.slowed += 1
            if share.slowed % TURNS_OF_A_HIT == 0:
                self._slowed()
            self._hold_back(share, [it for it in share.connections if it is not connection])
        self._hold_back(share, (connection,))
        if not self._due:
            self._due = True
            self._outbox.loop.call_soon(self._next)

    def _hold_back(self, share: Share, connections: Iterable["GatewayProtocol"]) -> None:
        assert share.line is not None
        for connection in connections:
            if connection.hold_back():
                share.line.append(connection)

    def _next(self) -> None:
        """The next turn: a few of each, in turn."""
        self._due = False
        outbox = self._outbox
        outbox.turn += 1
        shares = deque(self._shares)
        for _ in range(RESUMED_AT_ONCE):
            # Whoever had much to do that was put off has had its part of this turn already.
            while shares and (not shares[0].line or (shares[0].turn == outbox.turn and shares[0].steps > MOST_STEPS)):
                shares.popleft()
            if not shares:
                break
            share = shares[0]
            shares.rotate(-1)
            assert share.line
            share.line.popleft().go_on()
        for share in [it for it in self._shares if not it.line]:
            share.line = None
            self._shares.remove(share)
        if self._shares:
            self._shares.rotate(-1)
            if not self._due:
                self._due = True
                outbox.loop.call_soon(self._next)
