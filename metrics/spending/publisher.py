"""Publishes the amounts that budgets have spent, together with the epochs of gateways that this includes.

gateway.ipc.counters.spending says why the sum is exact. Here it rests on this:

- Amounts are those of the database at certain journal positions. The database writer adds each batch after its commit,
  in its own thread, together with the positions that it moved. If these do not fit, everything is read again.
- Before a step, it is read which epochs are over. A step that reads the journals to their ends has all their records,
  so the epochs are included when it is committed.
- A record in an epoch that is not included is subtracted again, under each tag that its row counts it. After a restart,
  those that are in the database already are read from the journal. So a segment with such a record is kept.
- A budget that is added or changed is covered before gateways learn of it (`cover`). So a tag without an amount has
  none. Where that is not possible, UNCOVERED is raised first: then such a tag is unknown until all is read again.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from django.db import Error

from gateway.ipc.counters.spending_bank import SpendingBank, TooManyTags
from gateway.ipc.counters.spending_file import SpendingFile
from gateway.ipc.journal import START, Position
from gateway.ipc.record import RequestRecord
from gateway.limits.periods import Days, day_of, name_of
from gateway.prices.costs import RequestCost
from gateway.registry.limits import KEY_LEVEL, PERIODS, USER_LEVEL, Subject
from metrics.memory.journal_reader import JournalReader
from metrics.spending import stored
from metrics.spending.money import Money
from metrics.spending.subjects import Tag
from metrics.spending.totals import SpendingTotals, unknown_subjects
from metrics.storage import database
from metrics.storage.writer_step import WriterStep

log = logging.getLogger(__name__)

DAYS_BEFORE, DAYS_AFTER = 1, 7  # days around today that are covered: the clock may be set back, or control be away
COVER_SECONDS = 2.0  # that an added budget waits at most for the database writer
PAUSE_SECONDS = 0.01
BATCH = 5000
MAX_LOOKED_UP = 100_000  # subjects without a budget that are remembered

CostOf = Callable[[RequestRecord], RequestCost | None]


class SpendingPublisher:
    """The publisher of control. The database writer's thread calls it, and any thread may call `cover`."""

    def __init__(
        self,
        file: SpendingFile,
        reader: JournalReader,
        zone: ZoneInfo,
        cost_of: CostOf,
        money: Money,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`cost_of`: computes a cost again. `clock`: seconds since 1970."""
        self._file = file
        self._bank = SpendingBank(file)
        self._reader = reader
        self._zone = zone
        self._cost_of = cost_of
        self._money = money
        self._clock = clock
        self._lock = threading.RLock()
        self._totals = SpendingTotals(Days(zone), file.is_of_this_file)
        self._positions: dict[str, Position] | None = None  # of `_totals`; None: nothing is known
        self._over: list[int] = []
        self._first = self._last = date.min  # covered days
        self._is_new = True  # nothing of `_totals` is published yet
        self._has_budgets = False
        self._uncovered = -1  # SpendingBank.uncovered when `_totals` were read

    # The database writer's thread

    def begin(self, database_id: str, stored_at: Mapping[str, Position]) -> None:
        """Prepare a step: note which epochs are over, and read everything unless all of it is known. Raises Error.

        `stored_at`: the positions of the database. Another process may have moved them.
        """
        with self._lock:
            self._file.bury()
            today = self._today()
            if self._positions is not None and today - timedelta(days=DAYS_BEFORE) < self._first:
                self._positions = None  # the clock was set back: amounts of earlier periods are needed again
            if not self._are_at(stored_at):
                self._positions = None
            if self._positions is None or self._uncovered != self._bank.uncovered:
                self._read_again(database_id, today)
            self._over = self._bank.over()

    def forget(self) -> None:
        """Read everything again at the next step: figures of the database have changed in another way than by `add`."""
        with self._lock:
            self._positions = None

    def add(self, step: WriterStep, counted: Collection[RequestRecord], costs: Mapping[str, RequestCost]) -> None:
        """Add the records of a committed batch, and their costs by id. Raises Error."""
        with self._lock:
            positions, self._positions = self._positions, None
            if positions is None or any(positions.get(writer, START) != old for writer, old, _ in step.moves):
                return  # another process has written: everything is read again
            positions |= {writer: new for writer, _, new in step.moves}
            totals = self._totals
            if self._has_budgets or any([entry.budgets for entry in counted]):
                self._look_up(counted)
                self._money.begin(counted, costs)
                for entry in counted:
                    totals.count(entry, self._money.add(entry, costs.get(entry.id)))
                for writer, part in zip(step.part_writers, step.parts, strict=True):
                    for each, position in zip(part.batch.entries, part.batch.starts, strict=True):
                        if isinstance(each, RequestRecord) and each.budgets:
                            totals.keep(writer, each, position)
            self._positions = positions

    def deletable(self, writer: str, position: Position) -> Position:
        """Return the position, not after a given one, before which the journal of a writer is not needed."""
        with self._lock:
            if self._positions is None:
                return START
            kept = self._totals.first_kept(writer)
            return position if kept is None else min(position, kept)

    def publish(self, *, complete: bool) -> None:
        """Publish the changes. `complete`: the step since `begin` has read all journals to their ends."""
        with self._lock:
            if self._positions is None:
                return
            included = self._over if complete else self._bank.included
            today = self._today()
            first, last = today - timedelta(days=DAYS_BEFORE), today + timedelta(days=DAYS_AFTER)
            if first < self._first:
                return  # the clock was set back since `begin`: amounts of these days are not known
            totals = self._totals
            if included != self._bank.included:
                totals.include(dict(enumerate(included)))
            elif not (totals.changed or self._is_new or first > self._first or last != self._last):
                return
            removed: list[Tag] = []
            if first > self._first:
                removed = totals.forget_before({period: name_of(period, first) for period in PERIODS})
            self._write(included, first, last, removed)

    def _write(self, included: list[int], first: date, last: date, removed: Iterable[Tag] = ()) -> None:
        totals = self._totals
        if self._is_new:
            self._bank.clear()
            totals.changed.update(totals.amounts)
        totals.changed.intersection_update(totals.amounts)
        values = {self._tag(tag): amount for tag, amount in totals.published(totals.changed)}
        try:
            self._bank.publish(included, (first.toordinal(), last.toordinal()), values, map(self._tag, removed))
        except TooManyTags as error:
            self._file.uncover()
            log.error("amounts that budgets have spent cannot be published: %s", error)
            return
        if self._is_new:
            self._bank.cover(self._uncovered)
        self._first, self._last, self._is_new = first, last, False
        totals.changed.clear()

    def _tag(self, tag: Tag) -> int:
        return self._file.tag(*tag)

    def _are_at(self, positions: Mapping[str, Position]) -> bool:
        """Return True if the amounts are those at these positions of the database.

        It has none of journals that are deleted, which have no more records.
        """
        known = self._positions
        return known is not None and all(known.get(writer, START) == position for writer, position in positions.items())

    def _today(self) -> date:
        return day_of(int(self._clock() * 1e6), self._zone)

    def _look_up(self, entries: Collection[RequestRecord]) -> None:
        """Find the owners of keys and the budgets of subjects that are not known yet. Raises Error."""
        totals = self._totals
        keys, users = unknown_subjects(totals, entries)
        if not keys and not users:
            return
        if len(totals.kinds) > MAX_LOOKED_UP:
            totals.forget_unlimited()
        owners = stored.owners_of(keys)
        totals.owners |= owners
        users |= {owner for owner in owners.values() if (USER_LEVEL, owner) not in totals.kinds}
        for level, ids in ((KEY_LEVEL, keys), (USER_LEVEL, users)):
            kinds = stored.kinds_of(level, ids)
            totals.kinds |= {(level, subject_id): kinds.get((level, subject_id), frozenset()) for subject_id in ids}

    def _read_again(self, database_id: str, today: date) -> None:
        first, uncovered = today - timedelta(days=DAYS_BEFORE), self._bank.uncovered
        self._money.forget()
        with database.read_moment():
            positions = stored.positions()
            self._has_budgets = stored.has_budgets()
            sums = stored.read_all(self._since(first))
        totals = SpendingTotals(Days(self._zone), self._file.is_of_this_file)
        totals.included = dict(enumerate(self._bank.included))
        totals.amounts, totals.kinds, totals.owners = dict(sums.amounts), sums.kinds, sums.owners
        totals.forget_before({period: name_of(period, first) for period in PERIODS})
        if self._bank.has_open:
            self._read_open(totals, database_id, positions)
        self._totals, self._positions = totals, positions
        self._first, self._uncovered = first, uncovered
        self._is_new = True

    def _read_open(self, totals: SpendingTotals, database_id: str, positions: dict[str, Position]) -> None:
        """Read the records that are in the database and in an epoch that is not included."""
        for writer in self._reader.writers(database_id):
            end = positions.get(writer, START)
            position = (self._reader.first_segment(writer), 0)
            while position < end:
                batch = self._reader.read(writer, position, BATCH)
                if batch.position == position:
                    break
                for entry, start in zip(batch.entries, batch.starts, strict=True):
                    if start < end and isinstance(entry, RequestRecord) and entry.budgets and totals.is_open(entry):
                        totals.count_open(entry, self._money.counted(entry, self._cost_of(entry)))
                        totals.keep(writer, entry, start)
                position = batch.position

    def _since(self, first: date) -> date:
        """Return the first day of the periods that this day is in."""
        return min(date.fromisoformat(name) for period in PERIODS if (name := name_of(period, first)))

    # Any thread

    def cover(self, subjects: Collection[Subject]) -> None:
        """Publish the amounts of the budgets of these subjects, before a gateway learns that these budgets changed."""
        deadline = time.monotonic() + COVER_SECONDS
        try:
            while not self._cover(subjects):
                if time.monotonic() >= deadline:
                    self._uncover()
                    return
                time.sleep(PAUSE_SECONDS)
        except Error as error:
            log.warning("amounts that budgets have spent cannot be read from the database: %s", error)
            self._uncover()

    def _uncover(self) -> None:
        with self._lock:
            self._positions = None
            self._file.uncover()

    def _cover(self, subjects: Collection[Subject]) -> bool:
        """Return False if the database is at other positions than the amounts in memory."""
        with self._lock:
            if self._positions is None or self._is_new:
                self._uncover()
                return True
            before = stored.positions()
            sums = stored.read_some(subjects, self._since(self._first))
            if not self._are_at(before) or stored.positions() != before:
                return False
            totals = self._totals
            totals.owners |= sums.owners
            self._has_budgets = self._has_budgets or bool(sums.kinds)
            amounts: dict[Subject, dict[Tag, int]] = defaultdict(dict)
            for tag, amount in sums.amounts.items():
                amounts[tag.level, tag.subject_id][tag] = amount
            for subject in subjects:
                totals.replace(subject, sums.kinds.get(subject, frozenset()), amounts.get(subject, {}))
            totals.forget_before({period: name_of(period, self._first) for period in PERIODS})
            self._write(self._bank.included, self._first, self._last)
            return True

    def spenders(self) -> set[Subject]:
        """Return the subjects that have spent something of a budget."""
        with self._lock:
            return {(tag.level, tag.subject_id) for tag, amount in self._totals.amounts.items() if amount}

    def spent(self, level: str, subject_id: str, unit: str, period: str) -> int | None:
        """Return the published amount of the present period, without the requests that gateways have counted since."""
        with self._lock:
            tag = Tag(level, subject_id, unit, period, name_of(period, self._today()))
            return None if self._positions is None else self._bank.value(self._tag(tag)) or 0
