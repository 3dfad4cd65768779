"""Fast path for a request whose header block equals the one before on its connection, but for its Content-Length.

Such a request skips the HTTP parser. It is safe against request smuggling because only complete header blocks that the
parser has accepted are compared, byte by byte, and only between two requests. Set ENABLED to False to parse all.
"""

from dataclasses import dataclass

from gateway.http.exchange import Exchange, RequestHead, RequestLine
from gateway.loop.repeated_header_block import HeaderBlockTemplate

ENABLED = True
MAX_BODY_BYTES = 1 << 20  # a request with a larger body is parsed
MAX_HEAD_BYTES = 8 << 10  # a larger header block is not remembered
MAX_PARTS = 32


@dataclass(frozen=True, slots=True)
class RepeatedRequest:
    """A request that the parser has accepted, to recognise the next ones."""

    template: HeaderBlockTemplate
    line: RequestLine
    head: RequestHead


def remember(data: bytes, exchange: Exchange) -> RepeatedRequest | None:
    """Return the request at the start of `data` in a form to compare others with. Return None if it is unsuitable."""
    if not ENABLED or exchange.length is None or not exchange.keep_alive or exchange.line.version != "1.1":
        return None
    if exchange.reader or exchange.expects_continue:
        return None
    template = HeaderBlockTemplate.from_message(data, exchange.length)
    if template is None or template.size > MAX_HEAD_BYTES:
        return None
    return RepeatedRequest(template, exchange.line, exchange.head)


def match(repeated: RepeatedRequest, data: bytes) -> tuple[bytes, int] | None:
    """Return the received part of the body and its Content-Length on a cache hit; None if the parser must read `data`.

    A cache hit means that `data` is such a request, or the beginning of one.
    """
    match = repeated.template.match(data)
    if match is None:
        return None
    at, length = match
    body = data[at:]
    return None if len(body) > length or length > MAX_BODY_BYTES else (body, length)


class PartialBody:
    """The body of a repeated request that is being received. It skips the parser, and is copied once."""

    __slots__ = ("_parts", "missing")

    def __init__(self, first: bytes, missing: int) -> None:
        self._parts: list[bytes | bytearray] = [first]
        self.missing = missing  # bytes

    def add(self, data: bytes) -> bytes:
        """Add received bytes. Return those behind the body."""
        rest = data[self.missing :]
        part = data[: self.missing] if rest else data
        self.missing -= len(part)
        if len(self._parts) <= MAX_PARTS:
            self._parts.append(part)
        else:  # a client may send byte by byte: no object for each
            last = self._parts[-1]
            self._parts[-1] = last = last if isinstance(last, bytearray) else bytearray(last)
            last += part
        return rest

    def discard(self, data: bytes) -> None:
        """Count received bytes of a body that was refused, without storing them."""
        self._parts.clear()
        self.missing -= min(self.missing, len(data))

    def whole(self) -> bytes:
        return b"".join(self._parts)
