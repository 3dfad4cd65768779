"""Outline of a large JSON object: the places of its top-level values, found without decoding them.

`quick_outline` jumps from string to string. It pays off for bodies with few, long strings, such as images, and returns
None where a real parser is faster; `expects_long_strings` avoids most attempts that would end so. `outline_in_slices`
takes any object, in time slices, where a parser would block the event loop for too long.
"""

import re
from dataclasses import dataclass

import msgspec

from gateway.base.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.base.limits import JSON_DEPTH, JSON_NAMES, JSON_VALUES, Limit
from gateway.base.types import Body
from gateway.loop.time_slices import Slices

LOOK_BYTES = 8 << 10  # of the beginning of a body
FREE_STRINGS = 32  # after as many strings, the scan continues only while they are long on average
BYTES_A_STRING = 2048  # the outline is faster than a parser from about 1,430 bytes a string on
FREE_BRACKETS = 4096  # bytes between strings, which are scanned one by one
BYTES_A_BRACKET = 256
BACKSLASH = 0x5C
MAX_BACKSLASHES = 64  # before a quotation mark

MAX_DEPTH = 512
MAX_NAMES = 1000  # at the top level
MAX_VALUES = 500_000  # limit of strings, arrays and objects of a body that is scanned in slices
SLICE_STEPS = 1024  # of less than a microsecond each, mostly
WINDOW_BYTES = 4096
TEXT_BYTES = 64 << 10
BYTES_A_STEP = 128  # bytes that a regular expression scans in one step

_NAME = re.compile(rb'\s{0,256}+"([^"\\]{0,256}+)"\s{0,256}+:\s{0,256}+')
_SCALAR = re.compile(rb"true|false|null|-?[0-9][0-9.eE+-]{0,1023}+(?![0-9.eE+-])")
_NEXT = re.compile(rb"\s{0,256}+([,}])")
_BRACKET = re.compile(rb"[\[\]{}]")
_BETWEEN = frozenset((b",", b":", b", ", b": "))  # the usual bytes between two strings
_SIBLINGS = frozenset((b"},{", b"}, {"))  # the end of an object, and the next in its array
_SPACE = re.compile(rb"\s{0,4096}+")
_ANY_NAME = re.compile(rb'"((?:[^"\\]|\\.){0,256}+)"\s{0,256}+:\s{0,256}+', re.DOTALL)
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Outline:
    """Start and end of each top-level value by name; a repeated name has its last value."""

    values: dict[bytes, tuple[int, int]]


class _Unsure(Exception):
    pass


def expects_long_strings(body: Body) -> bool:
    """Return whether `quick_outline` is likely to be faster than a parser, by the first LOOK_BYTES.

    It is faster if strings have more than 1,430 bytes on average: it takes 0.33 µs for each string, and a parser takes
    0.23 ns for each byte (benchmarks/MEASUREMENTS.md, "Outline of a big body"). The last string in LOOK_BYTES stands
    for the rest of the body: it must have BYTES_A_STRING bytes there. Strings before it are not counted, because every
    body begins with some short ones. A wrong guess costs little: `quick_outline` stops after a few dozen short strings.
    """
    return LOOK_BYTES - body.rfind(b'"', 0, LOOK_BYTES) > BYTES_A_STRING


def quick_outline(body: Body) -> Outline | None:
    """Return the outline of an object; None if the body is no object, is malformed at the top, or is too complex.

    A body with too many strings or brackets is too complex.
    """
    try:
        return Outline(_QuickScanner(body).top())
    except _Unsure:
        return None


