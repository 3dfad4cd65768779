"""Limits as gateways get them, read from the database. No process holds those of all keys: there may be a million."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from django.db import transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from access.limits.tables import BudgetRow, LimitRow
from access.models import ApiKey, User
from endpoints.cached_table import Refreshed
from gateway.registry.limits import (
    CONCURRENCY,
    KEY_LEVEL,
    LEVELS,
    LIMITS_OF_A_SUBJECT,
    NO_LIMITS,
    USER_LEVEL,
    Budget,
    LimitFacts,
    Subject,
)

Found = Mapping[Subject, LimitFacts | None]

AT_ONCE = 500  # subjects in one query

# Highest values. They keep sums over all gateways below 63 bits, and a mistyped zero from being no limit.
MAX_CONCURRENCY = 100_000
MAX_REQUESTS = 10_000_000
MAX_TOKENS = 1_000_000_000_000
MAX_BUDGET = 1_000_000_000_000_000_000  # tokens, or 10⁻⁹ of the currency
MOST = {"concurrency": MAX_CONCURRENCY, "requests": MAX_REQUESTS, "tokens": MAX_TOKENS}


def read_limits(subjects: Collection[Subject]) -> dict[Subject, LimitFacts]:
    """Return the limits of these subjects, without those that have none. Raises django.db.Error."""
    limits: dict[Subject, LimitFacts] = {}
    for level in LEVELS:
        ids = sorted(subject_id for subject_level, subject_id in subjects if subject_level == level)
        for start in range(0, len(ids), AT_ONCE):
            part = ids[start : start + AT_ONCE]
            rows = {row.subject_id: row for row in LimitRow.objects.filter(level=level, subject_id__in=part)}
            limits |= _facts(level, part, rows, _budgets(level, part))
    return limits


def _budgets(level: str, ids: Collection[str]) -> dict[str, list[Budget]]:
    budgets: dict[str, list[Budget]] = {}
    for budget in BudgetRow.objects.filter(level=level, subject_id__in=list(ids)):
        budgets.setdefault(budget.subject_id, []).append(_budget(budget))
    return budgets


def _facts(
    level: str, ids: Iterable[str], rows: Mapping[str, LimitRow], budgets: Mapping[str, list[Budget]]
) -> dict[Subject, LimitFacts]:
    facts = {subject_id: facts_of(rows.get(subject_id), budgets.get(subject_id, [])) for subject_id in ids}
    return {(level, subject_id): limits for subject_id, limits in facts.items() if limits != NO_LIMITS}


def facts_of(row: LimitRow | None, budgets: list[Budget]) -> LimitFacts:
    """Return the facts of a subject; NO_LIMITS if there is nothing to enforce."""
    in_order = tuple(sorted(budgets, key=lambda budget: (budget.unit, budget.period)))
    values = {name: _number(getattr(row, name), most) for name, most in MOST.items()} if row else {}
    if not in_order and not any(values.values()):
        return NO_LIMITS
    return LimitFacts(**values, waiting=waiting_of(row), budgets=in_order)


def waiting_of(row: LimitRow | None) -> tuple[str, ...]:
    """Return the names of the limits over which a request waits."""
    stored = None if row is None else row.waiting
    if not isinstance(stored, list):
        return (CONCURRENCY,)
    return tuple(name for name in LIMITS_OF_A_SUBJECT if name in stored)


def _number(value: object, most: int) -> int | None:
    """Return a limit. Other programs may have stored a damaged one, which must not be no limit."""
    if value is None:
        return None
    return max(1, min(value, most)) if type(value) is int else 1


def _budget(row: BudgetRow) -> Budget:
    amount = _number(row.amount, MAX_BUDGET)
    assert amount is not None  # the column is not nullable
    return Budget(
        str(row.pk),
        row.unit,
        row.period,
        amount,
        row.hard,
        row.refuses_unpriced,
        row.instead or None,
    )


def budgets_of(subjects: Collection[Subject]) -> Iterator[tuple[Subject, Budget]]:
    """Yield the budgets of these subjects. Raises django.db.Error."""
    for subject, facts in read_limits(subjects).items():
        for budget in facts.budgets:
            yield subject, budget


def some_budgets(most: int) -> Iterator[tuple[Subject, Budget]]:
    """Yield at most so many budgets of all subjects. Raises django.db.Error."""
    for row in BudgetRow.objects.order_by()[:most]:
        yield (row.level, row.subject_id), _budget(row)


def all_limits() -> Iterator[tuple[Subject, LimitFacts]]:
    """Yield the limits of all subjects. A subject may occur twice. Raises django.db.Error.

    The rows of limits are read once and not by their ids, which would take twice as long. They are in the order of the
    registry store, which is filled fastest so. Then those follow that have budgets.
    """
    with_budgets = set(BudgetRow.objects.order_by().values_list("level", flat=True).distinct())
    for level in sorted(LEVELS):
        all_rows = LimitRow.objects.filter(level=level).order_by("subject_id").iterator(AT_ONCE)
        while rows := {row.subject_id: row for row in islice(all_rows, AT_ONCE)}:
            yield from _facts(level, rows, rows, _budgets(level, rows) if level in with_budgets else {}).items()
    walk = SubjectWalk(AT_ONCE, (BudgetRow,))
    while subjects := walk.next_part():
        yield from read_limits(subjects).items()


class SubjectWalk:
    """A walk through the subjects of all rows, first of limits, then of budgets, some at a time.

    Each table is read in the order of levels and ids, which is that of the registry store: it is filled fastest so.
    """

    def __init__(self, at_once: int, tables: Iterable[type[Model]] = (LimitRow, BudgetRow)) -> None:
        self._at_once = at_once
        # The first one is being read.
        self._left: list[tuple[Any, str]] = [(model, level) for model in tables for level in sorted(LEVELS)]
        self._after: str | None = None  # the last id that was read

    def next_part(self) -> list[Subject]:
        """Return the next subjects; none at the end. Raises django.db.Error."""
        part: list[Subject] = []
        while self._left and len(part) < self._at_once:
            model, level = self._left[0]
            rows = model.objects.filter(level=level).order_by("subject_id")
            if self._after is not None:
                rows = rows.filter(subject_id__gt=self._after)
            ids = list(rows.values_list("subject_id", flat=True).distinct()[: self._at_once - len(part)])
            part += [(level, subject_id) for subject_id in ids]
            if ids:
                self._after = ids[-1]
            else:
                del self._left[0]
                self._after = None
        return part


class LimitChanges(Refreshed[Found]):
    """Edits of limits, announced on commit. Listeners get the limits by subject; None: there are none."""

    def __init__(self) -> None:
        super().__init__("limits")

    def read_again(self, subjects: Collection[Subject]) -> None:
        """Read the limits of subjects, and pass them to the listeners. Raises django.db.Error."""
        if not subjects or not self._listeners:
            return
        with self._writing:
            stored = read_limits(subjects)
            self._notify({subject: stored.get(subject) for subject in subjects})

    def refresh(self, subjects: Collection[Subject]) -> None:
        """Read again on commit of an edit. A database error is logged, and the old limits stay."""
        self._try(lambda: self.read_again(subjects))

    def announce(self, *subjects: Subject) -> None:
        """Announce an edit of the limits of subjects. Call this inside the transaction of the edit."""
        transaction.on_commit(partial(self.refresh, subjects))


limit_changes = LimitChanges()


@receiver([post_save, post_delete], sender=LimitRow, dispatch_uid="access.limits_changed")
@receiver([post_save, post_delete], sender=BudgetRow, dispatch_uid="access.budget_changed")
def row_changed(instance: LimitRow | BudgetRow, **kwargs: object) -> None:
    limit_changes.announce((instance.level, instance.subject_id))


@receiver(post_delete, sender=ApiKey, dispatch_uid="access.limits_of_key_end")
@receiver(post_delete, sender=User, dispatch_uid="access.limits_of_user_end")
def subject_deleted(instance: ApiKey | User, **kwargs: object) -> None:
    """Delete the limits of a deleted key or user, as the triggers do for other programs."""
    subject = (KEY_LEVEL if isinstance(instance, ApiKey) else USER_LEVEL, str(instance.pk))
    LimitRow.objects.filter(level=subject[0], subject_id=subject[1]).delete()
    BudgetRow.objects.filter(level=subject[0], subject_id=subject[1]).delete()
    limit_changes.announce(subject)
