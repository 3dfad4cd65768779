"""Outline of a large JSON object: the places of its top-level values, found without decoding them.

`quick_outline` jumps from string to string. It pays off for bodies with few, long strings, such as images, and returns
None where a real parser is faster. `outline_by_parser` has a parser find the values of an object, and only computes
their places. `outline_in_slices` takes any object, in time slices, where a parser would block the event loop for too
long. `outline_of` chooses among them.
"""

import re
from dataclasses import dataclass

import msgspec

from gateway.base.bounds import JSON_DEPTH, JSON_NAMES, JSON_VALUES, Bound
from gateway.base.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Refusal
from gateway.base.types import Body, Data
from gateway.dialects.prompt_fields import PromptFields, decode_prompt
from gateway.loop.time_slices import Slices

FREE_STRINGS = 32  # after as many strings, the scan continues only while they are long on average
BYTES_A_STRING = 2048  # the outline is faster than a parser from about 1,430 bytes a string on
FREE_BRACKETS = 4096  # bytes between strings, which are scanned one by one
BYTES_A_BRACKET = 256
BACKSLASH = 0x5C
MAX_BACKSLASHES = 64  # before a quotation mark

BIG_BYTES = (
    1 << 20
)  # a larger body has an outline if that is faster than a parser, which takes 0.3 ms for 1 MiB of text
WHOLE_BYTES = 2 << 20  # a larger body is not parsed at once: 1 MiB takes 0.3 ms, and 5 ms if it consists of tiny values
MAX_WHOLE_NAMES = 50_000  # names at one level of an object that goes to a parser
NAME_BYTES = 5  # of the shortest name with its value: "":1,
MAX_DEPTH = 512
MAX_NAMES = 1000  # at the top level
MAX_REPEATED = 1000  # names at the top level that stand there again
MAX_VALUES = 500_000  # bound of strings, arrays and objects of a body that is scanned in slices
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
_MEMBER = re.compile(rb'[ \t\n\r]*+[{,][ \t\n\r]*+"(?:[^"\\]++|\\.)*+"[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
_END = re.compile(rb"[ \t\n\r]*+[{]?[ \t\n\r]*+\}")

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Outline:
    """Start and end of each top-level value by name; a repeated name has its last value.

    `earlier`: the values before the last one of each repeated name.
    """

    values: dict[bytes, tuple[int, int]]
    earlier: tuple[tuple[bytes, tuple[int, int]], ...] = ()


class _Unsure(Exception):
    pass


def outline_of(body: Body) -> Slices[Outline]:
    """Return the outline of a big body in the fastest way that does not block the event loop for long.

    Raises Refusal as `outline_in_slices`.
    """
    top = quick_outline(body)
    if top is not None:
        return top
    if len(body) <= WHOLE_BYTES and not _has_many_names_outside_prompt(body):
        return (yield from outline_by_parser(body, 0, body))
    return (yield from outline_in_slices(body))


def _has_many_names_outside_prompt(body: Body) -> bool:
    """Return True if a body may have more than MAX_WHOLE_NAMES names at its top level.

    To count colons is quicker than to parse, but text of a prompt has them, too.
    """
    if not may_have_many_names(body, 0, len(body)):
        return False
    try:
        prompt = decode_prompt(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    inside = sum(len(getattr(prompt, name)) for name in PromptFields.__struct_fields__)
    return len(body) - inside > MAX_WHOLE_NAMES * NAME_BYTES


def quick_outline(body: Body) -> Outline | None:
    """Return the outline of an object; None if the body is no object, is malformed at the top, or is too complex.

    A body with too many strings or brackets is too complex.
    """
    try:
        return _QuickScanner(body).top()
    except _Unsure:
        return None


class _QuickScanner:
    def __init__(self, body: Body) -> None:
        self._body = body
        self._strings = 0
        self._brackets = 0

    def top(self) -> Outline:
        body = self._body
        position = _space_end(body, 0)
        if body[position : position + 1] != b"{":
            raise _Unsure
        position += 1
        values: dict[bytes, tuple[int, int]] = {}
        earlier: list[tuple[bytes, tuple[int, int]]] = []
        while True:
            name = _NAME.match(body, position)
            if name is None:
                raise _Unsure
            self._count(position)
            start = name.end()
            end = self._value_end(start)
            if not _put(values, earlier, bytes(name[1]), (start, end)):
                raise _Unsure
            then = _NEXT.match(body, end)
            if then is None:
                raise _Unsure
            position = then.end()
            if then[1] == b"}":
                if _space_end(body, position) != len(body):
                    raise _Unsure
                return Outline(values, tuple(earlier))

    def _value_end(self, position: int) -> int:
        first = self._body[position : position + 1]
        if first == b'"':
            return self._string_end(position)
        if first in (b"[", b"{"):
            return self._nested_end(position)
        scalar = _SCALAR.match(self._body, position)
        if scalar is None:
            raise _Unsure
        return scalar.end()

    def _string_end(self, position: int) -> int:
        """Return the position after the string that begins at `position`."""
        self._count(position)
        return self._closed(self._body.find(b'"', position + 1))

    def _closed(self, quote: int) -> int:
        """Return the position after a string. `quote` is the first quotation mark that may end it."""
        body = self._body
        while quote > 0 and body[quote - 1] == BACKSLASH and _is_escaped(body, quote):
            self._count(quote)
            quote = body.find(b'"', quote + 1)
        if quote < 0:
            raise _Unsure
        return quote + 1

    def _count(self, position: int) -> None:
        """Count a quotation mark. Raises _Unsure if there are so many that a parser is faster."""
        self._strings += 1
        if self._strings > FREE_STRINGS and position < (self._strings - FREE_STRINGS) * BYTES_A_STRING:
            raise _Unsure

    def _nested_end(self, position: int) -> int:
        """Return the position after the array or object that begins at `position`."""
        body, find = self._body, self._body.find
        depth = 0
        while True:
            quote = find(b'"', position)
            if (quote if quote >= 0 else len(body)) - position > WINDOW_BYTES:
                raise _Unsure
            between = bytes(body[position:quote] if quote >= 0 else body[position:])
            if between not in _BETWEEN and not (depth > 1 and between in _SIBLINGS):
                for bracket in _BRACKET.finditer(between):
                    depth += 1 if bracket[0] in b"[{" else -1
                    if depth == 0:
                        return position + bracket.end()
                self._count_brackets(position, len(between))
                if depth > MAX_DEPTH:
                    raise _Unsure
            if quote < 0:
                raise _Unsure
            self._count(quote)
            end = find(b'"', quote + 1)
            position = end + 1 if end > 0 and body[end - 1] != BACKSLASH else self._closed(end)

    def _count_brackets(self, position: int, limit: int) -> None:
        """Count at most `limit` brackets before `position`. Raises _Unsure if a parser is faster with so many."""
        self._brackets += limit
        if self._brackets > FREE_BRACKETS and position < (self._brackets - FREE_BRACKETS) * BYTES_A_BRACKET:
            raise _Unsure


def _put(
    values: dict[bytes, tuple[int, int]],
    earlier: list[tuple[bytes, tuple[int, int]]],
    name: bytes,
    place: tuple[int, int],
) -> bool:
    """Add a value; one before it of the same name becomes an earlier one. Return False if too many have become so."""
    before = values.get(name)
    values[name] = place
    if before is not None:
        earlier.append((name, before))
    return len(earlier) <= MAX_REPEATED


def _space_end(body: Body, position: int) -> int:
    return _SPACE.match(body, position).end()  # type: ignore[union-attr]  # the pattern matches anything


def _is_escaped(body: Body, quote: int) -> bool:
    before = bytes(body[max(0, quote - MAX_BACKSLASHES) : quote])
    backslashes = len(before) - len(before.rstrip(b"\\"))
    if backslashes == MAX_BACKSLASHES:
        raise _Unsure
    return backslashes % 2 == 1


def outline_in_slices(
    body: Body, max_values: int = MAX_VALUES, reason: tuple[Bound, str] = (JSON_VALUES, "")
) -> Slices[Outline]:
    """Return the outline of any object, in time slices of some milliseconds.

    Raises Refusal: 400 if the scanned part is no JSON object or is nested deeper than MAX_DEPTH; 413 for more than
    `max_values` strings, arrays and objects, or more than MAX_NAMES names.

    `reason`: the bound that has the value `max_values`, and the purpose for which there are too many values.
    """
    return _SlicedScanner(body, max_values, reason).top()


def counting_elements(body: Body, position: int) -> Slices[int]:
    """Return how many elements of the array that begins at `position` are strings, arrays or objects, in time slices.

    Raises Refusal as `outline_in_slices` does.
    """
    return _SlicedScanner(body, MAX_VALUES, (JSON_VALUES, "")).elements(position)


class _SlicedScanner:
    def __init__(self, body: Body, max_values: int, reason: tuple[Bound, str]) -> None:
        self._body = body
        self._max_values = max_values
        self._bound, self._purpose = reason
        self._values = 0
        self._steps = 0  # of this time slice

    def top(self) -> Slices[Outline]:
        body = self._body
        values: dict[bytes, tuple[int, int]] = {}
        earlier: list[tuple[bytes, tuple[int, int]]] = []
        position = self._mark(0, b"{")
        if body[position : position + 1] == b"}":
            return self._whole(Outline(values), position + 1)
        while True:
            name, start = self._name(position)
            if len(values) == MAX_NAMES and name not in values:
                message = f"The body's top level has more than {MAX_NAMES:,} names."
                raise Refusal(413, REQUEST_TOO_LARGE, message, bound=JSON_NAMES)
            end = yield from self._value(start)
            if not _put(values, earlier, name, (start, end)):
                message = f"The body's top level repeats names more than {MAX_REPEATED:,} times."
                raise Refusal(413, REQUEST_TOO_LARGE, message, bound=JSON_NAMES)
            position = _space_end(body, end)
            if body[position : position + 1] == b"}":
                return self._whole(Outline(values, tuple(earlier)), position + 1)
            position = self._mark(position, b",")

    def elements(self, position: int) -> Slices[int]:
        body, size = self._body, len(self._body)
        depth = count = 0
        while True:
            quote = body.find(b'"', position, position + WINDOW_BYTES)
            stop = min(position + WINDOW_BYTES, size) if quote < 0 else quote
            for bracket in _BRACKET.finditer(bytes(body[position:stop])):
                if bracket[0] in b"[{":
                    count += depth == 1
                    depth += 1
                else:
                    depth -= 1
                if depth == 0:
                    return count
                if self._take(1):
                    yield
            position = stop
            if quote >= 0:
                count += depth == 1
                self._values += 1
                position = yield from self._string(quote)
            elif stop == size:
                raise self._malformed(size)
            if self._take(1 + WINDOW_BYTES // BYTES_A_STEP if quote < 0 else 1):
                yield

    def _mark(self, position: int, mark: bytes) -> int:
        """Return the position after this mark and the space around it."""
        position = _space_end(self._body, position)
        if self._body[position : position + 1] != mark:
            raise self._malformed(position)
        return _space_end(self._body, position + 1)

    def _whole(self, top: Outline, position: int) -> Outline:
        if (position := _space_end(self._body, position)) != len(self._body):
            raise self._malformed(position)
        return top

    def _name(self, position: int) -> tuple[bytes, int]:
        match = _ANY_NAME.match(self._body, position)
        if match is None:
            raise self._malformed(position)
        name = bytes(match[1])
        if b"\\" in name:
            try:
                name = msgspec.json.decode(b'"%b"' % name, type=str).encode()
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise self._malformed(position) from None
        return name, match.end()

    def _value(self, position: int) -> Slices[int]:
        """Return the position after the value that begins at `position`."""
        first = self._body[position : position + 1]
        if first in (b"[", b"{"):
            return (yield from self._nested(position))
        self._values += 1
        if self._take(2):
            yield
        if first == b'"':
            return (yield from self._string(position))
        scalar = _SCALAR.match(self._body, position)
        if scalar is None:
            raise self._malformed(position)
        return scalar.end()

    def _nested(self, position: int) -> Slices[int]:
        body, size = self._body, len(self._body)
        depth = 0
        while True:
            quote = body.find(b'"', position, position + WINDOW_BYTES)
            stop = min(position + WINDOW_BYTES, size) if quote < 0 else quote
            depth, end = self._depth(depth, position, stop)
            if depth == 0:
                return end
            position = stop
            if quote >= 0:
                self._values += 1
                position = yield from self._string(quote)
            elif stop == size:
                raise self._malformed(size)
            if self._take(1):
                yield

    def _depth(self, depth: int, position: int, stop: int) -> tuple[int, int]:
        """Return the depth at `stop` and 0, or 0 and the position at which the depth becomes 0.

        There is no string between `position` and `stop`.
        """
        between = bytes(self._body[position:stop])
        if between in _BETWEEN:
            return depth, 0
        brackets = 0
        for bracket in _BRACKET.finditer(between):
            brackets += 1
            depth += 1 if bracket[0] in b"[{" else -1
            if depth == 0:
                return 0, position + bracket.end()
            if depth > MAX_DEPTH:
                raise too_deep()
        self._values += brackets // 2 + 1
        self._steps += brackets // 4 + len(between) // BYTES_A_STEP
        return depth, 0

    def _string(self, position: int) -> Slices[int]:
        """Return the position after the string that begins at `position`."""
        body = self._body
        quote = body.find(b'"', position + 1)
        if quote < 0:
            raise self._malformed(len(body))
        if body[quote - 1] != BACKSLASH:
            return quote + 1
        position += 1
        while True:
            end = _TEXT.match(body, position, position + TEXT_BYTES).end()  # type: ignore[union-attr]  # it matches anything
            if body[end : end + 1] == b'"':
                return end + 1
            if end == position:
                raise self._malformed(position)
            if self._take((end - position) // BYTES_A_STEP):
                yield
            position = end

    def _take(self, steps: int) -> bool:
        """Count steps; return True when the time slice is used up. Raises Refusal (413) for too many values."""
        if self._values > self._max_values:
            too_many = f"too many {self._purpose}".rstrip()
            message = f"The body has more than {self._max_values:,} strings, arrays and objects, which is {too_many}."
            raise Refusal(413, REQUEST_TOO_LARGE, message, bound=self._bound)
        self._steps += steps
        if self._steps < SLICE_STEPS:
            return False
        self._steps = 0
        return True

    def _malformed(self, position: int) -> Refusal:
        return Refusal(400, INVALID_REQUEST, f"The body is not a JSON object that can be read: see byte {position}.")


def too_deep() -> Refusal:
    message = f"The body nests arrays and objects more than {MAX_DEPTH} levels deep."
    return Refusal(400, INVALID_REQUEST, message, bound=JSON_DEPTH)


def outline_by_parser(body: Body, position: int, raw: Data) -> Slices[Outline]:
    """Return the outline of an object in a body, in time slices. `raw` is the object, which begins at `position`.

    A parser finds the values, and keeps only the last one of a repeated name. An object that has one does not consist
    of the values found, so that it is scanned again. Raises Refusal as `outline_in_slices`.

    The object must have at most MAX_WHOLE_NAMES names, as all with `may_have_many_names` False do.
    """
    try:
        fields = _decode_object(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a name that is no text, for example
        return (yield from outline_inside(body, position, raw))
    places: dict[bytes, tuple[int, int]] = {}
    end = position
    # No JSON value begins with another one, but for numbers, after which no name follows. So each step goes over one
    # value, and a repeated name leaves values over at the end.
    for name, value in fields.items():
        opening = _MEMBER.match(body, end)
        if opening is None or not body.startswith(memoryview(value), opening.end()):
            return (yield from outline_inside(body, position, raw))
        start = opening.end()
        end = start + len(value)
        places[name.encode()] = start, end
        if len(places) % SLICE_STEPS == 0:
            yield
    if _END.match(body, end) is None:
        return (yield from outline_inside(body, position, raw))
    return Outline(places)


def outline_inside(body: Body, position: int, raw: Data) -> Slices[Outline]:
    """Do as `outline_in_slices` for an object in a body. `raw` is the object, which begins at `position`."""
    top = yield from outline_in_slices(bytes(raw) if position else body)
    if not position:
        return top
    moved = {name: (position + start, position + end) for name, (start, end) in top.values.items()}
    return Outline(moved, tuple((name, (position + start, position + end)) for name, (start, end) in top.earlier))


def may_have_many_names(body: Body, start: int, end: int) -> bool:
    """Return True if an object in a body may have more than MAX_WHOLE_NAMES names at its top level."""
    return end - start > MAX_WHOLE_NAMES * NAME_BYTES and body.count(b":", start, end) > MAX_WHOLE_NAMES
