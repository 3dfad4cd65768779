"""Budgets with the amounts that gateways take for spent now, for pages, the API and attention items."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings

from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_file import SpendingFile, path_beside
from gateway.limits.periods import end_of, name_of
from metrics.spending import stored
from metrics.spending.subjects import Subject

MAX_LOOKED_AT = 10_000  # budgets of all subjects at once


@dataclass(frozen=True, slots=True)
class BudgetFigure:
    """A budget in its present period. Amounts are tokens, or 10⁻⁹ of the reporting currency."""

    level: str
    subject_id: str
    unit: str
    period: str
    amount: int
    spent: int | None  # None: not known, until control has published it
    resets_at: float | None  # seconds since 1970; None: never

    @property
    def share(self) -> float | None:
        """The part of the budget that is spent; 1 is all of it, and more is possible."""
        return None if self.spent is None else self.spent / self.amount


def budget_figures(subjects: Collection[Subject]) -> list[BudgetFigure]:
    """Return the budgets of these subjects in the order of level, id, unit and period. Raises django.db.Error."""
    return sorted(_figures(stored.budgets_of(subjects)), key=lambda it: (it.level, it.subject_id, it.unit, it.period))


def spent_budgets(share: float, spenders: Collection[Subject] = ()) -> list[BudgetFigure]:
    """Return the budgets of which at least this part is spent, the fullest first. Raises django.db.Error.

    Of an installation with more than MAX_LOOKED_AT budgets, only those of `spenders` are sure to be looked at.
    """
    rows = {*stored.some_budgets(MAX_LOOKED_AT)}
    if len(rows) == MAX_LOOKED_AT:
        rows.update(stored.budgets_of(spenders))
    found = [it for it in _figures(rows) if (it.share or 0.0) >= share]
    return sorted(found, key=lambda it: (-(it.share or 0.0), it.level, it.subject_id, it.unit, it.period))


def used_now(subject: Subject, unit: str, period: str) -> int | None:
    """Return the amount of a budget in its present period, with reservations; None: it is not known."""
    config = settings.ROUTERDASH
    today = datetime.now(config.zone).date()
    file = _open_file(config.live_page_path)
    if file is None:
        return None
    reader = SpendingReader(file)
    tag = file.tag(*subject, unit, period, name_of(period, today))
    return reader.used(TagView(tag)) if reader.covers(today.toordinal()) else None


def _figures(rows: Iterable[tuple[str, str, str, str, int]]) -> Iterator[BudgetFigure]:
    config = settings.ROUTERDASH
    today = datetime.now(config.zone).date()
    file = _open_file(config.live_page_path)
    reader = None if file is None else SpendingReader(file)
    is_known = reader is not None and reader.covers(today.toordinal())
    for level, subject_id, unit, period, amount in rows:
        spent = None
        if file is not None and reader is not None and is_known:
            view = TagView(file.tag(level, subject_id, unit, period, name_of(period, today)))
            spent = reader.spent(view)
        yield BudgetFigure(level, subject_id, unit, period, amount, spent, end_of(period, today, config.zone))


_files: dict[int, SpendingFile] = {}  # by inode; at most one


def _open_file(live_page: Path) -> SpendingFile | None:
    """Return the spending file; None if there is none."""
    path = path_beside(live_page)
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return None
    if inode not in _files:
        _files.clear()
        _files[inode] = SpendingFile(path)
    return _files[inode]
