"""Sums that budgets have spent over all gateway processes: exact at every moment, and after any kill.

Spent = the amount that control has published, for the epochs that it includes
      + the amounts of the processes in later epochs, added up over all rows.

A process counts a request in the words of its own row, in its present epoch, and its record names the row, the epoch
and the budgets (gateway.limits.budget_bits). Control publishes, for each tag,

    the sum of the records that are in the database  -  those of them that name this tag in an epoch not included.

So each request is in exactly one of both parts. One store (FLIP) publishes all amounts together with the included
epochs, and a reader that sees FLIP move reads again. Control includes an epoch only when it is over and its records are
in the database: it reads first which epochs are over, and then the journals to their ends.

A process ends an epoch after its records are written to the journal, and only if the one before is included. So two
words for each place are enough, of even and of odd epochs. Before an epoch begins, its words are cleared. A reader that
misses what was cleared sees FLIP move, as the epoch had been included before.

A process that is killed leaves its words. They count until its journal was read to its end, and its last epoch is
included. Then amounts without a record disappear, as they are in no figure. Its row is used again only after
that. Control that is killed loses nothing: the included epochs are in the file, records that are not included are in
segments of the journal that are kept for that, and all others are in the database.

Order at the end of a request: SPENT is raised, then HELD is lowered, then the record is put. A reader loads HELD, then
EPOCH, then SPENT. So it may count a request twice for a moment, never not at all. A request claims in HELD, passes a
memory barrier, and checks then: of two that claim at once, at least one sees the other.
"""

from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.spending_file import (
    ALIVE,
    BUCKET_SIZE,
    BUCKETS,
    COVERED,
    EPOCH,
    FLIP,
    HELD,
    INCLUDED,
    MAX_PLACES,
    OVERFLOW,
    OVERFLOWED,
    ROWS,
    SINCE,
    SLOTS,
    SPENT,
    STATE,
    TAGS,
    UNCOVERED,
    UNTIL,
    UNUSED,
    WORLD,
    SpendingFile,
)

EPOCH_SECONDS = 10.0


