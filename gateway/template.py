"""A message that a connection has carried, as a template: the next nearly always differs from it in its body alone.

Its bytes tell so, and the parser need not be asked again.
"""

LENGTH = b"\r\ncontent-length: "
MAX_DIGITS = 7  # of the length of a body that is looked for here


class Template:
    """The head of a message that a parser has found proper, but for the digits of its Content-Length."""

    __slots__ = ("_at", "_prefix", "_suffix", "_suffix_bytes")

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        """What stands before the digits, and from behind them to the end of the head."""
        self._prefix = prefix
        self._at = len(prefix)
        self._suffix = suffix
        self._suffix_bytes = len(suffix)

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        return self._at + self._suffix_bytes

    @classmethod
    def of(cls, data: bytes, length: int) -> "Template | None":
        """Made of a message that `data` begins with, and whose Content-Length is this. None if that is written in an
        unusual way.
        """
        head = data[: data.find(b"\r\n\r\n") + 4]
        at = head.lower().find(LENGTH) + len(LENGTH)
        digits = b"%d" % length
        if at < len(LENGTH) or not head.startswith(digits + b"\r", at):
            return None
        return cls(head[:at], head[at + len(digits) :])

    def match(self, data: bytes) -> tuple[int, int] | None:
        """Where the body begins in `data`, and how long it is, if its head is this one with any length."""
        at = self._at
        if data[:at] != self._prefix:  # a slice and a comparison take less than `startswith`
            return None
        end = data.find(b"\r", at, at + MAX_DIGITS + 1)
        digits = data[at:end]
        body = end + self._suffix_bytes
        if end < 0 or data[end:body] != self._suffix or not digits.isdigit():
            return None
        return body, int(digits)
