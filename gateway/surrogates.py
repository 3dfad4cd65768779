"""Halves of surrogate pairs in JSON: its grammar has them, and a client that cuts an emoji writes them; msgspec refuses
them. They are replaced here by what stands for an unknown character.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from gateway.outbox import Body, Data
from gateway.turns import Slices

T = TypeVar("T")

MAX_PARTS = 20_000  # halves that are replaced in one body, and what stands between them
AT_ONCE_BYTES = 2 << 20  # of a body in which they are replaced in one go
SLICE_BYTES = 1 << 20
LOOK_BYTES = 64 << 10  # behind a slice, for a place to cut
PAIR_BYTES = 12  # of a pair, as escapes

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
# What stands between halves, with whole pairs; or a half. Possessive (`++`): nothing is tried again.
_PART = re.compile(
    rb"((?:[^\\]++|\\(?!u[dD][89a-fA-F]).|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})++)"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"(?<=[^\\])\\(?!u[dD][c-fC-F])")  # where one begins that is not the second half of a pair


def read_body(decode: Callable[[Any], T], body: Data) -> T:
    """What a decoder makes of a body, halves of surrogate pairs replaced if need be. Raises what the decoder raises."""
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if len(body) > AT_ONCE_BYTES or _HALF.search(body) is None:
            raise
        return decode(replaced(body))


def replaced(body: Data) -> bytes:
    """The body without halves, or as it is if it has too many."""
    found, parts = _replaced(body)
    return bytes(body) if parts > MAX_PARTS else found


def _replaced(body: Data) -> tuple[bytes, int]:
    """The same, as far as it has MAX_PARTS parts; and how many it has."""
    return _PART.subn(lambda found: found[0] if found[1] else b"\\ufffd", bytes(body), MAX_PARTS + 1)


def replaced_slowly(body: Body) -> Slices[bytes | None]:
    """The same of a body of any size, in slices. None for one that has no halves, or too many."""
    pieces: list[bytes] = []
    parts = at = 0
    while at < len(body):
        end = _cut(body, at + SLICE_BYTES)
        if end is None:
            return None
        piece = bytes(body[at:end])
        if _HALF.search(piece) is not None:
            piece, more = _replaced(piece)
            parts += more
        if parts > MAX_PARTS:
            return None
        pieces.append(piece)
        at = end
        yield
    return b"".join(pieces) if parts else None


def _cut(body: Body, at: int) -> int | None:
    """A place at or behind this one where no escape and no pair is cut; None if none is found nearby."""
    if at >= len(body):
        return len(body)
    if b"\\" not in body[max(0, at - PAIR_BYTES) : at]:
        return at
    found = _ESCAPE.search(body, at, at + LOOK_BYTES)
    if found is not None:
        return found.start()
    return None if b"\\" in body[at : at + LOOK_BYTES] else min(at + PAIR_BYTES, len(body))
