"""The door: uvicorn's HTTP protocol, answering by itself instead of calling an ASGI application.

uvicorn keeps the parser, flow control, keep-alive and shutdown. Here a request becomes an Exchange; one at a time is
answered on a connection, pipelined ones wait.
"""

import asyncio
import time
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import REQUEST_TOO_LARGE, Refusal
from gateway.exchange import Exchange
from gateway.handler import Gateway

MAX_BODY_BYTES = 32 << 20
MAX_HEAD_BYTES = 64 << 10
MAX_PIPELINED = 16
SMALL_BODY_BYTES = 64 << 10
LINGER_SECONDS = 5.0


class GatewayProtocol(HttpToolsProtocol):
    """One client's connection."""

    gateway: Gateway  # set on the subclass that `bound_to` makes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: Exchange | None = None
        self.latest: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.head_bytes = 0
        self.lingering: asyncio.TimerHandle | None = None

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.head_bytes = 0
        self.expect_100_continue = False

    def on_url(self, url: bytes) -> None:
        self.head_bytes += len(url)
        if self.head_bytes <= MAX_HEAD_BYTES:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value)
        if self.head_bytes <= MAX_HEAD_BYTES:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        exchange = Exchange(self, self.parser.get_method(), self.url, self.headers, version)
        exchange.keep_alive = self.parser.should_keep_alive()
        exchange.arrived = time.monotonic()
        exchange.refusal = self._refusal(exchange)
        self.latest = exchange
        if self.running is None:
            self.running = exchange
            self._greet(exchange)
        else:
            self.waiting.append(exchange)
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        exchange = self.latest
        if exchange is None or exchange.complete:
            return
        exchange.add_body(body)
        if exchange.body_bytes > MAX_BODY_BYTES and exchange.refusal is None:
            exchange.refusal = _too_large()
            exchange.take_body()
            if exchange is self.running:
                self._refuse_early(exchange)

    def on_message_complete(self) -> None:
        exchange = self.latest
        if exchange is None:
            return
        exchange.received = True
        if self.lingering is not None:
            self.transport.close()
        elif exchange is self.running and not exchange.complete:
            self._begin(exchange)

    # Exchanges

    def _refusal(self, exchange: Exchange) -> Refusal | None:
        if self.head_bytes > MAX_HEAD_BYTES or len(self.waiting) >= MAX_PIPELINED:
            exchange.keep_alive = False
            return Refusal(431, REQUEST_TOO_LARGE, f"The request's head has more than {MAX_HEAD_BYTES >> 10} KiB.")
        refusal = self.gateway.admit(exchange, self.client[0] if self.client else None)
        length = exchange.header(b"content-length")
        exchange.expects_continue = (exchange.header(b"expect") or b"").lower() == b"100-continue"
        if refusal is None and length is not None and int(length) > MAX_BODY_BYTES:
            return _too_large()
        return refusal

    def _greet(self, exchange: Exchange) -> None:
        """With only its head here, a request is refused early, or told to go on, or simply awaited."""
        if exchange.refusal is not None:
            length = exchange.header(b"content-length") or b"0"
            chunked = exchange.header(b"transfer-encoding") is not None
            if exchange.expects_continue or chunked or int(length) > SMALL_BODY_BYTES:
                self._refuse_early(exchange)
        elif exchange.expects_continue and exchange.version != "1.0":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse_early(self, exchange: Exchange) -> None:
        """Answer now, then let the rest of the body run out: closing at once would reset the answer on its way."""
        assert exchange.refusal is not None
        exchange.keep_alive = False
        self.gateway.refuse(exchange, exchange.refusal)
        exchange.complete = True
        self.flow.resume_reading()
        if not self.transport.is_closing():
            self.lingering = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _begin(self, exchange: Exchange) -> None:
        task = self.loop.create_task(self.gateway.handle(exchange))
        exchange.task = task
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
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
        if task.cancelled() or task.exception() is not None or not exchange.started:
            self.transport.abort()
        elif not exchange.keep_alive:
            self.transport.close()
        else:
            self._next()

    def _next(self) -> None:
        """What uvicorn does when a response is complete, for exchanges."""
        self.server_state.total_requests += 1
        self._unset_keepalive_if_required()
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
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            self._malformed(error)

    def _malformed(self, error: Exception) -> None:
        upgrade = isinstance(error, httptools.HttpParserUpgrade)
        if self.running is None and not self.transport.is_closing():
            text = b"WebSocket is not offered here.\n" if upgrade else b"This is not a valid HTTP request.\n"
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(text), text)
            )
        elif upgrade and self.running is not None and self.running.task is not None:
            self.running.keep_alive = False  # the upgrade is ignored; its request is answered as any other
            return
        self.transport.close()

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

    def shutdown(self) -> None:
        """The process is to stop: finish what runs, take nothing more."""
        if self.running is None:
            self.transport.close()
        else:
            self.running.keep_alive = False


def _too_large() -> Refusal:
    return Refusal(413, REQUEST_TOO_LARGE, f"The body has more than {MAX_BODY_BYTES >> 20} MiB.")


def bound_to(gateway: Gateway) -> type[GatewayProtocol]:
    """The protocol class that uvicorn makes an instance of for each connection to this gateway."""
    return type("BoundProtocol", (GatewayProtocol,), {"gateway": gateway})
