"""A lean HTTP/1.1 client: one pool of kept-alive connections for each address, parsed by httptools.

`await pool.acquire()`, `connection.send(...)`, `await connection.head()`, then `await connection.read()` until it is
empty, `await connection.hand_on(...)` or `await connection.read_all()`; in the end the connection returns to its pool
by itself, or `abort()` ends it. Instead of `send`, a body that comes bit by bit: `begin(...)`, `await push(...)` for
each piece, `finish()`. Follows no redirects and reads no proxy variables.
"""

import asyncio
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httptools

from gateway import drive
from gateway.bounds import UPSTREAM_HEAD, UPSTREAM_RESPONSE, Bound
from gateway.destinations import Destinations
from gateway.endpoint_errors import EndpointError
from gateway.outbox import Data, Outbox
from gateway.peer import normalise_ip
from gateway.record import CONNECTION_REFUSED
from gateway.template import Template

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 30.0  # a kept connection older than this is not used again
STALE_SECONDS = 1.0  # an upstream that closes later than this after a request has worked on it
BUFFER_BYTES = 256 << 10  # unread bytes of a stream at which reading pauses
MAX_BODY_BYTES = 64 << 20  # of an answer that is read whole
GROWING_BYTES = 1 << 20  # of one from which on it is collected in one buffer
MAX_HEAD_BYTES = 256 << 10
MAX_HEADER_LINES = 1000
SMALL_READ_BYTES = 4 << 10
MOST_PIECES = 16  # of a body that one read brings, and that are kept as they are
FULL_BYTES = 128 << 10  # a read of so much is followed by others only in a later turn of the event loop
READ_AT_ONCE = 16  # connections with such reads that are read in one turn
SWEEP_SECONDS = 0.2
NEVER = float("inf")
MAX_AGE_SECONDS = 300.0  # then a new connection is made, to where the name leads by then

LEARN_SECONDS = 0.01  # between two heads of answers that are remembered: no two of a server's may be alike
EVENT_STREAM = b"text/event-stream"

MAX_SIZE_DIGITS = 7  # of a chunk that is looked at here
SMALL_BYTES = 16 << 10  # of a body that is copied behind its head, to be sent in one packet

_HEX = re.compile(rb"[0-9a-fA-F]+").fullmatch

CONNECT, TIMEOUT, BROKEN = "connect", "timeout", "broken"


