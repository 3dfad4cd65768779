"""Lists of models and health checks, read-only."""

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy, pgettext_lazy

from endpoints import causes
from endpoints.admin.form import as_text
from endpoints.admin.panels import capabilities_of, endpoint_link, number
from endpoints.admin_base import (
    EndpointFilter,
    FactsAdmin,
)
from endpoints.models import (
    Endpoint,
    EndpointModel,
    HealthCheck,
)


@admin.register(EndpointModel)
class ModelAdmin(FactsAdmin[EndpointModel]):
    """Models that servers offer. Syncs update them; they cannot be edited."""

    list_display = ("name", "shown_endpoint", "canonical", "context", "can", "checked")
    list_filter = (EndpointFilter,)
    search_fields = ("model_id", "canonical_name", "endpoint__name")
    list_select_related = ("endpoint",)
    ordering = ("model_id", "endpoint_id")

    @admin.display(description=gettext_lazy("model"))
    def name(self, obj: EndpointModel) -> str:
        return str(obj.model_id)

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: EndpointModel) -> str:
        return endpoint_link(obj.endpoint_id)

    @admin.display(description=gettext_lazy("canonical name"))
    def canonical(self, obj: EndpointModel) -> str:
        return obj.canonical_name or "—"

    @admin.display(description=gettext_lazy("context"))
    def context(self, obj: EndpointModel) -> str:
        return number(obj.max_tokens) if obj.max_tokens else "—"

    @admin.display(description=gettext_lazy("capabilities"))
    def can(self, obj: EndpointModel) -> str:
        return as_text(list(capabilities_of(obj)))

    @admin.display(description=gettext_lazy("last health check"))
    def checked(self, obj: EndpointModel) -> SafeString:
        return render_to_string("components/moment.html", {"value": obj.last_checked})


class ChangesFilter(admin.SimpleListFilter):
    """Filter of the few checks that changed a status, which have their own index."""

    title = gettext_lazy("status")
    parameter_name = "changes"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("only", gettext_lazy("State changes only"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[HealthCheck]) -> QuerySet[HealthCheck]:
        if not self.value():
            return queryset
        all_endpoints = Endpoint.objects.values(
            "pk"
        )  # listed so that SQLite uses the index and does not scan all checks
        return queryset.exclude(status_before=F("status_after")).filter(endpoint__in=all_endpoints)


@admin.register(HealthCheck)
class HealthCheckAdmin(FactsAdmin[HealthCheck]):
    list_display = ("checked", "shown_endpoint", "change", "latency", "error")
    list_filter = (EndpointFilter, ChangesFilter)
    ordering = ("-id",)

    @admin.display(description=pgettext_lazy("date and time", "time"))
    def checked(self, obj: HealthCheck) -> SafeString:
        return render_to_string("components/moment.html", {"value": obj.checked_at})

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: HealthCheck) -> str:
        return endpoint_link(obj.endpoint_id)

    @admin.display(description=gettext_lazy("status"))
    def change(self, obj: HealthCheck) -> SafeString:
        return render_to_string("components/status_change.html", {"check": obj})

    @admin.display(description=gettext_lazy("latency"))
    def latency(self, obj: HealthCheck) -> str:
        return "—" if obj.latency_ms is None else f"{number(obj.latency_ms)} ms"

    @admin.display(description=gettext_lazy("error"))
    def error(self, obj: HealthCheck) -> str:
        return causes.shown(obj.error_message or "")
