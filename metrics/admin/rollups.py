"""Roll-ups in the admin, read-only. Their filters limit the rows that a page reads."""

from datetime import timedelta
from typing import Any, TypeVar, cast

from django.contrib import admin
from django.db.models import Model, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Cast, NullIf
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin_base import EndpointFilter, FactsAdmin, endpoint_name
from endpoints.fields import TextUUIDField
from gateway.base import request_kinds
from metrics import labels
from metrics.admin.date_filters import EPOCH, ClientDates, HourDates, MinuteDates, MonthDates, RollUpDates, instant
from metrics.counting.plausibility import NO_ENDPOINT
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
from metrics.queries.api_keys import stored_keys
from metrics.queries.stored import flushed
from metrics.templatetags.figures import NO_VALUE, count, duration, moment

M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=RollUp)
C = TypeVar("C", bound=ClientRollUp)


class KindFilter(admin.SimpleListFilter):
    title = gettext_lazy("API")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, labels.api(name)) for name in request_kinds.BY_NAME]

    def queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M]:
        chosen = self.value()
        return queryset.filter(kind=chosen) if chosen else queryset


class RollUpList(FactsAdmin[M]):
    """List in the order of the key, newest first."""

    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[M]:
        flushed()
        rows = super().get_queryset(request)
        if not hasattr(self.model, "api_key_id"):
            return rows
        # The column is text, and empty without a key; PostgreSQL's column of keys is a UUID.
        key = Cast(NullIf(OuterRef("api_key_id"), Value("")), TextUUIDField())
        name = Subquery(stored_keys().filter(pk=key).order_by().values("name")[:1])
        return cast("QuerySet[M]", rows.annotate(key_name=name))

    @admin.display(description=gettext_lazy("model"))
    def shown_model(self, obj: Any) -> str:
        return obj.model or NO_VALUE

    @admin.display(description=gettext_lazy("API key"))
    def key(self, obj: Any) -> str:
        if not obj.api_key_id:
            return NO_VALUE
        return obj.key_name or _("deleted: %(id)s") % {"id": obj.api_key_id}

    @admin.display(description=gettext_lazy("OK"))
    def ok(self, obj: Any) -> str:
        return count(obj.requests_ok)

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: Any) -> str:
        return count(obj.requests_failed)

    @admin.display(description=gettext_lazy("cancelled"))
    def cancelled(self, obj: Any) -> str:
        return count(obj.requests_cancelled)

    @admin.display(description=gettext_lazy("tokens (in / out)"))
    def tokens(self, obj: Any) -> str:
        return f"{count(obj.input_tokens)} / {count(obj.output_tokens)}"


class CellsAdmin(RollUpList[R]):
    """List of sums by endpoint, model, kind and key."""

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
        return NO_VALUE if str(obj.endpoint_id) == NO_ENDPOINT else endpoint_name(obj.endpoint_id)

    @admin.display(description=gettext_lazy("API"))
    def api(self, obj: R) -> str:
        return labels.api(obj.kind) if obj.kind else NO_VALUE

    @admin.display(description=gettext_lazy("rejected"))
    def rejected(self, obj: R) -> str:
        return count(obj.requests_rejected)

    @admin.display(description=gettext_lazy("attempts (OK / failed)"))
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
        return moment(instant(obj.minute * 60))[:-3]


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
    """List of sums by client address, which has its own index."""

    search_fields = ("client_ip__exact",)
    search_help_text = gettext_lazy("Enter the full address of a client.")

    @admin.display(description=gettext_lazy("client"))
    def client(self, obj: C) -> str:
        return str(obj.client_ip)


class ClientHourAdmin(ClientsAdmin[ClientHourRollUp]):
    list_display = ("at", "client", "ok", "failures", "cancelled", "tokens", "last")
    list_filter = (HourDates,)

    @admin.display(description=gettext_lazy("hour"))
    def at(self, obj: ClientHourRollUp) -> str:
        return moment(instant(obj.hour * 3600))[:-3]

    @admin.display(description=gettext_lazy("last request"))
    def last(self, obj: ClientHourRollUp) -> str:
        return moment(None if obj.last_us is None else instant(obj.last_us // 1_000_000))


class AllClientsAdmin(RollUpList[AllClientsRollUp]):
    list_display = ("at", "number", "ok", "failures", "cancelled", "tokens")
    list_filter = (HourDates,)

    @admin.display(description=gettext_lazy("hour"))
    def at(self, obj: AllClientsRollUp) -> str:
        return moment(instant(obj.hour * 3600))[:-3]

    @admin.display(description=gettext_lazy("Clients"))
    def number(self, obj: AllClientsRollUp) -> str:
        return count(obj.clients)


class ClientDayAdmin(ClientsAdmin[ClientDayRollUp]):
    list_display = ("at", "client", "key", "shown_model", "ok", "failures", "cancelled", "tokens")
    list_filter = (ClientDates,)

    @admin.display(description=gettext_lazy("day (UTC)"))
    def at(self, obj: ClientDayRollUp) -> str:
        return str((EPOCH + timedelta(days=obj.day)).date())
