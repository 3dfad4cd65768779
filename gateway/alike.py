"""Events of a stream that differ from the one before in the text alone that they bring, as nearly all of a stream do.

Told by their bytes, they need not be decoded: what an event says but for its text is what the one before said.
"""

import re

from gateway.openai import Event

# Where an event's text stands: the one string under such a name, without an escape, and not empty.
_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|thinking)"[ ]?:[ ]?"([^"\\\x00-\x1f]+)"')
MAX_TEXT_BYTES = 64 << 10
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+').fullmatch


class Alike:
    """An event that was read, with a gap in the place of its text."""

    __slots__ = ("_at", "_head", "_most", "_renamed", "_tail", "_tail_bytes")

    def __init__(self, head: bytes, tail: bytes, sent_head: bytes, sent_tail: bytes) -> None:
        """What stands before the text and behind it, as it comes and as clients get it."""
        self._head = head
        self._at = len(head)
        self._most = self._at + MAX_TEXT_BYTES
        self._tail = tail
        self._tail_bytes = len(tail)
        self._renamed = None if (head, tail) == (sent_head, sent_tail) else (sent_head, sent_tail)

    @classmethod
    def of(cls, raw: bytes, event: Event, out: bytes) -> "Alike | None":
        """Made of an event that was passed on as `out`. None if the next one's facts may depend on more than that it
        brings some text, or if it brings none.
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
        """An event that is one of these, as clients get it; None for any other."""
        at, end = self._at, len(raw) - self._tail_bytes
        if (
            not at < end < at + MAX_TEXT_BYTES
            or raw[:at] != self._head
            or raw[end:] != self._tail
            or _PLAIN(raw, at, end) is None
        ):
            return None
        text = raw[at:end]
        if not text.isascii() and not _is_utf8(text):
            return None
        if self._renamed is None:
            return raw
        head, tail = self._renamed
        return head + text + tail


def _parts(raw: bytes) -> tuple[bytes, bytes] | None:
    """An event's bytes before its text, and behind it."""
    found = list(_TEXT.finditer(raw))
    return (raw[: found[0].start(1)], raw[found[0].end(1) :]) if len(found) == 1 else None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
