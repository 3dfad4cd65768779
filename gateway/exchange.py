"""One request and its answer on a client's connection. Knows HTTP's framing; knows nothing of models."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway import drive
from gateway.drive import Drive
from gateway.errors import Refusal
from gateway.outbox import Body
from gateway.peer import UNKNOWN, Headers, Peer

if TYPE_CHECKING:
    from gateway.cors import Cors
    from gateway.handler import Pass, Route
    from gateway.protocol import GatewayProtocol
    from gateway.shares import Hold
    from gateway.snapshot import ApiKey

HeaderList = Sequence[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")

_NO_BODY = {204, 304}
JOINED_BYTES = 1 << 20  # of a body that is copied behind its head
BUFFER_BYTES = 256 << 10  # of a streamed body that nobody has read yet, at which the client has to wait


class Head:
    """A request's header lines but Content-Length, and what was made of them.

    Clients repeat themselves: the next request of a connection that bears the same lines shares this object.
    """

    __slots__ = ("chunked", "fields", "headers", "lines", "onward", "passed", "peer", "raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw  # as they came
        self.headers = headers = [(name.lower(), value) for name, value in raw]
        self.lines = len(headers)
        self.fields = dict(reversed(headers))  # by (lower-case) name, the first of each
        self.chunked = b"transfer-encoding" in self.fields  # no other coding is let in
        self.peer: Peer | None = None  # until it is looked for
        self.passed: Pass | None = None  # why the last request of these lines was let in
        self.onward: bytes | None = None  # the lines that an inference server gets to see


class Exchange:
    """Made when a request's head has arrived, done when its answer is written or its client has left."""

    __slots__ = (
        "_body", "_chunked", "_reader", "api_key", "arrived", "body_bytes", "complete", "cors", "expects_continue",
        "fields", "head", "hold", "keep_alive", "length", "method", "path", "peer", "protocol", "query", "received",
        "refusal", "route", "started", "streams", "target", "task", "version",
    )  # fmt: skip

    def __init__(
        self,
        protocol: "GatewayProtocol",
        method: bytes,
        target: bytes,
        head: Head,
        length: int | None,
        version: str,
    ) -> None:
        self.protocol: GatewayProtocol | None = protocol
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition(b"?")
        self.head = head
        self.fields = head.fields
        self.length = length  # as Content-Length announces it
        self.version = version
        self.arrived = 0.0  # time.monotonic()
        self.peer: Peer = UNKNOWN
        self.api_key: ApiKey | None = None
        self.refusal: Refusal | None = None
        self.route: Route | None = None  # what answers, where it is not control
        self.cors: Cors | None = None  # what pages of other origins are told with the answer
        self.keep_alive = True
        self.expects_continue = False
        self.streams = False  # begun before its body is here, which is read by `read_body`
        self.body_bytes = 0
        self.hold: Hold | None = None  # what is reserved for the body, where it does not come at once and small
        self.received = False  # the whole body is here
        self.started = False  # something of the answer was written
        self.complete = False
        self.task: Drive | None = None
        self._body: Body = b""
        self._chunked = False
        self._reader: Drive | asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode('latin-1')} {self.path.decode('latin-1')}>"

    def add_body(self, data: bytes) -> None:
        """A piece of it. The first is nearly always the whole; what grows, grows in place: big ones are copied once."""
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
        """All of it, at once."""
        self._body = body
        self.body_bytes = self.length or 0
        self.received = True

    def take_body(self) -> Body:
        """The body, which is forgotten here."""
        body, self._body = self._body, b""
        return body

    # A body that is streamed

    async def read_body(self) -> Body:
        """What has come of a streamed body; empty at its end. A client that vanishes cancels whoever waits here, like
        the rest of its request. Raises Refusal (413) for a body that is too large.
        """
        protocol = self.protocol
        assert protocol is not None
        if self.expects_continue:
            self.expects_continue = False
            protocol.encourage(self)
        while not (self._body or self.received or self.refusal):
            self._reader = waiter = drive.waiter()
            await waiter
        self._reader = None
        if self.refusal is not None:
            raise self.refusal
        body = self.take_body()
        protocol.go_on_reading()
        return body

    def room_for_answer(self) -> Callable[[int], None]:
        """To be called with the bytes of an answer that are kept for it, in addition to its body's. That raises Refusal
        (503) if there is no room.
        """
        already = 0 if self.hold is None else self.hold.size
        return lambda size: self.keep(already + size)

    def keep(self, size: int) -> None:
        """So many bytes of a streamed body are kept after they were read. Raises Refusal (503) if there is no room."""
        if self.protocol is not None:
            self.protocol.keep(self, size)

    @property
    def unread(self) -> int:
        """Bytes of the body that wait here."""
        return len(self._body)

    def wake_reader(self) -> None:
        """More of the body is here, or its end, or a refusal."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # The answer

    def reply(self, status: int, headers: HeaderList, body: bytes, more: bytes = b"") -> None:
        """The whole answer, in one write if it is not big. `more` header lines, ready to be sent."""
        lines = self._head(status, headers, more)
        if status not in _NO_BODY:
            size = len(body)
            lines.append(b"content-length: %d\r\n\r\n" % size)
            if self.method == b"HEAD":
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
        """The head of a streamed answer. `sized`: its headers tell the length."""
        self._chunked = self.version != "1.0" and self.method != b"HEAD" and not sized
        if self.version == "1.0" and not sized:
            self.keep_alive = False
        lines = self._head(status, headers, more)
        lines.append(b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n")
        self._write(b"".join(lines))

    def write(self, data: bytes) -> None:
        protocol = self.protocol
        if data and self.method != b"HEAD" and protocol is not None:
            size = len(data)
            if size > JOINED_BYTES:
                self._write_big(protocol, data)
                return
            framed = b"%x\r\n%b\r\n" % (size, data) if self._chunked else data
            protocol.gateway.outbox.write(protocol.transport, framed)

    def _write_big(self, protocol: "GatewayProtocol", data: bytes) -> None:
        """The same without a copy."""
        pieces = (b"%x\r\n" % len(data), data, b"\r\n") if self._chunked else (data,)
        for piece in pieces:
            protocol.gateway.outbox.write(protocol.transport, piece)

    async def drain(self) -> None:
        """Until the client has taken enough of what was written."""
        if self.protocol is not None and self.protocol.flow.write_paused:
            await self.protocol.flow.drain()

    def end(self, data: bytes = b"") -> None:
        """The last bytes of a streamed answer."""
        if self._chunked:
            self._write((b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n")
        elif data:
            self._write(data)

    def abort(self) -> None:
        """Break the connection: the only honest end of an answer that cannot be finished."""
        self.keep_alive = False
        if self.protocol is not None:
            self.protocol.transport.abort()

    @property
    def write_paused(self) -> bool:
        return self.protocol is not None and self.protocol.flow.write_paused

    def _head(self, status: int, headers: HeaderList, more: bytes) -> list[bytes]:
        assert self.protocol is not None
        protocol = self.protocol
        if not self.received or protocol.gateway.stopping:
            self.keep_alive = False  # where the next request begins is not known yet, or nobody will read it
        standing = protocol.server_state.default_headers
        if standing is not _Standing.headers:
            _Standing.learn(standing)
        of_api = self.route is not None or self.path.startswith(b"/v1/")
        lines = [STATUS_LINE[status], _Standing.of_api if of_api else _Standing.lines]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if self.cors is not None:
            lines += self.cors.lines(self, headers, more)
        if more:
            lines.append(more)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        return lines

    def _write(self, data: bytes) -> None:
        self.started = True
        protocol = self.protocol
        if protocol is not None:
            protocol.gateway.outbox.write(protocol.transport, data)


# Whatever an endpoint answers, no browser takes it for a page of RouterDash's.
_HARMLESS = b"x-content-type-options: nosniff\r\ncontent-security-policy: sandbox\r\n"


class _Standing:
    """The headers of every answer, which uvicorn makes anew each second."""

    headers: HeaderList = ()
    lines = b""
    of_api = b""  # the same for /v1

    @classmethod
    def learn(cls, headers: HeaderList) -> None:
        cls.headers = headers
        cls.lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        cls.of_api = cls.lines + _HARMLESS


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


# What a sender may not have taken away by naming it in Connection.
_NEVER_OF_A_HOP = frozenset((b"host", b"cookie", b"set-cookie", b"content-type", b"authorization", b"x-api-key"))


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers that are meant for the other end, not for this hop (RFC 9110, section 7.6.1)."""
    headers = list(headers)
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    named -= _NEVER_OF_A_HOP
    return [header for header in headers if header[0] not in HOP_BY_HOP and header[0] not in named]
