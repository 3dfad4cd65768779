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

from gateway import bounds
from gateway.bounds import Bound
from gateway.drive import Drive
from gateway.errors import BUFFERS_FULL, REQUEST_TOO_LARGE, TOO_MANY_REQUESTS, Refusal, error_body
from gateway.exchange import BUFFER_BYTES, Exchange, Head
from gateway.grammar import Malformed, check_first_line, check_headers, check_line, origin_form
from gateway.handler import MAX_FORWARDED_BODY, Gateway
from gateway.outbox import Outbox
from gateway.peer import Crowd, Peers, client_of
from gateway.shares import MOST_STEPS, ROOM_SECONDS, Buffers, Claim, Hold, Pacer, Share
from gateway.template import Template

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
MAX_STREAMED_BYTES = 256 << 20  # of a body that is passed on as it comes
MAX_HEAD_BYTES = 64 << 10
MAX_HEADER_LINES = 100
MAX_TARGET_BYTES = 8 << 10  # path and query
MAX_PIPELINED = 16
SMALL_BODY_BYTES = 64 << 10
LINGER_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75  # between two requests on a connection
RECEIVE_SECONDS = 60.0  # for the whole of a head
SLOWEST = 1024  # bytes of a body a second, over the last SLOW_SECONDS; and of a response that waits for its client
SLOW_SECONDS = 30.0
MAX_BODY_SECONDS = 600.0  # for the whole of a body
MAX_STREAMED_SECONDS = 3600.0  # for one that is passed on as it comes; not counting what its endpoint keeps waiting
SEND_SECONDS = 120.0  # in which a client takes less than SLOWEST of what was written for it
TURNED_AWAY_SECONDS = 1.0  # for a client to read that it has too many connections
KNOWN_BODY_BYTES = 1 << 20  # larger ones go through the parser
MOST_PIECES = 32
SLICE_BYTES = 8 << 10  # that the parser gets at once, but for bodies of a known length
CALLBACKS_OF_A_STEP = 32  # pieces of a body that cost as much as another read
CHUNK_ROOM_BYTES = 64 << 10  # reserved ahead for a body of unknown length
STREAM_ROOM_BYTES = (1 << 20) + 2 * BUFFER_BYTES  # reserved for a body that is passed on as it comes
MAX_REMEMBERED_HEAD = 8 << 10  # bytes of a head that is kept for the next request
HEADER_OBJECT_BYTES = 128  # that a header line takes besides its text
# Why a connection is not read, as bits: requests wait, an endpoint is slow, there is no room, its client is slowed.
PIPELINE, ENDPOINT, ROOM, TURN = 1, 2, 4, 8
# Forms of people who are not logged in, or that are small at any rate.
SMALL_PATHS = frozenset((b"/login", b"/logout", b"/account/theme", b"/account/password", b"/i18n/setlang/"))
STOPPING_SECONDS = 1.0  # the same, while the process waits for it to stop


@dataclass(frozen=True, slots=True)
class Known:
    """A request that the parser has read, for the next of its connection."""

    template: Template
    method: bytes
    target: bytes
    head: Head


NOBODY = Share("nobody", 0)


class Enough(Exception):
    """Raised to have the parser stop: what follows is not looked at."""


class TooManyLines(Exception):
    """Raised to have the parser stop in a head that is refused."""


