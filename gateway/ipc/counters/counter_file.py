"""Layout of the file in which gateway processes count what limits need, beside the live page.

Each process writes only the section of its own row of the live page, and readers add up all rows. A section is a table
of *places*. A subject (an API key, for example) gets a place in it when the row's process first counts for it, so that
no allocator is shared. A subject is known by its tag: 63 bits of a keyed hash of its level and id.

A section has

- 256 buckets. The tag decides the bucket. A bucket has a generation, which changes with its set of places, and room for
  72 places: for each 16 bits of the tag, and the number of the place
- 10,200 places. A place has the tag, the requests in flight, the claim of a request and its tokens, the requests and
  tokens that were ever counted, the wait for the subject's limits, and the counts of the last minute

Before all sections there is a word that says whether requests of any process wait for limits, so that others need not
look at the waits of each subject.

The last minute is counted in cells of 3 seconds. 21 of them cover any 60 seconds, and 63 at most. The place has the
number of its newest cell, counted from the boot of the machine. Its owner clears the cells that it skips before it
stores a new number. These cells are older than a minute by then, so no process misses them.

These sizes are chosen so that 32 processes which all count the same 10,000 subjects need less than 64 MiB.
"""

import mmap
import os
import secrets
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from gateway.ipc.counters.mapped_file import FIRST_WORDS, allocate, open_or_replace

CELL_SECONDS = 3.0
CELLS = 21  # (CELLS - 1) * CELL_SECONDS is a minute
MAX_REQUESTS_IN_CELL = (1 << 16) - 1
MAX_TOKENS_IN_CELL = (1 << 32) - 1
MAX_SUBJECTS = 10_200  # in one row: 10,000 API keys, and their users
BUCKETS = 256
BUCKET_SIZE = 72  # 40 places on average in a full table; more than 72 in one of 2,000 full tables

# Words of a place. Its counts follow: CELLS requests of 16 bits, then CELLS tokens of 32 bits. CLAIM is 1 more than the
# tokens that a request claims; 0: none does. The spare word keeps each place in as few lines of the cache as possible.
TAG, IN_FLIGHT, CLAIM, REQUESTS, TOKENS, NEWEST, WAITING, _SPARE = range(8)
REQUEST_CELLS = 4 * (_SPARE + 1)  # in 16-bit words
TOKEN_CELLS = (REQUEST_CELLS + CELLS + 1) // 2  # in 32-bit words
PLACE_WORDS = (TOKEN_CELLS + CELLS + 1) // 2

_FORMAT = 0x03_73_74_69_6D_69_6C  # "limits", and the version of this layout
_SALT, CHANGES = FIRST_WORDS, FIRST_WORDS + 2
WAITS_UNTIL = CHANGES + 1  # time in ms until which a request waits, unless its process repeats it; 0: none
LIVES = WAITS_UNTIL + 1  # of each row: UNUSED, ALIVE, or the number of the cell in which its process ended
UNUSED, ALIVE = 0, 1
PAGE_SIZE = mmap.PAGESIZE


