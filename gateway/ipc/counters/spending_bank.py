"""Writer of the banks of the spending file, which control publishes. Only control has one."""

from array import array
from collections.abc import Iterable, Mapping, Sequence

from gateway.ipc.counters.spending_file import (
    COVERED,
    EPOCH,
    FLIP,
    INCLUDED,
    MAX_PUBLISHED,
    ROWS,
    SINCE,
    UNCOVERED,
    UNTIL,
    SpendingFile,
)
from gateway.ipc.live_page import memory_barrier


class TooManyTags(Exception):
    """The bank has no room for all tags."""


class SpendingBank:
    """The published amounts. A publication writes the changed ones into the bank that nobody reads, then one word."""

    def __init__(self, file: SpendingFile) -> None:
        self._file = file
        self._words = file.words
        self._values: dict[int, int] = {}  # by tag
        self._behind: list[set[int] | None] = [None, None]  # tags that each bank lacks; None: all

    @property
    def included(self) -> list[int]:
        """The last included epoch of each row."""
        return self._file.included()

    @property
    def has_open(self) -> bool:
        """True if a row has an epoch that is not included."""
        epochs = self._words[EPOCH : EPOCH + ROWS].tolist()
        return any(epoch > included for epoch, included in zip(epochs, self.included, strict=True))

    def over(self) -> list[int]:
        """Return the last epoch of each row that is over. All records of it are in journals that are read from now on.

        What is included remains so: a row's process may have taken it and not begun its epoch yet.
        """
        words, included = self._words, self.included
        return [
            max(included[row], words[EPOCH + row] - self._file.is_alive(row))
            if words[EPOCH + row] > included[row]
            else included[row]
            for row in range(ROWS)
        ]

    def value(self, tag: int) -> int | None:
        """Return the published amount of a tag."""
        return self._values.get(tag)

    @property
    def uncovered(self) -> int:
        """How often budgets have changed whose amounts were not published."""
        return self._words[UNCOVERED]

    def cover(self, uncovered: int) -> None:
        """State that a tag without an amount has none. `uncovered`: as it was before the amounts were read."""
        self._words[COVERED] = uncovered

    def clear(self) -> None:
        """Remove all amounts from the next publication on. They are to be passed to it again."""
        self._values.clear()
        self._behind = [None, None]

    def publish(
        self, included: Sequence[int], days: tuple[int, int], changed: Mapping[int, int], removed: Iterable[int] = ()
    ) -> None:
        """Publish amounts by tag, the epochs that they include, and the first and last day that they are complete for.

        Raises TooManyTags; then nothing is published.
        """
        for tag in removed:
            if self._values.pop(tag, None) is not None:
                self._behind = [None, None]
        if len(self._values.keys() | changed.keys()) > MAX_PUBLISHED:
            raise TooManyTags(f"more than {MAX_PUBLISHED:,} budgets have been used")
        self._values |= changed
        for behind in self._behind:
            if behind is not None:
                behind.update(changed)
        words, file, flip = self._words, self._file, self._words[FLIP] + 1
        lacking = self._behind[flip & 1]
        if lacking is None:
            file.empty(flip)
            lacking = set(self._values)
        for tag in lacking:
            index = file.slot(flip, tag)
            words[index + 1] = self._values[tag]
            words[index] = tag
        self._behind[flip & 1] = set()
        bank = file.bank(flip)
        words[bank + SINCE], words[bank + UNTIL] = days
        words[bank + INCLUDED : bank + INCLUDED + ROWS] = memoryview(array("q", included))
        memory_barrier()
        words[FLIP] = flip
