"""Every path that is not /v1 goes to the control process, over its Unix socket.

Who the client is travels in two headers of ours; a client's own headers of these names are dropped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway import drive
from gateway.bounds import FORWARDED_REQUESTS, Hits
from gateway.drive import Drive
from gateway.exchange import JSON, Exchange, HeaderList, end_to_end
from gateway.outbox import Body
from gateway.peer import client_of
from gateway.upstream import BROKEN, Connection, Pool, StaleConnection, Sweeper, UpstreamError

log = logging.getLogger(__name__)

CLIENT_IP, CLIENT_SCHEME = b"x-routerdash-client", b"x-routerdash-scheme"
ANSWER_SECONDS = 60.0  # pages wait for control's return; a restart takes a second or two
HEALTH_SECONDS = 2.0
FORWARDED_AT_ONCE = 64  # requests of one client, besides its streams of events
SMALL_BYTES = 64 << 10  # of a response that is awaited whole, so that one that breaks off is not begun
_SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class _Seat:
    """One request's part of what its client may have at control at a time. Must be left; may be left again."""

    def __init__(self, line: "_Line") -> None:
        self._line = line
        self.taken = False
        self.waiter: drive.Drive | asyncio.Future[None] | None = None

    def take(self) -> None:
        """Go on, unless the request has ended meanwhile."""
        if self.taken and self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def leave(self) -> None:
        if self.taken:
            self.taken = False
            self._line.next()


