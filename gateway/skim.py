"""Looks at the top of a big JSON object without reading what lies deeper: a picture or a whole book passes unread.

Jumps from string to string, of which such bodies have few. What it is not sure of it leaves to a real parser.
"""

import re
from dataclasses import dataclass

from gateway.outbox import Body

FREE_STRINGS = 32  # then only as long as the strings are long enough for it to pay
BYTES_A_STRING = 2048
BACKSLASH = 0x5C
MOST_BACKSLASHES = 64  # in front of a quotation mark

_NAME = re.compile(rb'\s*"([^"\\]*)"\s*:\s*')
_SCALAR = re.compile(rb"true|false|null|-?[0-9][0-9.eE+-]*")
_NEXT = re.compile(rb"\s*([,}])")
_BRACKET = re.compile(rb"[\[\]{}]")
_BETWEEN = frozenset((b",", b":", b", ", b": "))  # two strings, mostly
_SIBLINGS = frozenset((b"},{", b"}, {"))  # the end of an object, and the next in its array
_SPACE = re.compile(rb"\s*")


@dataclass(frozen=True, slots=True)
class Top:
    """Where the values of an object's names lie; of a name that is there twice, the last."""

    values: dict[bytes, tuple[int, int]]


class _Unsure(Exception):
    pass


def skim(body: Body) -> Top | None:
    """None for what is no object, is broken at its top, or has too many strings."""
    try:
        return Top(_Skimmer(body).top())
    except _Unsure:
        return None


class _Skimmer:
    def __init__(self, body: Body) -> None:
        self._body = body
        self._strings = 0

    def top(self) -> dict[bytes, tuple[int, int]]:
        body = self._body
        at = _SPACE.match(body).end()  # type: ignore[union-attr]  # it matches anything
        if body[at : at + 1] != b"{":
            raise _Unsure
        at += 1
        values: dict[bytes, tuple[int, int]] = {}
        while True:
            name = _NAME.match(body, at)
            if name is None:
                raise _Unsure
            start = name.end()
            end = self._value_end(start)
            values[bytes(name[1])] = start, end
            then = _NEXT.match(body, end)
            if then is None:
                raise _Unsure
            at = then.end()
            if then[1] == b"}":
                if _SPACE.match(body, at).end() != len(body):  # type: ignore[union-attr]
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
        """Behind the string that begins at `at`."""
        self._count(at)
        return self._closed(self._body.find(b'"', at + 1))

    def _closed(self, quote: int) -> int:
        """Behind a string of which this is the first quotation mark that may end it."""
        body = self._body
        while quote > 0 and body[quote - 1] == BACKSLASH and _is_escaped(body, quote):
            self._count(quote)
            quote = body.find(b'"', quote + 1)
        if quote < 0:
            raise _Unsure
        return quote + 1

    def _count(self, at: int) -> None:
        """A quotation mark: too many of them, and a real parser is quicker."""
        self._strings += 1
        if self._strings > FREE_STRINGS and at < (self._strings - FREE_STRINGS) * BYTES_A_STRING:
            raise _Unsure

    def _nested_end(self, at: int) -> int:
        """Behind the array or object that begins at `at`."""
        body, find = self._body, self._body.find
        depth = 0
        while True:
            quote = find(b'"', at)
            between = bytes(body[at:quote] if quote >= 0 else body[at:])
            if between not in _BETWEEN and not (depth > 1 and between in _SIBLINGS):
                for bracket in _BRACKET.finditer(between):
                    depth += 1 if bracket[0] in b"[{" else -1
                    if depth == 0:
                        return at + bracket.end()
            if quote < 0:
                raise _Unsure
            self._count(quote)
            end = find(b'"', quote + 1)
            at = end + 1 if end > 0 and body[end - 1] != BACKSLASH else self._closed(end)


def _is_escaped(body: Body, quote: int) -> bool:
    before = bytes(body[max(0, quote - MOST_BACKSLASHES) : quote])
    backslashes = len(before) - len(before.rstrip(b"\\"))
    if backslashes == MOST_BACKSLASHES:
        raise _Unsure
    return backslashes % 2 == 1
