"""The protocol of clients' connections: receives HTTP/1.1 requests, with keep-alive and pipelining.

uvicorn's server starts and stops the process. No ASGI application is called: a request becomes an Exchange.
gateway.http.http_connection handles it, and defines the states of a connection.
"""

import asyncio
import time
from typing import Any

from gateway.base import bounds
from gateway.base.errors import REQUEST_TOO_LARGE, Refusal, error_body
from gateway.fast import repeated_request
from gateway.fast.repeated_request import PartialBody, RepeatedRequest
from gateway.http import request_bounds
from gateway.http.client_shares import BYTES_PER_STEP, COUNTED_STEPS, MAX_STEPS
from gateway.http.exchange import BUFFER_BYTES, BodyReader, Exchange, RequestHead, RequestLine
from gateway.http.grammar import Malformed
from gateway.http.http_connection import (
    CLOSED,
    DISCARDING,
    FINISHING,
    IGNORING,
    OPEN,
    HttpConnection,
    charge,
    plain_response,
)
from gateway.http.paced_reading import ENDPOINT, PIPELINE, PacedReading
from gateway.http.request_bounds import MAX_HEAD_BYTES, MAX_HEADER_LINES, MAX_PIPELINED, SMALL_BODY_BYTES
from gateway.http.request_parser import RequestParser, TooManyHeaderLines
from gateway.http.reservations import NO_SHARE
from gateway.http.shared import Shared
from gateway.loop.uvicorn_parts import ServerState

RequestParts = tuple[RequestLine, RequestHead]

REJECTED_SECONDS = 1.0  # in which a client that has too many connections can read that
SLICE_BYTES = 8 << 10  # are parsed at a time, unless they belong to a body of known length
CALLBACKS_PER_STEP = 32  # so many parts of bodies cost as much as another read


