"""Counts of requests by gateway processes, in a file beside the live page: a kill loses none of them.

Each row of the live page has these words here, which only its process writes. They go on over the lives of a row.

- SERVED: requests that have ended after an attempt at an endpoint
- RECORDED: those of them whose record was written to the journal, or counted as unrecorded
- for each error code: refusals of strangers that are in no record yet (gateway.ipc.strangers)

RECORDED is stored first, so SERVED is greater only if a request has ended without its record.
"""

import mmap
import os
from pathlib import Path
from zlib import crc32

from gateway.base.errors import CODES
from gateway.ipc.counters.mapped_file import FIRST_WORDS, open_or_replace

SERVED, RECORDED, REFUSED = range(3)
ROW_WORDS = 64
_LAYOUT = crc32(",".join(CODES).encode())  # another list of codes needs another file
_PLACES = {code: REFUSED + number for number, code in enumerate(CODES)}


class RowCounts:
    """The counts of one process."""

    __slots__ = ("_before", "_words", "recorded", "refused", "served", "unwritten")

    def __init__(self, words: memoryview) -> None:
        self._words = words
        # The process before may have been killed between both stores.
        words[SERVED] = max(words[SERVED], words[RECORDED])
        self._before = words[SERVED], words[RECORDED]
        self.served = self.recorded = 0  # in this life, see `store_ended`
        self.unwritten = 0  # records of such requests that the journal is about to write
        # Refusals of strangers that are in no record yet, by code: those of a process that was killed, too.
        self.refused = {code: words[place] for code, place in _PLACES.items() if words[place]}

    def store_ended(self) -> None:
        """Publish how many requests with an attempt have ended, and how many have their record."""
        served_before, recorded_before = self._before
        self._words[RECORDED] = recorded_before + self.recorded
        self._words[SERVED] = served_before + self.served

    def count_refused(self, code: str, number: int = 1) -> bool:
        """Count refusals of strangers that are in no record yet. Return False if there is no word for the code.

        `number`: negative once a record has them.
        """
        place = _PLACES.get(code)
        if place is None:
            return False
        self._words[place] += number
        count = self.refused.get(code, 0) + number
        if count:
            self.refused[code] = count
        else:
            del self.refused[code]
        return True


class RequestCounts:
    """The counts of all processes. The file is created if it is missing, by one process at a time."""

    def __init__(self, path: Path, rows: int) -> None:
        """Open the file. Raises OSError if the disk has no room."""
        size = 8 * (FIRST_WORDS + rows * ROW_WORDS)
        descriptor = open_or_replace(path, size, _LAYOUT, lambda: b"", size)
        try:
            self._words = memoryview(mmap.mmap(descriptor, size)).cast("Q")
        finally:
            os.close(descriptor)

    def row(self, number: int) -> RowCounts:
        """Return the counts of a row, for its process alone."""
        start = FIRST_WORDS + number * ROW_WORDS
        return RowCounts(self._words[start : start + ROW_WORDS])

    def without_record(self) -> int:
        """Return how many requests have ended after an attempt, and have no record: a fault of RouterDash."""
        return sum([max(0, served - recorded) for served, recorded in _ended(self._words)])


def read_ended(live_page: Path) -> list[tuple[int, int]]:
    """Return SERVED and RECORDED of each row, without a change of the file; none, if it is not of this release."""
    try:
        words = memoryview(path_of_counts(live_page).read_bytes()).cast("Q")
    except (FileNotFoundError, TypeError):  # TypeError: it is no number of words
        return []
    return _ended(words) if words.nbytes and words[0] == _LAYOUT else []


def _ended(words: memoryview) -> list[tuple[int, int]]:
    served = words[FIRST_WORDS + SERVED :: ROW_WORDS].tolist()  # first: it is stored last
    return list(zip(served, words[FIRST_WORDS + RECORDED :: ROW_WORDS].tolist(), strict=True))


def path_of_counts(live_page: Path) -> Path:
    """Return the path of the file beside a live page."""
    return live_page.with_name(f"{live_page.name}-requests")
