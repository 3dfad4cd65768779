"""Fast path for a request whose header block equals the one before on its connection, but for its Content-Length.

Such a request skips the HTTP parser. It is safe against request smuggling because only complete header blocks that the
parser has accepted are compared, byte by byte, and only between two requests. The switch is that of
gateway.fast.repeated_header_block.
"""

from typing import Generic, TypeVar

from gateway.fast.repeated_header_block import HeaderBlockTemplate

Parsed = TypeVar("Parsed")

MAX_BODY_BYTES = 1 << 20  # a request with a larger body is parsed
MAX_HEAD_BYTES = 8 << 10  # a larger header block is not remembered
MAX_PARTS = 32


class RepeatedRequest(Generic[Parsed]):
    """A request that the parser has accepted, to recognise the next ones."""

    __slots__ = ("_template", "parsed")

    def __init__(self, template: HeaderBlockTemplate, parsed: Parsed) -> None:
        """`parsed`: the parts of the header block."""
        self._template = template
        self.parsed = parsed

    def match(self, data: bytes) -> tuple[bytes, int] | None:
        """Return the received part of the body and its Content-Length if `data` is such a request, or the beginning of
        one; None if the parser must read `data`.
        """
        match = self._template.match(data)
        if match is None:
            return None
        offset, length = match
        body = data[offset:]
        return None if len(body) > length or length > MAX_BODY_BYTES else (body, length)


def remember(data: bytes, length: int, parsed: Parsed) -> RepeatedRequest[Parsed] | None:
    """Return the request at the start of `data`, whose Content-Length is `length`, in a form to compare others with.
    Return None if it is unsuitable.
    """
    template = HeaderBlockTemplate.from_message(data, length)
    return None if template is None or template.size > MAX_HEAD_BYTES else RepeatedRequest(template, parsed)


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
