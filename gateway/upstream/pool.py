"""Connection pools: open keep-alive connections to endpoints and to control, and reuse them.

`await pool.request(…)` sends a request. Then `await connection.read()` until it is empty, `await connection.consume(…)`
or `await connection.read_all()` reads the response. At its end the connection returns to the pool; `abort` closes it
before. A body that is sent part by part takes `await pool.connect_for(…)`, `connection.begin(…)`, `await
connection.push(…)` and `connection.finish()`. Redirects are not followed. `gateway.upstream.dialer` opens connections.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from gateway.base import causes
from gateway.base.types import Data
from gateway.fast.write_batch import WriteBatch
from gateway.loop.rest import REST_SECONDS, until_next
from gateway.upstream.connection import CLOSED, IDLE, Connection
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings
from gateway.upstream.dialer import Dialer
from gateway.upstream.errors import (
    BROKEN,
    CONNECT,
    TIMEOUT,
    EndpointWithdrawn,
    StaleConnection,
    UpstreamError,
    broken_error,
    connect_error,
    silent_refusal,
)
from gateway.upstream.response_head import RepeatedResponse

CONNECT_SECONDS = 5.0
READS_AT_ONCE = 16  # connections that are read again in one iteration of the event loop, after a large read
SWEEP_SECONDS = 0.2
REFUSAL_SECONDS = 0.5  # for the alert of a server that refuses a client certificate


def _ignore() -> None:
    """Do nothing."""


class ConnectionHolder(Protocol):
    """An object that can fail or abort a request while another coroutine waits for its response."""

    connection: Connection | None
    connect_us: int | None  # for opening connections; None: that was cancelled

    def check_endpoint(self) -> None:
        """Raise EndpointWithdrawn if the request may not be sent any more."""


def _add_time(holder: ConnectionHolder | None, began: float) -> None:
    if holder is not None:
        holder.connect_us = (holder.connect_us or 0) + int((time.monotonic() - began) * 1e6)


class Sweeper:
    """Periodic work for all connections of an event loop: timeouts, and closing of idle connections.

    A check of all of them five times a second costs less than a timer for each. It also reports the endpoints that
    sent something since the last time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, dialer: Dialer | None = None) -> None:
        self._loop = loop
        self.dialer = dialer or Dialer()
        self.writes = WriteBatch(loop)
        self.connections: set[Connection] = set()
        self.pools: set[Pool] = set()  # with idle connections
        self._to_read: deque[Connection] = deque()  # after a large read, in the order in which they are read again
        self.is_resting: Callable[[], bool] = lambda: False  # the process has neither clients nor requests
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep)

    def read_later(self, connection: Connection) -> None:
        """Read on from the connection in a later iteration of the event loop."""
        connection.transport.pause_reading()
        self._to_read.append(connection)
        if len(self._to_read) == 1:
            self._loop.call_soon(self._resume_reading)

    def _resume_reading(self) -> None:
        for _ in range(min(len(self._to_read), READS_AT_ONCE)):
            self._to_read.popleft().resume_reading()
        if self._to_read:
            self._loop.call_soon(self._resume_reading)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            if connection.received_lately:
                connection.received_lately = False
                connection.owner.received()
                if connection.consumer is not None:
                    connection.consumer.extend()
            if connection.deadline < now:
                connection.fail(UpstreamError(TIMEOUT, causes.TIMED_OUT))
        for pool in [pool for pool in self.pools if not pool.close_old()]:
            self.pools.discard(pool)
        pause = until_next(REST_SECONDS) if self.is_resting() else SWEEP_SECONDS
        self._timer = self._loop.call_later(pause, self._sweep)

    def wake(self) -> None:
        """Sweep at the usual pace again, after a rest."""
        self._timer.cancel()
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        self._timer.cancel()


