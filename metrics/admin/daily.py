"""Daily sums of endpoints in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy

from endpoints.admin_base import EndpointFilter, FactsAdmin, endpoint_name
from metrics import labels
from metrics.admin.date_filters import DateFilter
from metrics.models import DailyStat
from metrics.queries.stored import flushed
from metrics.templatetags.figures import count, duration


class DailyStatAdmin(FactsAdmin[DailyStat]):
    """List of daily sums. Deleted endpoints are included, by their last name or by id."""

    list_display = (
        "day",
        "shown_endpoint",
        "shown_model",
        "api",
        "attempts",
        "failures",
        "output_tokens",
        "whole_duration",
    )
    list_filter = (DateFilter, EndpointFilter)
    ordering = ("-date", "endpoint_id", "model_id", "api_kind")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DailyStat]:
        """Add a condition that every row meets, so that SQLite reads the index by date and does not sort all rows."""
        flushed()
        return super().get_queryset(request).filter(date__gt="")

    @admin.display(description=gettext_lazy("day"))
    def day(self, obj: DailyStat) -> str:
        return str(obj.date)

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: DailyStat) -> str:
        return endpoint_name(obj.endpoint_id)

    @admin.display(description=gettext_lazy("model"))
    def shown_model(self, obj: DailyStat) -> str:
        return str(obj.model_id)

    @admin.display(description=gettext_lazy("API"))
    def api(self, obj: DailyStat) -> str:
        return labels.api(obj.api_kind)

    @admin.display(description=gettext_lazy("attempts"))
    def attempts(self, obj: DailyStat) -> str:
        return count(obj.total_requests)

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: DailyStat) -> str:
        return count(obj.failed_requests)

    @admin.display(description=gettext_lazy("output tokens"))
    def output_tokens(self, obj: DailyStat) -> str:
        return count(obj.total_output_tokens)

    @admin.display(description=gettext_lazy("total duration"))
    def whole_duration(self, obj: DailyStat) -> str:
        return duration(obj.total_duration_ms)
