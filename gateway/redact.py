"""Bodies for the history: inline media replaced by its length, then cut to a bound."""

import re

from gateway.outbox import Body

MAX_STORED_BYTES = 64 << 10

# Possessive (`*+`): without it the engine keeps a way back for each of millions of characters.
_DATA_URL = re.compile(rb'"data:(?:[^"\\]|\\/){0,100}?;base64,([^"\\]*+(?:\\/[^"\\]*+)*+)"')
_AUDIO = re.compile(rb'("input_audio"\s*:\s*\{[^{}]*?"data"\s*:\s*)"([A-Za-z0-9+/=_-]{64,})"')


def redact(body: Body) -> str:
    """Text to store. A body cut short is no longer JSON and ends in an ellipsis."""
    body = _DATA_URL.sub(lambda found: b'"[redacted data-url len=%d]"' % (len(found[0]) - 2), body)
    body = _AUDIO.sub(lambda found: b'%b"[redacted base64 len=%d]"' % (found[1], len(found[2])), body)
    if len(body) > MAX_STORED_BYTES:
        return body[:MAX_STORED_BYTES].decode("utf-8", "ignore") + "…"
    return body.decode("utf-8", "replace")
