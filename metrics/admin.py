"""Figures in the admin: beside endpoints, and the history, which can only be read."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin import EndpointAdmin, every, table
from endpoints.admin_base import CarefulAdmin, EndpointFilter, FactsAdmin, endpoint_name
from endpoints.models import Endpoint
from gateway import reasons
from metrics import bodies, breakers, history, queries, words
from metrics.history import BadCursor, Row, Wanted
from metrics.models import (
    AllClientsRollUp,
    ClientDayRollUp,
    ClientHourRollUp,
    DailyStat,
    DayRollUp,
    MinuteRollUp,
    MonthRollUp,
    RequestHistory,
)
from metrics.queries import Moment
from metrics.rollup_admin import (
    AllClientsAdmin,
    ClientDayAdmin,
    ClientHourAdmin,
    DateFilter,
    DayRollUpAdmin,
    MinuteRollUpAdmin,
    MonthRollUpAdmin,
)
from metrics.templatetags.figures import NOTHING, count, duration, moment
from metrics.words import OUTCOMES

SHOWN_DAYS = 14

admin.site.unregister(Endpoint)
admin.site.register(MinuteRollUp, MinuteRollUpAdmin)
admin.site.register(DayRollUp, DayRollUpAdmin)
admin.site.register(MonthRollUp, MonthRollUpAdmin)
admin.site.register(ClientHourRollUp, ClientHourAdmin)
admin.site.register(ClientDayRollUp, ClientDayAdmin)
admin.site.register(AllClientsRollUp, AllClientsAdmin)


@admin.register(Endpoint)
class EndpointWithFigures(EndpointAdmin):
    """Counters come from the one teller, as on the dashboard: the row itself is a moment behind."""

    list_display = (
        "name",
        "shown_status",
        "breaker",
        "endpoint_type",
        "base_url",
        "shown_latency",
        "attempts",
        "failures",
        "in_flight",
    )
    readonly_fields = (
        *EndpointAdmin.readonly_fields,
        "breaker",
        "attempts",
        "failures",
        "in_flight",
        "daily_panel",
    )
    state_fields = (*EndpointAdmin.state_fields, "breaker", "attempts", "failures", "in_flight")

    def get_fieldsets(self, request: HttpRequest, obj: Endpoint | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        return fieldsets if obj is None else (*fieldsets, (_("Daily figures"), {"fields": ("daily_panel",)}))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Endpoint]:
        """One moment for all rows of a page."""
        self._told = {row["id"]: row for row in queries.endpoints(Moment.now())}
        return super().get_queryset(request)

    _told: Mapping[str, dict[str, Any]] = MappingProxyType({})

    def _figure(self, obj: Endpoint, name: str) -> str:
        return count(self._told.get(str(obj.pk), {}).get(name, 0))

    @admin.display(description=gettext_lazy("circuit breaker"))
    def breaker(self, obj: Endpoint) -> str:
        state = self._told.get(str(obj.pk), {}).get("breaker", breakers.CLOSED)
        return render_to_string("inc/breaker.html", {"state": state})

    @admin.display(description=gettext_lazy("attempts"))
    def attempts(self, obj: Endpoint) -> str:
        return self._figure(obj, "total_requests")

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: Endpoint) -> str:
        return self._figure(obj, "failed_requests")

    @admin.display(description=gettext_lazy("in flight"))
    def in_flight(self, obj: Endpoint) -> str:
        return format_html("<span data-in-flight>{}</span>", self._figure(obj, "active_requests"))

    @admin.display(description=gettext_lazy("days"))
    def daily_panel(self, obj: Endpoint) -> str:
        queries.flushed()
        rows = DailyStat.objects.filter(endpoint_id=obj.pk).order_by("-date", "model_id")[: SHOWN_DAYS * 4]
        shown = table(
            (_("Day"), _("Model"), _("API"), _("Attempts"), _("Failed"), _("Output tokens")),
            [
                (
                    row.date,
                    row.model_id,
                    row.api_kind,
                    count(row.total_requests),
                    count(row.failed_requests),
                    count(row.total_output_tokens),
                )
                for row in rows
            ],
        )
        return shown + every("admin:metrics_dailystat_changelist", obj, _("All days")) if rows else shown


@admin.register(DailyStat)
class DailyStatAdmin(FactsAdmin[DailyStat]):
    """Those of deleted endpoints stay, and stand here by id where nobody remembers the name."""

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
        """Of any day: by this condition SQLite reads the latest by their index, instead of sorting all."""
        queries.flushed()
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
        return str(obj.api_kind)

    @admin.display(description=gettext_lazy("attempts"))
    def attempts(self, obj: DailyStat) -> str:
        return count(obj.total_requests)

    @admin.display(description=gettext_lazy("failed"))
    def failures(self, obj: DailyStat) -> str:
        return count(obj.failed_requests)

    @admin.display(description=gettext_lazy("output tokens"))
    def output_tokens(self, obj: DailyStat) -> str:
        return count(obj.total_output_tokens)

    @admin.display(description=gettext_lazy("duration in all"))
    def whole_duration(self, obj: DailyStat) -> str:
        return duration(obj.total_duration_ms)


CURSOR = "cursor"


class HistoryFilter(admin.SimpleListFilter):
    """Says what is wanted; the list asks metrics.history for it."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestHistory]) -> QuerySet[RequestHistory]:
        return queryset


