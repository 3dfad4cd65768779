"""Budgets of a request: its use is reserved when it is admitted, and counted at its end.

gateway.ipc.counters.spending counts. A request that ends in another period than it was admitted in counts in that one.
"""

import time
from collections.abc import Callable, Sequence
from datetime import date
from zoneinfo import ZoneInfo

from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.spending import EPOCH_SECONDS, SpendingReader, SpendingRow, TagView
from gateway.ipc.counters.spending_file import SpendingFile
from gateway.ipc.live_page import memory_barrier
from gateway.limits import periods
from gateway.limits.budget_bits import BITS
from gateway.registry.limits import TOKENS, Budget

CLAIM_SECONDS = 1.0  # between two attempts to get a row
ATTEMPTS = 3  # to take the last of a budget, while other processes try the same
MAX_VIEWS = 40_000  # tags that a process remembers
MAX_RESERVED = 1 << 50  # of a request, tokens or money: as much as a body may ask for without a bound

Demand = tuple[str, str, Budget]  # level, id of the subject, budget


class Reserve:
    """The use of one unit that a request reserves. Money: 10⁻⁹ of the reporting currency."""

    __slots__ = ("expected", "most")

    def __init__(self, expected: int, most: int) -> None:
        """`expected`: reserved by most budgets. `most`: by those that are hard."""
        self.expected = expected
        self.most = most


class BudgetExceeded:
    """The budget that forbids a request."""

    __slots__ = ("budget", "is_unpriced", "level", "requested", "reserved", "resets_at", "used")

    def __init__(
        self,
        level: str,
        budget: Budget,
        used: int,
        requested: int,
        resets_at: float | None,
        *,
        reserved: int = 0,
        is_unpriced: bool = False,
    ) -> None:
        """`used`: without this request; `reserved`: the part of it that running requests have reserved.

        `resets_at`: seconds since 1970; None: never. `is_unpriced`: the request has no price, and the budget refuses
        such.
        """
        self.level = level
        self.budget = budget
        self.used = used
        self.requested = requested
        self.reserved = reserved
        self.resets_at = resets_at
        self.is_unpriced = is_unpriced


class BudgetsUnavailable(NoPlace):
    """The amounts that budgets have spent are unknown, or there is no room to count it."""


class Settled:
    """Where a request was counted, for its record."""

    __slots__ = ("budgets", "epoch", "row")

    def __init__(self, row: int, epoch: int, budgets: int) -> None:
        self.row = row
        self.epoch = epoch
        self.budgets = budgets  # bits of gateway.limits.budget_bits


class Held:
    """The reservations of a request. They end once, by `settle` or `cancel`; later calls do nothing."""

    __slots__ = ("_budgets", "_demands", "_places")

    def __init__(self, budgets: "Budgets", demands: Sequence[Demand], places: list[tuple[int, int]]) -> None:
        self._budgets: Budgets | None = budgets
        self._demands = demands
        self._places = places

    def settle(self, tokens: int, cost: int, completed_us: int) -> Settled | None:
        """Count the use of the request, before its record is put. None: it has ended before."""
        budgets, self._budgets = self._budgets, None
        return None if budgets is None else budgets.settle(self._demands, self._places, tokens, cost, completed_us)

    def cancel(self) -> None:
        """End the request as if it had never been admitted, because it reached no endpoint."""
        budgets, self._budgets = self._budgets, None
        if budgets is not None:
            budgets.let_go(self._places)


