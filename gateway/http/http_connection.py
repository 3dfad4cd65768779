"""One client's connection: its states, its requests one after another, and the memory that they reserve.

One request at a time is handled; pipelined ones wait. `ClientConnectionState` has the states of a connection:

    OPEN ──► CLOSED       after a response that allows no other one, a malformed request, or a timeout
    OPEN ──► DISCARDING   a response was sent before its request was received: closing at once would reset the
                          connection, and the client might lose the response
    OPEN ──► FINISHING    too many pipelined requests wait
    OPEN ──► IGNORING     the header block has too many lines, or the client has too many connections
    DISCARDING ──► CLOSED at the end of the body, or after LINGER_SECONDS
    FINISHING ──► IGNORING after the last response
    IGNORING ──► CLOSED   after LINGER_SECONDS

Every state is followed by CLOSED when the client disconnects.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, cast

from gateway.base.errors import Refusal
from gateway.fast.coroutine_runner import RUNNER, CoroutineRunner
from gateway.fast.repeated_request import PartialBody
from gateway.http import request_bounds
from gateway.http.deadlines import Deadlines
from gateway.http.exchange import Exchange
from gateway.http.paced_reading import BUFFER_SPACE, ENDPOINT, PIPELINE, PacedReading
from gateway.http.request_bounds import SMALL_BODY_BYTES
from gateway.http.request_parser import RequestParser
from gateway.http.reservations import Reservations, needed
from gateway.http.shared import Shared
from gateway.loop.flow_control import FlowControl
from gateway.loop.uvicorn_parts import ServerState, get_remote_addr

LINGER_SECONDS = 5.0  # in which a client can read the last response


class ClientConnectionState(IntEnum):
    """States of a client's connection. The docstring of this module has the transitions."""

    OPEN = 0  # requests are received and handled
    DISCARDING = 1  # the rest of a body is received and discarded; requests are not
    FINISHING = 2  # received requests are handled; bytes are ignored
    IGNORING = 3  # bytes are ignored, so that the client can read the last response
    CLOSED = 4


OPEN, DISCARDING, FINISHING, IGNORING, CLOSED = ClientConnectionState


