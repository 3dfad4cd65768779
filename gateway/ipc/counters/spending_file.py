"""Layout of the file in which gateway processes count the amounts that budgets have spent, beside the live page.

An amount (tokens, or 10⁻⁹ of the reporting currency) is counted under a *tag*: 63 bits of a keyed hash of a subject,
a unit and a period with its first day. So a period that begins has tags of its own, and nothing is ever reset.

Words of 64 bits, each with one writer:

- header: the publication (FLIP), the count of changes of rows (WORLD), and how often budgets have changed without a
  publication of what they had spent before (UNCOVERED). While COVERED is equal, an absent tag has spent nothing
- for each row its state and its epoch
- two banks, written by control. The last bit of FLIP says which one holds. A bank has the days that it covers, the last
  included epoch of each row, and a table of tags and published amounts
- the rows. A row belongs to one life of a process, which holds a lock on a file until it ends. Its places have a tag,
  what requests in flight have reserved (HELD), and what was spent in even and in odd epochs (SPENT)

gateway.ipc.counters.spending has the rules. Epochs of a row go on over its lives, and begin at a random number in each
file. So a record that names a row and an epoch is never taken for one of another life or file.
"""

import fcntl
import mmap
import os
import secrets
import threading
from hashlib import blake2b
from pathlib import Path

from gateway.ipc.counters.mapped_file import FIRST_WORDS, allocate, open_or_replace
from gateway.ipc.locks import exclusive, try_lock

ROWS = 128  # running processes, and those whose last epoch is not included yet

_FORMAT = 0x01_74_6E_65_70_73  # "spent", and the version of this layout
_SALT, _LIFE = FIRST_WORDS, FIRST_WORDS + 2
FLIP, WORLD, COVERED, UNCOVERED, OVERFLOWED = 5, 6, 7, 8, 9  # OVERFLOWED: a row has had an OVERFLOW
STATE = 10  # of each row: UNUSED, ALIVE or DEAD
EPOCH = STATE + ROWS
UNUSED, ALIVE, DEAD = 0, 1, 2  # DEAD: its reservations are void, and its amounts count until they are included
EPOCH_BITS = 24  # of the number in a file; those above are random

_BANKS = EPOCH + ROWS
SINCE, UNTIL = 0, 1  # of a bank: first and last day that it covers, as in date.toordinal()
INCLUDED = 2  # of each row
_TABLE = INCLUDED + ROWS
BANK_SLOTS = 1 << 18
MAX_PUBLISHED = BANK_SLOTS * 5 // 8
_BANK_WORDS = _TABLE + 2 * BANK_SLOTS

BUCKETS, BUCKET_SIZE = 512, 64  # of the places of a row. A tag decides the bucket
SLOTS = BUCKETS * BUCKET_SIZE
MAX_PLACES = SLOTS // 2  # in use: then hardly any bucket is full
# Parts of a row, from its first word on.
GENERATIONS = 0  # of each bucket: changes with its set of places
OVERFLOW = GENERATIONS + BUCKETS  # of even and odd epochs: spent without a place, and so counted for every tag
TAGS = OVERFLOW + 8
HELD = TAGS + SLOTS
SPENT = HELD + SLOTS  # of even epochs, then of odd ones
_ROW_WORDS = SPENT + 2 * SLOTS

