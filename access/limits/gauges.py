"""Gauges of limits: the present use against each limit of a key, of its owner, and of everyone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.conf import settings

from access.limits.amounts import amount_text
from access.limits.reading import Subject, read_limits
from access.limits.tables import LEVEL_LABELS, LIMIT_LABELS, PERIOD_LABELS, UNIT_LABELS
from access.models import ApiKey
from endpoints.fields import number_of
from gateway.ipc.counters.limit_use import LimitUse
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, MONEY, USER_LEVEL, Budget, LimitFacts

Use = Callable[[str, str], LimitUse]  # by level and subject id


@dataclass(frozen=True, slots=True)
class LimitGauge:
    """One limit. `percent` is at most 100: a limit that was lowered may be exceeded for a while."""

    label: str
    used: int
    most: int
    waits: bool  # over this limit requests wait; over others they are refused

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

    @property
    def amount(self) -> str:
        if self.budget.unit == MONEY:
            return f"{amount_text(self.budget.amount, MONEY)} {settings.ROUTERDASH.currency}"
        return f"{self.budget.amount:,} {UNIT_LABELS[self.budget.unit]}"

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


def panel_of(subject: Subject, facts: LimitFacts, use: Use) -> LimitPanel:
    """Return the limits of a subject with their present use."""
    used = use(*subject)
    return LimitPanel(subject[0], list(_gauges(facts, used)), [BudgetLine(budget) for budget in facts.budgets])


def panels_of_key(key: ApiKey, use: Use) -> list[LimitPanel]:
    """Return the limits that a request with this key is taken from. Raises django.db.Error."""
    subjects = [(KEY_LEVEL, str(key.pk)), (USER_LEVEL, str(key.created_by_id)), (EVERYONE_LEVEL, "")]
    found = read_limits(subjects)
    return [panel_of(subject, found[subject], use) for subject in subjects if subject in found]


def _gauges(facts: LimitFacts, used: LimitUse) -> Iterator[LimitGauge]:
    for name, label in LIMIT_LABELS.items():
        most = number_of(getattr(facts, name))
        if most is not None:
            yield LimitGauge(str(label), getattr(used, name), most, name in facts.waiting)