class OutcomeFilter(HistoryFilter):
    """By how a request ended, without asking the table which outcomes there are."""

    title = gettext_lazy("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return OUTCOMES.items()


class BeforeFilter(HistoryFilter):
    """Where to begin, for who looks for something old.

    No hierarchy of dates: Django's would ask all rows which dates there are, and a day of millions is no help among
    them. A page begins at a moment in an index, wherever that is, and leads on to older ones.
    """

    title = gettext_lazy("completed")
    parameter_name = "before"
    hours: ClassVar = {
        "1": gettext_lazy("More than an hour ago"),
        "24": gettext_lazy("More than a day ago"),
        "72": gettext_lazy("More than three days ago"),
        "168": gettext_lazy("More than a week ago"),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return self.hours.items()


class HistoryList(ChangeList):
    """A page that costs the same however many requests there are: no count, no OFFSET, no order but by time."""

    cursor: str | None = None
    looked_back_to: datetime | None = None
    older: str | None = None  # the address of the next page

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        """Never evaluated; what it is told of filters is kept."""
        self.params.pop(ORDER_VAR, None)
        self.params.pop(CURSOR, None)
        self.filter_params.pop(ORDER_VAR, None)
        self.cursor = next(iter(self.filter_params.pop(CURSOR, [])), None)
        return super().get_queryset(request, exclude_parameters)

    def get_results(self, request: HttpRequest) -> None:
        try:
            page = queries.requests(self._wanted(), self.cursor, self.list_per_page)
        except BadCursor:
            raise IncorrectLookupParameters from None
        self.result_list = [_listed(row) for row in page.rows]
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.can_show_all = self.multi_page = self.show_admin_actions = False
        self.paginator = None
        if page.next is not None:
            self.looked_back_to = page.looked_back_to
            self.older = self.get_query_string({CURSOR: page.next.encode()})

    @property
    def newest(self) -> str:
        """The address of the first page."""
        return self.get_query_string()

    def _wanted(self) -> Wanted:
        chosen = {spec.parameter_name: spec.value() for spec in self.filter_specs if isinstance(spec, HistoryFilter)}
        outcome, hours = chosen["outcome"], chosen["before"]
        if not ((outcome is None or outcome in OUTCOMES) and (hours is None or hours in BeforeFilter.hours)):
            raise IncorrectLookupParameters
        until = None if hours is None else timezone.now() - timedelta(hours=int(hours))
        return Wanted(outcome=outcome, until=until, text=self.query.strip() or None)


def _listed(row: Row) -> RequestHistory:
    """As much of a request as the list shows: bodies stay in the database."""
    columns = dict(zip(history.COLUMNS, row, strict=True))
    return RequestHistory(**{**columns, "completed_at": history.moment(columns["completed_at"])})


@admin.register(RequestHistory)
class RequestHistoryAdmin(CarefulAdmin[RequestHistory]):
    list_display = (
        "completed",
        "model",
        "shown_endpoint",
        "kind",
        "shown_outcome",
        "duration",
        "tokens",
        "client_ip",
    )
    list_filter = (
        OutcomeFilter,
        BeforeFilter,
    )
    search_fields = (
        "model",
        "endpoint_name",
        "client_ip",
    )
    search_help_text = gettext_lazy("Part of the name of a model or an endpoint, or of a client's address.")
    sortable_by = ()
    show_facets = admin.ShowFacets.NEVER  # they are counts
    show_full_result_count = False
    list_per_page = 50
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("completed", "model", "kind", "shown_streamed", "key", "client_ip", "request_id", "way")}),
        (gettext_lazy("Outcome"), {"fields": ("shown_outcome", "shown_error", "endpoint", "attempts_panel")}),
        (gettext_lazy("Figures"), {"fields": ("queued", "duration", "first_token", "input_count", "output_count")}),
    )
    readonly_fields = (
        "completed",
        "shown_streamed",
        "key",
        "shown_outcome",
        "shown_error",
        "endpoint",
        "attempts_panel",
        "way",
        "queued",
        "duration",
        "first_token",
        "input_count",
        "output_count",
        "request_panel",
        "response_panel",
        "said_panel",
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return HistoryList

    def get_fieldsets(self, request: HttpRequest, obj: RequestHistory | None = None) -> Any:
        found = (("request_panel", _asked(obj)), ("response_panel", _answered(obj)), ("said_panel", bool(_said(obj))))
        panels = [name for name, stored in found if stored]
        return (*self.fieldsets, (_("Bodies"), {"fields": panels})) if panels else self.fieldsets

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: RequestHistory | None = None,
    ) -> Any:
        if obj is not None and (_asked(obj) or _answered(obj) or _said(obj)):
            bodies.note(request.user, str(obj.pk), obj.model)
            context["has_bodies"] = True
        return super().render_change_form(request, context, add, change, form_url, obj)

    @admin.display(description=gettext_lazy("completed"))
    def completed(self, obj: RequestHistory) -> str:
        return moment(obj.completed_at)

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: RequestHistory) -> str:
        """It leads to the reasons: there is no room for a column of their own."""
        return _way(obj, NOTHING if _has_no_endpoint(obj) else str(obj.endpoint_name))

    @admin.display(description=gettext_lazy("endpoint"))
    def endpoint(self, obj: RequestHistory) -> str:
        if _has_no_endpoint(obj):
            return NOTHING
        return _linked("admin:endpoints_endpoint_change", Endpoint.objects.filter(pk=obj.endpoint_id).first()) or str(
            obj.endpoint_name
        )

    @admin.display(description=gettext_lazy("API key"))
    def key(self, obj: RequestHistory) -> str:
        """By name: keys belong to `access`, which this app does not import."""
        if obj.api_key_id is None:
            return NOTHING
        key = apps.get_model("access", "ApiKey")._default_manager.filter(pk=obj.api_key_id).first()
        return _linked("admin:access_apikey_change", key) or _("deleted: %(id)s") % {"id": obj.api_key_id}

    @admin.display(description=gettext_lazy("outcome"))
    def shown_outcome(self, obj: RequestHistory) -> str:
        word = words.outcome(obj.outcome or history.STATUSES.get(obj.status, obj.status))
        return format_html("{} <small>{}</small>", word, obj.status_code) if obj.status_code else word

    @admin.display(description=gettext_lazy("error"))
    def shown_error(self, obj: RequestHistory) -> str:
        return reasons.shown(obj.outcome, obj.error_message, obj.status_code) or NOTHING

    @admin.display(description=gettext_lazy("way"))
    def way(self, obj: RequestHistory) -> str:
        return _way(obj, _("Why this node"))

    @admin.display(description=gettext_lazy("waited in the queue"))
    def queued(self, obj: RequestHistory) -> str:
        return NOTHING if obj.queue_us is None else duration(obj.queue_us / 1000)

    @admin.display(description=gettext_lazy("duration"))
    def duration(self, obj: RequestHistory) -> str:
        """The whole milliseconds beside it are at least one, and all that rows of llmlb have."""
        return duration(obj.duration_ms if obj.duration_us is None else obj.duration_us / 1000)

    @admin.display(description=gettext_lazy("tokens in / out"))
    def tokens(self, obj: RequestHistory) -> str:
        return NOTHING if obj.total_tokens is None else f"{count(obj.input_tokens)} / {count(obj.output_tokens)}"

    @admin.display(description=gettext_lazy("streamed"), boolean=True)
    def shown_streamed(self, obj: RequestHistory) -> bool | None:
        return obj.streamed

    @admin.display(description=gettext_lazy("first token after"))
    def first_token(self, obj: RequestHistory) -> str:
        return NOTHING if obj.first_token_us is None else duration(obj.first_token_us / 1000)

    @admin.display(description=gettext_lazy("input tokens"))
    def input_count(self, obj: RequestHistory) -> str:
        return count(obj.input_tokens)

    @admin.display(description=gettext_lazy("output tokens"))
    def output_count(self, obj: RequestHistory) -> str:
        number = count(obj.output_tokens)
        return _("%(number)s (estimated)") % {"number": number} if obj.tokens_estimated else number

    @admin.display(description=gettext_lazy("attempts"))
    def attempts_panel(self, obj: RequestHistory) -> str:
        tries = history.attempts(obj.attempts)
        names = {str(it.pk): it.name for it in Endpoint.objects.filter(pk__in={it.endpoint_id for it in tries})}
        return table(
            (_("Endpoint"), _("Chosen because"), _("Outcome"), _("Status code"), _("Duration"), _("Error")),
            [
                (
                    names.get(it.endpoint_id, it.endpoint_id),
                    words.reason(it.reason),
                    words.outcome(it.outcome),
                    it.status or NOTHING,
                    duration(it.duration_us / 1000),
                    reasons.shown(it.outcome, it.error, it.status) or "",
                )
                for it in tries
            ],
        )

    @admin.display(description=gettext_lazy("request"))
    def request_panel(self, obj: RequestHistory) -> str:
        return _json(obj.request_body)

    @admin.display(description=gettext_lazy("response"))
    def response_panel(self, obj: RequestHistory) -> str:
        return _json(obj.response_body)

    @admin.display(description=gettext_lazy("what endpoints said of their errors"))
    def said_panel(self, obj: RequestHistory) -> str:
        lines = ((NOTHING if it.attempt is None else it.attempt, it.message) for it in _said(obj))
        return table((_("Attempt"), _("Error")), list(lines))

    def get_queryset(self, request: HttpRequest) -> QuerySet[RequestHistory]:
        queries.flushed()
        return super().get_queryset(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RequestHistory | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RequestHistory | None = None) -> bool:
        return False


def _has_no_endpoint(obj: RequestHistory) -> bool:
    return bool(obj.endpoint_name == "N/A")


def _way(obj: RequestHistory, text: str) -> str:
    """A link to the page that shows the request's way."""
    try:
        page = reverse("request", args=(obj.pk,))
    except NoReverseMatch:  # an id that was written by hand, and is none
        return text
    return format_html('<a href="{}" title="{}">{}</a>', page, _("Why this node"), text)


def _linked(page: str, obj: Any) -> str | None:
    return obj and format_html('<a href="{}">{}</a>', reverse(page, args=(obj.pk,)), obj)


def _asked(obj: RequestHistory | None) -> bool:
    return obj is not None and bodies.asked(obj.request_body) is not None


def _answered(obj: RequestHistory | None) -> bool:
    return obj is not None and obj.response_body is not None


def _said(obj: RequestHistory | None) -> tuple[bodies.Said, ...]:
    return () if obj is None else bodies.said(obj.outcome, obj.error_message, history.attempts(obj.attempts))


def _json(body: Any) -> str:
    return format_html('<pre class="body">{}</pre>', json.dumps(body, ensure_ascii=False, indent=2))
