"""Figures in the admin: beside endpoints, and the history, which can only be read."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin import EndpointAdmin, table
from endpoints.models import Endpoint
from gateway import record
from metrics import queries
from metrics.models import DailyStat, RequestHistory
from metrics.queries import Moment

SHOWN_DAYS = 14

admin.site.unregister(Endpoint)


@admin.register(Endpoint)
class EndpointWithFigures(EndpointAdmin):
    """Counters come from the one teller, as on the dashboard: the row itself is a moment behind."""

    list_display = (
        "name",
        "shown_status",
        "endpoint_type",
        "base_url",
        "shown_latency",
        "attempts",
        "failures",
        "in_flight",
    )
    readonly_fields = (
        *EndpointAdmin.readonly_fields,
        "attempts",
        "failures",
        "in_flight",
        "daily_panel",
    )
    state_fields = (*EndpointAdmin.state_fields, "attempts", "failures", "in_flight")

    def get_fieldsets(self, request: HttpRequest, obj: Endpoint | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        return fieldsets if obj is None else (*fieldsets, (_("Daily figures"), {"fields": ("daily_panel",)}))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Endpoint]:
        """One moment for all rows of a page."""
        found = Moment.now()
        self._told = {row["id"]: row for row in queries.endpoints(found)}
        return super().get_queryset(request)

    _told: Mapping[str, dict[str, Any]] = MappingProxyType({})

    def _figure(self, obj: Endpoint, name: str) -> int:
        return int(self._told.get(str(obj.pk), {}).get(name, 0))

    @admin.display(description=gettext_lazy("attempts"))
    def attempts(self, obj: Endpoint) -> int:
        return self._figure(obj, "total_requests")

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: Endpoint) -> int:
        return self._figure(obj, "failed_requests")

    @admin.display(description=gettext_lazy("in flight"))
    def in_flight(self, obj: Endpoint) -> int:
        return self._figure(obj, "active_requests")

    @admin.display(description=gettext_lazy("days"))
    def daily_panel(self, obj: Endpoint) -> str:
        queries.flushed()
        rows = DailyStat.objects.filter(endpoint_id=obj.pk).order_by("-date", "model_id")[: SHOWN_DAYS * 4]
        return table(
            (_("Day"), _("Model"), _("API"), _("Attempts"), _("Failed"), _("Output tokens")),
            [
                (row.date, row.model_id, row.api_kind, row.total_requests, row.failed_requests, row.total_output_tokens)
                for row in rows
            ],
        )


class OutcomeFilter(admin.SimpleListFilter):
    """By how a request ended, without asking the table which outcomes there are."""

    title = gettext_lazy("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = (record.OK, record.REFUSED, record.FAILED, record.TRUNCATED, record.CANCELLED, record.NO_ENDPOINT)
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestHistory]) -> QuerySet[RequestHistory]:
        return queryset.filter(outcome=self.value()) if self.value() else queryset


@admin.register(RequestHistory)
class RequestHistoryAdmin(admin.ModelAdmin[RequestHistory]):
    list_display = (
        "completed_at",
        "model",
        "endpoint_name",
        "kind",
        "shown_outcome",
        "status_code",
        "duration_ms",
        "input_tokens",
        "output_tokens",
        "client_ip",
    )
    list_filter = (OutcomeFilter,)
    search_fields = (
        "model",
        "endpoint_name",
        "client_ip",
    )
    show_full_result_count = False
    list_per_page = 50

    @admin.display(description=gettext_lazy("outcome"))
    def shown_outcome(self, obj: RequestHistory) -> str:
        return str(obj.outcome or obj.status)

    def get_queryset(self, request: HttpRequest) -> QuerySet[RequestHistory]:
        queries.flushed()
        return super().get_queryset(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RequestHistory | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RequestHistory | None = None) -> bool:
        return False