class _QuickScanner:
    def __init__(self, body: Body) -> None:
        self._body = body
        self._strings = 0
        self._brackets = 0

    def top(self) -> dict[bytes, tuple[int, int]]:
        body = self._body
        at = _space_end(body, 0)
        if body[at : at + 1] != b"{":
            raise _Unsure
        at += 1
        values: dict[bytes, tuple[int, int]] = {}
        while True:
            name = _NAME.match(body, at)
            if name is None:
                raise _Unsure
            self._count(at)
            start = name.end()
            end = self._value_end(start)
            values[bytes(name[1])] = start, end
            then = _NEXT.match(body, end)
            if then is None:
                raise _Unsure
            at = then.end()
            if then[1] == b"}":
                if _space_end(body, at) != len(body):
                    raise _Unsure
                return values

    def _value_end(self, at: int) -> int:
        first = self._body[at : at + 1]
        if first == b'"':
            return self._string_end(at)
        if first in (b"[", b"{"):
            return self._nested_end(at)
        scalar = _SCALAR.match(self._body, at)
        if scalar is None:
            raise _Unsure
        return scalar.end()

    def _string_end(self, at: int) -> int:
        """Return the position after the string that begins at `at`."""
        self._count(at)
        return self._closed(self._body.find(b'"', at + 1))

    def _closed(self, quote: int) -> int:
        """Return the position after a string. `quote` is the first quotation mark that may end it."""
        body = self._body
        while quote > 0 and body[quote - 1] == BACKSLASH and _is_escaped(body, quote):
            self._count(quote)
            quote = body.find(b'"', quote + 1)
        if quote < 0:
            raise _Unsure
        return quote + 1

    def _count(self, at: int) -> None:
        """Count a quotation mark. Raises _Unsure if there are so many that a parser is faster."""
        self._strings += 1
        if self._strings > FREE_STRINGS and at < (self._strings - FREE_STRINGS) * BYTES_A_STRING:
            raise _Unsure

    def _nested_end(self, at: int) -> int:
        """Return the position after the array or object that begins at `at`."""
        body, find = self._body, self._body.find
        depth = 0
        while True:
            quote = find(b'"', at)
            if (quote if quote >= 0 else len(body)) - at > WINDOW_BYTES:
                raise _Unsure
            between = bytes(body[at:quote] if quote >= 0 else body[at:])
            if between not in _BETWEEN and not (depth > 1 and between in _SIBLINGS):
                for bracket in _BRACKET.finditer(between):
                    depth += 1 if bracket[0] in b"[{" else -1
                    if depth == 0:
                        return at + bracket.end()
                self._count_brackets(at, len(between))
                if depth > MAX_DEPTH:
                    raise _Unsure
            if quote < 0:
                raise _Unsure
            self._count(quote)
            end = find(b'"', quote + 1)
            at = end + 1 if end > 0 and body[end - 1] != BACKSLASH else self._closed(end)

    def _count_brackets(self, at: int, limit: int) -> None:
        """Count at most `limit` brackets before `at`. Raises _Unsure if there are so many that a parser is faster."""
        self._brackets += limit
        if self._brackets > FREE_BRACKETS and at < (self._brackets - FREE_BRACKETS) * BYTES_A_BRACKET:
            raise _Unsure


def _space_end(body: Body, at: int) -> int:
    return _SPACE.match(body, at).end()  # type: ignore[union-attr]  # the pattern matches anything


def _is_escaped(body: Body, quote: int) -> bool:
    before = bytes(body[max(0, quote - MAX_BACKSLASHES) : quote])
    backslashes = len(before) - len(before.rstrip(b"\\"))
    if backslashes == MAX_BACKSLASHES:
        raise _Unsure
    return backslashes % 2 == 1


def outline_in_slices(
    body: Body, max_values: int = MAX_VALUES, reason: tuple[Limit, str] = (JSON_VALUES, "")
) -> Slices[Outline]:
    """Return the outline of any object, in time slices of some milliseconds.

    Raises Refusal: 400 if the scanned part is no JSON object or is nested deeper than MAX_DEPTH; 413 for more than
    `max_values` strings, arrays and objects, or more than MAX_NAMES names.

    `reason`: the limit that has the value `max_values`, and the purpose for which there are too many values.
    """
    return _SlicedScanner(body, max_values, reason).top()


