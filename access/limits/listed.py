"""The list of subjects with limits, read in parts: there may be a million."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

from django.db.models import Exists, Model, OuterRef

from access.limits.tables import BudgetRow, LimitRow
from gateway.registry.limits import Subject


class LimitedSubjects(Sequence[Subject]):
    """Level and id of all subjects with limits, or of those of one level, sorted. Those with budgets alone are last.

    A union of both tables would be sorted for each page. Its methods raise django.db.Error.
    """

    def __init__(self, level: str = "") -> None:
        has_limits = Exists(LimitRow.objects.filter(level=OuterRef("level"), subject_id=OuterRef("subject_id")))
        self._limits = _subjects(LimitRow, level)
        self._budgets = _subjects(BudgetRow, level).filter(~has_limits).distinct()  # without limits

    def __len__(self) -> int:
        return self._with_limits + int(self._budgets.count())

    @cached_property
    def _with_limits(self) -> int:
        return int(self._limits.count())

    @overload
    def __getitem__(self, part: int) -> Subject: ...
    @overload
    def __getitem__(self, part: slice) -> list[Subject]: ...
    def __getitem__(self, part: int | slice) -> Subject | list[Subject]:
        """Return a part between two positions that are not negative, or one subject. Raises IndexError."""
        if isinstance(part, int):
            return self[part : part + 1][0]
        assert part.step is None
        start, stop = part.start or 0, part.stop
        subjects = self._part_of_limits(start, stop)
        if stop is not None and len(subjects) >= stop - start:
            return subjects
        before = start + len(subjects) if subjects else self._with_limits
        first = max(0, start - before)
        return subjects + list(self._budgets[first : None if stop is None else max(first, stop - before)])

    def _part_of_limits(self, start: int, stop: int | None) -> list[Subject]:
        """Read from the end where that is nearer: the database passes over all rows before a part."""
        counted = self.__dict__.get("_with_limits", 0)
        if not counted // 2 < start < counted:
            return list(self._limits[start:stop])
        last = counted if stop is None else min(stop, counted)
        return list(self._limits.reverse()[counted - last : counted - start])[::-1]


def _subjects(table: type[Model], level: str) -> Any:
    rows = table._default_manager.filter(level=level) if level else table._default_manager.all()
    return rows.order_by("level", "subject_id").values_list("level", "subject_id")