class Pool:
    """Connection pool for one endpoint, or for control. `unix_path` replaces the URL's host by a Unix socket."""

    def __init__(
        self,
        base_url: str,
        sweeper: Sweeper,
        *,
        unix_path: str | None = None,
        received: Callable[[], None] = _ignore,
        connect_timeout: float = CONNECT_SECONDS,
        settings: ConnectionSettings = PLAIN,
    ) -> None:
        url = urlsplit(base_url)
        self.tls = url.scheme == "https"
        self.host = url.hostname or "localhost"
        self.port = url.port or (443 if self.tls else 80)
        self.prefix = url.path.rstrip("/").encode()
        self.authority = url.netloc.rpartition("@")[2].encode()
        self.unix_path = unix_path
        self.sweeper = sweeper
        self.writes = sweeper.writes
        self.received = received  # called at most every SWEEP_SECONDS while the server sends something
        self.connect_timeout = connect_timeout  # seconds; may be changed
        self.idle: deque[Connection] = deque()  # the last one is used first, so that those of a burst get old
        self.settings = settings
        self.own_names: frozenset[bytes] = frozenset()  # of headers (lower case) that requests have of the endpoint
        self.closed = False
        self.repeated = RepeatedResponse()

    def __repr__(self) -> str:
        return f"<Pool {self.authority.decode()} {len(self.idle)} idle>"

    async def request(
        self,
        head: bytes,
        body: Sequence[Data],
        timeout: float | None,
        *,
        repeatable: bool = True,
        holder: "ConnectionHolder | None" = None,
    ) -> Connection:
        """Send a request, and return the connection when the header block of the response was received.

        A request on a stale connection is sent again on a new one if it is `repeatable`: a server may have worked on
        it before it closed the connection. `holder` gets the connection before the request is sent. Raises
        UpstreamError or EndpointWithdrawn.
        """
        fresh = False
        while True:
            connection = (None if fresh else self.take_idle()) or await self.connect_for(holder)
            if holder is not None:
                holder.connection = connection
            connection.send(head, body, timeout)
            try:
                await connection.receive_head()
            except StaleConnection:
                connection.abort()
                if not repeatable:
                    raise UpstreamError(BROKEN, causes.BROKE_OFF) from None
                fresh = True
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    async def connect_for(self, holder: "ConnectionHolder | None") -> Connection:
        """Open a connection for a request. The endpoint may have been edited meanwhile.

        Raises UpstreamError or EndpointWithdrawn.
        """
        began = time.monotonic()
        try:
            connection = await self.connect()
        except asyncio.CancelledError:
            if holder is not None:
                holder.connect_us = None
            raise
        except BaseException:
            _add_time(holder, began)
            raise
        _add_time(holder, began)
        try:
            if self.closed:
                raise EndpointWithdrawn
            if holder is not None:
                holder.check_endpoint()
        except EndpointWithdrawn:
            connection.abort()
            raise
        return connection

    def take_idle(self) -> Connection | None:
        """Return an idle connection that may be reused, or None."""
        now = time.monotonic()
        while self.idle:
            connection = self.idle.pop()
            if connection.usable_until > now:
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """Open a connection. Raises UpstreamError."""
        connecting = asyncio.ensure_future(self._connect())
        try:
            return await connecting
        except asyncio.CancelledError:
            connecting.cancel()
            connecting.add_done_callback(_close_unused)
            raise
        finally:
            del connecting  # it holds its error, which holds this frame

    def close_old(self) -> int:
        """Close idle connections that are too old to be reused. Return the number of the others."""
        now = time.monotonic()
        while self.idle and self.idle[0].usable_until <= now:
            self.idle.popleft().abort()
        return len(self.idle)

    def close(self) -> None:
        """Close the idle connections now, and the others at the end of their response."""
        self.closed = True
        received, self.received = self.received, _ignore  # it may refer to the pool's owner: that would be a cycle
        if any(connection.received_lately for connection in self.idle):
            received()
        while self.idle:
            self.idle.pop().abort()

    # Called by connections

    def released(self, connection: Connection) -> bool:
        if self.closed:
            return False
        if not self.idle:
            self.sweeper.pools.add(self)
        self.idle.append(connection)
        return True

    def read_later(self, connection: Connection) -> None:
        self.sweeper.read_later(connection)

    def lost(self, connection: Connection) -> None:
        self.sweeper.connections.discard(connection)
        if connection.received_lately:
            self.received()
        if connection.state is IDLE and connection in self.idle:
            self.idle.remove(connection)

    async def explained(self, error: UpstreamError) -> UpstreamError:
        """Return the error of a request, or a better one: a server may refuse a client certificate, and close the
        connection with a reset that overtakes its alert, or without an alert. A connection without a request shows
        that.
        """
        if error.kind != BROKEN or not self.tls:
            return error
        try:
            connection = await self.connect()
            try:
                async with asyncio.timeout(REFUSAL_SECONDS):
                    while connection.state is not CLOSED:
                        await connection.wait()
                connection.raise_if_broken()
            finally:
                connection.abort()
        except TimeoutError:
            return error
        except UpstreamError as refusal:
            return refusal if refusal.kind == CONNECT else silent_refusal(self.settings)
        return error

    def broken(self, error: Exception | None, *, is_first: bool) -> UpstreamError:
        return broken_error(error, self.settings, is_first=is_first)

    # Opening a connection

    async def _connect(self) -> Connection:
        if self.unix_path:
            connection = await self._open_socket(self.unix_path)
        else:
            connection = await self.sweeper.dialer.open(
                lambda: Connection(self),
                self.host,
                self.port,
                tls=self.tls,
                timeout=self.connect_timeout,
                settings=self.settings,
            )
        if connection.state is not CLOSED:  # else it is lost already
            # Not in `connection_made`: if this is cancelled just then, `connection_lost` may never be called.
            self.sweeper.connections.add(connection)
        return connection

    async def _open_socket(self, path: str) -> Connection:
        limit = self.connect_timeout
        try:
            async with asyncio.timeout(limit):
                loop = asyncio.get_running_loop()
                return (await loop.create_unix_connection(lambda: Connection(self), path))[1]
        except OSError as error:
            raise connect_error(error, limit) from None


def _close_unused(connecting: "asyncio.Task[Connection]") -> None:
    """Close a connection that was opened after the request for it was cancelled."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().abort()
