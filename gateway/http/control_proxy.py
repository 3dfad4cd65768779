"""Proxy to the control process, which handles every path outside of /v1, over its Unix socket.

Two headers of RouterDash's own contain the client's address and scheme; a client's headers of these names are dropped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.base.addresses import client_of
from gateway.base.bounds import FORWARDED_REQUESTS, HEADER_LINE
from gateway.fast import coroutine_runner
from gateway.fast.coroutine_runner import CoroutineRunner
from gateway.health_paths import LIVENESS, READINESS
from gateway.http.clients import Headers
from gateway.http.exchange import JSON, Exchange, HeaderList
from gateway.http.ollama.paths import without_key
from gateway.ipc.bound_hits import Hits
from gateway.upstream.connection import COMPLETE, Connection
from gateway.upstream.errors import UpstreamError
from gateway.upstream.pool import Pool, Sweeper

log = logging.getLogger(__name__)

CLIENT_IP, CLIENT_SCHEME = b"x-routerdash-client", b"x-routerdash-scheme"
RESPONSE_SECONDS = 60.0  # pages wait while control restarts, which takes a second or two
HEALTH_SECONDS = 2.0
MAX_FORWARDED_BODY = 8 << 20  # bytes
MAX_REFERER_BYTES = 2 << 10  # of a longer one, pages do without
FORWARDED_AT_ONCE = 64  # requests of one client, besides its streams of events (SSE)
SMALL_BYTES = 64 << 10  # a smaller response is read whole first: if it is incomplete, an error can be sent
_SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_LIVENESS = frozenset(path.encode() for path in LIVENESS)
_READINESS = frozenset(path.encode() for path in READINESS)
_HEALTH_PATHS = _LIVENESS | _READINESS


class _Turn:
    """One slot of a client for a request at control. `release` may be called again."""

    def __init__(self, client: "_Client") -> None:
        self._client = client
        self.taken = False
        self.waiter: CoroutineRunner | asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Continue the request, unless it has ended meanwhile."""
        if self.taken and self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def release(self) -> None:
        if self.taken:
            self.taken = False
            self._client.released()


