"""Gauges of limits: the present use against each limit of a key, of its owner, and of everyone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.conf import settings

from access.limits.amounts import amount_text
from access.limits.reading import read_limits
from access.limits.tables import LEVEL_LABELS, LIMIT_LABELS, PERIOD_LABELS, UNIT_LABELS
from access.models import ApiKey
from endpoints.fields import number_of
from gateway.base.queue_class import part_for_bulk
from gateway.ipc.counters.limit_use import LimitUse
from gateway.limits.spent_now import SpentNow
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, MONEY, USER_LEVEL, Budget, LimitFacts, Subject

Use = Callable[[str, str], LimitUse]  # by level and subject id
Spent = Callable[[Subject, str, str], int | None]  # by subject, unit and period, as SpentNow.spent


@dataclass(frozen=True, slots=True)
class LimitGauge:
    """One limit. `percent` is at most 100: a limit that was lowered may be exceeded for a while."""

    label: str
    used: int
    most: int
    waits: bool  # over this limit requests wait; over others they are refused
    for_bulk: int  # up to which bulk requests are let in

    @property
    def percent(self) -> int:
        return min(100, 100 * self.used // self.most)

    @property
    def is_full(self) -> bool:
        return self.used >= self.most


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One budget as pages show it."""

    budget: Budget
    used: int | None  # None: not known yet

    @property
    def percent(self) -> int:
        return min(100, 100 * (self.used or 0) // self.budget.amount)

    @property
    def is_full(self) -> bool:
        return (self.used or 0) >= self.budget.amount

    @property
    def amount(self) -> str:
        return _amount(self.budget.amount, self.budget.unit)

    @property
    def spent(self) -> str:
        return "—" if self.used is None else _amount(self.used, self.budget.unit)

    @property
    def period(self) -> str:
        return str(PERIOD_LABELS[self.budget.period])


@dataclass(frozen=True, slots=True)
class LimitPanel:
    """The limits of one subject with their use."""

    level: str
    gauges: list[LimitGauge]
    budgets: list[BudgetLine]

    @property
    def label(self) -> str:
        return str(LEVEL_LABELS[self.level])


def _amount(amount: int, unit: str) -> str:
    if unit == MONEY:
        return f"{amount_text(amount, MONEY)} {settings.ROUTERDASH.currency}"
    return f"{amount:,} {UNIT_LABELS[unit]}"


def spent_now() -> SpentNow:
    """Return the present amounts of this installation's budgets."""
    config = settings.ROUTERDASH
    return SpentNow(config.live_page_path, config.zone)


def panel_of(subject: Subject, facts: LimitFacts, use: Use, spent: Spent, *, has_bulk_only: bool = False) -> LimitPanel:
    """Return the limits of a subject with their present use.

    `has_bulk_only`: all requests of this API key are bulk requests, so that they may use the whole.
    """
    budgets = [BudgetLine(budget, spent(subject, budget.unit, budget.period)) for budget in facts.budgets]
    return LimitPanel(subject[0], list(_gauges(facts, use(*subject), has_bulk_only=has_bulk_only)), budgets)


def panels_of_key(key: ApiKey, use: Use) -> list[LimitPanel]:
    """Return the limits that a request with this key is taken from. Raises django.db.Error."""
    subjects = [(KEY_LEVEL, str(key.pk)), (USER_LEVEL, str(key.created_by_id)), (EVERYONE_LEVEL, "")]
    limits = read_limits(subjects)
    spent = spent_now().spent
    return [
        panel_of(subject, limits[subject], use, spent, has_bulk_only=subject[0] == KEY_LEVEL and bool(key.bulk))
        for subject in subjects
        if subject in limits
    ]


def _gauges(facts: LimitFacts, used: LimitUse, *, has_bulk_only: bool) -> Iterator[LimitGauge]:
    for name, label in LIMIT_LABELS.items():
        most = number_of(getattr(facts, name))
        if most is not None:
            for_bulk = most if has_bulk_only else part_for_bulk(most)
            yield LimitGauge(str(label), getattr(used, name), most, name in facts.waiting, for_bulk)
