"""Filters of the admin by date, for tables with an index that begins with the time."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from math import ceil
from typing import Any, TypeVar

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy

M = TypeVar("M", bound=Model)

MONTH, DAY, HOUR = "%Y-%m", "%Y-%m-%d", "%Y-%m-%d %H"
SPANS = {7: (MONTH, timedelta(days=32)), 10: (DAY, timedelta(days=1)), 13: (HOUR, timedelta(hours=1))}  # by length
MAX_SPANS = 36  # of one level of the hierarchy; the URL can name older ones
INSTANT = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1)  # of local times without a zone, as in the whole hierarchy


def span(text: str) -> tuple[datetime, datetime] | None:
    """Return the start and end of a month, a day or an hour; None if the text is none of these."""
    try:
        form, length = SPANS[len(text)]
        since = datetime.strptime(text, form)
        until = since + length
    except (KeyError, ValueError, OverflowError):
        return None
    if since < EPOCH:
        return None
    return since, until.replace(day=1) if form == MONTH else until


def _spans(form: str, first: datetime, last: datetime) -> Iterator[str]:
    """Yield the months, days or hours from one moment to another, newest first."""
    while last >= first and (bounds := span(text := last.strftime(form))):
        yield text
        last = bounds[0] - INSTANT


class DateFilter(admin.SimpleListFilter):
    """Hierarchy of dates: months, and the days of the chosen one.

    Django's own needs a column of dates, and reads all rows for its choices. These tables have an index that begins
    with the time: its two ends give the choices, and a choice is a part of the index.
    """

    title = gettext_lazy("date")
    parameter_name = "date"
    outer, inner = MONTH, DAY
    column = "date"  # local dates as text
    always = False  # the newest outer one is the default, as other filters scan all its rows

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        ordered = model_admin.model._default_manager.order_by(self.column).values_list(self.column, flat=True)
        first, last = (None if value is None else self.local(value) for value in (ordered.first(), ordered.last()))
        if first is None or last is None:
            return []
        if self.always:
            self.used_parameters.setdefault(self.parameter_name, last.strftime(self.outer))
        offered: list[str] = []
        chosen = span(self.value() or "")
        for text in islice(_spans(self.outer, first, last), MAX_SPANS):
            offered.append(text)
            since, until = span(text) or (first, last)
            if self.inner and chosen is not None and since <= chosen[0] < until:
                offered += _spans(self.inner, max(first, since), min(last, until - INSTANT))
        return [(text, f"{text}:00" if len(text) == 13 else text) for text in offered]

    def choices(self, changelist: Any) -> Iterator[Any]:
        return islice(super().choices(changelist), int(self.always), None)  # the first one is `All`

    def queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M]:
        chosen = self.value()
        if chosen is None:
            return queryset
        bounds = span(chosen)
        if bounds is None:
            return queryset.none()
        since, until = map(self.stored, bounds)
        return queryset.filter(**{f"{self.column}__gte": since, f"{self.column}__lt": until})

    def local(self, stored: Any) -> datetime | None:
        try:
            return datetime.combine(date.fromisoformat(stored), time())
        except ValueError:  # adopted
            return None

    def stored(self, local: datetime) -> Any:
        return str(local.date())


class RollUpDates(DateFilter):
    always = True


class MonthDates(RollUpDates):
    """Filter of the column `month`: `YYYY-MM`."""

    column = "month"
    inner = ""

    def local(self, stored: Any) -> datetime | None:
        return super().local(f"{stored}-01")

    def stored(self, local: datetime) -> Any:
        return super().stored(local)[:7]


class ClientDates(DateFilter):
    """Filter of the column `day`: days since 1970, UTC."""

    column = "day"

    def local(self, stored: int) -> datetime:
        return EPOCH + timedelta(days=stored)

    def stored(self, local: datetime) -> int:
        return (local - EPOCH).days


class HourDates(DateFilter):
    """Filter of the column `hour`: hours since 1970, UTC; offered in the viewer's zone, as they are shown."""

    column = "hour"
    seconds = 3600

    def local(self, stored: int) -> datetime:
        return timezone.make_naive(instant(stored * self.seconds))

    def stored(self, local: datetime) -> int:
        """Return the first hour from this time on: in a zone with half hours, no hour starts with the day."""
        return ceil(timezone.make_aware(local).timestamp() / self.seconds)


class MinuteDates(HourDates):
    column = "minute"
    seconds = 60
    outer, inner = DAY, HOUR
    always = True


def instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
