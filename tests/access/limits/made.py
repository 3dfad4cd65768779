"""Limits that tests store."""

from typing import Any

from access.limits.tables import BudgetRow, LimitRow

EVERYONE = ("everyone", "")


def limit(subject: tuple[str, str] = EVERYONE, **values: Any) -> LimitRow:
    return LimitRow.objects.create(level=subject[0], subject_id=subject[1], **values)


def budget(
    subject: tuple[str, str] = EVERYONE, amount: int = 1000, unit: str = "tokens", period: str = "day", **values: Any
) -> BudgetRow:
    return BudgetRow.objects.create(
        level=subject[0], subject_id=subject[1], unit=unit, period=period, amount=amount, **values
    )
