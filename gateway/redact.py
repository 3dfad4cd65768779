"""Bodies for the history: inline media replaced by its length, then cut to a bound."""

import re

from gateway.outbox import Body

MAX_STORED_BYTES = 64 << 10

# Where media begin. All that may be of any length is bounded, and the media themselves are not for a pattern to read.
_BEGINNING = re.compile(
    rb'"data:(?:[^"\\]|\\/){0,100}?;base64,'
    rb'|("input_audio"\s{0,100}+:\s{0,100}+\{[^{}]{0,200}?"data"\s{0,100}+:\s{0,100}+)"'
)
LONGEST_BEGINNING = 1024
MIN_AUDIO_BYTES = 64


def redact(body: Body) -> str:
    """Text to store. A body cut short is no longer JSON and ends in an ellipsis.

    No more is looked at than fits, and the media in it.
    """
    text = bytearray()
    at = 0
    while len(text) <= MAX_STORED_BYTES:
        room = MAX_STORED_BYTES + 1 - len(text)
        found = _BEGINNING.search(body, at, at + room + LONGEST_BEGINNING)
        end = -1 if found is None else body.find(b'"', found.end())
        if found is None or end < 0:
            text += body[at : at + room]
            at = min(len(body), at + room)
            break
        text += body[at : found.start()] + _redacted(found, body, end)
        at = end + 1
    if at < len(body) or len(text) > MAX_STORED_BYTES:
        return text[:MAX_STORED_BYTES].decode("utf-8", "ignore") + "…"
    return text.decode("utf-8", "replace")


def _redacted(found: re.Match[bytes], body: Body, end: int) -> bytes:
    """What is stored of media that begin like this and end with a quotation mark at `end`; of other text, a part."""
    start = found.end()
    backslashes = body.count(b"\\", start, end)
    if found[1] is None and backslashes == body.count(b"\\/", start, end):
        return b'"[redacted data-url len=%d]"' % (end - found.start() - 1)
    if found[1] is not None and not backslashes and end - start >= MIN_AUDIO_BYTES:
        return b'%b"[redacted base64 len=%d]"' % (found[1], end - start)
    return bytes(body[found.start() : min(end, found.start() + MAX_STORED_BYTES) + 1])
