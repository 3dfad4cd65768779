"""The fullest budgets, models without a price, and limits of everyone.

Control reads them often, so that pages need no database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UsedBudget:
    """A budget in its present period. Amounts are tokens, or 10⁻⁹ of the reporting currency."""

    level: str
    subject_id: str  # empty for everyone
    name: str | None  # of the API key or user
    unit: str
    period: str
    amount: int
    spent: int
    resets_at: float | None  # seconds since 1970; None: never
    instead: str | None  # model name to which requests go once it is spent; None: they are refused

    @property
    def percent(self) -> int:
        """The spent part, rounded down: 100 is all of it, and more is possible."""
        return 100 * self.spent // self.amount


class UsedBudgets:
    """What was read last. Any thread may read it."""

    def __init__(self) -> None:
        self._most_used: tuple[tuple[UsedBudget, ...], int] = ((), 0)
        self.limits_of_everyone: Mapping[str, int] = {}  # by name
        self.unpriced: Sequence[str] = ()  # models for which budgets of money count nothing, the most used first

    def note(self, most_used: Sequence[UsedBudget], noticed: int) -> None:
        """Keep the budgets, the fullest first. `noticed`: the number of all that need attention."""
        self._most_used = (tuple(most_used), noticed)

    def reset(self) -> None:
        """Forget all budgets."""
        self._most_used = ((), 0)
        self.limits_of_everyone = {}
        self.unpriced = ()

    def current(self) -> tuple[tuple[UsedBudget, ...], int]:
        """Return the fullest budgets, the fullest first, and the number of all that need attention."""
        return self._most_used


used_budgets = UsedBudgets()
