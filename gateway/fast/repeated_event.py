"""Fast path for repeated events: stream events (SSE) that differ from the previous one in their text alone.

Nearly all events of a stream differ only in that. They skip JSON decoding: the previous event has all other facts. One
that arrives as one chunk of the body skips the HTTP parser, too, and is sent with the framing that it has
(gateway.fast.chunk_taker). Set ENABLED to False to read all events.
"""

import re

# The inside of a JSON string that is not empty, with simple escapes such as \n, which are frequent in code.
_STRING = rb'(?!")[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+'
# The text of an event: the only string with such a name.
_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|thinking)"[ ]?:[ ]?"(' + _STRING + rb')"')
ENABLED = True
MAX_TEXT_BYTES = 64 << 10
MAX_SIZE_LINES = 1024  # that are stored, for all streams together
MAX_CHUNKS_BYTES = 16 << 10  # of several chunks that are compared; a larger read is parsed
MAX_KNOWN_TEXTS = 4096  # that are stored, for all streams together
KNOWN_TEXT_BYTES = 32  # of the longest text that is stored; tokens are shorter
_END = b"\n\n\r\n"  # of an event, and of its chunk
_find_special = re.compile(rb'["\\\x00-\x1f\x80-\xff]').search  # what most texts do not contain
_is_string = re.compile(_STRING).fullmatch
# Texts that need no decoding. Most tokens of most streams are among a few thousand; a look is quicker than a search.
_known_texts: set[bytes] = set()


class EventTemplate:
    """Template of repeated events: an event that was read, with a gap in place of its text."""

    __slots__ = ("_chunk_tail", "_head", "_renamed", "_size_lines", "_tail")

    def __init__(self, head: bytes, tail: bytes, sent_head: bytes, sent_tail: bytes) -> None:
        """Take the bytes before and after the text, as received and as sent to the client."""
        self._head = head
        self._tail = tail
        self._chunk_tail = tail + b"\r\n"
        self._size_lines = _lower_case
        self._renamed = None if (head, tail) == (sent_head, sent_tail) else (sent_head, sent_tail)

    @classmethod
    def of(cls, raw: bytes, out: bytes) -> "EventTemplate | None":
        """Return the template of an event that was relayed as `out`, and reports nothing but text.

        Return None if it does not have exactly one text, or a large one.
        """
        if not ENABLED or len(raw) > MAX_TEXT_BYTES:
            return None
        parts = _parts(raw)
        sent = parts if out == raw else _parts(out)
        return None if parts is None or sent is None else cls(*parts, *sent)

    def match(self, raw: bytes) -> bytes | None:
        """Return the bytes for the client if the event matches the template, else None."""
        head, tail = self._head, self._tail
        start, end = len(head), len(raw) - len(tail)
        if end < start or not raw.startswith(head) or not raw.endswith(tail):
            return None
        text = raw[start:end]
        if text not in _known_texts and not _is_plain(text):
            return None
        if self._renamed is None:
            return raw
        sent_head, sent_tail = self._renamed
        return sent_head + text + sent_tail

    def match_chunk(self, chunk: bytes) -> bytes | None:
        """Return the chunk for the client if `chunk` is exactly one, with its framing, of an event that matches."""
        size = len(chunk)
        line = self._size_lines.get(size)
        if line is None:
            line = _size_line(size, self._size_lines)
        head, tail = self._head, self._chunk_tail
        position = len(line)
        start, end = position + len(head), size - len(tail)
        # Compiled, this takes a fifth of the instructions of `removeprefix` and `removesuffix`.
        if end < start or not chunk.startswith(line) or not chunk.endswith(tail) or chunk[position:start] != head:
            return self._match_upper_case(chunk) if chunk.endswith(tail) else None
        text = chunk[start:end]
        if text not in _known_texts and not _is_plain(text):
            return None
        if self._renamed is None:
            return chunk
        sent_head, sent_tail = self._renamed
        return b"%x\r\n%b%b%b\r\n" % (len(sent_head) + len(text) + len(sent_tail), sent_head, text, sent_tail)

    def _match_upper_case(self, chunk: bytes) -> bytes | None:
        """Do the same for a chunk that does not match, if its size has capital letters, as some servers write it."""
        line = _size_line(len(chunk), _upper_case)
        if line == _size_line(len(chunk), self._size_lines) or not chunk.startswith(line):
            return None
        self._size_lines = _upper_case
        return self.match_chunk(chunk)

    def match_chunks(self, data: bytes) -> list[bytes] | None:
        """Return the chunks for the client if `data` is several chunks that match, as a busy process receives them."""
        size = len(data)
        position, end = 0, data.find(_END) + len(_END)
        if end >= size or size > MAX_CHUNKS_BYTES:
            return None
        chunks: list[bytes] = []
        while position < size:
            chunk = self.match_chunk(data[position:end])
            if chunk is None:
                return None
            chunks.append(chunk)
            position, end = end, data.find(_END, end) + len(_END)
        return chunks


def _size_line(size: int, lines: dict[int, bytes]) -> bytes:
    """Return the line before a chunk that has `size` bytes with its framing, without needless zeros or extensions.

    No chunk has some of these sizes; then the line is longer than the chunk. `lines` stores it.
    """
    if (stored := lines.get(size)) is not None:
        return stored
    line_of_size = b"." * (size + 1)
    for digits in range(1, 9):
        line = (b"%X\r\n" if lines is _upper_case else b"%x\r\n") % max(0, size - digits - 4)
        if len(line) == digits + 2:
            line_of_size = line
            break
    if len(lines) < MAX_SIZE_LINES:
        lines[size] = line_of_size
    return line_of_size


# By the bytes of the chunk with its framing. Servers write the letters in different ways.
_lower_case: dict[int, bytes] = {}
_upper_case: dict[int, bytes] = {}


def _parts(raw: bytes) -> tuple[bytes, bytes] | None:
    """Return an event's bytes before and after its text; None if it does not have exactly one."""
    matches = list(_TEXT.finditer(raw))
    return (raw[: matches[0].start(1)], raw[matches[0].end(1) :]) if len(matches) == 1 else None


def _is_plain(text: bytes) -> bool:
    """Return True if this is the inside of a valid JSON string, neither empty nor large, without escapes of Unicode
    characters. `_known_texts` stores it then.
    """
    if not 0 < len(text) < MAX_TEXT_BYTES or (_find_special(text) is not None and not _is_valid(text)):
        return False
    if len(text) <= KNOWN_TEXT_BYTES:
        if len(_known_texts) >= MAX_KNOWN_TEXTS:  # of the texts of today, the frequent ones are soon back
            _known_texts.clear()
        _known_texts.add(text)
    return True


def _is_valid(text: bytes) -> bool:
    if _is_string(text) is None:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