class SpendingRow:
    """The own row of a process."""

    def __init__(self, file: SpendingFile, row: int, lock: int) -> None:
        """`row` and `lock`: as SpendingFile.claim returned them."""
        self.number = row
        self.has_spent = False  # in this epoch
        self._file = file
        self._words = file.words
        self._first = file.row(row)
        self._lock: int | None = lock
        self._places: dict[int, int] = {}  # number of the place by tag
        self._used: dict[int, int] = {}  # requests in flight by number of the place, without zeros

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return self._words[EPOCH + self.number]

    def hold(self, tag: int, amount: int) -> int:
        """Reserve an amount. Return the place that has it. Raises NoPlace."""
        place = self._places.get(tag)
        if place is None:
            if len(self._places) >= MAX_PLACES and not self._forget_idle():
                raise NoPlace(f"{MAX_PLACES:,} budgets are in use")
            place = self._add(tag)
        self._used[place] = self._used.get(place, 0) + 1
        self._words[self._first + HELD + place] += amount
        return place

    def let_go(self, place: int, amount: int) -> None:
        """Give back what `hold` reserved, after its use is counted."""
        self._words[self._first + HELD + place] -= amount
        left = self._used[place] - 1
        if left:
            self._used[place] = left
        else:
            del self._used[place]

    def spend(self, tag: int, amount: int) -> None:
        """Count an amount in the present epoch. A record that names it is to be put afterwards."""
        parity = self.epoch & 1
        self.has_spent = True
        place = self._places.get(tag)
        if place is None:
            try:
                place = self._add(tag)
            except NoPlace:  # the end of a request cannot be refused: rather too much for all than too little for one
                self._words[self._first + OVERFLOW + parity] += amount
                self._words[OVERFLOWED] = 1
                return
        self._words[self._first + SPENT + parity * SLOTS + place] += amount

    def can_end_epoch(self) -> bool:
        """Return True if something was spent in this epoch, and the one before is included."""
        return self.has_spent and self._file.included()[self.number] >= self.epoch - 1

    def end_epoch(self) -> None:
        """Begin the next epoch. All records of this one are written to the journal, or are lost."""
        parity = self.epoch + 1 & 1
        first = self._first + SPENT + parity * SLOTS
        self._words[first : first + SLOTS] = _NOTHING
        self._words[self._first + OVERFLOW + parity] = 0
        self._words[EPOCH + self.number] += 1
        self.has_spent = False

    def release(self) -> None:
        """Give the row back at the end of the process, after its records are written."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._file.release(self.number, lock)

    def _add(self, tag: int) -> int:
        """Return a place for a tag: an empty one, or one that nobody needs any more. Raises NoPlace."""
        words, bucket = self._words, tag % BUCKETS
        start = bucket * BUCKET_SIZE
        tags = words[self._first + TAGS + start : self._first + TAGS + start + BUCKET_SIZE].tolist()
        place = (
            start + tags.index(0)
            if 0 in tags
            else next((start + index for index in range(BUCKET_SIZE) if self._is_idle(start + index)), None)
        )
        if place is None:
            raise NoPlace("a bucket of budgets is full")
        if before := tags[place - start]:
            self._places.pop(before, None)
        words[self._first + bucket] += 1  # readers no longer take the place for that of another tag
        words[self._first + TAGS + place] = tag
        words[self._first + bucket] += 1
        self._places[tag] = place
        return place

    def _is_idle(self, place: int) -> bool:
        index = self._first + place
        words = self._words
        return place not in self._used and not (words[index + SPENT] or words[index + SPENT + SLOTS])

    def _forget_idle(self) -> bool:
        """Forget the tags that nobody needs any more. Return True if there is room then."""
        words, first = self._words, self._first
        for tag, place in list(self._places.items()):
            if self._is_idle(place):
                words[first + place // BUCKET_SIZE] += 1
                words[first + TAGS + place] = 0
                words[first + place // BUCKET_SIZE] += 1
                del self._places[tag]
        return len(self._places) < MAX_PLACES


_NOTHING = memoryview(bytes(8 * SLOTS)).cast("q")


class TagView:
    """Where a tag is counted, as far as a reader has looked."""

    __slots__ = ("flip", "held", "places", "published", "stamp", "stamp_at", "tag", "version")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.flip = self.version = -1
        self.published: int | None = None  # None: the tag is absent
        self.held: list[int] = []  # indexes of words
        self.places: list[tuple[int, int]] = []  # of each row with such a place: its number, index of SPENT
        self.stamp_at: list[int] = []  # indexes of the words which are as in `stamp` while all this is right
        self.stamp: list[int] = []


class SpendingReader:
    """A view of all rows. Any process may have one."""

    def __init__(self, file: SpendingFile) -> None:
        self._file = file
        self._words = file.words
        self._world = -1
        self._version = 0
        self._rows: list[tuple[int, bool]] = []  # number, and whether it may hold
        self._flip = -1
        self._included: list[int] = []
        self._since = self._until = 0

    def covers(self, day: int) -> bool:
        """Return True if the published amounts are complete for the periods of a day (date.toordinal())."""
        while (flip := self._words[FLIP]) != self._flip:
            self._read_bank(flip)
        return self._since <= day <= self._until

    def used(self, view: TagView) -> int | None:
        """Return the amount spent and held. None: control has not published earlier amounts yet."""
        words = self._words
        if words[WORLD] != self._world:
            self._world = words[WORLD]
            states = words[STATE : STATE + ROWS].tolist()
            self._rows = [(row, state == ALIVE) for row, state in enumerate(states) if state != UNUSED]
            self._version += 1
        if view.version != self._version or view.stamp != [words[index] for index in view.stamp_at]:
            self._look(view)
        held = sum([words[index] for index in view.held])  # before the amounts spent
        spent = self._spent(view)
        return None if spent is None else held + spent

    def spent(self, view: TagView) -> int | None:
        """Return the amount spent, without reservations. None: control has not published earlier amounts yet."""
        view.version = -1
        if self.used(view) is None:
            return None
        return self._spent(view)

    def _spent(self, view: TagView) -> int | None:
        words = self._words
        while True:
            flip = words[FLIP]
            if flip != self._flip:
                self._read_bank(flip)
            if view.flip != flip:
                view.published = self._file.published(flip, view.tag)
                view.flip = flip
            total = view.published
            if total is None:
                if words[COVERED] != words[UNCOVERED]:
                    return None
                total = 0
            total += self._open(view.places)
            if words[OVERFLOWED]:
                total += self._open([(row, self._file.row(row) + OVERFLOW) for row, _ in self._rows], 1)
            if words[FLIP] == flip:
                return total

    def _open(self, places: list[tuple[int, int]], step: int = SLOTS) -> int:
        """Return the amount of epochs that are not included. `step`: from a word of even epochs to the odd one."""
        words, included, total = self._words, self._included, 0
        for row, index in places:
            epoch = words[EPOCH + row]
            count = epoch - included[row]
            if count > 0:
                total += words[index + (epoch & 1) * step]
                if count > 1:
                    total += words[index + (~epoch & 1) * step]
        return total

    def _read_bank(self, flip: int) -> None:
        bank = self._file.bank(flip)
        self._included = self._words[bank + INCLUDED : bank + INCLUDED + ROWS].tolist()
        self._since, self._until = self._words[bank + SINCE], self._words[bank + UNTIL]
        self._flip = flip

    def _look(self, view: TagView) -> None:
        """Find the places in all rows."""
        words, file, bucket = self._words, self._file, view.tag % BUCKETS
        view.held, view.places, view.stamp_at, view.stamp = [], [], [], []
        for row, may_hold in self._rows:
            first = file.row(row)
            view.stamp_at.append(first + bucket)
            view.stamp.append(words[first + bucket])  # before the search
            place = file.find(row, view.tag)
            if place is not None:
                view.places.append((row, first + SPENT + place))
                if may_hold:
                    view.held.append(first + HELD + place)
        view.version = self._version