class _SlicedScanner:
    def __init__(self, body: Body, max_values: int, reason: tuple[Limit, str]) -> None:
        self._body = body
        self._max_values = max_values
        self._limit, self._purpose = reason
        self._values = 0
        self._steps = 0  # of this time slice

    def top(self) -> Slices[Outline]:
        body = self._body
        values: dict[bytes, tuple[int, int]] = {}
        at = self._mark(0, b"{")
        if body[at : at + 1] == b"}":
            return self._whole(values, at + 1)
        while True:
            name, start = self._name(at)
            if len(values) == MAX_NAMES and name not in values:
                message = f"The body's top level has more than {MAX_NAMES:,} names."
                raise Refusal(413, REQUEST_TOO_LARGE, message, limit=JSON_NAMES)
            end = yield from self._value(start)
            values[name] = start, end
            at = _space_end(body, end)
            if body[at : at + 1] == b"}":
                return self._whole(values, at + 1)
            at = self._mark(at, b",")

    def _mark(self, at: int, mark: bytes) -> int:
        """Return the position after this mark and the space around it."""
        at = _space_end(self._body, at)
        if self._body[at : at + 1] != mark:
            raise self._malformed(at)
        return _space_end(self._body, at + 1)

    def _whole(self, values: dict[bytes, tuple[int, int]], at: int) -> Outline:
        if (at := _space_end(self._body, at)) != len(self._body):
            raise self._malformed(at)
        return Outline(values)

    def _name(self, at: int) -> tuple[bytes, int]:
        found = _ANY_NAME.match(self._body, at)
        if found is None:
            raise self._malformed(at)
        name = bytes(found[1])
        if b"\\" in name:
            try:
                name = msgspec.json.decode(b'"%b"' % name, type=str).encode()
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise self._malformed(at) from None
        return name, found.end()

    def _value(self, at: int) -> Slices[int]:
        """Return the position after the value that begins at `at`."""
        first = self._body[at : at + 1]
        if first in (b"[", b"{"):
            return (yield from self._nested(at))
        self._values += 1
        if self._take(2):
            yield
        if first == b'"':
            return (yield from self._string(at))
        scalar = _SCALAR.match(self._body, at)
        if scalar is None:
            raise self._malformed(at)
        return scalar.end()

    def _nested(self, at: int) -> Slices[int]:
        body, size = self._body, len(self._body)
        depth = 0
        while True:
            quote = body.find(b'"', at, at + WINDOW_BYTES)
            stop = min(at + WINDOW_BYTES, size) if quote < 0 else quote
            depth, end = self._depth(depth, at, stop)
            if depth == 0:
                return end
            at = stop
            if quote >= 0:
                self._values += 1
                at = yield from self._string(quote)
            elif stop == size:
                raise self._malformed(size)
            if self._take(1):
                yield

    def _depth(self, depth: int, at: int, stop: int) -> tuple[int, int]:
        """Return the depth at `stop` and 0, or 0 and the position at which the depth becomes 0.

        There is no string between `at` and `stop`.
        """
        between = bytes(self._body[at:stop])
        if between in _BETWEEN:
            return depth, 0
        found = 0
        for bracket in _BRACKET.finditer(between):
            found += 1
            depth += 1 if bracket[0] in b"[{" else -1
            if depth == 0:
                return 0, at + bracket.end()
            if depth > MAX_DEPTH:
                raise too_deep()
        self._values += found // 2 + 1
        self._steps += found // 4 + len(between) // BYTES_A_STEP
        return depth, 0

    def _string(self, at: int) -> Slices[int]:
        """Return the position after the string that begins at `at`."""
        body = self._body
        quote = body.find(b'"', at + 1)
        if quote < 0:
            raise self._malformed(len(body))
        if body[quote - 1] != BACKSLASH:
            return quote + 1
        at += 1
        while True:
            end = _TEXT.match(body, at, at + TEXT_BYTES).end()  # type: ignore[union-attr]  # it matches anything
            if body[end : end + 1] == b'"':
                return end + 1
            if end == at:
                raise self._malformed(at)
            if self._take((end - at) // BYTES_A_STEP):
                yield
            at = end

    def _take(self, steps: int) -> bool:
        """Count steps; return True when the time slice is used up. Raises Refusal (413) for too many values."""
        if self._values > self._max_values:
            too_many = f"too many {self._purpose}".rstrip()
            message = f"The body has more than {self._max_values:,} strings, arrays and objects, which is {too_many}."
            raise Refusal(413, REQUEST_TOO_LARGE, message, limit=self._limit)
        self._steps += steps
        if self._steps < SLICE_STEPS:
            return False
        self._steps = 0
        return True

    def _malformed(self, at: int) -> Refusal:
        return Refusal(400, INVALID_REQUEST, f"The body is not a JSON object that can be read: see byte {at}.")


def too_deep() -> Refusal:
    message = f"The body nests arrays and objects more than {MAX_DEPTH} levels deep."
    return Refusal(400, INVALID_REQUEST, message, limit=JSON_DEPTH)
