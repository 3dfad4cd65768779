"""Acceptor of connections: accepts a few in each iteration of the event loop, and counts them for their clients.

They are counted from then on, because an unfinished TLS handshake is a connection, too.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from gateway.base import bounds
from gateway.base.addresses import client_of
from gateway.http.clients import ConnectionBound
from gateway.ipc.bound_hits import Hits

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 32
HANDSHAKE_SECONDS = 8.0  # for a TLS handshake, and as long to wait for others of its client
HANDSHAKES_AT_ONCE = 8  # of one client
MAX_REJECTING = 32  # connections beyond the bound of their client that get a response; others are just closed
PAUSE_SECONDS = 0.1  # before the next attempt when file descriptors have run out
LOG_SECONDS = 60.0  # between two log lines about that
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Connecting(asyncio.Protocol):
    """The protocol of an accepted connection."""

    admitted: bool | None  # False: the client has too many connections
    transport: asyncio.Transport | None  # None until it is connected


class _Handshakes:
    """The TLS handshakes of one client."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
        self.number = 0  # running and waiting


class Acceptor:
    """Acceptor of one listening socket."""

    def __init__(
        self,
        listen: socket.socket,
        create: Callable[[], Connecting],
        connection_bound: ConnectionBound,
        hits: Hits,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Create an acceptor. `create` creates the protocol of a connection."""
        self._listen = listen
        self._create = create
        self._connection_bound = connection_bound
        self._hits = hits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._handshakes: dict[str, _Handshakes] = {}  # by client
        self._rejecting = 0  # connections beyond the bound that get a response now
        self._pause: asyncio.TimerHandle | None = None
        self._logged_at = -LOG_SECONDS

    def start(self) -> None:
        self._pause = None
        self._listen.setblocking(False)
        self._loop.add_reader(self._listen.fileno(), self._accept, ACCEPTED_AT_ONCE)

    async def stop(self, seconds: float) -> None:
        """Accept the connections that wait, and no others. Their handshakes may take `seconds`."""
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._listen.fileno())
        self._accept(1 << 16)
        if self._pause is not None:
            self._pause.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=seconds)
        late = list(self._connecting)
        for connecting in late:
            connecting.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _accept(self, count: int) -> None:
        for _ in range(count):
            try:
                accepted, address = self._listen.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # the client has disconnected already
                self._exhausted(error)
                return
            self._take(accepted, address[0] if accepted.family != socket.AF_UNIX else None)

    def _exhausted(self, error: OSError) -> None:
        """Pause: clients wait in the system's queue until file descriptors are free."""
        self._hits.hit(bounds.DESCRIPTORS)
        now = self._loop.time()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning(
                "no connection can be accepted (%s); the next attempt follows in %g s. Raise the limit of open files",
                error.strerror,
                PAUSE_SECONDS,
            )
        self._loop.remove_reader(self._listen.fileno())
        self._pause = self._loop.call_later(PAUSE_SECONDS, self.start)

    def _take(self, accepted: socket.socket, ip: str | None) -> None:
        admitted = self._connection_bound.enter(ip)
        if not admitted and (self._tls is not None or self._rejecting >= MAX_REJECTING):
            self._hits.hit(bounds.CONNECTIONS)
            accepted.close()
            return
        self._rejecting += not admitted
        connecting = self._loop.create_task(self._connect(accepted, ip, admitted=admitted))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket, ip: str | None, *, admitted: bool) -> None:
        protocol = self._create()
        protocol.admitted = admitted
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(lambda: protocol, accepted)
            else:
                await self._shake_hands(protocol, accepted, ip, self._tls)
        except ConnectionAbortedError:  # uvloop raises it for a handshake that takes too long
            self._hits.hit(bounds.HANDSHAKES)
            accepted.close()
        except (OSError, asyncio.CancelledError):  # OSError includes TimeoutError and ssl.SSLError
            accepted.close()
        finally:
            if admitted and protocol.transport is None:  # else it calls `leave` itself
                self._connection_bound.leave(ip)
            if not admitted:
                self._loop.call_later(1.0, self._end_rejection)

    def _end_rejection(self) -> None:
        self._rejecting -= 1

    async def _shake_hands(
        self, protocol: Connecting, accepted: socket.socket, ip: str | None, tls: ssl.SSLContext
    ) -> None:
        """Run a handshake. A client may have a few at a time: each takes a millisecond or more. Raises OSError."""
        if ip is None or self._connection_bound.is_proxy(ip):
            await self._handshake(protocol, accepted, tls)
            return
        client = client_of(ip)
        handshakes = self._handshakes.get(client)
        if handshakes is None:
            handshakes = self._handshakes[client] = _Handshakes()
        handshakes.number += 1
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS) as waiting, handshakes.slots:
                waiting.reschedule(None)
                await self._handshake(protocol, accepted, tls)
        except TimeoutError:
            self._hits.hit(bounds.HANDSHAKES)
            raise
        finally:
            handshakes.number -= 1
            if not handshakes.number:
                del self._handshakes[client]

    async def _handshake(self, protocol: Connecting, accepted: socket.socket, tls: ssl.SSLContext) -> None:
        await self._loop.connect_accepted_socket(
            lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