class UpstreamError(Exception):
    """No whole answer. `kind` is CONNECT, TIMEOUT or BROKEN; the text names no address and quotes no endpoint. What the
    endpoint says of its error is in `said`; `bound`: what its answer exceeds, if it exceeds a bound.
    """

    def __init__(
        self, kind: str, message: str, said: EndpointError | None = None, *, bound: Bound | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.said = said
        self.bound = bound


class StaleConnection(Exception):
    """A kept connection was closed before a byte of the answer came: the request may be sent again on a new one."""


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Made once: reading the machine's certificates takes milliseconds."""
    return ssl.create_default_context()


class Sweeper:
    """What all connections of a loop share. Timeouts by one look at all of them five times a second, instead of a timer
    each; so is told who was heard of, instead of for each piece of an answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, destinations: Destinations | None = None) -> None:
        self._loop = loop
        self.destinations = destinations or Destinations()
        self.outbox = Outbox(loop)
        self.connections: set[Connection] = set()
        self.pools: set[Pool] = set()  # of those that have kept a connection
        self._resting: deque[Connection] = deque()  # have brought much in a turn, and are read again in a later one
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep)

    def rest(self, connection: "Connection") -> None:
        """Read it again in a later turn of the loop, in its turn among those that bring much."""
        self._resting.append(connection)
        if len(self._resting) == 1:
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        for _ in range(min(len(self._resting), READ_AT_ONCE)):
            self._resting.popleft().read_on()
        if self._resting:
            self._loop.call_soon(self._read_on)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            if connection.heard_lately:
                connection.tell_heard()
            if connection.deadline < now:
                connection.expire()
        for pool in [pool for pool in self.pools if not pool.drop_old()]:
            self.pools.discard(pool)
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        self._timer.cancel()


class AnswerHead:
    """An answer's status and header lines, and what was made of them. Servers repeat themselves: whole answers with the
    same lines share this object, which tells no length.
    """

    __slots__ = ("content_type", "headers", "is_json", "is_stream", "kept", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers  # names in lower case
        self.content_type = next((value for name, value in headers if name == b"content-type"), b"").lower()
        self.is_stream = self.content_type.startswith(EVENT_STREAM)
        self.is_json = b"json" in self.content_type
        self.kept: bytes | None = None  # the lines that a client gets to see


NO_ANSWER = AnswerHead(0, [])


class Pool:
    """Connections to one address. `unix_path` instead of a URL's host for a Unix socket."""

    def __init__(
        self,
        base_url: str,
        sweeper: Sweeper,
        *,
        unix_path: str | None = None,
        received: Callable[[], None] = lambda: None,
        connect_timeout: float = CONNECT_SECONDS,
    ) -> None:
        parts = urlsplit(base_url)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or "localhost"
        self.port = parts.port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/").encode()
        self.authority = parts.netloc.rpartition("@")[2].encode()
        self.unix_path = unix_path
        self.sweeper = sweeper
        self.received = received
        self.connect_timeout = connect_timeout  # seconds; may be changed
        self.idle: deque[Connection] = deque()  # the last one kept is used first, so that a burst's others grow old
        self.closed = False
        self.known: tuple[Template, AnswerHead] | None = None  # of an answer that came whole
        self.learned_at = 0.0

    def __repr__(self) -> str:
        return f"<Pool {self.authority.decode()} {len(self.idle)} idle>"

    async def acquire(self, *, fresh: bool = False) -> "Connection":
        """A kept connection, or a new one. Raises UpstreamError."""
        return (None if fresh else self.kept()) or await self.connect()

    def kept(self) -> "Connection | None":
        """One that may be used again, if there is any."""
        now = time.monotonic()
        while self.idle:
            connection = self.idle.pop()
            if connection.usable_until > now:
                return connection
            connection.abort()
        return None

    async def connect(self) -> "Connection":
        """A new one. Raises UpstreamError."""
        connecting = asyncio.ensure_future(self._connect())
        try:
            return await connecting
        except asyncio.CancelledError:
            connecting.cancel()
            connecting.add_done_callback(_let_go)
            raise
        finally:
            del connecting  # which holds its error, which holds this frame

    def keep(self, connection: "Connection") -> None:
        if not self.idle:
            self.sweeper.pools.add(self)
        self.idle.append(connection)

    def drop_old(self) -> int:
        """Close kept connections that are too old to be used; how many are left."""
        now = time.monotonic()
        while self.idle and self.idle[0].usable_until <= now:
            self.idle.popleft().abort()
        return len(self.idle)

    async def _connect(self) -> "Connection":
        limit = self.connect_timeout
        try:
            async with asyncio.timeout(limit):
                connection = await self._open()
        except TimeoutError:
            raise UpstreamError(CONNECT, f"no connection within {limit:g} s") from None
        except ssl.SSLError as error:
            raise UpstreamError(CONNECT, f"TLS failed: {error.reason or 'handshake'}") from None
        except ConnectionRefusedError:
            raise UpstreamError(CONNECT, CONNECTION_REFUSED) from None
        except (OSError, ValueError):  # ValueError: a host that is no name
            raise UpstreamError(CONNECT, "no connection") from None
        if connection.parser is not None:  # else it is lost already
            # Not when it is made: whoever is cancelled right then is never told of its end.
            self.sweeper.connections.add(connection)
        return connection

    async def _open(self) -> "Connection":
        if self.unix_path:
            loop = asyncio.get_running_loop()
            return (await loop.create_unix_connection(lambda: Connection(self), self.unix_path))[1]
        addresses = await self._addresses()
        for address in addresses[:-1]:
            try:
                return await self._open_at(address)
            except OSError:  # TLS that fails is one, too
                pass
        return await self._open_at(addresses[-1])

    async def _open_at(self, address: str) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self),
            address,
            self.port,
            ssl=_tls() if self.tls else None,
            server_hostname=self.host if self.tls else None,
        )
        return connection

    async def _addresses(self) -> list[str]:
        """Where to connect to. A name is looked up here and nowhere else, so that what is looked at is what is
        connected to: a name may lead elsewhere the next time. Raises UpstreamError if no address may be asked.
        """
        if normalise_ip(self.host) is not None:
            found = [self.host]
        else:
            loop = asyncio.get_running_loop()
            told = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            found = [str(address[0]) for *_, address in told]
        refusals = {address: self.sweeper.destinations.refusal(address) for address in found}
        allowed = [address for address in found if refusals[address] is None]
        if not allowed:
            raise UpstreamError(CONNECT, next(filter(None, refusals.values()), "its name leads nowhere"))
        return allowed

    def close(self) -> None:
        """Close what is idle now; what is in use closes at its end."""
        self.closed = True
        while self.idle:
            self.idle.pop().abort()


