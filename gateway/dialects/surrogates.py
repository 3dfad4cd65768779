"""Replacement of unpaired surrogates in JSON by U+FFFD.

The grammar of JSON allows them, and a client that cuts an emoji writes them, but msgspec refuses them.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from gateway.base.types import Body, Data
from gateway.loop.time_slices import Slices

T = TypeVar("T")

MAX_PARTS = 20_000  # surrogates that are replaced in one body, and the texts between them
AT_ONCE_BYTES = 2 << 20  # a body up to this size is replaced in one time slice
SLICE_BYTES = 1 << 20
SCAN_BYTES = 64 << 10  # after a slice, for a place to cut
PAIR_BYTES = 12  # of a pair in escapes

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
# The text between unpaired surrogates, with whole pairs; or a surrogate. Possessive (`++`): no backtracking.
_PART = re.compile(
    rb"((?:[^\\]++|\\(?!u[dD][89a-fA-F]).|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})++)"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"(?<=[^\\])\\(?!u[dD][c-fC-F])")  # begins an escape that is not the second half of a pair


def read_body(decode: Callable[[Any], T], body: Data) -> T:
    """Decode a body, if necessary with its unpaired surrogates replaced. Raises the errors of the decoder."""
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if len(body) > AT_ONCE_BYTES or _HALF.search(body) is None:
            raise
        return decode(replaced(body))


def replaced(body: Data) -> bytes:
    """Return the body without unpaired surrogates, or unchanged if it has too many."""
    repaired, parts = _replaced(body)
    return bytes(body) if parts > MAX_PARTS else repaired


def _replaced(body: Data) -> tuple[bytes, int]:
    """Replace unpaired surrogates; return the body and its number of parts, which is MAX_PARTS + 1 at most."""
    return _PART.subn(lambda match: match[0] if match[1] else b"\\ufffd", bytes(body), MAX_PARTS + 1)


def replaced_slowly(body: Body) -> Slices[bytes | None]:
    """Do the same for a body of any size, in time slices. Return None if it has no unpaired surrogate, or too many."""
    pieces: list[bytes] = []
    parts = position = 0
    while position < len(body):
        end = _split_position(body, position + SLICE_BYTES)
        if end is None:
            return None
        piece = bytes(body[position:end])
        if _HALF.search(piece) is not None:
            piece, more = _replaced(piece)
            parts += more
        if parts > MAX_PARTS:
            return None
        pieces.append(piece)
        position = end
        yield
    return b"".join(pieces) if parts else None


def _split_position(body: Body, position: int) -> int | None:
    """Return a position from `position` on that cuts no escape and no pair; None if there is none nearby."""
    if position >= len(body):
        return len(body)
    if b"\\" not in body[max(0, position - PAIR_BYTES) : position]:
        return position
    match = _ESCAPE.search(body, position, position + SCAN_BYTES)
    if match is not None:
        return match.start()
    return None if b"\\" in body[position : position + SCAN_BYTES] else min(position + PAIR_BYTES, len(body))