class GatewayProtocol(HttpToolsProtocol):
    """One client's connection."""

    # Set on the subclass that `bound_to` makes.
    gateway: Gateway
    crowd: Crowd
    buffers: Buffers
    pacer: Pacer
    outbox: Outbox

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
        self.admitted: bool | None = None  # by whoever accepted the connection; None: it is to be asked for
        self.entered = False  # is counted among its client's connections
        self.share: Share = NOBODY  # its address's part of the worker
        self.hold: Hold | None = None  # for what belongs to no request yet
        self.unsent_hold: Hold | None = None  # for what waits for the client to take it
        self.claim: Claim | None = None  # the running or coming request waits for room
        self.held_back = 0  # why it is not read
        self.rest = b""  # was read, and waits for the client's next turn
        self.raw: bytes | bytearray = b""  # what the parser gets, from the first line of the head on that is read
        self.raw_at = 0  # where the next first line may begin in it
        self.deaf = False  # what comes is not even parsed
        self.judged = 0.0  # `begun` of the body whose slowness is measured
        self.judged_bytes = 0
        self.slow_at = 0.0  # when that body is too slow, unless more of it comes
        self.request_line: tuple[bytes, bytes, str] = (b"", b"", "")  # the last one that was found proper
        self.replaying = False
        self.closed = False  # nothing that still comes is a request
        self.lingering: asyncio.TimerHandle | None = None

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self.deaf:
            raise Enough
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
        if not self.in_head:
            return  # a trailer, which nobody has asked for
        if len(name) == 14 and name.lower() == b"content-length":
            if self.length is not None:
                raise Malformed("two lengths")
            self.length = int(value)  # digits, as the parser has seen to
        else:
            self.headers.append((name, value))
            if len(self.headers) > MAX_HEADER_LINES:
                raise TooManyLines

    def on_headers_complete(self) -> None:
        if self.replaying:
            return
        self.in_head = False
        self.progress += 1
        parser, head, headers = self.parser, self.head, self.headers
        self.headers = []
        method, url, version = parser.get_method(), self.url, parser.get_http_version()
        self.raw_at = check_first_line(self.raw, self.raw_at, method, url, version)
        if not url.startswith(b"/"):
            url, headers = origin_form(url, headers, version)
        request_line = method, url, version
        if request_line != self.request_line:
            check_line(*request_line)
            self.request_line = request_line
        if head is None or head.raw != headers:
            self.head = head = Head(headers)
            check_headers(head.headers)
        if head.chunked and (self.length is not None or version == "1.0"):
            raise Malformed("a length that is told twice, or to nobody")
        exchange = Exchange(self, method, url, head, self.length, version)
        exchange.keep_alive = parser.should_keep_alive()
        exchange.arrived = time.monotonic()
        exchange.refusal = self._refusal(exchange)
        self.share.steps += 1
        self.latest = exchange
        if self.stalled_bytes > MAX_REMEMBERED_HEAD and (size := _size(exchange)) > MAX_REMEMBERED_HEAD:
            self.head = None
            exchange.hold = self._opened(exchange)
            self.buffers.put(exchange.hold, size)
        if self.running is None:
            self.running = exchange
            self._greet(exchange)
        else:
            self.waiting.append(exchange)
            if len(self.waiting) >= MAX_PIPELINED:
                self._pause(PIPELINE)

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
            self._pause(PIPELINE)  # until its turn
        limit, _ = self._limit(exchange)
        if exchange.body_bytes > limit and exchange.refusal is None:
            self._drop(exchange, self._too_large(exchange))
        elif exchange.streams and exchange.unread > BUFFER_BYTES and not self.paused_at:
            self.paused_at = time.monotonic()
            self._pause(ENDPOINT)

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
            self._begin_late(exchange)

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
            self.deaf = True
            message = "Too many requests wait on this connection."
            return Refusal(429, TOO_MANY_REQUESTS, message, bound=bounds.PIPELINED)
        if self.stalled_bytes > MAX_HEAD_BYTES and _size(exchange) > MAX_HEAD_BYTES:
            exchange.keep_alive = False
            message = f"The request's head has more than {MAX_HEAD_BYTES >> 10} KiB."
            return Refusal(431, REQUEST_TOO_LARGE, message, bound=bounds.HEADER_BYTES)
        if len(exchange.target) > MAX_TARGET_BYTES:
            exchange.keep_alive = False
            message = f"The request's target has more than {MAX_TARGET_BYTES >> 10} KiB."
            return Refusal(414, REQUEST_TOO_LARGE, message, bound=bounds.TARGET_BYTES)
        refusal = self.gateway.admit(exchange, self.client[0] if self.client else None)
        fields = exchange.fields
        if b"expect" in fields:
            exchange.expects_continue = fields[b"expect"].lower() == b"100-continue"
        if refusal is None:
            exchange.streams = exchange.route is not None and exchange.route.streams
            if exchange.length is not None and exchange.length > SMALL_BODY_BYTES:
                limit, _ = self._limit(exchange)
                return self._too_large(exchange) if exchange.length > limit else None
        return refusal

    def _greet(self, exchange: Exchange) -> None:
        """With only its head here, a request is refused early, or told to go on, or simply awaited."""
        if exchange.refusal is not None:
            big = b"transfer-encoding" in exchange.fields or (exchange.length or 0) > SMALL_BODY_BYTES
            if exchange.expects_continue or big:
                self._refuse_early(exchange)
        elif exchange.streams:
            self._begin(exchange)
        elif exchange.expects_continue and self._reserve(exchange):
            self.encourage(exchange)

    def encourage(self, exchange: Exchange) -> None:
        """Tell a client that waits with its body for our word to go on."""
        if exchange.version != "1.0" and not exchange.body_bytes and not exchange.received:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def go_on_reading(self) -> None:
        """Of a streamed body: what was here is taken."""
        if self.paused_at and not self.waiting:
            self._waited(self.paused_at)
            self.paused_at = 0.0
            self._unpause(ENDPOINT)

    def _waited(self, since: float) -> None:
        """It was not the client who was slow."""
        self.quiet_since = now = time.monotonic()
        self.begun += now - since
        self.judged += now - since
        self.slow_at += now - since

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
        self._unpause(PIPELINE | ENDPOINT | ROOM)
        if not self.transport.is_closing():
            self.lingering = self.loop.call_later(seconds, self.close)

    def _begin_late(self, exchange: Exchange) -> None:
        """Not in the same breath as its head: its key may have gone while its body came, or while it waited."""
        if exchange.refusal is None:
            exchange.refusal = self.gateway.check_key(exchange)
        self._begin(exchange)

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
        if exchange.hold is not None:
            self._give_back(exchange)
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
        elif self.deaf and not exchange.keep_alive:
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
                self._unpause(PIPELINE | ENDPOINT)
            self._charge()
            if exchange.received:
                self._begin_late(exchange)
            else:
                self._greet(exchange)
        elif self.held_back:
            self._unpause(PIPELINE | ENDPOINT)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        ip = self.client[0] if self.client else None
        self.entered = self.crowd.enter(ip) if self.admitted is None else self.admitted
        if not self.entered:
            self._say(b"503 Service Unavailable", b"Too many connections come from this address.\n")
            self._hit(bounds.CONNECTIONS)
            self._linger(TURNED_AWAY_SECONDS)
            return
        many = ip is None or self.crowd.is_proxy(ip)
        self.share = self.buffers.enter(client_of(ip or ""), self, many=many)

    def data_received(self, data: bytes) -> None:
        if not self.entered:
            return
        self.quiet_since = time.monotonic()
        share, turn = self.share, self.outbox.turn
        if share.turn != turn:
            share.turn = turn
            share.steps = 1
        elif share.steps >= MOST_STEPS:
            share.steps += 1
            self._put_off(data)
            return
        else:
            share.steps += 1
        # Between two requests; in the middle of one, its body may look like anything.
        if self.missing:
            self._collect(data)
        elif self.latest is not None or self.in_head or not self._knows(data):
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self.deaf:
            return
        size = len(data)
        if size > SLICE_BYTES:
            self._parse_slices(data, size)
            return
        self._feed(data, size)
        if self.in_head or self.waiting or self.hold is not None:
            self._charge()
        exchange = self.latest
        if exchange is not None and not exchange.received:
            self.outbox.put(0)  # this turn has an end
            self._reserve(exchange)

    def _parse_slices(self, data: bytes, size: int) -> None:
        """Very many small pieces are another matter than one large one: after each slice the client's turn may be over.
        What is left then is parsed in its next one.
        """
        at = 0
        while at < size and not self.deaf and not self.transport.is_closing():
            if at and self.share.steps > MOST_STEPS:
                self._put_off(data[at:])
                return
            exchange = self.latest
            missing = 0
            if exchange is not None and not exchange.received and exchange.length is not None:
                missing = exchange.length - exchange.body_bytes
            if missing > SLICE_BYTES:  # they come as one piece
                with memoryview(data) as view, view[at : at + missing] as piece:
                    self._feed(piece, len(piece))
                    at += len(piece)
                if exchange is not None and not exchange.complete:
                    self._reserve(exchange)
            else:
                self._parse(data[at : at + SLICE_BYTES])
                at += SLICE_BYTES

    def _feed(self, data: bytes | memoryview, size: int) -> None:
        before = self.progress
        between = self.latest is None and not self.in_head and not self.stalled_bytes
        self.stalled_bytes += size
        offered = -1  # where an offer to upgrade ends
        self._note_raw(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            offered = error.args[0]
        except httptools.HttpParserCallbackError as error:
            self._stopped(error.__context__)
        except (httptools.HttpParserError, ValueError):
            self._malformed()
        if offered >= 0 and self.latest is not None and not self.latest.received:
            self._read_on(self.latest, bytes(data[offered:]))
        if not self.in_head:
            self.raw = b""
        done = self.progress - before
        if done > 0:
            self.stalled_bytes = 0
            if between and self.latest is not None and done == 2 + self.latest.received:
                self._learn(bytes(data), self.latest)  # a head, a body or a part of one, and the end if it is whole
            if done > CALLBACKS_OF_A_STEP:
                self.share.steps += done // CALLBACKS_OF_A_STEP
        elif self.stalled_bytes > 2 * MAX_HEAD_BYTES:
            self._hit(bounds.HEADER_BYTES)
            self._malformed()  # a head or a trailer without end

    def _note_raw(self, data: bytes | memoryview) -> None:
        """For a look at the first line of a request: this is where it stands, or begins, or ends."""
        if not self.in_head:
            self.raw, self.raw_at = data if isinstance(data, bytes) else b"", 0
        elif isinstance(self.raw, bytearray):
            self.raw += data
        else:
            self.raw = bytearray(self.raw)
            self.raw += data

    def _stopped(self, why: BaseException | None) -> None:
        """One of the parser's callbacks has raised."""
        if isinstance(why, TooManyLines):
            self._too_many_lines()
        elif not isinstance(why, Enough):
            if not isinstance(why, Malformed):
                log.error("a fault of ours in reading a request", exc_info=why)
            self._malformed()

    def _too_many_lines(self) -> None:
        self._hit(bounds.HEADER_LINES)
        self.deaf, self.in_head, self.headers = True, False, []
        message = f"The request's head has more than {MAX_HEADER_LINES} lines."
        if self.running is None:
            self._say(
                b"431 Request Header Fields Too Large", error_body(431, REQUEST_TOO_LARGE, message), b"application/json"
            )
            self._linger(LINGER_SECONDS)
        else:
            self.close()

    def _learn(self, data: bytes, exchange: Exchange) -> None:
        """Of a request that `data` begins with: what the next may have in common with it."""
        if exchange.length is None or not exchange.keep_alive or exchange.version != "1.1":
            return
        if exchange.streams or exchange.expects_continue:
            return
        template = Template.of(data, exchange.length)
        if template is not None and template.size <= MAX_REMEMBERED_HEAD:
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
        if exchange.refusal is not None if missing else length > SMALL_BODY_BYTES:
            return False  # it is told before the rest comes; what is large is reserved there
        if length > SMALL_BODY_BYTES and length > self._limit(exchange)[0]:
            return False
        self.stalled_bytes = 0
        self.running = self.latest = exchange
        if missing:
            exchange.body_bytes = len(body)
            self.pieces, self.missing = [body], missing
            self.outbox.put(0)  # this turn has an end
            self._reserve(exchange)
        else:
            exchange.receive(body)
            self._begin(exchange)
        return True

    def _collect(self, data: bytes) -> None:
        """More of a known request's body, which goes past the parser: so it is copied once."""
        exchange = self.latest
        assert exchange is not None
        self.outbox.put(0)  # this turn has an end
        if exchange.complete:  # it was refused
            self.missing -= min(self.missing, len(data))
            if not self.missing:
                self.close()
            return
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
            self._begin_late(exchange)
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
        self.rest = b""
        unanswered = running is None or not (running.started or (running.task and running.received))
        if unanswered and not self.transport.is_closing():
            self._say(b"400 Bad Request", b"This is not a valid HTTP request.\n")
        self.close()

    def _say(self, status: bytes, text: bytes, kind: bytes = b"text/plain") -> None:
        """To a client whose request is none that could be answered in another way."""
        self.write(
            b"HTTP/1.1 %b\r\ncontent-type: %b\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, kind, len(text), text)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.cycle = None  # type: ignore[assignment]  # uvicorn's own exchange: there is none
        super().connection_lost(exc)
        if self.entered:
            self.entered = False
            self.crowd.leave(self.client[0] if self.client else None)
            self._give_back_all()
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

    # What it takes of the worker

    def _hit(self, bound: Bound) -> None:
        self.gateway.bounds.hit(bound)

    def _pause(self, reason: int) -> None:
        if not self.held_back:
            self.flow.pause_reading()
        self.held_back |= reason

    def _unpause(self, reasons: int) -> None:
        if self.held_back:
            self.held_back &= ~reasons
            if not self.held_back and not self.transport.is_closing():
                self.flow.resume_reading()

    def _put_off(self, data: bytes) -> None:
        """To the next turn of its client, which has had its part of this one."""
        self.rest = self.rest + data if self.rest else data
        self._charge()
        if self.entered:
            self.pacer.slow_down(self.share, self)

    def hold_back(self) -> bool:
        """Its client is slowed. False if it is held back for that already, or closed."""
        if self.held_back & TURN or not self.entered or self.transport.is_closing():
            return False
        self._pause(TURN)
        return True

    def go_on(self) -> None:
        """It is the turn of this connection of a slowed client."""
        if not self.entered:
            return
        self.quiet_since = time.monotonic()
        self.held_back &= ~TURN
        if self.rest:
            rest, self.rest = self.rest, b""
            self.data_received(rest)
        if not self.held_back and not self.transport.is_closing():
            self.flow.resume_reading()

    def _opened(self, exchange: Exchange) -> Hold:
        """For a request: of its address and its key."""
        buffers, own = self.buffers, self.share
        client = client_of(exchange.peer.ip) if exchange.peer.ip else ""
        address = own if not client or own.name == "address " + client else buffers.address(client)
        if exchange.api_key is not None:
            return buffers.open(buffers.key(exchange.api_key.id), address)
        if exchange.path.startswith(b"/v1/"):
            return buffers.open(address)
        return buffers.open(buffers.pages(client), address)

    def _reserve(self, exchange: Exchange) -> bool:
        """Room for the rest of a body. False if the request has to wait for it, or is refused."""
        wanted = _wanted(exchange)
        if not wanted:
            return True
        if exchange.length is None:
            wanted = min(wanted, self._limit(exchange)[0])
        hold = exchange.hold
        if hold is None:
            hold = exchange.hold = self._opened(exchange)
        buffers = self.buffers
        if buffers.grow(hold, wanted, large=wanted > SMALL_BODY_BYTES):
            return True
        if self.claim is not None:
            return False
        bound = self._what_is_full(hold, wanted)
        if not buffers.grow(hold, exchange.body_bytes):
            self._drop(exchange, _no_room(bound))
            return False
        self._hit(bound)
        now = time.monotonic()
        self.claim = Claim(
            hold,
            wanted,
            now + ROOM_SECONDS,
            lambda: self._granted(exchange, now),
            lambda: self._refused_room(exchange),
        )
        self._pause(ROOM)
        buffers.wait(self.claim)
        return False

    def _what_is_full(self, hold: Hold, wanted: int) -> Bound:
        full = self.buffers.held + wanted - hold.size > self.buffers.limit
        return bounds.BUFFERS if full else bounds.CLIENT_BUFFERS

    def _granted(self, exchange: Exchange, since: float) -> None:
        self.claim = None
        self._waited(since)
        if exchange.expects_continue and not exchange.streams:
            self.encourage(exchange)
        self._unpause(ROOM)

    def _refused_room(self, exchange: Exchange) -> None:
        self.claim = None
        self._unpause(ROOM)
        self._drop(exchange, _no_room(None))

    def keep(self, exchange: Exchange, size: int) -> None:
        """So many bytes of a streamed body are kept after they were read. Raises Refusal (503) if there is no room."""
        hold = exchange.hold
        if hold is None:
            hold = exchange.hold = self._opened(exchange)
        if not self.buffers.grow(hold, size):
            raise _no_room(self._what_is_full(hold, size))

    def _drop(self, exchange: Exchange, refusal: Refusal) -> None:
        """Refuse a request whose body is being received, and forget what is here of it."""
        exchange.refusal = refusal
        exchange.take_body()
        self.pieces = []
        self._give_back(exchange)
        if exchange is self.running and not exchange.streams:
            self._refuse_early(exchange)
        else:
            exchange.keep_alive = False
            exchange.wake_reader()

    def _give_back(self, exchange: Exchange) -> None:
        if exchange.hold is None:
            return
        hold, exchange.hold = exchange.hold, None
        if self.claim is not None and self.claim.hold is hold:
            self.buffers.leave(self.claim)
            self.claim = None
            self._unpause(ROOM)
        self.buffers.close(hold)

    def _give_back_all(self) -> None:
        """The connection is lost."""
        for exchange in (self.running, self.latest, *self.waiting):
            if exchange is not None:
                self._give_back(exchange)
        for hold in (self.hold, self.unsent_hold):
            if hold is not None:
                self.buffers.close(hold)
        self.hold = self.unsent_hold = None
        self.rest = b""
        self.pieces = []
        self.buffers.exit(self.share, self)

    def _charge(self) -> None:
        """For half a head, and for whole requests that wait: they must not be a place to hide bytes in."""
        if sum(it.body_bytes for it in self.waiting) > SMALL_BODY_BYTES:
            self._pause(PIPELINE)
        size = sum(it.body_bytes for it in self.waiting if it.hold is None) + len(self.rest)
        if self.in_head:
            here = len(self.url) + sum(len(name) + len(value) + HEADER_OBJECT_BYTES for name, value in self.headers)
            size += max(here, self.stalled_bytes)
        hold = self.hold
        if not size:
            if hold is not None:
                self.buffers.close(hold)
                self.hold = None
            return
        self.outbox.put(0)  # this turn has an end
        if hold is None:
            hold = self.hold = self.buffers.open(self.share)
        if size <= hold.size:
            self.buffers.put(hold, size)
        elif not self.buffers.grow(hold, size) and not self.transport.is_closing():
            self._hit(self._what_is_full(hold, size))
            if self.running is None or not self.running.started:
                self._say(b"503 Service Unavailable", b"Too much waits to be received from this address.\n")
            self.close()

    def _charge_unsent(self, unsent: int) -> bool:
        """For what its client does not take. False if there is no room for that."""
        hold, running = self.unsent_hold, self.running
        if running is not None and running.hold is not None:
            unsent -= running.hold.size  # that is reserved until its client has taken enough
        if hold is None:
            hold = self.unsent_hold = self.buffers.open(self.share)
        if unsent > SMALL_BODY_BYTES:
            self.buffers.put(hold, unsent)
            if not self.buffers.has_room(hold, 0):
                self._hit(self._what_is_full(hold, 0))
                return False
        else:
            self.buffers.close(hold)
            self.unsent_hold = None
        return True

    def _limit(self, exchange: Exchange) -> tuple[int, Bound]:
        """Most bytes of its body."""
        if exchange.streams:
            return MAX_STREAMED_BYTES, bounds.STREAMED_BODY
        path = exchange.path
        if path.startswith(b"/v1/"):
            return MAX_BODY_BYTES, bounds.BODY
        if path in SMALL_PATHS or not self.gateway.may_be_known(exchange):
            return SMALL_BODY_BYTES, bounds.STRANGER_BODY
        return MAX_FORWARDED_BODY, bounds.FORWARDED_BODY

    def _too_large(self, exchange: Exchange) -> Refusal:
        limit, bound = self._limit(exchange)
        size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"
        why = "; log in, or send an API key, to send more" if bound is bounds.STRANGER_BODY else ""
        return Refusal(413, REQUEST_TOO_LARGE, f"The body has more than {size}{why}.", bound=bound)

    # Time

    def expire(self, now: float, *, stopping: bool) -> None:
        """Looked at twice a second: is it the client that everything waits for, and for too long?"""
        unsent = self.transport.get_write_buffer_size()
        if self._is_stuck(unsent, now):
            self._hit(bounds.SLOW_READER)
            self.transport.abort()
            return
        if (unsent > SMALL_BODY_BYTES or self.unsent_hold is not None) and not self._charge_unsent(unsent):
            self.transport.abort()
            return
        running = self.running
        receiving = self.in_head or (running is not None and not running.received)
        if running is not None and (running.received or (running.started and not running.streams)):
            return
        if self.claim is not None and stopping:
            self.claim.until = 0.0  # refused at once
        if self.paused_at or self.held_back & (ROOM | TURN):
            return  # it is not the client that is slow
        late = self._is_late(now) if receiving else None
        if late is None and now - self.quiet_since <= self._patience(receiving, stopping):
            return
        if not receiving:
            # When the process is busy, a request may be here that nobody has read: that happens before.
            self.loop.call_soon(self._leave, self.quiet_since)
            return
        if late is not None:
            self._hit(late)
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

    def _is_late(self, now: float) -> Bound | None:
        """Does a request come so slowly that it may never end?"""
        running = self.running
        if self.in_head or running is None:
            return bounds.SLOW_HEADER if now - self.begun > RECEIVE_SECONDS else None
        if self.judged != self.begun:
            self.judged, self.judged_bytes = self.begun, 0
            self.slow_at = self.begun + SLOW_SECONDS
        # Each byte buys time, but never more than the window: a burst at the beginning does not pay for hours.
        bought = (running.body_bytes - self.judged_bytes) / SLOWEST
        self.judged_bytes = running.body_bytes
        self.slow_at = min(self.slow_at + bought, now + SLOW_SECONDS)
        if now > self.slow_at:
            return bounds.SLOW_BODY
        longest = MAX_STREAMED_SECONDS if running.streams else MAX_BODY_SECONDS
        return bounds.LONG_BODY if now - self.begun > longest else None

    def _is_stuck(self, unsent: int, now: float) -> bool:
        """Has the client, for too long, taken hardly anything of what was written? Closing would wait for it, too."""
        if not unsent or not self.unsent or self.unsent - unsent >= SLOWEST * SEND_SECONDS:
            self.unsent, self.stuck_since = unsent, now
        elif unsent > self.unsent:
            self.unsent = unsent  # more was written
        return now - self.stuck_since > SEND_SECONDS

    def shutdown(self) -> None:
        """The process is to stop. The next answer tells it; a client that asks nothing more is left by `expire`.

        Not at once: a request may be on its way, and what arrives at a closed connection is answered by a reset.
        """
        self.quiet_since = time.monotonic()


def _wanted(exchange: Exchange) -> int:
    """Bytes of room that the body takes, in the end as far as that is known."""
    if exchange.refusal is not None or exchange.complete or exchange.received:
        return 0
    length = exchange.length
    if exchange.streams:
        return STREAM_ROOM_BYTES if length is None else min(length, STREAM_ROOM_BYTES)
    return exchange.body_bytes + CHUNK_ROOM_BYTES if length is None else length


def _no_room(bound: Bound | None) -> Refusal:
    message = "There is no room for this request now: too much is being received or sent. Try again shortly."
    return Refusal(503, BUFFERS_FULL, message, headers=((b"retry-after", b"2"),), bound=bound)


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
    fields = {
        "gateway": gateway,
        "outbox": gateway.outbox,
        "crowd": Crowd(config.max_connections_per_client, Peers(config.trusted_proxies)),
        "buffers": Buffers(config.max_buffered_mb << 20),
        "pacer": Pacer(gateway.outbox, lambda: gateway.bounds.hit(bounds.CLIENT_STEPS)),
    }
    return type("BoundProtocol", (GatewayProtocol,), fields)