class GatewayProtocol(HttpConnection):
    """One client's connection."""

    __slots__ = ("repeated",)

    def __init__(self, shared: Shared, *, server_state: ServerState, **_: Any) -> None:
        super().__init__(shared, server_state=server_state)
        self.requests = RequestParser(self)
        self.repeated: RepeatedRequest[RequestParts] | None = None  # the next request may repeat its header block

    # Called by the parser

    def begin_request(self, method: bytes, target: bytes, head: RequestHead, length: int | None, version: str) -> None:
        exchange = Exchange(self, RequestLine(method, target, version), head, length)
        exchange.keep_alive = self.requests.keep_alive
        exchange.arrived = time.monotonic()
        exchange.refusal = _admit(self, exchange)
        self.reservations.share.steps += 1
        self.latest = exchange
        if self.requests.size_since_callback > repeated_request.MAX_HEAD_BYTES:
            size = request_bounds.head_size(exchange)
            if size > repeated_request.MAX_HEAD_BYTES:
                self.requests.head = None
                self.reservations.put(exchange, size)
        if self.running is None:
            self.running = exchange
            self._begin_early(exchange)
        else:
            self.waiting.append(exchange)
            if len(self.waiting) >= MAX_PIPELINED:
                self.reading.pause(PIPELINE)

    def receive_body(self, body: bytes) -> None:
        exchange = self.latest
        if exchange is None or exchange.complete:
            return
        exchange.add_body(body)
        if exchange.body_bytes > SMALL_BODY_BYTES:
            if exchange is not self.running:
                self.reading.pause(PIPELINE)  # until it is its turn
            refusal = request_bounds.check_body(exchange, exchange.body_bytes, self.gateway.admission)
            if refusal is not None and exchange.refusal is None:
                self._drop(exchange, refusal)
            elif exchange.reader and exchange.unread > BUFFER_BYTES and not self.deadlines.paused_since:
                self.deadlines.paused_since = time.monotonic()
                self.reading.pause(ENDPOINT)
        if exchange.reader:
            exchange.wake_reader()

    def end_request(self) -> None:
        exchange = self.latest
        if exchange is None:
            return
        if self.requests.offers_upgrade:  # it is not accepted; the following bytes may be in another protocol
            exchange.keep_alive = False
            if request_bounds.framing_header(exchange):
                return  # the body follows when the parser resumes
        exchange.received = True
        if self.state is DISCARDING:
            self.close()
        elif exchange.task is not None:
            exchange.wake_reader()
        elif exchange is self.running and not exchange.complete:
            self._start(exchange, check_key=True)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.gateway.on_connect()
        self.reading = PacedReading(self.flow, transport.is_closing, self.data_received)
        ip = self.client[0] if self.client else None
        connection_bound = self.shared.connection_bound
        if not (connection_bound.enter(ip) if self.admitted is None else self.admitted):
            text = b"Too many connections come from this address.\n"
            self.writes.write(self.transport, plain_response(b"503 Service Unavailable", text))
            self.gateway.bound_hits.hit(bounds.CONNECTIONS)
            self._linger(IGNORING, REJECTED_SECONDS)
            return
        is_proxy = ip is None or connection_bound.is_proxy(ip)
        self.reservations.enter(ip, self.reading, is_proxy=is_proxy)

    def data_received(self, data: bytes) -> None:
        share = self.reservations.share
        if share is NO_SHARE:
            return
        self.deadlines.quiet_since = time.monotonic()
        if not data:
            return
        iteration = self.writes.iteration
        if share.iteration != iteration:
            share.iteration = iteration
            share.steps = 1
        elif share.steps >= MAX_STEPS:
            share.steps += 1
            self.reading.postpone(data)
            charge(self)
            self.shared.pacer.slow_down(share, self.reading)
            return
        else:
            share.steps += 1
        # Only between two requests is a repeated one looked for: the bytes of a body may look like anything.
        if self.partial is not None:
            self._receive_partial(self.partial, data)
        elif self.latest is not None or self.requests.in_head or not self._receive_repeated(data):
            self._parse(data)
        if share.steps >= COUNTED_STEPS:
            self.writes.count_iteration()

    def _receive_repeated(self, data: bytes) -> bool:
        """Begin a request that repeats the header block of the one before. Return False if it must be parsed."""
        repeated = self.repeated
        if repeated is None or self.state is not OPEN:
            return False
        matched = repeated.match(data)
        if matched is None:
            return False
        body, length = matched
        missing = length - len(body)
        line, head = repeated.parsed
        exchange = Exchange(self, line, head, length)
        exchange.arrived = self.deadlines.receiving_since = self.deadlines.quiet_since
        admission = self.gateway.admission
        exchange.refusal = admission.admit(exchange, self.client[0] if self.client else None)
        if exchange.refusal is not None if missing else length > SMALL_BODY_BYTES:
            return False  # the parser's path refuses before the body is received, and reserves memory for large ones
        if length > SMALL_BODY_BYTES and request_bounds.check_body(exchange, length, admission) is not None:
            return False
        self.requests.size_since_callback = 0
        self.running = self.latest = exchange
        if missing:
            exchange.body_bytes = len(body)
            self.partial = PartialBody(body, missing)
            self.writes.count_iteration()
            self._reserve(exchange)
        else:
            exchange.receive(body)
            self._start(exchange)
        return True

    def _receive_partial(self, partial: PartialBody, data: bytes) -> None:
        """Receive more of the body of a repeated request."""
        exchange = self.latest
        assert exchange is not None
        self.reservations.share.steps += len(data) // BYTES_PER_STEP
        self.writes.count_iteration()
        if exchange.complete:  # it was refused
            partial.discard(data)
            if not partial.missing:
                self.close()
            return
        before = partial.missing
        rest = partial.add(data)
        exchange.body_bytes += before - partial.missing
        if not partial.missing:
            self.partial = None
            exchange.receive(partial.whole())
            self._start(exchange, check_key=True)
            if rest:
                self._parse(rest)

    def _parse(self, data: bytes) -> None:
        """Parse received bytes in slices: many small requests or chunks cost more than a large body. The rest is
        postponed when the client has used up its steps.
        """
        offset, size = 0, len(data)
        while offset < size and self.state <= DISCARDING and not self.transport.is_closing():
            share = self.reservations.share
            if offset and share.steps > MAX_STEPS:
                self.reading.postpone(data[offset:])
                charge(self)
                self.shared.pacer.slow_down(share, self.reading)
                return
            exchange = self.latest
            missing = 0
            if exchange is not None and not exchange.received and exchange.length is not None:
                missing = exchange.length - exchange.body_bytes
            if missing > SLICE_BYTES:
                share.steps += min(missing, size - offset) // BYTES_PER_STEP
                with memoryview(data) as view, view[offset : offset + missing] as part:
                    self._feed(part)
                offset += missing
            else:
                self._feed(data[offset : offset + SLICE_BYTES])
                offset += SLICE_BYTES
            if self.requests.in_head or self.waiting or self.reservations.has_charge:
                charge(self)
            exchange = self.latest
            if exchange is not None and not exchange.received:
                self.writes.count_iteration()
                self._reserve(exchange)

    def _feed(self, data: bytes | memoryview) -> None:
        requests, latest = self.requests, self.latest
        before = requests.callbacks
        first = latest is None and not requests.in_head
        if first:
            self.deadlines.receiving_since = self.deadlines.quiet_since
        first = first and not requests.size_since_callback
        try:
            upgrade_at = requests.feed(data)
        except (Malformed, TooManyHeaderLines) as error:
            self._reject(error)
            return
        latest = self.latest
        parsed = requests.callbacks - before
        if upgrade_at >= 0 and latest is not None and not latest.received:
            latest.keep_alive = False
            requests.resume_body(request_bounds.framing_header(latest))
            self.data_received(bytes(data[upgrade_at:]))
        elif parsed:
            # One header block, one part of a body and, if that is complete, its end:
            if first and latest is not None and parsed == 2 + latest.received:
                self.repeated = _remembered(bytes(data), latest) or self.repeated
            self.reservations.share.steps += parsed // CALLBACKS_PER_STEP
        elif requests.size_since_callback > 2 * MAX_HEAD_BYTES:
            self.gateway.bound_hits.hit(bounds.HEADER_BYTES)
            self._reject(Malformed("a header block or trailer without end"))

    def _reject(self, error: Malformed | TooManyHeaderLines) -> None:
        """Reject bytes that are no acceptable request, and close the connection."""
        running = self.running
        if isinstance(error, TooManyHeaderLines):
            self.gateway.bound_hits.hit(bounds.HEADER_LINES)
            if running is None:
                message = f"The request's header block has more than {MAX_HEADER_LINES} lines."
                body = error_body(431, REQUEST_TOO_LARGE, message)
                response = plain_response(b"431 Request Header Fields Too Large", body, b"application/json")
                self.writes.write(self.transport, response)
                self._linger(IGNORING)
                return
        else:
            self.reading.postponed = b""
            without_response = running is None or not (running.started or (running.task and running.received))
            if without_response and not self.transport.is_closing():
                text = b"This is not a valid HTTP request.\n"
                self.writes.write(self.transport, plain_response(b"400 Bad Request", text))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle a client disconnect: the running request is cancelled, and with it the request to its endpoint.

        The cancellation arrives in `_try` (gateway.inference.inference), which closes the connection to the endpoint.
        """
        super().connection_lost(exc)
        self.state = CLOSED
        self.partial = None
        running = self.running
        if self.reservations.share is not NO_SHARE:
            self.shared.connection_bound.leave(self.client[0] if self.client else None)
            for exchange in (running, self.latest, *self.waiting):
                if exchange is not None:
                    self.reservations.close(exchange)
            self.reservations.exit(self.reading)
        self.reading.close()
        self.requests.close()
        if self.lingering is not None:
            self.lingering.cancel()
            self.lingering = None
        self.waiting.clear()
        self.latest = None
        if running is not None and running.task is not None:
            running.task.cancel()
        elif running is not None:
            running.protocol = None
            self.running = None


def _remembered(data: bytes, exchange: Exchange) -> RepeatedRequest[RequestParts] | None:
    """Return the request at the start of `data` if the next one of its connection may repeat its header block."""
    if exchange.length is None or not exchange.keep_alive or exchange.line.version != "1.1":
        return None
    if exchange.reader or exchange.expects_continue:
        return None
    return repeated_request.remember(data, exchange.length, (exchange.line, exchange.head))


def _admit(connection: GatewayProtocol, exchange: Exchange) -> Refusal | None:
    """Check a request by its header block, and return the refusal of it, if any."""
    if len(connection.waiting) >= MAX_PIPELINED:
        exchange.keep_alive = False
        connection.state = FINISHING
        connection.requests.stop()
        return request_bounds.too_many_waiting()
    refusal = request_bounds.check_head(exchange, connection.requests.size_since_callback)
    if refusal is not None:
        exchange.keep_alive = False
        return refusal
    admission = connection.gateway.admission
    refusal = admission.admit(exchange, connection.client[0] if connection.client else None)
    fields = exchange.head.fields
    if b"expect" in fields:
        exchange.expects_continue = fields[b"expect"].lower() == b"100-continue"
    if refusal is not None:
        return refusal
    exchange.reader = BodyReader() if exchange.route is not None and exchange.route.streams else None
    return request_bounds.check_body(exchange, exchange.length or 0, admission)
