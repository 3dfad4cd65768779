"""The door: uvicorn's HTTP protocol, answering by itself instead of calling an ASGI application.

uvicorn keeps the parser, flow control, keep-alive and shutdown. Here a request becomes an Exchange; one at a time is
answered on a connection, pipelined ones wait.
"""

import asyncio
import logging
import time
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.drive import Drive
from gateway.errors import REQUEST_TOO_LARGE, TOO_MANY_REQUESTS, Refusal
from gateway.exchange import Exchange, Head
from gateway.handler import MAX_FORWARDED_BODY, Gateway

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
MAX_HEAD_BYTES = 64 << 10
MAX_PIPELINED = 16
SMALL_BODY_BYTES = 64 << 10
LINGER_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75  # between two requests on a connection
RECEIVE_SECONDS = 60.0  # without a byte, in the middle of a request
STOPPING_SECONDS = 1.0  # the same, while the process waits for it to stop


class GatewayProtocol(HttpToolsProtocol):
    """One client's connection."""

    gateway: Gateway  # set on the subclass that `bound_to` makes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: Exchange | None = None
        self.latest: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.in_head = False
        self.head: Head | None = None
        self.length: int | None = None
        self.progress = 0  # heads, pieces of body and ends that the parser has told of
        self.stalled_bytes = 0  # received since: of a head, or of trailers
        self.quiet_since = time.monotonic()
        self.replaying = False
        self.lingering: asyncio.TimerHandle | None = None

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if not self.replaying:
            self.in_head = True
            self.url = b""
            self.headers = []
            self.length = None

    def on_url(self, url: bytes) -> None:
        if self.in_head:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # else it is a trailer: nobody has asked for any
            name = name.lower()
            if name == b"content-length":
                self.length = int(value)  # digits, as the parser has seen to
            else:
                self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.replaying:
            return
        self.in_head = False
        self.progress += 1
        parser, head = self.parser, self.head
        if head is None or head.headers != self.headers:
            self.head = head = Head(self.headers)
        exchange = Exchange(self, parser.get_method(), self.url, head, self.length, parser.get_http_version())
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
        if exchange.body_bytes <= SMALL_BODY_BYTES:
            return
        if exchange is not self.running:
            self.flow.pause_reading()  # until its turn: what waits must not fill the memory
        limit = MAX_BODY_BYTES if exchange.path.startswith(b"/v1/") else MAX_FORWARDED_BODY
        if exchange.body_bytes > limit and exchange.refusal is None:
            exchange.refusal = _too_large(limit)
            exchange.take_body()
            if exchange is self.running:
                self._refuse_early(exchange)

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
        elif exchange is self.running and not exchange.complete:
            self._begin(exchange)

    # Exchanges

    def write(self, data: bytes) -> None:
        """At the end of this turn of the loop, behind the records of all that has ended in it."""
        self.gateway.outbox.write(self.transport, data)

    def close(self) -> None:
        """Behind all that was written."""
        self.gateway.outbox.flush()
        self.transport.close()

    def _refusal(self, exchange: Exchange) -> Refusal | None:
        if len(self.waiting) >= MAX_PIPELINED:
            exchange.keep_alive = False
            return Refusal(429, TOO_MANY_REQUESTS, "Too many requests wait on this connection.")
        if self.stalled_bytes > MAX_HEAD_BYTES and _size(exchange) > MAX_HEAD_BYTES:
            exchange.keep_alive = False
            return Refusal(431, REQUEST_TOO_LARGE, f"The request's head has more than {MAX_HEAD_BYTES >> 10} KiB.")
        refusal = self.gateway.admit(exchange, self.client[0] if self.client else None)
        fields = exchange.fields
        if b"expect" in fields:
            exchange.expects_continue = fields[b"expect"].lower() == b"100-continue"
        if refusal is None and exchange.length is not None and exchange.length > MAX_BODY_BYTES:
            return _too_large(MAX_BODY_BYTES)
        return refusal

    def _greet(self, exchange: Exchange) -> None:
        """With only its head here, a request is refused early, or told to go on, or simply awaited."""
        if exchange.refusal is not None:
            big = b"transfer-encoding" in exchange.fields or (exchange.length or 0) > SMALL_BODY_BYTES
            if exchange.expects_continue or big:
                self._refuse_early(exchange)
        elif exchange.expects_continue and exchange.version != "1.0":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse_early(self, exchange: Exchange) -> None:
        """Answer now, then let the rest of the body run out: closing at once would reset the answer on its way."""
        assert exchange.refusal is not None
        exchange.keep_alive = False
        self.gateway.refuse(exchange, exchange.refusal)
        exchange.complete = True
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.lingering = self.loop.call_later(LINGER_SECONDS, self.close)

    def _begin(self, exchange: Exchange) -> None:
        exchange.task = drive = Drive(self.gateway.handle(exchange), self.loop, self._done)
        self.tasks.add(drive)  # type: ignore[arg-type]  # as much of a Task as uvicorn needs
        drive.start()

    def _done(self, drive: Drive) -> None:
        self.tasks.discard(drive)
        exchange, self.running = self.running, None
        assert exchange is not None
        exchange.complete = True
        # Without these two lines each request would be a reference cycle that only the collector can free.
        exchange.task = None
        exchange.protocol = None
        if self.latest is exchange:
            self.latest = None
        if self.transport.is_closing():
            return
        if drive.exception is not None or not exchange.started:
            self.transport.abort()
        elif not exchange.keep_alive:
            self.close()
        else:
            self._next()

    def _next(self) -> None:
        """What uvicorn does when a response is complete, for exchanges."""
        self.server_state.total_requests += 1
        self.quiet_since = time.monotonic()
        if self.waiting:
            self.running = exchange = self.waiting.popleft()
            if not self.waiting:
                self.flow.resume_reading()
            if exchange.received:
                self._begin(exchange)
            else:
                self._greet(exchange)
        else:
            self.flow.resume_reading()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self.quiet_since = time.monotonic()
        before = self.progress
        self.stalled_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            if self.latest is not None and not self.latest.received:
                self._read_on(self.latest, data[error.args[0] :])
        except httptools.HttpParserCallbackError as error:
            log.error("a fault of ours in reading a request", exc_info=error.__context__)
            self._malformed()
        except (httptools.HttpParserError, ValueError):
            self._malformed()
        if self.progress > before:
            self.stalled_bytes = 0
        elif self.stalled_bytes > 2 * MAX_HEAD_BYTES:
            self._malformed()  # a head or a trailer without end

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
        unanswered = self.running is None or (self.running.task is None and not self.running.started)
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
        receiving = self.in_head or (self.running is not None and not self.running.received)
        if self.running is not None and (self.running.received or self.running.started):
            return
        limit = RECEIVE_SECONDS if receiving else float(KEEP_ALIVE_SECONDS)
        if stopping:
            limit = STOPPING_SECONDS
        if now - self.quiet_since > limit:
            if receiving:
                self._say(b"408 Request Timeout", b"The rest of the request did not come in time.\n")
            self.close()

    def shutdown(self) -> None:
        """The process is to stop: finish what runs, take nothing more."""
        if self.running is None:
            self.close()
        else:
            self.running.keep_alive = False


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
    return type("BoundProtocol", (GatewayProtocol,), {"gateway": gateway})
