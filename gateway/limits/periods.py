"""Periods of budgets: days, weeks from Monday on, months, and all time, in the time zone of the installation.

They are those of the Usage page: a request belongs to the local day of the minute in which it completed.
"""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.registry.limits import DAY, MONTH, TOTAL, WEEK


def first_day(period: str, day: date) -> date | None:
    """Return the first day of the period that a day is in; None: the period has none (TOTAL)."""
    if period == TOTAL:
        return None
    if period == WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == MONTH else day


def next_day(period: str, day: date) -> date | None:
    """Return the first day after the period that a day is in; None: it never ends."""
    if period == DAY:
        return day + timedelta(days=1)
    if period == WEEK:
        return day + timedelta(days=7 - day.weekday())
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1) if period == MONTH else None


def name_of(period: str, day: date) -> str:
    """Return the first day of a period as tags contain it."""
    first = first_day(period, day)
    return "" if first is None else first.isoformat()


def day_of(completed_us: int, zone: ZoneInfo) -> date:
    """Return the local day of a moment in µs since 1970. Offsets are whole minutes."""
    return datetime.fromtimestamp(completed_us // 60_000_000 * 60, zone).date()


def end_of(period: str, day: date, zone: ZoneInfo) -> float | None:
    """Return when the period that a day is in ends, in seconds since 1970; None: never."""
    following = next_day(period, day)
    if following is None:
        return None
    return datetime(following.year, following.month, following.day, tzinfo=zone).timestamp()


class Days:
    """The local day of a moment, computed once a minute at most."""

    __slots__ = ("_day", "_minute", "_zone")

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._minute = -1
        self._day = date.min

    def of(self, completed_us: int) -> date:
        minute = completed_us // 60_000_000
        if minute != self._minute:
            self._day, self._minute = day_of(completed_us, self._zone), minute
        return self._day