class _Line:
    """The requests of one client."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.free = FORWARDED_AT_ONCE
        self._waiting: deque[_Seat] = deque()
        self.users = 0

    async def seat(self) -> _Seat:
        """A seat, as soon as there is one."""
        seat = _Seat(self)
        if self.free:
            self.free -= 1
            seat.taken = True
            return seat
        self._waiting.append(seat)
        try:
            seat.waiter = drive.waiter()
            await seat.waiter
        except BaseException:
            seat.leave()
            if seat in self._waiting:
                self._waiting.remove(seat)
            raise
        return seat

    def next(self) -> None:
        """A seat has become free."""
        if self._waiting:
            seat = self._waiting.popleft()
            seat.taken = True
            self._loop.call_soon(seat.take)
        else:
            self.free += 1


class Forwarder:
    """Relays exchanges to control, of one client so many at a time: the others of it wait."""

    def __init__(self, socket: Path, sweeper: Sweeper, ready: Callable[[], bool], hits: Hits | None = None) -> None:
        self._pool = Pool("http://control", sweeper, unix_path=str(socket))
        self._ready = ready
        self._events: set[Drive] = set()  # streams of events that are open
        self._stopping = False
        self._lines: dict[str, _Line] = {}  # by client
        self._loop = sweeper.outbox.loop
        self._hits = hits or Hits()

    async def forward(self, exchange: Exchange) -> None:
        if exchange.path in (b"/health", b"/ready"):
            await self._forward(exchange, None)
            return
        client = client_of(exchange.peer.ip or "")
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(self._loop)
        line.users += 1
        if not line.free:
            self._hits.hit(FORWARDED_REQUESTS)
        try:
            seat = await line.seat()
            try:
                await self._forward(exchange, seat)
            finally:
                seat.leave()
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[client]

    async def _forward(self, exchange: Exchange, seat: _Seat | None) -> None:
        head, body = _request(exchange)
        probe = exchange.path in (b"/health", b"/ready")
        connection: Connection | None = None
        try:
            again = exchange.method in _SAFE_METHODS
            connection = await self._send(head, body, HEALTH_SECONDS if probe else ANSWER_SECONDS, again=again)
            connection.wait_at_most(None)
            await self._relay(exchange, connection, seat)
        except UpstreamError as error:
            log.warning("the control process does not answer: %s", error)
            if exchange.started:
                exchange.abort()
            else:
                self.answer_alone(exchange)
        except asyncio.CancelledError:
            if connection is not None:
                connection.abort()
            raise

    async def ask(self, exchange: Exchange) -> tuple[int, HeaderList, bytes]:
        """What control says to a request's head, without its body. Raises UpstreamError."""
        connection = await self._send(_head(exchange, 0), b"", ANSWER_SECONDS, again=False)
        try:
            return connection.status, end_to_end(connection.headers), await connection.read_all()
        except BaseException:
            connection.abort()
            raise

    def end_events(self) -> None:
        """Events never end by themselves: at a stop they are ended first, and no others begin."""
        self._stopping = True
        for running in self._events:
            running.cancel()

    async def _send(self, head: bytes, body: Body, timeout: float, *, again: bool) -> Connection:
        """`again`: may the request be sent twice? What changes something may have been done before control died."""
        fresh = False
        while True:
            connection = await self._pool.acquire(fresh=fresh)
            connection.send(head, (body,), timeout)
            try:
                await connection.head()
                return connection
            except StaleConnection:
                connection.abort()
                if not again:
                    raise UpstreamError(BROKEN, "the connection broke off") from None
                fresh = True
            except BaseException:
                connection.abort()
                raise

    async def _relay(self, exchange: Exchange, connection: Connection, seat: _Seat | None) -> None:
        headers = end_to_end(connection.headers)
        length = next((value for name, value in headers if name == b"content-length"), None)
        headers = [header for header in headers if header[0] != b"date"]
        if exchange.method == b"HEAD":
            connection.abort()
            exchange.start(connection.status, headers)  # with the length that GET's answer would have
            return
        small = length is not None and length.isdigit() and int(length) <= SMALL_BYTES
        if small or connection.complete or connection.status in (204, 304):
            headers = [header for header in headers if header[0] != b"content-length"]
            exchange.reply(connection.status, headers, await connection.read_all())
            return
        running = exchange.task
        assert running is not None
        if connection.answer.is_stream:
            if self._stopping:
                raise asyncio.CancelledError
            self._events.add(running)
            if seat is not None:
                seat.leave()  # it lasts, and costs little
        try:
            exchange.start(connection.status, headers, sized=length is not None)
            while data := await connection.read():
                exchange.write(data)
                await exchange.drain()
            exchange.end()
        finally:
            self._events.discard(running)

    def answer_alone(self, exchange: Exchange) -> None:
        """The gateway's own word while control is away."""
        reason = "the control process does not answer; requests to /v1 are served and counted"
        if exchange.path == b"/health":
            exchange.reply(200, (JSON,), msgspec.json.encode({"status": "degraded", "reasons": [reason]}))
        elif exchange.path == b"/ready":
            ready = self._ready()
            exchange.reply(200 if ready else 503, (JSON,), msgspec.json.encode({"ready": ready, "reasons": [reason]}))
        else:
            body = msgspec.json.encode({"error": "RouterDash's control process is not answering; try again shortly."})
            exchange.reply(503, (JSON, (b"retry-after", b"2")), body)


def _request(exchange: Exchange) -> tuple[bytes, Body]:
    body = exchange.take_body()
    return _head(exchange, len(body)), body


def _head(exchange: Exchange, length: int) -> bytes:
    lines = [b"%b %b HTTP/1.1\r\n" % (exchange.method, exchange.target)]
    lines.append(b"host: %b\r\n" % exchange.fields.get(b"host", b"localhost"))  # HTTP/1.0 needs none, control does
    for name, value in end_to_end(exchange.head.headers):
        if name not in (CLIENT_IP, CLIENT_SCHEME, b"expect", b"host"):
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"%b: %b\r\n" % (CLIENT_IP, (exchange.peer.ip or "").encode()))
    lines.append(b"%b: %b\r\n" % (CLIENT_SCHEME, exchange.peer.scheme.encode()))
    lines.append(b"content-length: %d\r\n\r\n" % length)
    return b"".join(lines)
