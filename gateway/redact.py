"""What is taken out of texts: inline media of bodies for the history, and secrets of whatever an endpoint says."""

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


# Secrets

REDACTED = b"[redacted]"
MIN_IN_ERRORS, MIN_IN_ANSWERS = 6, 12  # characters of a key: a shorter one is a word such as EMPTY, and no secret
MAX_SPELLED_BYTES = 256 << 10  # in what is longer, a key is only looked for as it is

_BEARER = re.compile(rb"((?i:bearer)(?:[ \t]|%20|\+|\\t)+)(?=[A-Za-z.~+/%=]*[0-9_-])[A-Za-z0-9._~+/%=-]{8,}")
_ESCAPES = (b"%", b"\\", b"&#")


class Redactor:
    """Takes an endpoint's own key, and every bearer token, out of what the endpoint says."""

    __slots__ = ("_key", "_secret", "_spelled", "in_answers")

    def __init__(self, secret: str | None) -> None:
        self._secret = secret if secret is not None and len(secret) >= MIN_IN_ERRORS else None
        self._key = None if self._secret is None else self._secret.encode()
        self._spelled: re.Pattern[bytes] | None = None
        # What to look for in an answer that is no error: quick, and nothing that answers may well say.
        self.in_answers = self._key if self._key is not None and len(self._key) >= MIN_IN_ANSWERS else None

    def clean(self, data: bytes) -> bytes:
        """Of an error, or a header of one: the key as it is, or escaped as in URLs, JSON and HTML."""
        if self._key is not None:
            if self._key in data:
                data = data.replace(self._key, REDACTED)
            if len(data) <= MAX_SPELLED_BYTES and any(mark in data for mark in _ESCAPES):
                data = self._escaped().sub(REDACTED, data)
        if b"earer" in data or b"EARER" in data:
            data = _BEARER.sub(rb"\1" + REDACTED, data)
        return data

    def clean_text(self, text: str) -> str:
        return self.clean(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def _escaped(self) -> re.Pattern[bytes]:
        if self._spelled is None:
            self._spelled = re.compile(b"".join(map(_spellings, self._secret or "")))
        return self._spelled


def _spellings(character: str) -> bytes:
    """A pattern of all the ways to write a character: each bounded, so that no text takes long."""
    plain = character.encode()
    percent = b"".join(rb"%%(?:25){0,3}(?i:%02x)" % byte for byte in plain)
    units = character.encode("utf-16-be")
    json = b"".join(rb"\\{1,8}u(?i:%b)" % units[at : at + 2].hex().encode() for at in range(0, len(units), 2))
    html = rb"&#(?:0{0,4}%d|[xX]0{0,4}(?i:%x));" % (ord(character), ord(character))
    slashed = rb"\\{0,8}" + re.escape(plain) if character in '/"\\' else re.escape(plain)
    return b"(?:" + b"|".join((slashed, percent, json, html)) + b")"