_PAGE_WORDS = mmap.PAGESIZE // 8
_HEADER_WORDS = -(-(_BANKS + 2 * _BANK_WORDS) // _PAGE_WORDS) * _PAGE_WORDS
_ROW_STEP = -(-_ROW_WORDS // _PAGE_WORDS) * _PAGE_WORDS
_SIZE = 8 * (_HEADER_WORDS + ROWS * _ROW_STEP)


def path_beside(live_page: Path) -> Path:
    """Return the path of the file that belongs to a live page."""
    return live_page.with_name(f"{live_page.name}-spending")


class SpendingFile:
    """The mapped file. `words` are its words, with a sign."""

    def __init__(self, path: Path) -> None:
        """Open the file. It is created if it is missing, of another layout, or of an earlier boot of the machine.

        One process at a time may do so. Raises OSError if the disk has no room for it.
        """
        self.path = path
        self._locks = path.with_name(f"{path.name}-rows")
        self._locks.mkdir(mode=0o700, exist_ok=True)
        descriptor = open_or_replace(path, _SIZE, _FORMAT, _new_header, 8 * _HEADER_WORDS)
        try:
            self._inode = os.fstat(descriptor).st_ino
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        view = memoryview(self._map)
        self.words = view.cast("q")
        self._salt = bytes(view[8 * _SALT : 8 * _LIFE])
        self.life = self.words[_LIFE]
        self._lock = threading.Lock()

    def tag(self, level: str, subject_id: str, unit: str, period: str, first_day: str) -> int:
        """Return the tag of a budget in a period. Clients that choose ids cannot choose tags: the salt is secret."""
        text = "\0".join((level, subject_id, unit, period, first_day))
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest, "big") >> 1 or 1

    def is_of_this_file(self, row: int, epoch: int) -> bool:
        """Return True if a process could have counted in this row and epoch of this file."""
        return 0 <= row < ROWS and epoch >> EPOCH_BITS == self.life

    def uncover(self) -> None:
        """State that budgets may change now whose amounts are not published: absent tags are unknown until they are."""
        with self._lock:
            self.words[UNCOVERED] += 1

    # Rows

    def claim(self) -> tuple[int, int] | None:
        """Return a row for this process, and the descriptor of its lock; None if all rows are in use.

        Raises OSError if the disk has no room for it, or the file was replaced by a process of another release.
        """
        words = self.words
        with exclusive(self._locks / "claims"):
            included = self.included()
            for row in range(ROWS):
                # The amounts of its last process must be published ones: its places become empty.
                if words[EPOCH + row] > included[row] or (lock := try_lock(self._locks / str(row))) is None:
                    continue
                try:
                    allocate(self.path, self._inode, 8 * self.row(row), 8 * _ROW_WORDS)
                except BaseException:
                    os.close(lock)
                    raise
                first = self.row(row)
                words[first + OVERFLOW : first + _ROW_WORDS] = _zeros(_ROW_WORDS - OVERFLOW)
                for bucket in range(BUCKETS):
                    words[first + bucket] += 1
                self._set_state(row, ALIVE)  # first: the epoch of a row that is not alive is over
                words[EPOCH + row] += 1
                return row, lock
        return None

    def bury(self) -> None:
        """Void the reservations of processes that have ended."""
        words = self.words
        if ALIVE not in words[STATE : STATE + ROWS].tolist():
            return
        with exclusive(self._locks / "claims"):
            for row in range(ROWS):
                if words[STATE + row] == ALIVE and (lock := try_lock(self._locks / str(row))) is not None:
                    self._set_state(row, DEAD)
                    os.close(lock)

    def release(self, row: int, lock: int) -> None:
        """Give a row back at the end of its process, whose records are all written."""
        with exclusive(self._locks / "claims"):
            self._set_state(row, DEAD)
            os.close(lock)

    def is_alive(self, row: int) -> bool:
        """Return True if the process of a row runs. Its epoch changes no more once this was False."""
        if self.words[STATE + row] != ALIVE:
            return False
        try:
            descriptor = os.open(self._locks / str(row), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _set_state(self, row: int, state: int) -> None:
        self.words[STATE + row] = state
        self.words[WORLD] += 1

    # Places

    def row(self, row: int) -> int:
        """Return the index of a row's first word."""
        return _HEADER_WORDS + row * _ROW_STEP

    def find(self, row: int, tag: int) -> int | None:
        """Return the number of a tag's place in a row."""
        first = tag % BUCKETS * BUCKET_SIZE
        start = self.row(row) + TAGS + first
        tags = self.words[start : start + BUCKET_SIZE].tolist()
        return first + tags.index(tag) if tag in tags else None

    # Banks

    def bank(self, flip: int) -> int:
        """Return the index of the first word of the bank of a publication."""
        return _BANKS + (flip & 1) * _BANK_WORDS

    def included(self) -> list[int]:
        """Return the last included epoch of each row."""
        words = self.words
        while True:
            flip = words[FLIP]
            first = self.bank(flip) + INCLUDED
            included = words[first : first + ROWS].tolist()
            if words[FLIP] == flip:  # else the other publication may have been overwritten meanwhile
                return included

    def published(self, flip: int, tag: int) -> int | None:
        """Return the amount that is published for a tag; None if it is absent."""
        index = self.slot(flip, tag)
        return self.words[index + 1] if self.words[index] == tag else None

    def slot(self, flip: int, tag: int) -> int:
        """Return the index of a tag in a bank, or of the empty slot where it would be."""
        words, first = self.words, self.bank(flip) + _TABLE
        slot = tag % BANK_SLOTS
        while words[first + 2 * slot] not in (tag, 0):
            slot = (slot + 1) % BANK_SLOTS
        return first + 2 * slot

    def empty(self, flip: int) -> None:
        """Remove all tags from a bank."""
        first = self.bank(flip) + _TABLE
        end = first + 2 * BANK_SLOTS
        zeros = _zeros(_PAGE_WORDS)
        for page in range(first, end, _PAGE_WORDS):
            self.words[page : page + _PAGE_WORDS] = zeros
        # Few of the 4 MiB have a tag: the system keeps these pages, but no longer as memory of this process.
        start = -(-first // _PAGE_WORDS) * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, 8 * end // mmap.PAGESIZE * mmap.PAGESIZE - start)


def _zeros(count: int) -> memoryview:
    return memoryview(bytes(8 * count)).cast("q")


def _new_header() -> bytes:
    """Return the words of a new file after its first two, up to the included epochs of the first bank."""
    words = memoryview(bytearray(8 * (_BANKS + INCLUDED + ROWS))).cast("q")
    words[_SALT : _SALT + 2] = memoryview(secrets.token_bytes(16)).cast("q")
    words[_LIFE] = 1 + secrets.randbits(30)
    words[UNCOVERED] = 1
    for row in range(ROWS):
        words[EPOCH + row] = words[_BANKS + INCLUDED + row] = words[_LIFE] << EPOCH_BITS
    return words[FIRST_WORDS:].tobytes()
