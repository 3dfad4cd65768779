"""One request and its response on a client's connection.

It has the HTTP framing, streamed bodies, flow control (back-pressure) and the effects of a client disconnect.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gateway.base.errors import Refusal
from gateway.base.types import Body
from gateway.fast import coroutine_runner
from gateway.fast.coroutine_runner import CoroutineRunner
from gateway.fast.write_batch import WriteBatch
from gateway.http.client_shares import Reservation
from gateway.http.clients import UNKNOWN, Peer
from gateway.http.cors import Cors
from gateway.loop.flow_control import FlowControl
from gateway.loop.uvicorn_parts import STATUS_LINE, ServerState
from gateway.registry.schema import ApiKey

HeaderList = Sequence[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")

UNREAD = b""  # in the place of the id of a session that nobody has looked for
_NO_BODY = {204, 304}
JOINED_BYTES = 1 << 20  # a smaller body is copied behind its header block
BUFFER_BYTES = 256 << 10  # unread bytes of a streamed body at which back-pressure on the client begins


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """The methods of a path, the permission (empty: no API key is needed), and the function that handles requests."""

    methods: bytes  # as in an Allow header
    permission: str
    handle: Callable[["Exchange"], Coroutine[Any, Any, None]]
    streams: bool = False  # starts with the header block, and reads the body by `Exchange.read_body`
    any_type: bool = False  # the body is JSON, whatever Content-Type a client without a browser names


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """The facts by which a request was admitted. Another one with equal facts is admitted without a second check."""

    keys_version: int  # see Roster.keys_version
    method: bytes
    path: bytes
    route: HttpRoute
    api_key: ApiKey | None


class DrainState(Protocol):
    """The flag that is set while the process drains."""

    stopping: bool


class ClientConnection(Protocol):
    """The part of a client's connection that an exchange uses; implemented by gateway.http.protocol."""

    transport: asyncio.Transport
    flow: FlowControl
    server_state: ServerState

    @property
    def writes(self) -> WriteBatch:
        """The bytes that are written in this iteration of the event loop."""

    @property
    def gateway(self) -> DrainState:
        """The application, which sets `stopping` when the process drains."""

    def send_continue(self, exchange: "Exchange") -> None:
        """Send `100 Continue` to a client that waits for it before it sends the body."""

    def resume_body(self) -> None:
        """Read on, after the received part of a streamed body was taken."""

    def reserve(self, exchange: "Exchange", size: int) -> None:
        """Reserve memory for bytes of a streamed body that are stored. Raises Refusal (503) if the memory is full."""


class RequestLine:
    """The first line of a request."""

    __slots__ = ("method", "path", "query", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: str) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition(b"?")
        self.version = version


class RequestHead:
    """The header lines of a request except Content-Length, and values derived from them.

    Clients repeat themselves: the next request of a connection that has the same lines shares this object.
    """

    __slots__ = ("admitted", "chunked", "fields", "headers", "lines", "onward", "peer", "raw", "session")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw  # as received
        self.headers = headers = [(name.lower(), value) for name, value in raw]
        self.lines = len(headers)
        self.fields = dict(reversed(headers))  # by lower-case name, the first of each
        self.chunked = b"transfer-encoding" in self.fields  # any other coding is refused
        self.peer: Peer = UNKNOWN
        self.admitted: AdmittedRequest | None = None  # the last request with these lines
        self.onward: bytes | None = None  # cache of the lines that an inference server receives
        self.session: bytes | None = UNREAD  # cache of the id of its session (gateway.inference.api)