class HttpConnection(asyncio.Protocol):
    """The handling of requests on one connection. gateway.http.protocol receives them."""

    __slots__ = (
        "__weakref__", "admitted", "client", "deadlines", "flow", "gateway", "latest", "lingering", "partial",
        "reading", "requests", "reservations", "running", "server_state", "shared", "state", "tasks", "transport",
        "waiting", "writes",
    )  # fmt: skip

    # Set by GatewayProtocol:
    requests: RequestParser
    reading: PacedReading

    def __init__(self, shared: Shared, *, server_state: ServerState, **_: Any) -> None:
        """uvicorn's server passes more arguments, which only its own protocols need."""
        self.shared = shared
        self.gateway = shared.gateway
        self.writes = shared.writes
        self.server_state = server_state
        self.tasks: set[CoroutineRunner] = server_state.tasks  # type: ignore[assignment]  # with the same methods
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until it is connected
        self.flow: FlowControl
        self.client: tuple[str, int] | None = None  # its address; None for a Unix socket
        self.state: ClientConnectionState = OPEN
        self.admitted: bool | None = None  # by the acceptor, which has counted the connection; None: not counted yet
        self.partial: PartialBody | None = None  # the body of a repeated request, while it is incomplete
        self.running: Exchange | None = None  # the request that is handled, or will be when it is received
        self.latest: Exchange | None = None  # the last request, until it was received and handled
        self.waiting: deque[Exchange] = deque()  # pipelined requests
        self.reservations = Reservations(shared.buffers)
        self.deadlines = Deadlines(time.monotonic())
        self.lingering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class has the same methods
        self.flow = FlowControl(self.transport)
        self.client = get_remote_addr(self.transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # it has the method that uvicorn calls

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self.flow.lost = True
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def close(self) -> None:
        """Close the connection when all that was written has been sent."""
        self.state = CLOSED
        self.requests.stop()
        self.partial = None
        self.writes.flush()
        self.transport.close()

    def _begin_early(self, exchange: Exchange) -> None:
        """Begin a request whose header block was received: refuse it, start it, or ask for its body. Mostly, its body
        is simply awaited.
        """
        if exchange.refusal is not None:
            large = b"transfer-encoding" in exchange.head.fields or (exchange.length or 0) > SMALL_BODY_BYTES
            if exchange.expects_continue or large:
                self._refuse_early(exchange, exchange.refusal)
        elif exchange.reader:
            self._start(exchange)
        elif exchange.expects_continue and self._reserve(exchange):
            self.send_continue(exchange)

    def send_continue(self, exchange: Exchange) -> None:
        """Send `100 Continue` to a client that waits for it before it sends the body."""
        if exchange.line.version != "1.0" and not exchange.body_bytes and not exchange.received:
            self.writes.write(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")

    def resume_body(self) -> None:
        """Read on, after the received part of a streamed body was taken."""
        deadlines = self.deadlines
        if deadlines.paused_since and not self.waiting:
            deadlines.exclude(deadlines.paused_since, time.monotonic())
            deadlines.paused_since = 0.0
            self.reading.resume(ENDPOINT)

    def _refuse_early(self, exchange: Exchange, refusal: Refusal) -> None:
        """Refuse a request before its body was received."""
        exchange.keep_alive = False
        self.gateway.refuse(exchange, refusal)
        exchange.complete = True
        self._linger(DISCARDING)

    def _linger(self, state: ClientConnectionState, seconds: float | None = None) -> None:
        """Read on without using the bytes, and close the connection after LINGER_SECONDS, or after `seconds`."""
        self.state = state
        self.requests.stop()
        self.deadlines.paused_since = 0.0
        self.reading.resume(PIPELINE | ENDPOINT | BUFFER_SPACE)
        if not self.transport.is_closing():
            self.lingering = self.writes.loop.call_later(LINGER_SECONDS if seconds is None else seconds, self.close)

    def _start(self, exchange: Exchange, *, check_key: bool = False) -> None:
        """Handle a request. `check_key`: its API key may have been revoked since its header block was received."""
        gateway = self.gateway
        if check_key and exchange.refusal is None:
            exchange.refusal = gateway.admission.check_key(exchange)
        if exchange.refusal is not None:
            gateway.failed(exchange, exchange.refusal)  # not raised: the error would hold the exchange that holds it
            self._complete(exchange)
            return
        try:
            handling = gateway.handle(exchange)
        except Exception as error:  # noqa: BLE001  # `failed` reports it
            gateway.failed(exchange, error)
            self._complete(exchange)
            return
        self._run(exchange, handling)

    def _run(self, exchange: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        exchange.task = runner = RUNNER(coroutine, self.writes.loop, self._run_ended)
        self.tasks.add(runner)
        runner.start()

    def _run_ended(self, runner: CoroutineRunner) -> None:
        self.tasks.discard(runner)
        exchange, error = self.running, runner.exception
        assert exchange is not None
        if error is not None:
            if isinstance(error, Exception):
                self.gateway.failed(exchange, error)
            self._complete(exchange, whole=isinstance(error, Exception))  # else it was cancelled
        elif self.flow.write_paused and not self.transport.is_closing():
            # Back-pressure: a slow client must read the response before its next request is handled.
            self._run(exchange, exchange.drain())
        else:
            self._complete(exchange)

    def _complete(self, exchange: Exchange, *, whole: bool = True) -> None:
        """End a request whose response was written; unless it is `whole`, the response is incomplete."""
        self.running = None
        exchange.complete = True
        # Without these two lines each request would be a reference cycle that only the garbage collector can free.
        exchange.task = None
        exchange.protocol = None
        if exchange.reservation is not None and self.reservations.close(exchange):
            self.reading.resume(BUFFER_SPACE)
        if self.latest is exchange and exchange.received:
            self.latest = None
        if self.transport.is_closing():
            self.state = CLOSED
            self.requests.stop()
        elif not whole or not exchange.started:
            self.state = CLOSED
            self.requests.stop()
            self.transport.abort()
        elif not exchange.received:
            exchange.take_body()
            self._linger(DISCARDING)
        elif exchange.keep_alive:
            self._next()
        elif self.state is FINISHING:
            self._linger(IGNORING)
        else:
            self.close()

    def _next(self) -> None:
        """Handle the next pipelined request, if any, and keep the connection alive."""
        deadlines = self.deadlines
        deadlines.quiet_since = deadlines.receiving_since = time.monotonic()
        deadlines.paused_since = 0.0
        if self.waiting:
            self.running = exchange = self.waiting.popleft()
            if not self.waiting:
                self.reading.resume(PIPELINE | ENDPOINT)
            charge(self)
            if exchange.received:
                self._start(exchange, check_key=True)
            else:
                self._begin_early(exchange)
        elif self.reading.reasons:
            self.reading.resume(PIPELINE | ENDPOINT)

    # Memory

    def _reserve(self, exchange: Exchange) -> bool:
        """Reserve memory for the rest of a body. Return False if the request has to wait for room, or is refused."""
        size = needed(exchange, self.gateway.admission)
        if not size:
            return True
        now = time.monotonic()
        reserved, full = self.reservations.grow_or_wait(
            exchange,
            size,
            lambda: self._space_decided(exchange, now, granted=True),
            lambda: self._space_decided(exchange, now, granted=False),
        )
        if reserved:
            return True
        if self.reservations.waiting is None:
            self._drop(exchange, request_bounds.no_buffer_space(full))
        elif full is not None:
            self.gateway.bound_hits.hit(full)
            self.reading.pause(BUFFER_SPACE)
        return False

    def _space_decided(self, exchange: Exchange, since: float, *, granted: bool) -> None:
        """Continue a request that has waited for room `since` then, or refuse it."""
        self.reservations.waiting = None
        if granted:
            self.deadlines.exclude(since, time.monotonic())
            if exchange.expects_continue and not exchange.reader:
                self.send_continue(exchange)
        self.reading.resume(BUFFER_SPACE)
        if not granted:
            self._drop(exchange, request_bounds.no_buffer_space(None))

    def reserve(self, exchange: Exchange, size: int) -> None:
        """Reserve memory for bytes of a streamed body that are stored. Raises Refusal (503) if the memory is full."""
        self.reservations.grow(exchange, size)

    def _drop(self, exchange: Exchange, refusal: Refusal) -> None:
        """Refuse a request whose body is being received, and discard the body."""
        exchange.refusal = refusal
        exchange.take_body()
        if self.partial is not None:
            self.partial.discard(b"")
        if self.reservations.close(exchange):
            self.reading.resume(BUFFER_SPACE)
        if exchange is self.running and not exchange.reader:
            self._refuse_early(exchange, refusal)
        else:
            exchange.keep_alive = False
            exchange.wake_reader()

    def shutdown(self) -> None:
        """Begin to drain. The next response closes the connection; gateway.http.expiry closes an idle one soon.

        It is not closed at once: a request may be on its way, and a reset would be its only response.
        """
        self.deadlines.quiet_since = time.monotonic()


def charge(connection: HttpConnection) -> None:
    """Count the bytes of an incomplete header block, of waiting requests and of postponed reads for the client."""
    if sum(each.body_bytes for each in connection.waiting) > SMALL_BODY_BYTES:
        connection.reading.pause(PIPELINE)
    size = sum(each.body_bytes for each in connection.waiting if each.reservation is None)
    size += len(connection.reading.postponed) + connection.requests.head_memory
    if size:
        connection.writes.count_iteration()
    full = connection.reservations.charge(size)
    if full is not None and not connection.transport.is_closing():
        connection.gateway.bound_hits.hit(full)
        if connection.running is None or not connection.running.started:
            text = b"Too much waits to be received from this address.\n"
            connection.writes.write(connection.transport, plain_response(b"503 Service Unavailable", text))
        connection.close()


def plain_response(status: bytes, text: bytes, content_type: bytes = b"text/plain") -> bytes:
    """Return a response to bytes that are no request, after which the connection is closed."""
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        content_type,
        len(text),
        text,
    )