class _Client:
    """The requests of one client: at most FORWARDED_AT_ONCE are at control, the others wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.free = FORWARDED_AT_ONCE
        self._waiting: deque[_Turn] = deque()
        self.requests = 0

    async def turn(self) -> _Turn:
        """Wait for a free slot, and take it."""
        turn = _Turn(self)
        if self.free:
            self.free -= 1
            turn.taken = True
            return turn
        self._waiting.append(turn)
        try:
            turn.waiter = coroutine_runner.waiter()
            await turn.waiter
        except BaseException:
            turn.release()
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise
        return turn

    def released(self) -> None:
        """Give a free slot to the request that has waited longest."""
        if self._waiting:
            turn = self._waiting.popleft()
            turn.taken = True
            self._loop.call_soon(turn.begin)
        else:
            self.free += 1


class ControlProxy:
    """Forwards requests to control, and relays its responses."""

    def __init__(self, socket: Path, sweeper: Sweeper, ready: Callable[[], bool], hits: Hits | None = None) -> None:
        """`ready()` returns True if the gateway can serve /v1 without control."""
        self._pool = Pool("http://control", sweeper, unix_path=str(socket))
        self._ready = ready
        self._streams: set[CoroutineRunner] = set()  # open streams of events (SSE)
        self._stopping = False
        self._clients: dict[str, _Client] = {}
        self._loop = sweeper.writes.loop
        self._hits = hits or Hits()

    async def forward(self, exchange: Exchange) -> None:
        """Forward a request as soon as its client has a free slot; a health check at once."""
        if exchange.line.path in _HEALTH_PATHS:
            await self._forward(exchange, None)
            return
        name = client_of(exchange.head.peer.ip or "")
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._loop)
        client.requests += 1
        if not client.free:
            self._hits.hit(FORWARDED_REQUESTS)
        try:
            turn = await client.turn()
            try:
                await self._forward(exchange, turn)
            finally:
                turn.release()
        finally:
            client.requests -= 1
            if not client.requests:
                del self._clients[name]

    async def _forward(self, exchange: Exchange, turn: _Turn | None) -> None:
        body = exchange.take_body()
        connection: Connection | None = None
        try:
            # Control may have executed an unsafe request before it failed: it is not sent again.
            safe = exchange.line.method in _SAFE_METHODS
            seconds = HEALTH_SECONDS if exchange.line.path in _HEALTH_PATHS else RESPONSE_SECONDS
            head = self._head(exchange, len(body))
            connection = await self._pool.request(head, (body,), seconds, repeatable=safe)
            connection.wait_at_most(None)
            await self._relay(exchange, connection, turn)
        except UpstreamError as error:
            if exchange.started:
                log.warning("the control process does not respond: %s; the client's connection is closed", error)
                exchange.abort()
            else:
                log.warning("the control process does not respond: %s; the gateway responds in its place", error)
                self.respond_degraded(exchange)
        except asyncio.CancelledError:
            if connection is not None:
                connection.abort()
            raise

    async def query(self, exchange: Exchange) -> tuple[int, HeaderList, bytes]:
        """Forward the header block of a request; return control's response. Raises UpstreamError."""
        connection = await self._pool.request(self._head(exchange, 0), (b"",), RESPONSE_SECONDS, repeatable=False)
        try:
            return connection.status, end_to_end(connection.headers), await connection.read_all()
        except BaseException:
            connection.abort()
            raise

    def stop_streams(self) -> None:
        """End the streams of events, which never end by themselves, and begin no other: the process drains."""
        self._stopping = True
        for task in self._streams:
            task.cancel()

    async def _relay(self, exchange: Exchange, connection: Connection, turn: _Turn | None) -> None:
        headers = end_to_end(connection.headers)
        length = next((value for name, value in headers if name == b"content-length"), None)
        headers = [header for header in headers if header[0] != b"date"]
        if exchange.line.method == b"HEAD":
            connection.abort()
            exchange.start(connection.status, headers)  # with the Content-Length of the response to GET
            return
        small = length is not None and length.isdigit() and int(length) <= SMALL_BYTES
        if small or connection.state is COMPLETE or connection.status in (204, 304):
            headers = [header for header in headers if header[0] != b"content-length"]
            exchange.reply(connection.status, headers, await connection.read_all())
            return
        task = exchange.task
        assert task is not None
        if connection.response.is_stream:
            if self._stopping:
                raise asyncio.CancelledError
            self._streams.add(task)
            if turn is not None:
                turn.release()  # a long-lived response costs control little
        try:
            exchange.start(connection.status, headers, sized=length is not None)
            while data := await connection.read():
                exchange.write(data)
                await exchange.drain()
            exchange.end()
        finally:
            self._streams.discard(task)

    def _head(self, exchange: Exchange, length: int) -> bytes:
        """Return the header block that control receives. `length` of the body in bytes."""
        lines = [b"%b %b HTTP/1.1\r\n" % (exchange.line.method, exchange.line.target)]
        # Control needs a Host, HTTP/1.0 does not.
        lines.append(b"host: %b\r\n" % exchange.head.fields.get(b"host", b"localhost"))
        for name, value in end_to_end(exchange.head.headers):
            if name == b"referer" and len(value) > MAX_REFERER_BYTES:
                self._hits.hit(HEADER_LINE)
            elif name not in (CLIENT_IP, CLIENT_SCHEME, b"expect", b"host"):
                lines.append(b"%b: %b\r\n" % (name, without_key(value) if name == b"referer" else value))
        lines.append(b"%b: %b\r\n" % (CLIENT_IP, (exchange.head.peer.ip or "").encode()))
        lines.append(b"%b: %b\r\n" % (CLIENT_SCHEME, exchange.head.peer.scheme.encode()))
        lines.append(b"content-length: %d\r\n\r\n" % length)
        return b"".join(lines)

    def respond_degraded(self, exchange: Exchange) -> None:
        """Respond in place of control while it is unavailable."""
        reason = "the control process does not respond; requests to /v1 are served and counted"
        if exchange.line.path in _LIVENESS:
            exchange.reply(200, (JSON,), msgspec.json.encode({"status": "degraded", "reasons": [reason]}))
        elif exchange.line.path in _READINESS:
            ready = self._ready()
            exchange.reply(200 if ready else 503, (JSON,), msgspec.json.encode({"ready": ready, "reasons": [reason]}))
        else:
            body = msgspec.json.encode({"error": "RouterDash's control process is not answering; try again shortly."})
            exchange.reply(503, (JSON, (b"retry-after", b"2")), body)


HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)


# A sender cannot remove these by naming them in Connection.
_ALWAYS_PASSED = frozenset((b"host", b"cookie", b"set-cookie", b"content-type", b"authorization", b"x-api-key"))


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not those of this hop (RFC 9110, section 7.6.1)."""
    headers = list(headers)
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    named -= _ALWAYS_PASSED
    return [header for header in headers if header[0] not in HOP_BY_HOP and header[0] not in named]
