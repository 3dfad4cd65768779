"""Roll-ups in the admin: facts to read, of which a page asks no more rows than it may look through."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from math import ceil
from types import MappingProxyType
from typing import Any, TypeVar

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin_base import EndpointFilter, FactsAdmin, endpoint_name
from gateway import kinds
from metrics import queries
from metrics.fold import NO_ENDPOINT
from metrics.models import (
    AllClientsRollUp,
    ClientDayRollUp,
    ClientHourRollUp,
    ClientRollUp,
    DayRollUp,
    DistributedRollUp,
    MinuteRollUp,
    MonthRollUp,
    RollUp,
)
from metrics.templatetags.figures import NOTHING, count, duration, moment

M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=RollUp)
C = TypeVar("C", bound=ClientRollUp)

MONTH, DAY, HOUR = "%Y-%m", "%Y-%m-%d", "%Y-%m-%d %H"
SPANS = {7: (MONTH, timedelta(days=32)), 10: (DAY, timedelta(days=1)), 13: (HOUR, timedelta(hours=1))}  # by length
MOST_SPANS = 36  # of one level of the hierarchy; older ones can be asked for by the address
INSTANT = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1)  # of local times without a zone, as all in the hierarchy are


def span(text: str) -> tuple[datetime, datetime] | None:
    """Beginning and end of a month, a day or an hour; None for what is none of these."""
    try:
        form, lasts = SPANS[len(text)]
        since = datetime.strptime(text, form)
        until = since + lasts
    except (KeyError, ValueError, OverflowError):
        return None
    if since < EPOCH:
        return None
    return since, until.replace(day=1) if form == MONTH else until


def _spans(form: str, first: datetime, last: datetime) -> Iterator[str]:
    """The months, days or hours in which these moments and those between them are, newest first."""
    while last >= first and (found := span(text := last.strftime(form))):
        yield text
        last = found[0] - INSTANT


class DateFilter(admin.SimpleListFilter):
    """A hierarchy of dates: months, and the days of one.

    Django's own wants a column of dates, and asks the table which there are. These tables have an index that begins
    with the time: its two ends tell what to offer, and what is chosen is a part of it.
    """

    title = gettext_lazy("date")
    parameter_name = "date"
    outer, inner = MONTH, DAY
    column = "date"  # local dates as text
    always = False  # the newest of the outer ones where nothing is chosen: other filters look at each row of that

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        ordered = model_admin.model._default_manager.order_by(self.column).values_list(self.column, flat=True)
        first, last = (None if it is None else self.local(it) for it in (ordered.first(), ordered.last()))
        if first is None or last is None:
            return []
        if self.always:
            self.used_parameters.setdefault(self.parameter_name, last.strftime(self.outer))
        offered: list[str] = []
        chosen = span(self.value() or "")
        for text in islice(_spans(self.outer, first, last), MOST_SPANS):
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
        found = span(chosen)
        if found is None:
            return queryset.none()
        since, until = map(self.stored, found)
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
    """`month`: those of days, without the day."""

    column = "month"
    inner = ""

    def local(self, stored: Any) -> datetime | None:
        return super().local(f"{stored}-01")

    def stored(self, local: datetime) -> Any:
        return super().stored(local)[:7]


class ClientDates(DateFilter):
    """`day`: days since 1970, UTC."""

    column = "day"

    def local(self, stored: int) -> datetime:
        return EPOCH + timedelta(days=stored)

    def stored(self, local: datetime) -> int:
        return (local - EPOCH).days


class HourDates(DateFilter):
    """`hour`: hours since 1970, UTC; offered in the viewer's zone, in which they are shown."""

    column = "hour"
    seconds = 3600

    def local(self, stored: int) -> datetime:
        return timezone.make_naive(_instant(stored * self.seconds))

    def stored(self, local: datetime) -> int:
        """The first that begins then or later: where a zone is half an hour off, none begins with the day."""
        return ceil(timezone.make_aware(local).timestamp() / self.seconds)


class MinuteDates(HourDates):
    column = "minute"
    seconds = 60
    outer, inner = DAY, HOUR
    always = True


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class KindFilter(admin.SimpleListFilter):
    title = gettext_lazy("API")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in kinds.BY_NAME]

    def queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M]:
        chosen = self.value()
        return queryset.filter(kind=chosen) if chosen else queryset


