"""Amounts by tag, with those of epochs that are not included apart.

Pure sums, which metrics.spending.publisher feeds.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from gateway.ipc import record
from gateway.ipc.journal import Position
from gateway.ipc.record import RequestRecord
from gateway.limits import budget_bits
from gateway.limits.periods import Days
from gateway.prices.counts import plausible
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, TOKENS, USER_LEVEL, Subject
from metrics.spending.money import Amount
from metrics.spending.subjects import Kind, Tag, tag_of

RowEpoch = tuple[int, int]


@lru_cache(1024)
def _counted_by(bits: int, level: str) -> frozenset[Kind]:
    """Return the units and periods of the budgets of this level that have counted a request."""
    return frozenset((unit, period) for of, unit, period in budget_bits.kinds_of(bits) if of == level)


class SpendingTotals:
    """All records of the database in the periods of budgets, and those of them that rows of gateways count."""

    def __init__(self, days: Days, is_of_this_file: Callable[[int, int], bool]) -> None:
        """`is_of_this_file`: of the file with the present rows, as SpendingFile has it."""
        self.amounts: dict[Tag, int] = {}  # of all records in the database
        self.kinds: dict[Subject, frozenset[Kind]] = {}  # budgets of subjects; empty: it has none
        self.owners: dict[str, str] = {}  # user ids by API key
        self.changed: set[Tag] = set()  # since the last publication
        self.included: dict[int, int] = {}  # last included epoch by row
        self._days = days
        self._is_of_this_file = is_of_this_file
        self._open: dict[RowEpoch, Counter[Tag]] = {}  # amounts that rows count in epochs that are not included
        self._of_rows: Counter[Tag] = Counter()  # sums of these
        # Where each writer's first record of an epoch is. A process may close a journal and begin another one.
        self._kept: dict[RowEpoch, dict[str, Position]] = defaultdict(dict)

    def replace(self, subject: Subject, kinds: frozenset[Kind], amounts: Mapping[Tag, int]) -> None:
        """Take over the budgets of a subject and their amounts, as the database has it."""
        self.kinds[subject] = kinds
        self.amounts |= amounts
        self.changed.update(amounts)

    def count(self, entry: RequestRecord, cost: Amount) -> None:
        """Add a record that is in the database now."""
        for tag, amount, counted, is_of_row in self._parts(entry, cost):
            self.amounts[tag] = self.amounts.get(tag, 0) + amount
            if not is_of_row:
                self.changed.add(tag)
            else:
                self._open_epoch(entry)[tag] += counted
                self._of_rows[tag] += counted

    def count_open(self, entry: RequestRecord, cost: int) -> None:
        """Add a record that was in the database before, if rows still count it."""
        for tag, _, counted, is_of_row in self._parts(entry, Amount(cost, cost)):
            if is_of_row:
                self._open_epoch(entry)[tag] += counted
                self._of_rows[tag] += counted

    def keep(self, writer: str, entry: RequestRecord, position: Position) -> None:
        """Note where a record is in the journal, if its epoch is not included."""
        if entry.row is not None and entry.epoch is not None and self.is_open(entry):
            first = self._kept[entry.row, entry.epoch]
            first[writer] = min(position, first.get(writer, position))

    def first_kept(self, writer: str) -> Position | None:
        """Return the position of the first record of a writer whose epoch is not included."""
        return min((first[writer] for first in self._kept.values() if writer in first), default=None)

    def is_open(self, entry: RequestRecord) -> bool:
        """Return True if a record is of an epoch that is not included, in a row of the present file.

        The epochs of an earlier file, which a restart of the machine replaces, may have larger numbers.
        """
        row, epoch = entry.row, entry.epoch
        if row is None or epoch is None or not self._is_of_this_file(row, epoch):
            return False
        return epoch > self.included.get(row, epoch)

    def include(self, included: Mapping[int, int]) -> None:
        """Let the published amounts include the epochs of each row up to these."""
        self.included = dict(included)
        for key in [(row, epoch) for row, epoch in self._open if epoch <= included.get(row, epoch)]:
            sums = self._open.pop(key)
            self._of_rows.subtract(sums)
            self.changed.update(sums)
            for tag in [tag for tag in sums if not self._of_rows[tag]]:
                del self._of_rows[tag]
        for key in [(row, epoch) for row, epoch in self._kept if epoch <= included.get(row, epoch)]:
            del self._kept[key]

    def published(self, tags: Iterable[Tag]) -> Iterator[tuple[Tag, int]]:
        """Yield the amounts to publish: of the records in the database that no row counts."""
        for tag in tags:
            yield tag, self.amounts.get(tag, 0) - self._of_rows.get(tag, 0)

    def forget_unlimited(self) -> None:
        """Forget the subjects without budgets. They are looked up again when they are used."""
        self.kinds = {subject: kinds for subject, kinds in self.kinds.items() if kinds}
        self.owners = {key: owner for key, owner in self.owners.items() if (KEY_LEVEL, key) in self.kinds}

    def forget_before(self, first_days: Mapping[str, str]) -> list[Tag]:
        """Forget the tags of periods before these first days, by period; return them."""
        old = [tag for tag in self.amounts if tag.first_day < first_days[tag.period]]
        for tag in old:
            del self.amounts[tag]
        return old

    def _open_epoch(self, entry: RequestRecord) -> Counter[Tag]:
        assert entry.row is not None
        assert entry.epoch is not None
        return self._open.setdefault((entry.row, entry.epoch), Counter())

    def _parts(self, entry: RequestRecord, cost: Amount) -> Iterator[tuple[Tag, int, int, bool]]:
        """Yield the tags that a record counts under, what it adds to the database's sum, what rows count, and whether
        a row counts it under this tag.
        """
        if entry.outcome == record.REJECTED:
            return
        bits = (entry.budgets or 0) if self.is_open(entry) else 0
        tokens = (plausible(entry.input_tokens) or 0) + (plausible(entry.output_tokens) or 0)
        key = entry.api_key_id or ""
        user = entry.user_id or self.owners.get(key, "")
        day = self._days.of(entry.completed_us)
        for subject in ((KEY_LEVEL, key), (USER_LEVEL, user), (EVERYONE_LEVEL, "")):
            known, of_row = self.kinds.get(subject), _counted_by(bits, subject[0])
            for kind in known | of_row if known else of_row:
                amount, counted = (tokens, tokens) if kind[0] == TOKENS else cost
                if amount or counted:
                    yield tag_of(subject, *kind, day), amount, counted, kind in of_row


def unknown_subjects(totals: SpendingTotals, entries: Iterable[RequestRecord]) -> tuple[set[str], set[str]]:
    """Return the API keys and users of records whose budgets were not looked up yet."""
    keys: dict[str, None] = {}
    users = defaultdict(bool)
    for entry in entries:
        if entry.api_key_id is not None:
            keys[entry.api_key_id] = None
        if entry.user_id is not None:
            users[entry.user_id] = True
    unknown = {key for key in keys if (KEY_LEVEL, key) not in totals.kinds}
    return unknown, {user for user in users if (USER_LEVEL, user) not in totals.kinds}
