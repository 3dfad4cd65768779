"""Fast path for repeated events: stream events (SSE) that differ from the previous one in their text alone.

Nearly all events of a stream differ only in that. They skip JSON decoding: the previous event has all other facts. One
that arrives as one chunk of the body skips the HTTP parser, too, and is sent with the framing that it has.
"""

import re

from gateway.dialects.openai_events import Event

# The inside of a JSON string that is not empty, with simple escapes such as \n, which are frequent in code.
_STRING = rb'(?!")[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+'
# The text of an event: the only string with such a name.
_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|thinking)"[ ]?:[ ]?"(' + _STRING + rb')"')
MAX_TEXT_BYTES = 64 << 10
MAX_SIZE_LINES = 1024  # that are stored, for all streams together
MAX_CHUNKS_BYTES = 16 << 10  # of several chunks that are compared; a larger read is parsed
_END = b"\n\n\r\n"  # of an event, and of its chunk
_find_special = re.compile(rb'["\\\x00-\x1f\x80-\xff]').search  # what most texts do not contain
_is_string = re.compile(_STRING).fullmatch


class EventTemplate:
    """Template of repeated events: an event that was read, with a gap in place of its text."""

    __slots__ = ("_at", "_chunk_tail", "_chunk_tail_bytes", "_head", "_renamed", "_tail", "_tail_bytes")

    def __init__(self, head: bytes, tail: bytes, sent_head: bytes, sent_tail: bytes) -> None:
        """Take the bytes before and after the text, as received and as sent to the client."""
        self._head = head
        self._at = len(head)
        self._tail = tail
        self._tail_bytes = len(tail)
        self._chunk_tail = tail + b"\r\n"
        self._chunk_tail_bytes = len(self._chunk_tail)
        self._renamed = None if (head, tail) == (sent_head, sent_tail) else (sent_head, sent_tail)

    @classmethod
    def of(cls, raw: bytes, event: Event, out: bytes) -> "EventTemplate | None":
        """Return the template of an event that was relayed as `out`.

        Return None if the event has no text, or if it reports more than text, such as usage or an end.
        """
        ends = any(end for _, end in event.choices)
        if event.deltas != 1 or ends or event.usage or event.error or event.finished or event.last:
            return None
        if event.inside or event.response_id is not None or event.item is not None or len(raw) > MAX_TEXT_BYTES:
            return None
        parts = _parts(raw)
        sent = parts if out == raw else _parts(out)
        return None if parts is None or sent is None else cls(*parts, *sent)

    def match(self, raw: bytes) -> bytes | None:
        """Return the bytes for the client if the event matches the template, else None."""
        at, end = self._at, len(raw) - self._tail_bytes
        if (
            not at < end < at + MAX_TEXT_BYTES
            or raw[:at] != self._head
            or raw[end:] != self._tail
            or (_find_special(raw, at, end) is not None and not _is_valid(raw[at:end]))
        ):
            return None
        if self._renamed is None:
            return raw
        head, tail = self._renamed
        return head + raw[at:end] + tail

    def match_chunk(self, chunk: bytes) -> bytes | None:
        """Return the chunk for the client if `chunk` is exactly one, with its framing, of an event that matches."""
        size = len(chunk)
        line = _size_lines[size]
        begin = len(line)
        at, end = begin + self._at, size - self._chunk_tail_bytes
        if (
            chunk[begin:at] != self._head
            or chunk[end:] != self._chunk_tail
            or not 0 < end - at < MAX_TEXT_BYTES
            or (chunk[:begin] != line and chunk[:begin].lower() != line)
            or (_find_special(chunk, at, end) is not None and not _is_valid(chunk[at:end]))
        ):
            return None
        if self._renamed is None:
            return chunk
        head, tail = self._renamed
        return b"%x\r\n%b%b%b\r\n" % (len(head) + end - at + len(tail), head, chunk[at:end], tail)

    def match_chunks(self, data: bytes) -> list[bytes] | None:
        """Return the chunks for the client if `data` is several chunks that match, as a busy process receives them."""
        size = len(data)
        at, end = 0, data.find(_END) + len(_END)
        if end >= size or size > MAX_CHUNKS_BYTES:
            return None
        found: list[bytes] = []
        while at < size:
            chunk = self.match_chunk(data[at:end])
            if chunk is None:
                return None
            found.append(chunk)
            at, end = end, data.find(_END, end) + len(_END)
        return found


class _SizeLines(dict[int, bytes]):
    """The line before a chunk, without needless zeros or extensions, by the bytes of the chunk with its framing.

    No chunk has some of these sizes; then it is longer than the chunk.
    """

    def __missing__(self, size: int) -> bytes:
        lines = (b"%x\r\n" % max(0, size - digits - 4) for digits in range(1, 9))
        line = next((line for digits, line in enumerate(lines, 1) if len(line) == digits + 2), b"." * (size + 1))
        if len(self) < MAX_SIZE_LINES:
            self[size] = line
        return line


_size_lines = _SizeLines()


def _parts(raw: bytes) -> tuple[bytes, bytes] | None:
    """Return an event's bytes before and after its text; None if it does not have exactly one."""
    matches = list(_TEXT.finditer(raw))
    return (raw[: matches[0].start(1)], raw[matches[0].end(1) :]) if len(matches) == 1 else None


def _is_valid(text: bytes) -> bool:
    """Return True if this is the inside of a valid JSON string, without escapes of Unicode characters."""
    if _is_string(text) is None:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
