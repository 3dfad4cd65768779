"""Table of marks: a mapped file that all gateways of a machine share, kept over restarts.

It has 65,536 sets of four words of 64 bits. A word is one mark at one endpoint:

- 28 bits: the tag of the mark, combined with the endpoint's fingerprint. A slot of the live page that is given to
  another endpoint thereby inherits no marks, and neither does an endpoint whose address changes
- 14 bits: the endpoint's slot in the live page
- 22 bits: the endpoint's clock when it had this prefix last. It counts prompt tokens sent there, in units of 64. So an
  idle endpoint's marks do not age: nothing displaces them from its cache

A mark's hash decides its set. A new word replaces the oldest one of the set. Each word is aligned and stored at once,
so there are no locks: of two processes that store in the same place, one loses a mark.

Two marks of one set and one scope are equal by chance in 1 of 2**28 cases. Like any other mistake here, this costs
time, never correctness.
"""

import fcntl
import logging
import mmap
import os
import secrets
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.ipc.live_page import MAX_ENDPOINTS

log = logging.getLogger(__name__)

SETS, WAYS = 1 << 16, 4
TAG_SHIFT, SLOT_SHIFT = 36, 22
SLOTS = 1 << TAG_SHIFT - SLOT_SHIFT
NO_PRINT = -1  # in the place of a fingerprint: no mark fits
SLOT_MASK = (1 << TAG_SHIFT - SLOT_SHIFT) - 1
CLOCK_MASK = (1 << SLOT_SHIFT) - 1
TAG_MASK = (1 << 64 - TAG_SHIFT) - 1
CLOCK_TOKENS_SHIFT = 6  # a clock counts 64 tokens
HALF = 1 << SLOT_SHIFT - 1
OLDEST = 1 << SLOT_SHIFT  # age of the marks of a slot without an endpoint

_FORMAT = 0x01_79_74_69_6E_66_61  # "afinity", and the version of this layout
_HEADER_BYTES = mmap.PAGESIZE
_BYTES = _HEADER_BYTES + 8 * SETS * WAYS

assert MAX_ENDPOINTS <= SLOT_MASK  # a slot fits into its bits

# Both halves of each word, as small integers: arithmetic with 64 bits takes several times the instructions. Another
# process may store a word between its halves, which costs no more than any other mistake here.
_read_halves = struct.Struct(f"@{2 * WAYS}I").unpack_from
_read_set = struct.Struct(f"@{WAYS}Q").unpack_from  # faster than a slice of a memoryview
_LOW = 0 if sys.byteorder == "little" else 1
_HIGH = 1 - _LOW
_SLOT_BITS_HIGH = TAG_SHIFT - 32  # of the slot in the high half
_SLOT_MASK_HIGH = (1 << _SLOT_BITS_HIGH) - 1
_SLOT_BITS_LOW = 32 - SLOT_SHIFT


class StoredMark(NamedTuple):
    """A mark that was found."""

    slot: int
    clock: int
    place: int  # index of its word


class MarkTable:
    """The table of one data directory."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._words = memoryview(memory)[_HEADER_BYTES:].cast("Q")

    def find(self, hashed: int, fingerprints: Sequence[int]) -> list[StoredMark]:
        """Return the endpoints that have a mark. `fingerprints` of the endpoints by slot."""
        position = WAYS * (hashed & SETS - 1)
        tag = hashed >> TAG_SHIFT
        marks = []
        halves = _read_halves(self._memory, _HEADER_BYTES + 8 * position)
        for way in range(WAYS):
            low: int = halves[2 * way + _LOW]
            high: int = halves[2 * way + _HIGH]
            if high or low:
                slot = (high & _SLOT_MASK_HIGH) << _SLOT_BITS_LOW | low >> SLOT_SHIFT
                if (high >> _SLOT_BITS_HIGH) ^ fingerprints[slot] == tag:
                    marks.append(StoredMark(slot, low & CLOCK_MASK, position + way))
        return marks

    def store(self, hashed: int, slot: int, fingerprint: int, clock: int, age: Callable[[int, int], int]) -> None:
        """Store a mark of an endpoint. `age(slot, clock)` of another mark decides which one is replaced."""
        position = WAYS * (hashed & SETS - 1)
        owner = ((hashed >> TAG_SHIFT) ^ fingerprint) << TAG_SHIFT - SLOT_SHIFT | slot
        place, oldest = position, -1
        for old in _read_set(self._memory, _HEADER_BYTES + 8 * position):
            if not old or old >> SLOT_SHIFT == owner:
                place = position
                break
            if (years := age(old >> SLOT_SHIFT & SLOT_MASK, old & CLOCK_MASK)) > oldest:
                place, oldest = position, years
            position += 1
        self._words[place] = owner << SLOT_SHIFT | clock

    def refresh(self, entry: StoredMark, clock: int) -> None:
        """Store a new clock of a mark that was found, unless another one has replaced it."""
        word = self._words[entry.place]
        if word & CLOCK_MASK == entry.clock and word >> SLOT_SHIFT & SLOT_MASK == entry.slot:
            self._words[entry.place] = word & ~CLOCK_MASK | clock


def age_between(clock: int, now: int) -> int:
    """Return the age of a mark in units of 64 tokens. Another process's clock may be ahead: that is age 0."""
    age = now - clock & CLOCK_MASK
    return age if age < HALF else 0


def open_table(path: Path, lock: Path) -> MarkTable:
    """Open the table. It is created if it is missing, of another layout, or of another size.

    `lock`: an existing file. Without room on the disk, the table is this process's own and ends with it.
    """
    try:
        with lock.open("rb") as locked:
            fcntl.flock(locked, fcntl.LOCK_EX)
            return MarkTable(_open(path))
    except OSError as error:
        log.error(
            "%s cannot be used (%s): this process does not know which prompts others have sent where, and forgets its "
            "own at its end",
            path,
            error.strerror or error,
        )
        return MarkTable(mmap.mmap(-1, _BYTES))


def _open(path: Path) -> mmap.mmap:
    try:
        return _map(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except (FileNotFoundError, ValueError):
        _create(path)
        return _map(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def _map(descriptor: int) -> mmap.mmap:
    """Map the file. Raises ValueError if it is no table."""
    try:
        if os.fstat(descriptor).st_size != _BYTES:
            raise ValueError("another size")
        memory = mmap.mmap(descriptor, _BYTES)
    finally:
        os.close(descriptor)
    if int.from_bytes(memory[:8], "little") != _FORMAT:
        memory.close()
        raise ValueError("another layout")
    return memory


def _create(path: Path) -> None:
    """Replace the file by an empty table. A process of another release may go on using the old one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # A store into a mapped page that the disk has no room for would kill the process (SIGBUS).
        os.posix_fallocate(descriptor, 0, _BYTES)
        os.pwrite(descriptor, _FORMAT.to_bytes(8, "little"), 0)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