def _pages(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE


_TAGS_AT = 8 * BUCKETS  # bytes from the begin of a section: 16 bits of each tag
_NUMBERS_AT = _TAGS_AT + 2 * BUCKETS * BUCKET_SIZE
_PLACES_AT = _NUMBERS_AT + 2 * BUCKETS * BUCKET_SIZE
SECTION_BYTES = _pages(_PLACES_AT + 8 * MAX_SUBJECTS * PLACE_WORDS)


class CounterFile:
    """The mapped file. `words`, `halves` and `shorts` are views of it in units of 64, 32 and 16 bits."""

    def __init__(self, path: Path, rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the file. It is created if it is missing, of another layout, or of an earlier boot of the machine.

        One process at a time may do so. Raises OSError if the disk has no room for it.
        """
        self.rows = rows
        self.clock = clock
        self._used = LIVES + rows  # for each row: the number of places that it has ever used
        self.header_bytes = _pages(8 * (self._used + rows))
        self.size = self.header_bytes + rows * SECTION_BYTES
        self._path = path
        descriptor = open_or_replace(
            path, self.size, _FORMAT, lambda: secrets.token_bytes(8 * (CHANGES - _SALT)), self.header_bytes
        )
        try:
            self._inode = os.fstat(descriptor).st_ino
            view = memoryview(mmap.mmap(descriptor, self.size))
        finally:
            os.close(descriptor)
        self.words = view.cast("Q")
        self.halves = view.cast("I")
        self.shorts = view.cast("H")
        self._salt = bytes(view[8 * _SALT : 8 * CHANGES])

    def tag(self, level: str, subject_id: str) -> int:
        """Return the tag of a subject. Clients that choose ids cannot choose tags: the hash has a secret key."""
        digest = blake2b(f"{level}\0{subject_id}".encode(), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest, "big") >> 1 or 1

    def cell_number(self) -> int:
        """Return the number of the present cell."""
        return int(self.clock() / CELL_SECONDS)

    # Rows

    def claim(self, row: int) -> None:
        """Give a row, which was cleared, to this process. Raises OSError if the disk has no room for its section.

        The counts of the row's earlier processes remain: they are part of the last minute.
        """
        allocate(self._path, self._inode, self.header_bytes + row * SECTION_BYTES, SECTION_BYTES)
        self._set_life(row, ALIVE)

    def clear(self, row: int) -> None:
        """Void the requests in flight, and the waits, of a row whose process has ended."""
        if self.words[LIVES + row] != ALIVE:
            return
        used = self.words[self._used + row]
        first = self.place(row, 0)
        zeros = memoryview(bytes(8 * used)).cast("Q")
        for word in (IN_FLIGHT, CLAIM, WAITING):
            self.words[first + word : first + word + used * PLACE_WORDS : PLACE_WORDS] = zeros
        self._set_life(row, max(self.cell_number(), ALIVE + 1))

    def counting(self, number: int) -> list[int]:
        """Return the rows that count: of running processes, and of those that have ended within the last minute."""
        lives = self.words[LIVES : LIVES + self.rows].tolist()
        return [row for row, life in enumerate(lives) if life == ALIVE or (life and number - life < CELLS)]

    def _set_life(self, row: int, life: int) -> None:
        self.words[LIVES + row] = life
        self.words[CHANGES] += 1

    # Places

    def place(self, row: int, number: int) -> int:
        """Return the index of a place's first word."""
        return (self.header_bytes + row * SECTION_BYTES + _PLACES_AT) // 8 + number * PLACE_WORDS

    def row_of(self, place: int) -> int:
        """Return the row that has a place."""
        return (8 * place - self.header_bytes) // SECTION_BYTES

    def generation(self, row: int, tag: int) -> int:
        """Return the index of the generation of a tag's bucket. It is to be loaded before the bucket is searched."""
        return (self.header_bytes + row * SECTION_BYTES) // 8 + tag % BUCKETS

    def bucket(self, row: int, tag: int) -> tuple[int, int]:
        """Return where a tag's bucket has its short tags and its numbers of places, as indexes of `shorts`."""
        start = self.header_bytes + row * SECTION_BYTES
        offset = tag % BUCKETS * BUCKET_SIZE
        return (start + _TAGS_AT) // 2 + offset, (start + _NUMBERS_AT) // 2 + offset

    def find(self, row: int, tag: int) -> int | None:
        """Return the place of a subject in a row."""
        tags, numbers = self.bucket(row, tag)
        short, short_tags = short_tag(tag), self.shorts[tags : tags + BUCKET_SIZE].tolist()
        if short not in short_tags:
            return None
        for index, other in enumerate(short_tags):
            if other == short:
                place = self.place(row, self.shorts[numbers + index])
                if self.words[place] == tag:
                    return place
        return None

    def used(self, row: int) -> int:
        """Return how many places, from the first one on, this row has ever used."""
        return self.words[self._used + row]

    def set_used(self, row: int, count: int) -> None:
        self.words[self._used + row] = count

    def window(self, place: int, number: int) -> tuple[int, int]:
        """Return the requests and the tokens in a place's cells of the last minute."""
        requests, tokens = self._minute(place, number)
        return sum(requests), sum(tokens)

    def cells(self, place: int, number: int) -> list[tuple[int, int]]:
        """Return the requests and the tokens of each of these cells, the oldest first."""
        requests, tokens = self._minute(place, number)
        order = [cell % CELLS for cell in range(number + 1, number + 1 + CELLS)]
        return [(requests[cell], tokens[cell]) for cell in order] if requests else []

    def _minute(self, place: int, number: int) -> tuple[list[int], list[int]]:
        """Return the requests and the tokens of the last minute's cells, in the order of the file; or nothing."""
        newest = self.words[place + NEWEST]  # before the cells
        expired = number - newest
        if expired >= CELLS:
            return [], []
        start = 4 * place + REQUEST_CELLS
        requests = self.shorts[start : start + CELLS].tolist()
        start = 2 * place + TOKEN_CELLS
        tokens = self.halves[start : start + CELLS].tolist()
        for old in range(newest + 1, newest + 1 + expired):  # the oldest cell is where the next one will be
            requests[old % CELLS] = tokens[old % CELLS] = 0
        return requests, tokens


def short_tag(tag: int) -> int:
    """Return the 16 bits of a tag that its bucket has; never 0."""
    return tag // BUCKETS & 0xFFFF or 1