class RollUpList(FactsAdmin[M]):
    """In the order of the key, newest first."""

    ordering = ("-pk",)
    _key_names: Mapping[str, str] = MappingProxyType({})

    def get_queryset(self, request: HttpRequest) -> QuerySet[M]:
        queries.flushed()
        self._key_names = queries.key_names()
        return super().get_queryset(request)

    @admin.display(description=gettext_lazy("model"))
    def shown_model(self, obj: Any) -> str:
        return obj.model or NOTHING

    @admin.display(description=gettext_lazy("API key"))
    def key(self, obj: Any) -> str:
        if not obj.api_key_id:
            return NOTHING
        return self._key_names.get(obj.api_key_id) or _("deleted: %(id)s") % {"id": obj.api_key_id}

    @admin.display(description=gettext_lazy("OK"))
    def ok(self, obj: Any) -> str:
        return count(obj.requests_ok)

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: Any) -> str:
        return count(obj.requests_failed)

    @admin.display(description=gettext_lazy("cancelled"))
    def cancelled(self, obj: Any) -> str:
        return count(obj.requests_cancelled)

    @admin.display(description=gettext_lazy("tokens in / out"))
    def tokens(self, obj: Any) -> str:
        return f"{count(obj.input_tokens)} / {count(obj.output_tokens)}"


class CellsAdmin(RollUpList[R]):
    """Sums by endpoint, model, kind and key."""

    columns = (
        "shown_endpoint",
        "shown_model",
        "api",
        "key",
        "ok",
        "failures",
        "tokens",
        "mean",
        "tries",
        "cancelled",
        "rejected",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[R]:
        rows = super().get_queryset(request)
        return rows.defer("durations", "first_tokens") if issubclass(self.model, DistributedRollUp) else rows

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: R) -> str:
        return NOTHING if str(obj.endpoint_id) == NO_ENDPOINT else endpoint_name(obj.endpoint_id)

    @admin.display(description=gettext_lazy("API"))
    def api(self, obj: R) -> str:
        return obj.kind or NOTHING

    @admin.display(description=gettext_lazy("rejected"))
    def rejected(self, obj: R) -> str:
        return count(obj.requests_rejected)

    @admin.display(description=gettext_lazy("attempts OK / failed"))
    def tries(self, obj: R) -> str:
        return f"{count(obj.attempts_ok)} / {count(obj.attempts_failed)}"

    @admin.display(description=gettext_lazy("mean duration"))
    def mean(self, obj: R) -> str:
        return duration(obj.ok_duration_us / obj.requests_ok / 1000 if obj.requests_ok else None)


class MinuteRollUpAdmin(CellsAdmin[MinuteRollUp]):
    list_display = ("at", *CellsAdmin.columns)
    list_filter = (MinuteDates, EndpointFilter, KindFilter)

    @admin.display(description=gettext_lazy("minute"))
    def at(self, obj: MinuteRollUp) -> str:
        return moment(_instant(obj.minute * 60))[:-3]


class DayRollUpAdmin(CellsAdmin[DayRollUp]):
    list_display = ("day", *CellsAdmin.columns)
    list_filter = (RollUpDates, EndpointFilter, KindFilter)

    @admin.display(description=gettext_lazy("day"))
    def day(self, obj: DayRollUp) -> str:
        return str(obj.date)


class MonthRollUpAdmin(CellsAdmin[MonthRollUp]):
    list_display = ("shown_month", *CellsAdmin.columns)
    list_filter = (MonthDates, EndpointFilter, KindFilter)

    @admin.display(description=gettext_lazy("Month"))
    def shown_month(self, obj: MonthRollUp) -> str:
        return str(obj.month)


class ClientsAdmin(RollUpList[C]):
    """Sums by a client's address, which has an index of its own."""

    search_fields = ("client_ip__exact",)
    search_help_text = gettext_lazy("A client's whole address.")

    @admin.display(description=gettext_lazy("client"))
    def client(self, obj: C) -> str:
        return str(obj.client_ip)


class ClientHourAdmin(ClientsAdmin[ClientHourRollUp]):
    list_display = ("at", "client", "ok", "failures", "cancelled", "tokens", "last")
    list_filter = (HourDates,)

    @admin.display(description=gettext_lazy("hour"))
    def at(self, obj: ClientHourRollUp) -> str:
        return moment(_instant(obj.hour * 3600))[:-3]

    @admin.display(description=gettext_lazy("last request"))
    def last(self, obj: ClientHourRollUp) -> str:
        return moment(None if obj.last_us is None else _instant(obj.last_us // 1_000_000))


class AllClientsAdmin(RollUpList[AllClientsRollUp]):
    list_display = ("at", "number", "ok", "failures", "cancelled", "tokens")
    list_filter = (HourDates,)

    @admin.display(description=gettext_lazy("hour"))
    def at(self, obj: AllClientsRollUp) -> str:
        return moment(_instant(obj.hour * 3600))[:-3]

    @admin.display(description=gettext_lazy("Clients"))
    def number(self, obj: AllClientsRollUp) -> str:
        return count(obj.clients)


class ClientDayAdmin(ClientsAdmin[ClientDayRollUp]):
    list_display = ("at", "client", "key", "shown_model", "ok", "failures", "cancelled", "tokens")
    list_filter = (ClientDates,)

    @admin.display(description=gettext_lazy("day (UTC)"))
    def at(self, obj: ClientDayRollUp) -> str:
        return str((EPOCH + timedelta(days=obj.day)).date())