class BodyReader:
    """The place where the handler of a streamed body waits for the next part."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: CoroutineRunner | asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait for `wake`. A client disconnect cancels the handler that waits."""
        self._waiter = waiter = coroutine_runner.waiter()
        await waiter
        self._waiter = None

    def wake(self) -> None:
        """Continue the handler, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Exchange:
    """One request and its response. It begins with the header block, and ends with the response or a disconnect."""

    __slots__ = (
        "_body", "api_key", "arrived", "body_bytes", "chunked", "complete", "cors", "expects_continue", "head",
        "keep_alive", "length", "line", "protocol", "reader", "received", "refusal", "reservation", "route", "started",
        "task",
    )  # fmt: skip

    def __init__(self, protocol: ClientConnection, line: RequestLine, head: RequestHead, length: int | None) -> None:
        self.protocol: ClientConnection | None = protocol
        self.line = line
        self.head = head
        self.length = length  # Content-Length
        self.arrived = 0.0  # time.monotonic()
        self.api_key: ApiKey | None = None
        self.refusal: Refusal | None = None
        self.route: HttpRoute | None = None  # None: control handles the request
        self.cors: Cors | None = None
        self.keep_alive = True
        self.expects_continue = False
        self.reader: BodyReader | None = None  # of a body that is streamed: the handler starts before it is received
        self.body_bytes = 0
        self.reservation: Reservation | None = None  # of memory; None for a small body
        self.received = False  # the whole body
        self.started = False  # a part of the response was written
        self.complete = False
        self.task: CoroutineRunner | None = None
        self._body: Body = b""
        self.chunked = False  # the response

    def __repr__(self) -> str:
        return f"<Exchange {self.line.method.decode('latin-1')} {self.line.path.decode('latin-1')}>"

    def add_body(self, data: bytes) -> None:
        """Add a part of the body. The first is usually the whole; a longer one grows in place, to be copied once."""
        if self.refusal is None:
            if not self._body:
                self._body = data
            elif isinstance(self._body, bytearray):
                self._body += data
            else:
                self._body = bytearray(self._body)
                self._body += data
        self.body_bytes += len(data)

    def receive(self, body: bytes) -> None:
        """Set the whole body at once."""
        self._body = body
        self.body_bytes = self.length or 0
        self.received = True

    def take_body(self) -> Body:
        """Return the received part of the body, which is not stored any longer."""
        body, self._body = self._body, b""
        return body

    # A streamed body

    async def read_body(self) -> Body:
        """Return the received part of a streamed body; empty at its end. Raises Refusal (413) for a body too large.

        A client disconnect cancels the handler that waits for the body, as it cancels any other wait.
        """
        protocol, reader = self.protocol, self.reader
        assert protocol is not None
        assert reader is not None
        if self.expects_continue:
            self.expects_continue = False
            protocol.send_continue(self)
        while not (self._body or self.received or self.refusal):
            await reader.wait()
        if self.refusal is not None:
            raise self.refusal
        body = self.take_body()
        protocol.resume_body()
        return body

    def reserve_response(self) -> Callable[[int], None]:
        """Return a function that reserves memory for bytes of a response, in addition to the body of the request.

        It raises Refusal (503) if the memory is full.
        """
        reserved = 0 if self.reservation is None else self.reservation.size
        return lambda size: self.reserve(reserved + size)

    def reserve(self, size: int) -> None:
        """Reserve memory for bytes that are stored after they were read. Raises Refusal (503) if it is full."""
        if self.protocol is not None:
            self.protocol.reserve(self, size)

    @property
    def size(self) -> int:
        """Bytes of the whole body, or those received so far of one without a Content-Length."""
        return self.length or self.body_bytes

    @property
    def unread(self) -> int:
        """Bytes of the body that are received, and not taken yet."""
        return len(self._body)

    def wake_reader(self) -> None:
        """Continue the handler: a part of the streamed body is received, or its end, or a refusal."""
        if self.reader is not None:
            self.reader.wake()

    # The response

    def reply(self, status: int, headers: HeaderList, body: bytes, more: bytes = b"") -> None:
        """Send a whole response, in one write if it is not large. `more`: complete header lines."""
        lines = self._header_lines(status, headers, more)
        if status not in _NO_BODY:
            size = len(body)
            lines.append(b"content-length: %d\r\n\r\n" % size)
            if self.line.method == b"HEAD":
                pass
            elif size < JOINED_BYTES:
                lines.append(body)
            else:
                self._write(b"".join(lines))
                self._write(body)
                return
        else:
            lines.append(b"\r\n")
        self._write(b"".join(lines))

    def start(self, status: int, headers: HeaderList, more: bytes = b"", *, sized: bool = False) -> None:
        """Send the header block of a streamed response. `sized`: it has a Content-Length."""
        line = self.line
        self.chunked = line.version != "1.0" and line.method != b"HEAD" and not sized
        if line.version == "1.0" and not sized:
            self.keep_alive = False
        lines = self._header_lines(status, headers, more)
        lines.append(b"transfer-encoding: chunked\r\n\r\n" if self.chunked else b"\r\n")
        self._write(b"".join(lines))

    def write(self, data: bytes) -> None:
        """Send a part of a streamed response."""
        protocol = self.protocol
        if data and self.line.method != b"HEAD" and protocol is not None:
            size = len(data)
            if size > JOINED_BYTES:
                self._write_large(protocol, data)
                return
            framed = b"%x\r\n%b\r\n" % (size, data) if self.chunked else data
            protocol.writes.write(protocol.transport, framed)

    def _write_large(self, protocol: ClientConnection, data: bytes) -> None:
        """Send a large part without a copy."""
        pieces = (b"%x\r\n" % len(data), data, b"\r\n") if self.chunked else (data,)
        for piece in pieces:
            protocol.writes.write(protocol.transport, piece)

    async def drain(self) -> None:
        """Wait until a slow client has read enough of the response (back-pressure).

        Meanwhile nothing is taken from the endpoint's connection, which stops reading (`_wait_for_reader` there).
        """
        if self.protocol is not None and self.protocol.flow.write_paused:
            await self.protocol.flow.drain()

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes of a streamed response."""
        if self.chunked:
            self._write((b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n")
        elif data:
            self._write(data)

    def abort(self) -> None:
        """Close the connection: the client sees that the response is incomplete."""
        self.keep_alive = False
        if self.protocol is not None:
            self.protocol.transport.abort()

    @property
    def write_paused(self) -> bool:
        """Return True while a slow client has not read enough of the response (flow control)."""
        return self.protocol is not None and self.protocol.flow.write_paused

    def _header_lines(self, status: int, headers: HeaderList, more: bytes) -> list[bytes]:
        """Return the header block of a response, without the framing of its body."""
        assert self.protocol is not None
        protocol = self.protocol
        if not self.received or protocol.gateway.stopping:
            self.keep_alive = False  # the next request may begin anywhere, or would not be read any more
        defaults = protocol.server_state.default_headers
        if defaults is not _DefaultHeaders.headers:
            _DefaultHeaders.refresh(defaults)
        api = self.route is not None or self.line.path.startswith((b"/v1/", b"/ollama/"))
        lines = [STATUS_LINE[status], _DefaultHeaders.api_lines if api else _DefaultHeaders.lines]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if self.cors is not None:
            lines += self.cors.lines(self.head.fields.get(b"origin"), headers, more)
        if more:
            lines.append(more)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self.line.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        return lines

    def _write(self, data: bytes) -> None:
        self.started = True
        protocol = self.protocol
        if protocol is not None:
            protocol.writes.write(protocol.transport, data)


# No browser shows the response of an endpoint as a page of RouterDash.
_API_LINES = b"x-content-type-options: nosniff\r\ncontent-security-policy: sandbox\r\n"


class _DefaultHeaders:
    """The header lines of every response, which uvicorn updates each second."""

    headers: ClassVar[HeaderList] = ()
    lines: ClassVar[bytes] = b""
    api_lines: ClassVar[bytes] = b""  # for paths below /v1

    @classmethod
    def refresh(cls, headers: HeaderList) -> None:
        cls.headers = headers
        cls.lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        cls.api_lines = cls.lines + _API_LINES
