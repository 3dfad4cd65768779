"""Periods of local days, and their parts in the roll-ups by month and day."""

import calendar
from dataclasses import dataclass
from datetime import date, timedelta


@dataclass(frozen=True, slots=True)
class Period:
    """Local days, both ends included."""

    since: date
    until: date

    @property
    def days(self) -> int:
        return (self.until - self.since).days + 1

    @property
    def before(self) -> "Period":
        """The period of equal length before this one."""
        return Period(self.since - timedelta(days=self.days), self.since - timedelta(days=1))

    def dates(self) -> list[str]:
        return [(self.since + timedelta(days=number)).isoformat() for number in range(self.days)]

    def months(self) -> list[str]:
        return sorted({day[:7] for day in self.dates()})


@dataclass(frozen=True, slots=True)
class Pieces:
    """A period in as few rows as possible: whole months, and days to add or subtract at its ends."""

    months: tuple[str, str] | None  # the first and the last
    days: list[tuple[int, Period]]  # 1 to add, -1 to subtract; each within one month

    @classmethod
    def of(cls, period: Period) -> "Pieces":
        first, last = period.since.replace(day=1), _end_of_month(period.until)
        too_early, too_late = (period.since - first).days, (last - period.until).days
        if first.month == last.month and first.year == last.year and too_early + too_late >= period.days:
            return cls(None, [(1, period)])
        days: list[tuple[int, Period]] = []
        if (first.year, first.month) != (last.year, last.month):
            end, begin = _end_of_month(first), last.replace(day=1)
            if (end - period.since).days + 1 < too_early:
                days.append((1, Period(period.since, end)))
                first, too_early = end + timedelta(days=1), 0
            if (period.until - begin).days + 1 < too_late:
                days.append((1, Period(begin, period.until)))
                last, too_late = begin - timedelta(days=1), 0
        if too_early:
            days.append((-1, Period(first, period.since - timedelta(days=1))))
        if too_late:
            days.append((-1, Period(period.until + timedelta(days=1), last)))
        return cls((_month(first), _month(last)) if first < last else None, days)


def _month(day: date) -> str:
    return day.isoformat()[:7]


def _end_of_month(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])
