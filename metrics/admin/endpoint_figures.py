"""Figures of endpoints in the admin: columns of the list, fields of the state, and a panel of the last days."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from django.contrib import admin
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin.panels import full_list_link, table
from endpoints.models import Endpoint
from metrics import labels
from metrics.models import DailyStat
from metrics.queries import breakers, figures
from metrics.queries.figures import Moment
from metrics.queries.payloads import DashboardEndpointPayload
from metrics.queries.stored import flushed
from metrics.templatetags.figures import count

SHOWN_DAYS = 14


class EndpointFiguresExtension:
    """Extension of the endpoints' admin. The figures are those of the dashboard; the row's own counters are behind."""

    panel_title = gettext_lazy("Daily metrics")

    def __init__(self) -> None:
        self._figures: Mapping[str, DashboardEndpointPayload] = MappingProxyType({})

    def prepare(self) -> None:
        """Read the figures of all endpoints at one moment, for a page."""
        self._figures = {row["id"]: row for row in figures.endpoints(Moment.now())}

    @property
    def status_columns(self) -> tuple[Callable[[Endpoint], str], ...]:
        return (self.breaker,)

    @property
    def columns(self) -> tuple[Callable[[Endpoint], str], ...]:
        return self.attempts, self.failures, self.in_flight

    def _payload(self, obj: Endpoint) -> DashboardEndpointPayload | None:
        return self._figures.get(str(obj.pk))

    @admin.display(description=gettext_lazy("circuit breaker"))
    def breaker(self, obj: Endpoint) -> str:
        payload = self._payload(obj)
        state = payload["breaker"] if payload else breakers.CLOSED
        shown = render_to_string("components/breaker.html", {"state": state})
        if payload is None or payload["pause_cause"] is None:
            return shown
        pause = {"cause": payload["pause_cause"], "until": payload["paused_until"]}
        return shown + render_to_string("components/pause.html", pause)

    @admin.display(description=gettext_lazy("attempts"))
    def attempts(self, obj: Endpoint) -> str:
        payload = self._payload(obj)
        return count(payload["total_requests"] if payload else 0)

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: Endpoint) -> str:
        payload = self._payload(obj)
        return count(payload["failed_requests"] if payload else 0)

    @admin.display(description=gettext_lazy("in flight"))
    def in_flight(self, obj: Endpoint) -> str:
        payload = self._payload(obj)
        return format_html("<span data-in-flight>{}</span>", count(payload["active_requests"] if payload else 0))

    @admin.display(description=gettext_lazy("daily metrics of endpoints"))
    def daily_panel(self, obj: Endpoint) -> str:
        flushed()
        rows = DailyStat.objects.filter(endpoint_id=obj.pk).order_by("-date", "model_id")[: SHOWN_DAYS * 4]
        shown = table(
            (_("Day"), _("Model"), _("API"), _("Attempts"), _("Failed"), _("Output tokens")),
            [
                (
                    row.date,
                    row.model_id,
                    labels.api(row.api_kind),
                    count(row.total_requests),
                    count(row.failed_requests),
                    count(row.total_output_tokens),
                )
                for row in rows
            ],
        )
        return shown + full_list_link("admin:metrics_dailystat_changelist", obj, _("All days")) if rows else shown


endpoint_figures = EndpointFiguresExtension()