def _let_go(connecting: "asyncio.Task[Connection]") -> None:
    """Of a connection that came when nobody wanted it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().abort()


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport
        self.usable_until = 0.0
        self.retires_at = time.monotonic() + MAX_AGE_SECONDS
        self.deadline = NEVER
        self.used = False  # has carried an exchange before the present one
        self.heard_lately = False  # since the sweeper looked
        self.answered = False  # the head of an answer is here
        self.answer = NO_ANSWER
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = True
        self.error: Exception | None = None
        self._waiter: drive.Drive | asyncio.Future[None] | None = None
        self._idle_seconds = IDLE_SECONDS
        self._full = False  # more is waiting to be sent than should
        self._informational = False
        self._heard = False  # any byte of an answer
        self._uncounted = 0  # bytes since the last piece of an answer: of a head, or of trailers
        self._sent_at = 0.0
        self._keep_alive = True
        self._chunks: list[bytes | bytearray] = []
        self._size = 0
        self._paused = False
        self._collecting = False
        self._take: Callable[[bytes], bool] | None = None
        self._aligned = False  # between two chunks, and the parser has been given nothing of the next
        self._pushing = False  # the request's body is not whole
        self._chunked = False
        self._push_seconds: float | None = None

    def _reset(self) -> None:
        """For the next exchange; of the one before, `_release` has left nothing."""
        # Lost already, between being made and being used: nothing else would tell.
        self.error = None if self.parser is not None else ConnectionResetError()
        self.answered = self.complete = self._heard = self._aligned = False
        self._uncounted = 0

    # An exchange

    def send(self, head: bytes, body: Sequence[Data], timeout: float | None) -> None:
        """Write a request, whose body may be in pieces. `timeout` seconds until the head of the answer, None for no
        limit.
        """
        self._reset()
        self._sent_at = now = time.monotonic()
        self.deadline = NEVER if timeout is None else now + timeout
        write = self.pool.sweeper.outbox.write
        if len(body) == 1 and len(body[0]) < SMALL_BYTES:
            write(self.transport, head + body[0])
            return
        if sum(map(len, body)) < SMALL_BYTES:
            write(self.transport, b"".join((head, *body)))
            return
        write(self.transport, head)
        for piece in body:
            write(self.transport, piece)

    def begin(self, head: bytes, timeout: float | None, *, chunked: bool = False) -> None:
        """Write a request's head, whose body is pushed: `chunked`, or of the length that the head tells. `timeout`
        seconds that the upstream may take nothing of it, and then until the head of its answer; None for no limit.

        A kept connection may turn out to be stale with half of a body gone: whoever cannot send it again connects anew.
        """
        self._reset()
        self._sent_at = time.monotonic()
        self._pushing = True
        self._chunked = chunked
        self._push_seconds = timeout
        self.deadline = NEVER
        self.pool.sweeper.outbox.write(self.transport, head)

    async def push(self, data: Data) -> bool:
        """A piece of the body, as soon as the upstream has taken enough of what went before. False if it has answered
        already: then nothing more should be pushed, and the answer read. Raises UpstreamError, or StaleConnection.
        """
        while self._full and not self.answered:
            self.raise_if_broken()
            self.wait_at_most(self._push_seconds)
            await self.wait()
        if self.answered:
            self.wait_at_most(self._push_seconds)
            return False
        self.deadline = NEVER
        self.raise_if_broken()
        if data:
            write = self.pool.sweeper.outbox.write
            if self._chunked:
                write(self.transport, b"%x\r\n" % len(data))
                write(self.transport, data)
                write(self.transport, b"\r\n")
            else:
                write(self.transport, data)
        return True

    def finish(self) -> None:
        """The body is whole."""
        self._pushing = False
        if self._chunked:
            self.pool.sweeper.outbox.write(self.transport, b"0\r\n\r\n")
        self._sent_at = time.monotonic()
        self.wait_at_most(self._push_seconds)

    def wait_at_most(self, timeout: float | None) -> None:
        """From now on, `timeout` seconds until the connection fails with TIMEOUT."""
        self.deadline = NEVER if timeout is None else time.monotonic() + timeout

    def header(self, name: bytes) -> bytes:
        """The answer's first header of this (lower-case) name; empty without one."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    @property
    def is_huge(self) -> bool:
        """Is the body announced to be longer than one that is read whole?"""
        length = self.header(b"content-length")
        return length.isdigit() and int(length[:20]) > MAX_BODY_BYTES

    async def head(self) -> None:
        """Until `status` and `headers` are there. Raises UpstreamError, or StaleConnection."""
        while not self.answered:
            self.raise_if_broken()
            await self.wait()

    async def read(self) -> bytes:
        """Whatever has arrived of the body; empty at its end. Raises UpstreamError."""
        while not self._chunks:
            if self.complete:
                self._release()
                return b""
            self.raise_if_broken()
            await self.wait()
        return self._taken()

    async def hand_on(self, take: Callable[[bytes], bool]) -> bool:
        """Give whatever arrives of the body to `take`, in the call that brings it. True at the body's end, False
        as soon as `take` has said that it wants no more for now. Raises UpstreamError.
        """
        try:
            while True:
                if self._chunks and not take(self._taken()):
                    return False
                if self.complete:
                    self._release()
                    return True
                self.raise_if_broken()
                self._take = take
                await self.wait()
                if self._take is None:
                    return False
        finally:
            self._take = None

    def _taken(self) -> bytes:
        only = self._chunks[0] if len(self._chunks) == 1 else None
        data = only if isinstance(only, bytes) else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    def whole(self) -> bytes | None:
        """The whole body if it is here, as it mostly is by the time its head is looked at; else None."""
        if not self.complete:
            return None
        only = self._chunks[0] if len(self._chunks) == 1 else None
        body = only if isinstance(only, bytes) else b"".join(self._chunks)
        self._release()
        return body

    async def read_all(self, keep: Callable[[int], None] | None = None) -> bytes:
        """The whole body. Raises UpstreamError. `keep` is told how much of it is here; what it raises ends this."""
        self._collecting = True
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        while not self.complete:
            self.raise_if_broken()
            if keep is not None:
                keep(self._size)
            await self.wait()
        self._collecting = False
        body = self.whole()
        assert body is not None
        return body

    def abort(self) -> None:
        """End the connection at once; the upstream sees its client leave."""
        self.deadline = NEVER
        self._waiter = None
        self.complete = True
        self.transport.abort()

    def fail(self, error: UpstreamError) -> None:
        """End the connection as if `error` had happened to it."""
        if self.error is None and not self.complete:
            self.error = error
            self.deadline = NEVER
            self.transport.abort()
            self._wake()

    def tell_heard(self) -> None:
        self.heard_lately = False
        self.pool.received()

    def expire(self) -> None:
        self.fail(UpstreamError(TIMEOUT, "timed out"))

    def _release(self) -> None:
        self.deadline = NEVER
        self._waiter = None
        self._chunks.clear()
        self._size = 0
        if not self.used:  # as they say it the first time
            self.used = True
            if kept_for := self.header(b"keep-alive"):
                self._idle_seconds = _kept_for(kept_for)
        until = time.monotonic() + self._idle_seconds
        self.usable_until = until if until < self.retires_at else self.retires_at
        fit = self._keep_alive and not self._pushing and self.error is None
        if fit and not self.pool.closed and not self.transport.is_closing():
            self.pool.keep(self)
        else:
            self.transport.abort()

    def raise_if_broken(self) -> None:
        """UpstreamError, or StaleConnection."""
        if self.error is None:
            return
        if isinstance(self.error, UpstreamError):
            # A new one each time: one that is kept would keep the frames that it passed, and these the connection.
            raise UpstreamError(self.error.kind, str(self.error), bound=self.error.bound)
        if self.used and not self._heard and time.monotonic() - self._sent_at < STALE_SECONDS:
            raise StaleConnection
        raise UpstreamError(BROKEN, "the connection broke off") from self.error

    def wait(self) -> "drive.Drive | asyncio.Future[None]":
        """To be awaited until something arrives, or fails: then look again."""
        self._waiter = waiter = drive.waiter()
        return waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class, of the same shape

    def data_received(self, data: bytes) -> None:
        if self.complete or self.parser is None:  # bytes that nobody asked for
            self._keep_alive = False
            self.transport.abort()
            return
        if self._aligned and self._take is not None and (piece := _whole_chunk(data)) is not None:
            self.heard_lately = True
            if not self._gives(self._take, piece):
                self._wake()
            return
        first = not self._heard
        self._heard = self.heard_lately = True
        known = self.pool.known
        if first and known is not None and self._knows(data, *known):
            self._wake()
            return
        self._parse(data)
        if first and self.complete and self._sent_at - self.pool.learned_at > LEARN_SECONDS:
            self._learn(data)
        if self._take is not None and self._chunks and self._gives(self._take, self._taken()):
            return
        if self._size > BUFFER_BYTES and not (self._paused or self._collecting or self.complete or self.error):
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def _parse(self, data: bytes) -> None:
        assert self.parser is not None
        size = len(data)
        self._uncounted += size
        if size > FULL_BYTES:
            self._breathe()
        before = len(self._chunks) if size > SMALL_READ_BYTES else 0
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"not a proper HTTP answer: {error}")
        if size > SMALL_READ_BYTES and len(self._chunks) > before + MOST_PIECES:  # a server that sends byte by byte
            self._chunks[before:] = [b"".join(self._chunks[before:])]
        if self._uncounted > MAX_HEAD_BYTES:
            self._break("a head or trailer without end", UPSTREAM_HEAD)
        if data[-2:] != b"\r\n":  # these may be of the next chunk's first line
            self._aligned = False

    def _breathe(self) -> None:
        """Read on in the next turn of the loop: libuv would go on reading as long as there is more."""
        if not self._paused:
            self.transport.pause_reading()
            self.pool.sweeper.rest(self)

    def read_on(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _gives(self, take: Callable[[bytes], bool], data: bytes) -> bool:
        """To whoever waits for the body as it comes. False: they have to be woken, for good or until they can go on."""
        if take(data):
            return not self.complete and self.error is None
        self._take = None
        return False

    def _learn(self, data: bytes) -> None:
        """Of an answer that came whole in these bytes: what the next may have in common with it."""
        if self.error is not None or not self._keep_alive or not self._size:
            return
        template = Template.of(data, self._size)
        # Nothing stands before this head (as 100 Continue would) or behind its body, and HEAD was not what was asked.
        if template is not None and (found := template.match(data)) and sum(found) == len(data):
            headers = [header for header in self.headers if header[0] != b"content-length"]
            self.pool.known = template, AnswerHead(self.status, headers)
            self.pool.learned_at = self._sent_at

    def _knows(self, data: bytes, template: Template, head: AnswerHead) -> bool:
        """Is this a whole answer with the known head? Then it is here, and the parser need not see it."""
        found = template.match(data)
        if found is None:
            return False
        at, length = found
        if not length or at + length != len(data):
            return False
        self.answer = head
        self.status, self.headers = head.status, head.headers
        self._chunks.append(data[at:])
        self.answered = self.complete = True
        return True

    def _break(self, why: str, bound: Bound | None = None) -> None:
        if self.error is None:
            self.error = UpstreamError(BROKEN, why, bound=bound)
        self.transport.abort()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._pushing:
            self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.parser = None  # breaks the cycle of parser and connection
        self._keep_alive = False
        self.pool.sweeper.connections.discard(self)
        if self.heard_lately:
            self.tell_heard()
        if not self.complete:
            if self.answered and exc is None and self.error is None and self._ends_with_its_connection():
                self.complete = True
            elif self.error is None:
                self.error = exc or ConnectionResetError()
        elif self in self.pool.idle:
            self.pool.idle.remove(self)
        self._wake()

    def _ends_with_its_connection(self) -> bool:
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    # httptools

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("an answer that nobody asked for")
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.answered:  # else a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        if len(self.headers) > MAX_HEADER_LINES:
            self._break(f"its head has more than {MAX_HEADER_LINES} lines", UPSTREAM_HEAD)
            return
        status = self.parser.get_status_code()
        if status < 200:
            self._informational = True
            return
        self.status = status
        self.answer = AnswerHead(status, self.headers)
        self.answered = True
        self._uncounted = 0

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)
        self._uncounted = 0
        if self._collecting and self._size > GROWING_BYTES:
            self._collect()

    def _collect(self) -> None:
        """What is here of a big body becomes one buffer that grows: pieces of many would leave holes in the heap."""
        if self._size > MAX_BODY_BYTES:
            self._break(f"the answer has more than {MAX_BODY_BYTES >> 20} MiB", UPSTREAM_RESPONSE)
        whole = self._chunks[0]
        if not isinstance(whole, bytearray):
            self._chunks[0] = whole = bytearray(whole)
        for piece in self._chunks[1:]:
            whole += piece
        del self._chunks[1:]

    def on_chunk_header(self) -> None:
        self._aligned = False

    def on_chunk_complete(self) -> None:
        self._aligned = True

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        assert self.parser is not None
        self._keep_alive = self.parser.should_keep_alive()
        self.complete = True


@lru_cache(maxsize=4096)
def _chunk_bytes(line: bytes) -> int:
    """The size that a chunk begins with; 0 for what only the parser understands, and for the last chunk."""
    return int(line, 16) if _HEX(line) else 0


def _whole_chunk(data: bytes) -> bytes | None:
    """What a chunk brings, if these bytes are one chunk, no more and no less. Most servers send one event in one."""
    at = data.find(b"\r\n", 0, MAX_SIZE_DIGITS + 2)
    if at < 1 or data[-2:] != b"\r\n":
        return None
    size = _chunk_bytes(data[:at])
    return data[at + 2 : -2] if size and at + 4 + size == len(data) else None


def _kept_for(keep_alive: bytes) -> float:
    """Seconds an upstream keeps an idle connection, less one for the way: `timeout=5, max=100`."""
    for part in keep_alive.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name.lower() == b"timeout" and value.isdigit():
            return min(IDLE_SECONDS, max(0.0, int(value) - 1.0))
    return IDLE_SECONDS