class Budgets:
    """The budgets of one gateway process."""

    def __init__(self, file: SpendingFile, zone: ZoneInfo, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self._file = file
        self._zone = zone
        self._clock = clock
        self._days = periods.Days(zone)
        self._reader = SpendingReader(file)
        self._row: SpendingRow | None = None
        self._claim_at = self._epoch_at = 0.0  # time.monotonic()
        self._tags: dict[tuple[str, str, str, str, date], TagView] = {}

    def hold(self, demands: Sequence[Demand], tokens: Reserve, cost: Reserve | None) -> Held | BudgetExceeded:
        """Reserve the use of a request from all these budgets; return the budget that forbids it.

        `cost` None: the request has no price. Raises BudgetsUnavailable.
        """
        for level, _, budget in demands:
            if budget.refuses_unpriced and cost is None and budget.unit != TOKENS:
                return BudgetExceeded(level, budget, 0, 0, None, is_unpriced=True)
        day = self._days.of(int(self._clock() * 1e6))
        row = self._own_row()
        if not self._reader.covers(day.toordinal()):
            raise BudgetsUnavailable("control has not published the amounts of budgets")
        for _ in range(ATTEMPTS):
            held = self._claim(row, demands, tokens, cost, day)
            if isinstance(held, Held) or held.used + max(held.requested, 1) > held.budget.amount:
                break  # else others have claimed at the same moment, and may have failed as well
        return held

    def _claim(
        self, row: SpendingRow, demands: Sequence[Demand], tokens: Reserve, cost: Reserve | None, day: date
    ) -> Held | BudgetExceeded:
        places: list[tuple[int, int]] = []
        views = []
        try:
            for level, subject_id, budget in demands:
                amounts = tokens if budget.unit == TOKENS else cost
                amount = 0 if amounts is None else amounts.most if budget.hard else amounts.expected
                amount = min(amount, MAX_RESERVED)
                view = self._view(level, subject_id, budget, day)
                places.append((row.hold(view.tag, amount), amount))
                views.append(view)
            memory_barrier()  # of two requests that claim at once, at least one sees the other
            exceeded = None
            for demand, view, (_, amount) in zip(demands, views, places, strict=True):
                if not self._fits(demand, view, amount):
                    exceeded = demand, view, amount
                    break
        except NoPlace as error:
            self.let_go(places)
            raise BudgetsUnavailable(str(error)) from None
        if exceeded is None:
            return Held(self, demands, places)
        self.let_go(places)
        (level, _, budget), view, amount = exceeded
        used = self._reader.used(view) or 0  # without its own claim
        reserved = max(0, used - (self._reader.spent(view) or 0))
        resets_at = periods.end_of(budget.period, day, self._zone)
        return BudgetExceeded(level, budget, used, amount, resets_at, reserved=reserved)

    def _fits(self, demand: Demand, view: TagView, amount: int) -> bool:
        """Return True if a budget is not exceeded by the claims, or not spent if nothing is."""
        most = demand[2].amount if amount else demand[2].amount - 1
        used = self._reader.used(view)
        if used is not None and used > most:
            used = self._reader.used(view)  # a place that is given to another tag may be counted once for both
        if used is None:
            raise BudgetsUnavailable("control has not published the amount of this budget")
        return used <= most

    def is_spent(self, level: str, subject_id: str, budget: Budget) -> bool:
        """Return True if nothing is left of a budget. It does not count a request that asks."""
        left = self.left(level, subject_id, budget)
        return left is not None and left <= 0

    def left(self, level: str, subject_id: str, budget: Budget) -> int | None:
        """Return the rest of a budget now, without reservations; None: it is not known."""
        day = self._days.of(int(self._clock() * 1e6))
        spent = self._reader.spent(self._view(level, subject_id, budget, day))
        return None if spent is None or not self._reader.covers(day.toordinal()) else max(0, budget.amount - spent)

    def settle(
        self, demands: Sequence[Demand], places: list[tuple[int, int]], tokens: int, cost: int, completed_us: int
    ) -> Settled:
        """Count the use of a request, and give back its reservations. `completed_us`: as its record has it."""
        row, day, bits = self._own_row(), self._days.of(completed_us), 0
        for level, subject_id, budget in demands:
            row.spend(self._view(level, subject_id, budget, day).tag, tokens if budget.unit == TOKENS else cost)
            bits |= BITS[level, budget.unit, budget.period]
        self.let_go(places)
        return Settled(row.number, row.epoch, bits)

    def let_go(self, places: list[tuple[int, int]]) -> None:
        """Give back the reservations of a request."""
        row = self._row
        if row is not None:
            for place, amount in places:
                row.let_go(place, amount)

    def end_epoch(self, flush: Callable[[], object]) -> None:
        """End the epoch if it is time. `flush` writes the records of all requests that were counted. Called often."""
        now, row = time.monotonic(), self._row
        if row is not None and now - self._epoch_at >= EPOCH_SECONDS and row.can_end_epoch():
            flush()
            row.end_epoch()
            self._epoch_at = now

    def close(self) -> None:
        """Give the row back, at the end of the process. All records must be written."""
        if self._row is not None:
            self._row.release()
            self._row = None

    def _own_row(self) -> SpendingRow:
        row = self._row
        if row is None:
            now = time.monotonic()
            if now < self._claim_at:
                raise BudgetsUnavailable("no row is free")
            self._claim_at = now + CLAIM_SECONDS
            try:
                claimed = self._file.claim()
            except OSError as error:
                raise BudgetsUnavailable(f"no row can be used: {error}") from None
            if claimed is None:
                raise BudgetsUnavailable("no row is free")
            row = self._row = SpendingRow(self._file, *claimed)
            self._epoch_at = now
        return row

    def _view(self, level: str, subject_id: str, budget: Budget, day: date) -> TagView:
        key = (level, subject_id, budget.unit, budget.period, day)
        view = self._tags.get(key)
        if view is None:
            if len(self._tags) >= MAX_VIEWS:
                self._tags.clear()
            name = periods.name_of(budget.period, day)
            view = self._tags[key] = TagView(self._file.tag(level, subject_id, budget.unit, budget.period, name))
        return view
