"""Removal of inline media from bodies for the history, and of secrets from the texts of endpoints."""

import re
from collections.abc import Iterable

from gateway.base.types import Body

MAX_STORED_BYTES = 64 << 10

# The beginning of media. Every repetition is bounded; the media themselves are not matched by a pattern.
_BEGINNING = re.compile(
    rb'"data:(?:[^"\\]|\\/){0,100}?;base64,'
    rb'|("input_audio"\s{0,100}+:\s{0,100}+\{[^{}]{0,200}?"data"\s{0,100}+:\s{0,100}+)"'
)
LONGEST_BEGINNING = 1024
MIN_AUDIO_BYTES = 64


def redact(body: Body) -> str:
    """Return the text of a body to store. A shortened body is no longer JSON and ends in an ellipsis.

    Only the part that fits is read, and the media in it.
    """
    text = bytearray()
    position = 0
    while len(text) <= MAX_STORED_BYTES:
        space = MAX_STORED_BYTES + 1 - len(text)
        match = _BEGINNING.search(body, position, position + space + LONGEST_BEGINNING)
        end = -1 if match is None else body.find(b'"', match.end())
        if match is None or end < 0:
            text += body[position : position + space]
            position = min(len(body), position + space)
            break
        text += body[position : match.start()] + _redacted(match, body, end)
        position = end + 1
    if position < len(body) or len(text) > MAX_STORED_BYTES:
        return text[:MAX_STORED_BYTES].decode("utf-8", "ignore") + "…"
    return text.decode("utf-8", "replace")


def _redacted(match: re.Match[bytes], body: Body, end: int) -> bytes:
    """Return the stored form of a match of `_BEGINNING` that ends with a quotation mark at `end`.

    Media are replaced by a note of their size; other text is shortened.
    """
    start = match.end()
    backslashes = body.count(b"\\", start, end)
    if match[1] is None and backslashes == body.count(b"\\/", start, end):
        return b'"[redacted data-url len=%d]"' % (end - match.start() - 1)
    if match[1] is not None and not backslashes and end - start >= MIN_AUDIO_BYTES:
        return b'%b"[redacted base64 len=%d]"' % (match[1], end - start)
    return bytes(body[match.start() : min(end, match.start() + MAX_STORED_BYTES) + 1])


# Secrets

REDACTED = b"[redacted]"
MIN_IN_ERRORS, MIN_IN_RESPONSES = 6, 12  # characters of a key: a shorter one is a word such as EMPTY, and no secret
MAX_SPELLED_BYTES = 256 << 10  # in a longer text, a key is only found in its plain spelling

# Bearer tokens, by the last letters of the word before them: a search for plain letters is quick. The token is one
# match even if it is a word, which has no character of the second group, so that no part of a text is read twice.
_TOKEN = rb"(?:[ \t]|%20|\+|\\t)++)(?=[A-Za-z0-9._~+/%=-]{8})[A-Za-z.~+/%=]*+(?:([0-9_-])[A-Za-z0-9._~+/%=-]*+)?+"
_LOWER_BEARER = re.compile(rb"(earer(?<=[Bb]earer)" + _TOKEN)
_UPPER_BEARER = re.compile(rb"(EARER(?<=BEARER)" + _TOKEN)
_ESCAPES = (b"%", b"\\", b"&#")


class Redactor:
    """Filter that removes an endpoint's API key, and every bearer token, from the endpoint's texts.

    `others`: further secrets that the endpoint gets, in its extra headers.
    """

    __slots__ = ("_key", "_others", "_secret", "_spelled", "in_responses", "key")

    def __init__(self, secret: str | None, others: Iterable[str] = ()) -> None:
        self._others = [Redactor(other) for other in others]
        self.key = secret  # the whole key, however short
        self._secret = secret if secret is not None and len(secret) >= MIN_IN_ERRORS else None
        self._key = None if self._secret is None else self._secret.encode()
        self._spelled: re.Pattern[bytes] | None = None
        # The key to remove from a response that is no error: a quick search for a text too long to occur by chance.
        self.in_responses = self._key if self._key is not None and len(self._key) >= MIN_IN_RESPONSES else None

    def clean(self, data: bytes) -> bytes:
        """Remove secrets from an error or its headers: the plain key, or its escapes of URLs, JSON and HTML."""
        if self._key is not None:
            if self._key in data:
                data = data.replace(self._key, REDACTED)
            if len(data) <= MAX_SPELLED_BYTES and any(mark in data for mark in _ESCAPES):
                data = self._escaped().sub(REDACTED, data)
        for other in self._others:
            data = other.clean(data)
        if b"earer" in data:
            data = _LOWER_BEARER.sub(_without_token, data)
        if b"EARER" in data:
            data = _UPPER_BEARER.sub(_without_token, data)
        return data

    def clean_text(self, text: str) -> str:
        return self.clean(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def _escaped(self) -> re.Pattern[bytes]:
        if self._spelled is None:
            self._spelled = re.compile(b"".join(map(_spellings, self._secret or "")))
        return self._spelled


def _without_token(bearer: re.Match[bytes]) -> bytes:
    return bearer[1] + REDACTED if bearer.lastindex == 2 else bearer[0]


def _spellings(character: str) -> bytes:
    """Return a pattern of all spellings of a character. Each is bounded, so that no text takes long."""
    plain = character.encode()
    percent = b"".join(rb"%%(?:25){0,3}(?i:%02x)" % byte for byte in plain)
    units = character.encode("utf-16-be")
    json = b"".join(rb"\\{1,8}u(?i:%b)" % units[start : start + 2].hex().encode() for start in range(0, len(units), 2))
    html = rb"&#(?:0{0,4}%d|[xX]0{0,4}(?i:%x));" % (ord(character), ord(character))
    slashed = rb"\\{0,8}" + re.escape(plain) if character in '/"\\' else re.escape(plain)
    return b"(?:" + b"|".join((slashed, percent, json, html)) + b")"
