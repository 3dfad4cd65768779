"""The door: uvicorn's HTTP protocol, answering by itself instead of calling an ASGI application.

uvicorn keeps the parser, flow control, keep-alive and shutdown. Here a request becomes an Exchange; one at a time is
answered on a connection, pipelined ones wait.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.drive import Drive
from gateway.errors import REQUEST_TOO_LARGE, TOO_MANY_REQUESTS, Refusal
from gateway.exchange import BUFFER_BYTES, Exchange, Head
from gateway.grammar import Malformed, check_headers, check_line
from gateway.handler import MAX_FORWARDED_BODY, Gateway
from gateway.peer import Crowd, Peers
from gateway.template import Template

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
MAX_STREAMED_BYTES = 256 << 20  # of a body that is passed on as it comes
MAX_HEAD_BYTES = 64 << 10
MAX_HEADER_LINES = 100
MAX_PIPELINED = 16
SMALL_BODY_BYTES = 64 << 10
LINGER_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75  # between two requests on a connection
RECEIVE_SECONDS = 60.0  # without a byte, in the middle of a request; also for the whole of a head
SLOWEST = 1024  # bytes of a body a second, on average, for which it is waited longer
SEND_SECONDS = 120.0  # in which a client takes nothing of what was written for it
TURNED_AWAY_SECONDS = 1.0  # for a client to read that it has too many connections
KNOWN_BODY_BYTES = 1 << 20  # larger ones go through the parser
MOST_PIECES = 32
STOPPING_SECONDS = 1.0  # the same, while the process waits for it to stop


@dataclass(frozen=True, slots=True)
class Known:
    """A request that the parser has read, for the next of its connection."""

    template: Template
    method: bytes
    target: bytes
    head: Head


class GatewayProtocol(HttpToolsProtocol):
    """One client's connection."""

    # Set on the subclass that `bound_to` makes.
    gateway: Gateway
    crowd: Crowd

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: Exchange | None = None
        self.latest: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.in_head = False
        self.head: Head | None = None
        self.known: Known | None = None
        self.missing = 0  # bytes of a known request's body that are still to come
        self.pieces: list[bytes | bytearray] = []  # of it
        self.length: int | None = None
        self.progress = 0  # heads, pieces of body and ends that the parser has told of
        self.stalled_bytes = 0  # received since: of a head, or of trailers
        self.quiet_since = time.monotonic()
        self.begun = self.quiet_since  # the request that is being received; later, as long as it was not read
        self.paused_at = 0.0  # reading, for a body that its reader does not take fast enough
        self.unsent = 0  # bytes that wait for the client to take them
        self.stuck_since = self.quiet_since
        self.entered = False  # is counted among its client's connections
        self.request_line: tuple[bytes, bytes, str] = (b"", b"", "")  # the last one that was found proper
        self.replaying = False
        self.closed = False  # nothing that still comes is a request
        self.lingering: asyncio.TimerHandle | None = None

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self.closed:
            raise Malformed("a request behind one that ended the connection")
        if not self.replaying:
            self.in_head = True
            self.begun = self.quiet_since
            self.url = b""
            self.headers = []
            self.length = None

    def on_url(self, url: bytes) -> None:
        if self.in_head:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 14 and self.in_head and name.lower() == b"content-length":
            if self.length is not None:
                raise Malformed("two lengths")
            self.length = int(value)  # digits, as the parser has seen to
        else:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.replaying:
            return
        self.in_head = False
        self.progress += 1
        parser, head, headers = self.parser, self.head, self.headers
        self.headers = []  # for trailers, which nobody has asked for
        request_line = parser.get_method(), self.url, parser.get_http_version()
        if request_line != self.request_line:
            check_line(*request_line)
            self.request_line = request_line
        if head is None or head.raw != headers:
            self.head = head = Head(headers)
            check_headers(head.headers)
        method, url, version = request_line
        if head.chunked and (self.length is not None or version == "1.0"):
            raise Malformed("a length that is told twice, or to nobody")
        exchange = Exchange(self, method, url, head, self.length, version)
        exchange.keep_alive = parser.should_keep_alive()
        exchange.arrived = time.monotonic()
        exchange.refusal = self._refusal(exchange)
        self.latest = exchange
        if self.running is None:
            self.running = exchange
            self._greet(exchange)
        else:
            self.waiting.append(exchange)
            if len(self.waiting) >= MAX_PIPELINED:
                self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        self.progress += 1
        exchange = self.latest
        if exchange is None or exchange.complete:
            return
        exchange.add_body(body)
        if exchange.body_bytes > SMALL_BODY_BYTES:
            self._bound(exchange)
        if exchange.streams:
            exchange.wake_reader()

    def _bound(self, exchange: Exchange) -> None:
        """What comes must not fill the memory."""
        if exchange is not self.running:
            self.flow.pause_reading()  # until its turn
        limit = _limit(exchange)
        if exchange.body_bytes > limit and exchange.refusal is None:
            exchange.refusal = _too_large(limit)
            exchange.take_body()
            if exchange is self.running and not exchange.streams:
                self._refuse_early(exchange)
        elif exchange.streams and exchange.unread > BUFFER_BYTES and not self.flow.read_paused:
            self.paused_at = time.monotonic()
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self.progress += 1
        exchange = self.latest
        if exchange is None:
            return
        if self.parser.should_upgrade():  # the offer is not taken; what follows is nothing that we could read
            exchange.keep_alive = False
            if _framing(exchange):
                return  # the body comes when the parser has been told to read on
        exchange.received = True
        if self.lingering is not None:
            self.close()
        elif exchange.task is not None:
            exchange.wake_reader()
        elif exchange is self.running and not exchange.complete:
            self._begin(exchange)

    # Exchanges

    def write(self, data: bytes) -> None:
        """At the end of this turn of the loop, behind the records of all that has ended in it."""
        self.gateway.outbox.write(self.transport, data)

    def close(self) -> None:
        """Behind all that was written."""
        self.closed = True
        self.missing = 0
        self.gateway.outbox.flush()
        self.transport.close()

    def _refusal(self, exchange: Exchange) -> Refusal | None:
        if len(self.waiting) >= MAX_PIPELINED:
            exchange.keep_alive = False
            return Refusal(429, TOO_MANY_REQUESTS, "Too many requests wait on this connection.")
        if self.stalled_bytes > MAX_HEAD_BYTES and _size(exchange) > MAX_HEAD_BYTES:
            exchange.keep_alive = False
            return Refusal(431, REQUEST_TOO_LARGE, f"The request's head has more than {MAX_HEAD_BYTES >> 10} KiB.")
        if exchange.head.lines > MAX_HEADER_LINES:
            exchange.keep_alive = False
            return Refusal(431, REQUEST_TOO_LARGE, f"The request's head has more than {MAX_HEADER_LINES} lines.")
        refusal = self.gateway.admit(exchange, self.client[0] if self.client else None)
        fields = exchange.fields
        if b"expect" in fields:
            exchange.expects_continue = fields[b"expect"].lower() == b"100-continue"
        if refusal is None:
            exchange.streams = exchange.route is not None and exchange.route.streams
            if exchange.length is not None and exchange.length > SMALL_BODY_BYTES:
                limit = _limit(exchange)
                return _too_large(limit) if exchange.length > limit else None
        return refusal

    def _greet(self, exchange: Exchange) -> None:
        """With only its head here, a request is refused early, or told to go on, or simply awaited."""
        if exchange.refusal is not None:
            big = b"transfer-encoding" in exchange.fields or (exchange.length or 0) > SMALL_BODY_BYTES
            if exchange.expects_continue or big:
                self._refuse_early(exchange)
        elif exchange.streams:
            self._begin(exchange)
        elif exchange.expects_continue:
            self.encourage(exchange)

    def encourage(self, exchange: Exchange) -> None:
        """Tell a client that waits with its body for our word to go on."""
        if exchange.version != "1.0" and not exchange.body_bytes and not exchange.received:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def go_on_reading(self) -> None:
        """Of a streamed body: what was here is taken."""
        if self.paused_at and not self.waiting:
            self.quiet_since = now = time.monotonic()
            self.begun += now - self.paused_at  # it was not the client who was slow
            self.paused_at = 0.0
            self.flow.resume_reading()

    def _refuse_early(self, exchange: Exchange) -> None:
        """Answer now, then let the rest of the body run out: closing at once would reset the answer on its way."""
        assert exchange.refusal is not None
        exchange.keep_alive = False
        self.gateway.refuse(exchange, exchange.refusal)
        exchange.complete = True
        self._linger(LINGER_SECONDS)

    def _linger(self, seconds: float) -> None:
        """Read on, and forget what comes, until the body is over or this time is."""
        self.paused_at = 0.0
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.lingering = self.loop.call_later(seconds, self.close)

    def _begin(self, exchange: Exchange) -> None:
        gateway = self.gateway
        if exchange.refusal is not None:
            gateway.failed(exchange, exchange.refusal)  # raised, it would hold the exchange that holds it
            self._complete(exchange)
            return
        try:
            answering = gateway.answer(exchange)
        except Exception as error:  # noqa: BLE001  # `failed` tells it
            gateway.failed(exchange, error)
            self._complete(exchange)
            return
        self._drive(exchange, answering)

    def _drive(self, exchange: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        exchange.task = drive = Drive(coroutine, self.loop, self._done)
        self.tasks.add(drive)  # type: ignore[arg-type]  # as much of a Task as uvicorn needs
        drive.start()

    def _done(self, drive: Drive) -> None:
        self.tasks.discard(drive)
        exchange, error = self.running, drive.exception
        assert exchange is not None
        if error is not None:
            if isinstance(error, Exception):
                self.gateway.failed(exchange, error)
            self._complete(exchange, whole=isinstance(error, Exception))  # else it was cancelled
        elif self.flow.write_paused and not self.transport.is_closing():
            # Before the next request of this connection: its client does not read.
            self._drive(exchange, exchange.drain())
        else:
            self._complete(exchange)

    def _complete(self, exchange: Exchange, *, whole: bool = True) -> None:
        self.running = None
        exchange.complete = True
        # Without these two lines each request would be a reference cycle that only the collector can free.
        exchange.task = None
        exchange.protocol = None
        if self.latest is exchange and exchange.received:
            self.latest = None
        if self.transport.is_closing():
            self.closed = True
        elif not whole or not exchange.started:
            self.closed = True
            self.transport.abort()
        elif not exchange.received:  # answered before its body was here
            exchange.take_body()
            self._linger(LINGER_SECONDS)
        elif not exchange.keep_alive:
            self.close()
        else:
            self._next()

    def _next(self) -> None:
        """What uvicorn does when a response is complete, for exchanges."""
        self.server_state.total_requests += 1
        self.quiet_since = self.begun = time.monotonic()
        self.paused_at = 0.0
        if self.waiting:
            self.running = exchange = self.waiting.popleft()
            if not self.waiting:
                self.flow.resume_reading()
            if exchange.received:
                self._begin(exchange)
            else:
                self._greet(exchange)
        elif self.flow.read_paused:
            self.flow.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.entered = self.crowd.enter(self.client[0] if self.client else None)
        if not self.entered:
            self._say(b"503 Service Unavailable", b"Too many connections come from this address.\n")
            self._linger(TURNED_AWAY_SECONDS)

    def data_received(self, data: bytes) -> None:
        if not self.entered:
            return
        self.quiet_since = time.monotonic()
        # Between two requests; in the middle of one, its body may look like anything.
        if self.missing:
            self._collect(data)
        elif self.latest is not None or self.in_head or not self._knows(data):
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        before = self.progress
        between = self.latest is None and not self.in_head and not self.stalled_bytes
        self.stalled_bytes += len(data)
        offered = -1  # where an offer to upgrade ends
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            offered = error.args[0]
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, Malformed):
                log.error("a fault of ours in reading a request", exc_info=error.__context__)
            self._malformed()
        except (httptools.HttpParserError, ValueError):
            self._malformed()
        if offered >= 0 and self.latest is not None and not self.latest.received:
            self._read_on(self.latest, data[offered:])
        if self.progress > before:
            self.stalled_bytes = 0
            if between and self.latest is not None and self.progress == before + 2 + self.latest.received:
                self._learn(data, self.latest)  # a head, a body or a part of one, and the end if it is whole
        elif self.stalled_bytes > 2 * MAX_HEAD_BYTES:
            self._malformed()  # a head or a trailer without end

    def _learn(self, data: bytes, exchange: Exchange) -> None:
        """Of a request that `data` begins with: what the next may have in common with it."""
        if exchange.length is None or not exchange.keep_alive or exchange.version != "1.1":
            return
        if exchange.streams or exchange.expects_continue:
            return
        template = Template.of(data, exchange.length)
        if template is not None:
            self.known = Known(template, exchange.method, exchange.target, exchange.head)

    def _knows(self, data: bytes) -> bool:
        """Is this the known request with another body, or with the first part of one? Then it has begun."""
        known = self.known
        if known is None or self.closed:
            return False
        found = known.template.match(data)
        if found is None:
            return False
        at, length = found
        body = data[at:]
        missing = length - len(body)
        if missing < 0 or length > KNOWN_BODY_BYTES:
            return False
        exchange = Exchange(self, known.method, known.target, known.head, length, "1.1")
        exchange.arrived = self.begun = self.quiet_since
        exchange.refusal = self.gateway.admit(exchange, self.client[0] if self.client else None)
        if missing and exchange.refusal is not None:
            return False  # it is told before the rest comes
        self.stalled_bytes = 0
        self.running = self.latest = exchange
        if missing:
            exchange.body_bytes = len(body)
            self.pieces, self.missing = [body], missing
        else:
            exchange.receive(body)
            self._begin(exchange)
        return True

    def _collect(self, data: bytes) -> None:
        """More of a known request's body, which goes past the parser: so it is copied once."""
        exchange = self.latest
        assert exchange is not None
        rest = data[self.missing :]
        piece = data[: self.missing] if rest else data
        if len(self.pieces) <= MOST_PIECES:
            self.pieces.append(piece)
        else:  # a client that sends byte by byte must not have each of them kept as an object
            last = self.pieces[-1]
            self.pieces[-1] = last = last if isinstance(last, bytearray) else bytearray(last)
            last += piece
        self.missing -= len(piece)
        exchange.body_bytes += len(piece)
        if not self.missing:
            body, self.pieces = b"".join(self.pieces), []
            exchange.receive(body)
            self._begin(exchange)
            if rest:
                self._parse(rest)

    def _read_on(self, exchange: Exchange, rest: bytes) -> None:
        """An offer to upgrade is not taken: what follows is the body, which the parser leaves unread."""
        exchange.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)
        self.replaying = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % _framing(exchange))
        self.replaying = False
        if rest:
            self.data_received(rest)

    def _malformed(self) -> None:
        running = self.running
        unanswered = running is None or not (running.started or (running.task and running.received))
        if unanswered and not self.transport.is_closing():
            self._say(b"400 Bad Request", b"This is not a valid HTTP request.\n")
        self.close()

    def _say(self, status: bytes, text: bytes) -> None:
        """To a client whose request is none that could be answered in another way."""
        self.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, len(text), text)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.cycle = None  # type: ignore[assignment]  # uvicorn's own exchange: there is none
        super().connection_lost(exc)
        if self.entered:
            self.entered = False
            self.crowd.leave(self.client[0] if self.client else None)
        if self.lingering is not None:
            self.lingering.cancel()
            self.lingering = None
        self.waiting.clear()
        self.latest = None
        running = self.running
        if running is not None and running.task is not None:
            running.task.cancel()
        elif running is not None:
            running.protocol = None
            self.running = None

    def expire(self, now: float, *, stopping: bool) -> None:
        """Looked at twice a second: is it the client that everything waits for, and for too long?"""
        if self._is_stuck(now):
            self.transport.abort()
            return
        running = self.running
        receiving = self.in_head or (running is not None and not running.received)
        if running is not None and (running.received or (running.started and not running.streams)):
            return
        if self.paused_at:
            return  # it is the endpoint that does not take what the client sends
        if now - self.quiet_since > self._patience(receiving, stopping) or (receiving and self._crawls(now)):
            if not receiving:
                # When the process is busy, a request may be here that nobody has read: that happens before.
                self.loop.call_soon(self._leave, self.quiet_since)
                return
            if running is None or not running.started:
                self._say(b"408 Request Timeout", b"The rest of the request did not come in time.\n")
            self.close()

    def _leave(self, quiet_since: float) -> None:
        """Close if still nothing has come."""
        if self.quiet_since == quiet_since:
            self.close()

    def _patience(self, receiving: bool, stopping: bool) -> float:
        """Seconds without a byte."""
        if stopping:
            return STOPPING_SECONDS
        return RECEIVE_SECONDS if receiving else float(KEEP_ALIVE_SECONDS)

    def _crawls(self, now: float) -> bool:
        """Does a request come so slowly that it may never end?"""
        received = 0 if self.in_head or self.running is None else self.running.body_bytes
        return now - self.begun > RECEIVE_SECONDS + received / SLOWEST

    def _is_stuck(self, now: float) -> bool:
        """Has the client, for too long, taken nothing of what was written for it? Closing would wait for it, too."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self.unsent:
            self.unsent, self.stuck_since = unsent, now
        return now - self.stuck_since > SEND_SECONDS

    def shutdown(self) -> None:
        """The process is to stop. The next answer tells it; a client that asks nothing more is left by `expire`.

        Not at once: a request may be on its way, and what arrives at a closed connection is answered by a reset.
        """
        self.quiet_since = time.monotonic()


def _limit(exchange: Exchange) -> int:
    """Most bytes of its body."""
    if exchange.streams:
        return MAX_STREAMED_BYTES
    return MAX_BODY_BYTES if exchange.path.startswith(b"/v1/") else MAX_FORWARDED_BODY


def _too_large(limit: int) -> Refusal:
    return Refusal(413, REQUEST_TOO_LARGE, f"The body has more than {limit >> 20} MiB.")


def _size(exchange: Exchange) -> int:
    """Bytes of a head."""
    return len(exchange.target) + sum(len(name) + len(value) for name, value in exchange.head.headers)


def _framing(exchange: Exchange) -> bytes:
    """The header that says how long the body is; empty without a body."""
    if b"transfer-encoding" in exchange.fields:
        return b"transfer-encoding: chunked"
    return b"content-length: %d" % exchange.length if exchange.length else b""


def bound_to(gateway: Gateway) -> type[GatewayProtocol]:
    """The protocol class that uvicorn makes an instance of for each connection to this gateway."""
    config = gateway.config
    crowd = Crowd(config.max_connections_per_client, Peers(config.trusted_proxies))
    return type("BoundProtocol", (GatewayProtocol,), {"gateway": gateway, "crowd": crowd})
