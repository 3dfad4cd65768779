"""Accepts connections, a few in each turn of the event loop, and counts each for its client from that moment on: a TLS
handshake that is never finished is a connection, too.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from gateway import bounds
from gateway.bounds import Hits
from gateway.peer import Crowd, client_of

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 32
HANDSHAKE_SECONDS = 8.0  # for a TLS handshake, and as long for its turn among those of its client
HANDSHAKES_AT_ONCE = 8  # of one client
TURNED_AWAY_AT_ONCE = 32  # clients with too many connections that are told so
REST_SECONDS = 0.1  # before another attempt where descriptors have run out
TOLD_SECONDS = 60.0  # between two lines of the log about that
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Connecting(asyncio.Protocol):
    """What is made for a connection: `admitted` tells it whether its client may have it."""

    admitted: bool | None
    transport: asyncio.Transport | None  # None until it is connected


class _Line:
    """The handshakes of one client."""

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
        self.length = 0


class Acceptor:
    """For one listening socket."""

    def __init__(
        self,
        listen: socket.socket,
        make: Callable[[], Connecting],
        crowd: Crowd,
        hits: Hits,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`make` makes the protocol of a connection."""
        self._listen = listen
        self._make = make
        self._crowd = crowd
        self._hits = hits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._lines: dict[str, _Line] = {}  # by client, of those whose handshakes are under way
        self._turned_away = 0  # connections of clients that have too many, which are being told so
        self._rest: asyncio.TimerHandle | None = None
        self._told_at = -TOLD_SECONDS

    def start(self) -> None:
        self._rest = None
        self._listen.setblocking(False)
        self._loop.add_reader(self._listen.fileno(), self._accept, ACCEPTED_AT_ONCE)

    async def stop(self, seconds: float) -> None:
        """Accept whoever waits, and no others; give their handshakes so long."""
        if self._rest is not None:
            self._rest.cancel()
        else:
            self._loop.remove_reader(self._listen.fileno())
        self._accept(1 << 16)
        if self._rest is not None:
            self._rest.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=seconds)
        late = list(self._connecting)
        for connecting in late:
            connecting.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _accept(self, most: int) -> None:
        for _ in range(most):
            try:
                accepted, address = self._listen.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # a client that has left already
                self._exhausted(error)
                return
            self._take(accepted, address[0] if accepted.family != socket.AF_UNIX else None)

    def _exhausted(self, error: OSError) -> None:
        """Clients wait in the system's queue until something is closed."""
        self._hits.hit(bounds.DESCRIPTORS)
        now = self._loop.time()
        if now - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            log.warning(
                "no more connections can be accepted for now (%s); raise the limit of open files", error.strerror
            )
        self._loop.remove_reader(self._listen.fileno())
        self._rest = self._loop.call_later(REST_SECONDS, self.start)

    def _take(self, accepted: socket.socket, ip: str | None) -> None:
        admitted = self._crowd.enter(ip)
        if not admitted and (self._tls is not None or self._turned_away >= TURNED_AWAY_AT_ONCE):
            self._hits.hit(bounds.CONNECTIONS)
            accepted.close()
            return
        self._turned_away += not admitted
        connecting = self._loop.create_task(self._connect(accepted, ip, admitted=admitted))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket, ip: str | None, *, admitted: bool) -> None:
        protocol = self._make()
        protocol.admitted = admitted
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(lambda: protocol, accepted)
            else:
                await self._shake_hands(protocol, accepted, ip, self._tls)
        except ConnectionAbortedError:  # as the event loop says that a handshake took too long
            self._hits.hit(bounds.HANDSHAKES)
            accepted.close()
        except (OSError, asyncio.CancelledError):  # TimeoutError and ssl.SSLError are of the first kind
            accepted.close()
        finally:
            if admitted and protocol.transport is None:  # else it leaves by itself
                self._crowd.leave(ip)
            if not admitted:
                self._loop.call_later(1.0, self._forget_turned_away)

    def _forget_turned_away(self) -> None:
        self._turned_away -= 1

    async def _shake_hands(
        self, protocol: Connecting, accepted: socket.socket, ip: str | None, tls: ssl.SSLContext
    ) -> None:
        """A few of a client at a time: each costs a millisecond or more. Raises OSError."""
        if ip is None or self._crowd.is_proxy(ip):
            await self._handshake(protocol, accepted, tls)
            return
        client = client_of(ip)
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line()
        line.length += 1
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS) as waiting, line.turn:
                waiting.reschedule(None)
                await self._handshake(protocol, accepted, tls)
        except TimeoutError:
            self._hits.hit(bounds.HANDSHAKES)
            raise
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[client]

    async def _handshake(self, protocol: Connecting, accepted: socket.socket, tls: ssl.SSLContext) -> None:
        await self._loop.connect_accepted_socket(
            lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
