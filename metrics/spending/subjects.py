"""Subjects of budgets, and the tags of amounts."""

from datetime import date
from typing import NamedTuple

from gateway.limits.periods import name_of
from gateway.registry.limits import Subject

Kind = tuple[str, str]  # unit and period of a budget


class Tag(NamedTuple):
    """The name of an amount: a subject, a unit and a period with its first day (empty: all time)."""

    level: str
    subject_id: str
    unit: str
    period: str
    first_day: str


def tag_of(subject: Subject, unit: str, period: str, day: date) -> Tag:
    """Return the tag of the period that a day is in."""
    return Tag(*subject, unit, period, name_of(period, day))
