"""Edit and read JSON text without decoding it whole."""

import re
from typing import Any

import msgspec

from gateway.base.errors import Refusal
from gateway.base.types import Body, Data
from gateway.dialects.json_outline import Outline, outline_in_slices, quick_outline
from gateway.loop.time_slices import Slices

MAX_FIELD_BYTES = 16 << 10  # of a field that is read from a large body
MAX_RENAMED = 1000  # model names that are compared in one response or event
RENAMED_BYTES = 512 << 10

encode = msgspec.json.Encoder().encode

_COLON = re.compile(rb"[ \t\n\r]*+:[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def outline_of_response(body: bytes) -> Slices[Outline | None]:
    """Return the outline of a large response, in time slices; None if it is no object or too complex."""
    top = quick_outline(body)
    try:
        if top is None:
            top = yield from outline_in_slices(body)
    except Refusal:
        return None
    return top


def small_field(body: bytes, top: Outline, name: bytes) -> Any:
    """Return the value of a field of at most MAX_FIELD_BYTES; None if there is none."""
    start, end = top.values.get(name, (0, 0))
    return small_value(body[start:end]) if end - start <= MAX_FIELD_BYTES else None


def small_value(value: bytes) -> Any:
    """Decode a value of at most MAX_FIELD_BYTES; None if it is larger or not valid JSON."""
    if not value or len(value) > MAX_FIELD_BYTES:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def rename_model(data: Body, old: str, new: str) -> bytes:
    """Replace `old` by `new` in every `"model"` key; see `replace_value`."""
    return replace_value(data, b'"model"', old, new)


def replace_value(data: Body, key: bytes, old: str, new: str) -> bytes:
    """Replace the string `old` by `new` wherever it is the value of a key, at most MAX_RENAMED times.

    `key` has its quotes. All other bytes stay. In data of more than 1 MiB only the first and the last RENAMED_BYTES are
    searched.
    """
    if len(data) <= 2 * RENAMED_BYTES:
        return _replaced(data, key, old, new)
    head, tail = data[:RENAMED_BYTES], data[-RENAMED_BYTES:]
    between = memoryview(data)[RENAMED_BYTES:-RENAMED_BYTES]
    return b"".join((_replaced(head, key, old, new), between, _replaced(tail, key, old, new)))


def _replaced(data: Body, key: bytes, old: str, new: str) -> bytes:
    """Search for the key as bytes: inside a JSON string a quote is always escaped, so `"model"` followed by a colon is
    a key, unless a backslash precedes it.
    """
    start = 0
    pieces: list[Data] = []
    replacement = encode(new)
    longest = 12 * len(old) + 2  # if each character is written as two escapes
    for _ in range(MAX_RENAMED):
        place = data.find(key, start)
        if place < 0:
            break
        after = place + len(key)
        colon = _COLON.match(data, after)
        value = end = after if colon is None else colon.end()
        is_key = colon is not None and data[place - 1 : place] != b"\\"
        string = _STRING.match(data, value, value + longest) if is_key else None
        if string is not None and _string(string[0]) == old:
            end = string.end()
            pieces += (data[start:value], replacement)
        else:
            pieces.append(data[start:value])
        start = end
    return b"".join((*pieces, data[start:]))


def _string(literal: bytes) -> str | None:
    try:
        return msgspec.json.decode(literal, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
