"""One keep-alive HTTP/1.1 connection to an endpoint or to control, with one request at a time.

    IDLE ── send() ──────────────────► AWAITING ─────┐
      │                                   ▲          │ first byte
      │                                   │ finish() ▼
      └── begin(), push(), push() … ── SENDING ──► HEAD ── header block ──► BODY ── end of the body ──► COMPLETE
    IDLE ◄── the response was taken, the request was sent, and both sides keep the connection alive ────────┘

CLOSED follows on every state: the connection was lost, a deadline passed, the response is malformed, `abort` was
called, or the connection cannot be reused. A response may begin before the request was sent. Then the connection is
never reused, because the server may wait for the rest of the request.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, cast

from gateway.base.types import Data
from gateway.fast import coroutine_runner
from gateway.fast.chunk_taker import ChunkTaker
from gateway.fast.write_batch import WriteBatch
from gateway.upstream.errors import StaleConnection, UpstreamError
from gateway.upstream.response_head import NO_RESPONSE, RepeatedResponse
from gateway.upstream.response_parser import ResponseParser

MAX_AGE_SECONDS = 300.0  # an older connection is not reused: its host name may have another address by then
STALE_SECONDS = 1.0  # a server that closes the connection later than this may have worked on the request
BUFFER_BYTES = 256 << 10  # back-pressure: reading pauses while so many bytes of a streamed body were not taken
LARGE_READ_BYTES = 128 << 10  # after a larger read, the connection is read again in a later iteration
SMALL_REQUEST_BYTES = 16 << 10  # a smaller body is copied behind its header block, to be sent in one packet
NEVER = float("inf")


class ConnectionState(IntEnum):
    """ConnectionState of a connection. The head of this file has the transitions."""

    IDLE = 0
    SENDING = 1  # the body of the request is sent part by part
    AWAITING = 2  # the request was sent; no byte of the response was received
    HEAD = 3  # the header block of the response is being received
    BODY = 4
    COMPLETE = 5  # the response was received; its body was not yet taken
    CLOSED = 6


IDLE, SENDING, AWAITING, HEAD, BODY, COMPLETE, CLOSED = ConnectionState


class ConnectionOwner(Protocol):
    """The pool of a connection, as far as the connection knows it."""

    repeated: RepeatedResponse

    @property
    def writes(self) -> WriteBatch: ...

    def released(self, connection: "Connection") -> bool:
        """Store the idle connection for the next request. Return False if it should be closed instead."""
        ...

    def received(self) -> None:
        """Note that the server sent something. The sweeper calls it for connections with `received_lately`."""
        ...

    def read_later(self, connection: "Connection") -> None:
        """Stop reading from the connection, and call its `resume_reading` in a later iteration of the event loop."""
        ...

    def lost(self, connection: "Connection") -> None:
        """Forget the connection, before its state changes."""
        ...

    def broken(self, error: Exception | None, *, is_first: bool) -> UpstreamError:
        """Return the error of a connection that broke off. `is_first`: without any response before."""
        ...


class BodyConsumer(Protocol):
    """A receiver of a body part by part, within the calls that receive its bytes."""

    def take(self, data: bytes) -> bool:
        """Take a part of the body. Return False to apply back-pressure."""
        ...

    def chunk_taker(self) -> ChunkTaker | None:
        """Return the taker of reads that begin where a chunk begins, until the next `take`; None if all are parsed."""
        ...

    def extend(self) -> None:
        """Set the deadline of the connection anew for the chunks that were taken since the last call."""
        ...


class Upload(NamedTuple):
    """A request whose body is sent part by part."""

    chunked: bool
    timeout: float | None  # seconds that the server may take to read a part


class Connection(asyncio.Protocol):
    """One connection of a pool. Follows no redirects."""

    __slots__ = (
        "__weakref__", "_chunk_taker", "_idle_seconds", "_parser", "_read_paused", "_retires_at", "_sent_at", "_upload",
        "_waiter", "_write_paused", "consumer", "deadline", "error", "headers", "owner", "received_lately", "response",
        "state", "status", "transport", "usable_until",
    )  # fmt: skip

    def __init__(self, owner: ConnectionOwner) -> None:
        self.state: ConnectionState = IDLE
        self.transport: asyncio.Transport
        self.error: Exception | None = None  # why the state is CLOSED; None after `abort`
        self.deadline = NEVER  # time.monotonic() at which the sweeper fails the request
        self.usable_until = 0.0  # time.monotonic() until which the idle connection may be reused
        self.received_lately = False  # since the sweeper checked it
        self.consumer: BodyConsumer | None = None  # while it waits for more of the body
        self.response = NO_RESPONSE
        self.status = 0  # of the response; 0 until its header block is received
        self.headers: list[tuple[bytes, bytes]] = []
        self.owner = owner
        self._parser = ResponseParser()
        self._retires_at = time.monotonic() + MAX_AGE_SECONDS
        self._idle_seconds: float | None = None  # that it may be idle; None before the first response
        self._sent_at = 0.0
        self._upload: Upload | None = None  # while the body of the request is not complete
        self._write_paused = False
        self._read_paused = False
        self._waiter: coroutine_runner.CoroutineRunner | asyncio.Future[None] | None = None
        self._chunk_taker: ChunkTaker | None = None  # set while a chunk begins with the next read

    # Sending a request

    def _start(self) -> None:
        self._sent_at = time.monotonic()
        self._parser.head = NO_RESPONSE
        self._parser.complete = False
        self.status = 0
        if self.state is CLOSED:  # it was lost while it was idle
            self.error = self._lost_error(self.error or ConnectionResetError())

    def send(self, head: bytes, body: Sequence[Data], timeout: float | None) -> None:
        """Send a request. `body` may be in several parts. The response must begin within `timeout` seconds; None is no
        limit.
        """
        self._start()
        if self.state is IDLE:
            self.state = AWAITING
        self.deadline = NEVER if timeout is None else self._sent_at + timeout
        writes = self.owner.writes
        if len(body) == 1 and len(body[0]) < SMALL_REQUEST_BYTES:
            writes.write(self.transport, head + body[0])
            return
        if sum(map(len, body)) < SMALL_REQUEST_BYTES:
            writes.write(self.transport, b"".join((head, *body)))
            return
        writes.write(self.transport, head)
        for part in body:
            writes.write(self.transport, part)

    def begin(self, head: bytes, timeout: float | None, *, chunked: bool = False) -> None:
        """Send the header block of a request whose body follows by `push`: chunked, or with the Content-Length that
        the header block has. The server must read each part within `timeout` seconds, and respond within `timeout`
        seconds after the last one; None is no limit.

        The connection should be new: an idle one may turn out to be stale after a part of the body was sent.
        """
        self._start()
        if self.state is IDLE:
            self.state = SENDING
        self._upload = Upload(chunked, timeout)
        self.deadline = NEVER
        self.owner.writes.write(self.transport, head)

    async def push(self, data: Data) -> bool:
        """Send a part of the body, as soon as the server has read enough of the parts before (back-pressure).

        Return False if the server has responded already: then the response should be read and nothing more pushed.
        Raises UpstreamError and StaleConnection.
        """
        upload = self._upload
        assert upload is not None
        while self._write_paused and not self.status:
            self.raise_if_broken()
            self.wait_at_most(upload.timeout)
            await self.wait()
        if self.status:
            self.wait_at_most(upload.timeout)
            return False
        self.deadline = NEVER
        self.raise_if_broken()
        if data:
            write = self.owner.writes.write
            if upload.chunked:
                write(self.transport, b"%x\r\n" % len(data))
                write(self.transport, data)
                write(self.transport, b"\r\n")
            else:
                write(self.transport, data)
        return True

    def finish(self) -> None:
        """End the body that was pushed."""
        assert self._upload is not None
        chunked, timeout = self._upload
        self._upload = None
        if chunked:
            self.owner.writes.write(self.transport, b"0\r\n\r\n")
        if self.state is SENDING:
            self.state = AWAITING
        self._sent_at = time.monotonic()
        self.wait_at_most(timeout)

    # Receiving the response

    def wait_at_most(self, timeout: float | None) -> None:
        """Fail the request with TIMEOUT unless the deadline is changed within `timeout` seconds; None is no limit."""
        self.deadline = NEVER if timeout is None else time.monotonic() + timeout

    async def receive_head(self) -> None:
        """Wait until `status`, `headers` and `response` are set. Raises UpstreamError and StaleConnection."""
        while not self.status:
            self.raise_if_broken()
            await self.wait()

    async def read(self) -> bytes:
        """Return the received part of the body; empty at its end. Raises UpstreamError."""
        while not self._parser.body:
            if self.state is COMPLETE:
                self._release()
                return b""
            self.raise_if_broken()
            await self.wait()
        self._resume_reading()
        return self._parser.take_body()

    async def consume(self, consumer: BodyConsumer) -> bool:
        """Pass the body to `consumer` part by part, within the call that receives the part. Return True at the end of
        the body, False as soon as the consumer applies back-pressure. Raises UpstreamError.
        """
        try:
            while True:
                if self._parser.body:
                    self._resume_reading()
                    if not consumer.take(self._parser.take_body()):
                        return False
                if self.state is COMPLETE:
                    self._release()
                    return True
                self.raise_if_broken()
                self.consumer = consumer
                await self.wait()
                if not _is_consumed(self):
                    return False
        finally:
            self.consumer = self._chunk_taker = None

    def whole(self) -> bytes | None:
        """Return the whole body if it was received, which it mostly is together with its header block; else None."""
        if self.state is not COMPLETE:
            return None
        body = self._parser.take_body()
        self._release()
        return body

    async def read_all(self, on_size: Callable[[int], None] | None = None, most: int | None = None) -> bytes:
        """Return the whole body. Raises UpstreamError. `on_size` is called with the bytes received so far; an error
        that it raises is passed on. Of a body with more than `most` bytes, only its beginning is read, which has more:
        the connection is closed then.
        """
        self._parser.collecting = True
        self._resume_reading()
        while self.state is not COMPLETE:
            self.raise_if_broken()
            if most is not None and self._parser.size > most:
                beginning = self._parser.take_body()
                self.abort()
                return beginning
            if on_size is not None:
                on_size(self._parser.size)
            await self.wait()
        self._parser.collecting = False
        body = self.whole()
        assert body is not None
        return body

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()

    def wait(self) -> "coroutine_runner.CoroutineRunner | asyncio.Future[None]":
        """Return an awaitable until anything is received, or the connection fails. Then check the state again."""
        self._waiter = waiter = coroutine_runner.waiter()
        return waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The end of a request, or of the connection

    def _release(self) -> None:
        """Return the connection to its pool if it can be reused."""
        self.deadline = NEVER
        self._waiter = None
        if self._idle_seconds is None:  # servers do not change it
            self._idle_seconds = self.response.idle_seconds()
        until = time.monotonic() + self._idle_seconds
        self.usable_until = until if until < self._retires_at else self._retires_at
        self.state = IDLE
        reusable = self._parser.keep_alive and self._upload is None and not self.transport.is_closing()
        if not reusable or not self.owner.released(self):
            self.abort()

    def abort(self) -> None:
        """Close the connection at once. The server notices that its client disconnected, and cancels its work."""
        self.state = CLOSED
        self.deadline = NEVER
        self._waiter = self._chunk_taker = None
        self.transport.abort()

    def fail(self, error: UpstreamError) -> None:
        """Close the connection during a request, whose coroutine receives the error."""
        if SENDING <= self.state <= BODY:
            self.state = CLOSED
            self.error = error
            self.deadline = NEVER
            self._chunk_taker = None
            self.transport.abort()
            self._wake()

    def raise_if_broken(self) -> None:
        """Raise UpstreamError or StaleConnection if the connection is closed."""
        if self.state is not CLOSED:
            return
        if isinstance(self.error, StaleConnection):
            raise StaleConnection
        if isinstance(self.error, UpstreamError):
            # A new object each time: a stored one would hold the frames that it passed, and these hold the connection.
            raise UpstreamError(self.error.kind, str(self.error), bound=self.error.bound)
        is_first = self._idle_seconds is None and not self.status
        raise self.owner.broken(self.error, is_first=is_first) from self.error

    def _lost_error(self, error: Exception) -> Exception:
        """Return StaleConnection if the server closed an idle connection just when the request was sent."""
        reused = self._idle_seconds is not None
        unseen = self.state is AWAITING or self.state is CLOSED
        if reused and unseen and self._upload is None and time.monotonic() - self._sent_at < STALE_SECONDS:
            return StaleConnection()
        return error

    def resume_reading(self) -> None:
        """Read on after a large read."""
        if not self._read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class has the same methods

    def data_received(self, data: bytes) -> None:
        taker = self._chunk_taker
        if taker is not None:
            self.received_lately = True
            if taken := taker.take(data):
                return
            self._chunk_taker = None
            if taken is not None:
                self.consumer = None
                self._wake()
                return
        state = self.state
        if state < SENDING or state > BODY:
            self._parser.keep_alive = False  # no request waits for these bytes
            self.transport.abort()
            return
        self.received_lately = True
        if state < HEAD:
            self._receive_first(data)
            return
        self._receive_more(data)

    def _receive_first(self, data: bytes) -> None:
        """Receive the first bytes of a response, which are often the whole of it."""
        parser, repeated = self._parser, self.owner.repeated
        template = repeated.template
        if template is not None and (match := template.match(data)) is not None:
            offset, length = match
            if length and offset + length == len(data):  # a complete response with a known header block
                self.response = head = repeated.head
                self.status, self.headers = head.status, head.headers
                parser.body = data[offset:]
                self.state = COMPLETE
                self._wake()
                return
        self.state = HEAD
        size = len(data)
        parser.feed(data, size)
        self._advance()
        if self.state is COMPLETE and parser.keep_alive:
            repeated.remember(data, parser.head, parser.size, self._sent_at)
        if size > LARGE_READ_BYTES and not self._read_paused:  # libuv would read on as long as there is more
            self.owner.read_later(self)
        self._wait_for_reader()

    def _receive_more(self, data: bytes) -> None:
        """Receive more of a response, and pass the body on to a consumer."""
        parser = self._parser
        size = len(data)
        parser.feed(data, size)
        if self.state is HEAD or parser.complete or parser.error is not None:
            self._advance()
        if size > LARGE_READ_BYTES and not self._read_paused:  # libuv would read on as long as there is more
            self.owner.read_later(self)
        consumer = self.consumer
        if consumer is not None and parser.body:
            at_chunk = parser.ends_between_chunks(data)
            if not consumer.take(parser.take_body()):
                self.consumer = None
            elif self.state is BODY:
                if at_chunk:
                    self._chunk_taker = consumer.chunk_taker()
                return
        self._wait_for_reader()

    def _advance(self) -> None:
        """Change the state as the parser requires."""
        parser = self._parser
        if self.state is HEAD and parser.head is not NO_RESPONSE:
            self.state = BODY
            self.response = head = parser.head
            self.status, self.headers = head.status, head.headers
        if parser.error is not None:
            parser.keep_alive = False
            self.transport.abort()
            if not (parser.complete and self.status):
                self.state = CLOSED
                self.error = parser.error
                return
        if parser.complete:
            self.state = COMPLETE

    def _wait_for_reader(self) -> None:
        """Wake the reader of the response. Apply back-pressure if it has not yet taken much of the body."""
        parser = self._parser
        if parser.size > BUFFER_BYTES and self.state is BODY and not (self._read_paused or parser.collecting):
            self._read_paused = True
            self.transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._upload is not None:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._parser.close()
        self.owner.lost(self)
        state = self.state
        if state is BODY and exc is None and self.response.ends_with_connection:
            self.state = COMPLETE
        elif state < COMPLETE:
            # While it is idle, only the first loss matters: a server may refuse a client certificate before it receives
            # the first request.
            self.error = exc if state is IDLE else self._lost_error(exc or ConnectionResetError())
            self.state = CLOSED
        self._wake()


def _is_consumed(connection: Connection) -> bool:
    """Return False if the consumer has applied back-pressure. mypy overlooks that a wait can change that."""
    return connection.consumer is not None
