"""One request and its answer on a client's connection. Knows HTTP's framing; knows nothing of models."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import Refusal
from gateway.peer import Headers, Peer

if TYPE_CHECKING:
    from gateway.protocol import GatewayProtocol
    from gateway.snapshot import ApiKey

HeaderList = Iterable[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")

_NO_BODY = {204, 304}


class Exchange:
    """Made when a request's head has arrived, done when its answer is written or its client has left."""

    __slots__ = (
        "_body",
        "_chunked",
        "api_key",
        "arrived",
        "body_bytes",
        "complete",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "peer",
        "protocol",
        "query",
        "received",
        "refusal",
        "started",
        "target",
        "task",
        "version",
    )

    def __init__(
        self,
        protocol: "GatewayProtocol",
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        version: str,
    ) -> None:
        self.protocol: GatewayProtocol | None = protocol
        self.method = method
        self.target = target
        path, _, query = target.partition(b"?")
        self.path = path
        self.query = query
        self.headers = headers
        self.version = version
        self.keep_alive = True
        self.expects_continue = False
        self.arrived = 0.0  # time.monotonic()
        self.peer = Peer(None, "http")
        self.api_key: ApiKey | None = None
        self.refusal: Refusal | None = None
        self.body_bytes = 0
        self.received = False  # the whole body is here
        self.started = False  # something of the answer was written
        self.complete = False
        self.task: asyncio.Task[None] | None = None
        self._body: list[bytes] = []
        self._chunked = False

    def __repr__(self) -> str:
        return f"<Exchange {self.method.decode('latin-1')} {self.path.decode('latin-1')}>"

    def header(self, name: bytes) -> bytes | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def add_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.refusal is None:
            self._body.append(data)

    def take_body(self) -> bytes:
        """The body, which is forgotten here: big ones must not live twice."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        return body

    # The answer

    def reply(self, status: int, headers: HeaderList, body: bytes) -> None:
        """The whole answer in one write."""
        length = b"" if status in _NO_BODY else b"content-length: %d\r\n" % len(body)
        head = self._head(status, headers) + length + b"\r\n"
        self._write(head if self.method == b"HEAD" or status in _NO_BODY else head + body)

    def start(self, status: int, headers: HeaderList) -> None:
        """The head of a streamed answer."""
        self._chunked = self.version != "1.0" and self.method != b"HEAD"
        if self.version == "1.0":
            self.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._write(self._head(status, headers) + framing)

    def write(self, data: bytes) -> None:
        if data and self.method != b"HEAD":
            self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

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

    def _head(self, status: int, headers: HeaderList) -> bytes:
        assert self.protocol is not None
        lines = [STATUS_LINE[status]]
        lines += [b"%b: %b\r\n" % header for header in self.protocol.server_state.default_headers]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        return b"".join(lines)

    def _write(self, data: bytes) -> None:
        self.started = True
        if self.protocol is not None and not self.protocol.transport.is_closing():
            self.protocol.transport.write(data)


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


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers that are meant for the other end, not for this hop (RFC 9110, section 7.6.1)."""
    headers = list(headers)
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return [header for header in headers if header[0] not in HOP_BY_HOP and header[0] not in named]
