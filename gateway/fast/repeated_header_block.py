"""A template of a header block, to recognise a message that repeats it.

The next message on a connection nearly always has the same header block but for the digits of its Content-Length.
Comparing bytes is enough then, and the HTTP parser is skipped. Set ENABLED to False to parse all, of clients
(gateway.fast.repeated_request) and of endpoints (gateway.upstream.response_head).
"""

ENABLED = True
CONTENT_LENGTH = b"\r\ncontent-length: "
MAX_DIGITS = 7  # a longer Content-Length is left to the parser


class HeaderBlockTemplate:
    """A header block that the parser has accepted, without the digits of its Content-Length."""

    __slots__ = ("_at", "_digits", "_prefix", "_suffix", "_suffix_bytes")

    def __init__(self, prefix: bytes, digits: int, suffix: bytes) -> None:
        """Store the bytes before the digits, the number of digits, and the bytes between the digits and the body."""
        self._prefix = prefix
        self._digits = min(digits, MAX_DIGITS)  # of the last message: the next one mostly has as many
        self._at = len(prefix)
        self._suffix = suffix
        self._suffix_bytes = len(suffix)

    @property
    def size(self) -> int:
        """Memory that the template takes, in bytes."""
        return self._at + self._suffix_bytes

    @classmethod
    def from_message(cls, data: bytes, length: int) -> "HeaderBlockTemplate | None":
        """Build a template of the message at the start of `data`, whose Content-Length is `length`. Return None if the
        Content-Length is written in an unusual form.
        """
        if not ENABLED:
            return None
        block = data[: data.find(b"\r\n\r\n") + 4]
        start = block.lower().find(CONTENT_LENGTH) + len(CONTENT_LENGTH)
        digits = b"%d" % length
        if start < len(CONTENT_LENGTH) or not block.startswith(digits + b"\r", start):
            return None
        return cls(block[:start], len(digits), block[start + len(digits) :])

    def match(self, data: bytes) -> tuple[int, int] | None:
        """Return the offset of the body in `data` and its Content-Length, or None if the header block differs."""
        start = self._at
        if data[:start] != self._prefix:  # a slice and a comparison take less than `startswith`
            return None
        end = start + self._digits
        body = end + self._suffix_bytes
        if data[end:body] != self._suffix:
            end = data.find(b"\r", start, start + MAX_DIGITS + 1)
            body = end + self._suffix_bytes
            if end < 0 or data[end:body] != self._suffix:
                return None
            self._digits = end - start
        digits = data[start:end]
        return (body, int(digits)) if digits.isdigit() else None
