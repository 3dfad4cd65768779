"""The request history in the admin, read-only."""

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.admin.panels import table
from endpoints.admin_base import CarefulAdmin
from endpoints.models import Endpoint
from gateway.ipc import error_texts
from metrics import labels
from metrics.admin.list_without_count import BeforeFilter, HistoryList, OutcomeFilter
from metrics.counting.stored_attempt import stored_attempts
from metrics.models import RequestHistory
from metrics.queries.api_keys import stored_keys
from metrics.queries.requests import bodies
from metrics.queries.requests.filters import STATUSES
from metrics.queries.stored import flushed
from metrics.templatetags.figures import NO_VALUE, count, duration, moment


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
    search_help_text = gettext_lazy("Part of a model name, endpoint name or client address.")
    sortable_by = ()
    show_facets = admin.ShowFacets.NEVER  # they are counts
    show_full_result_count = False
    list_per_page = 50
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("completed", "model", "kind", "shown_streamed", "key", "client_ip", "request_id", "way")}),
        (gettext_lazy("Outcome"), {"fields": ("shown_outcome", "shown_error", "endpoint", "attempts_panel")}),
        (gettext_lazy("Metrics"), {"fields": ("queued", "duration", "first_token", "input_count", "output_count")}),
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
        "errors_panel",
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return HistoryList

    def get_fieldsets(self, request: HttpRequest, obj: RequestHistory | None = None) -> Any:
        panels = (
            ("request_panel", _has_request(obj)),
            ("response_panel", _has_response(obj)),
            ("errors_panel", bool(_endpoint_errors(obj))),
        )
        shown_panels = [name for name, stored in panels if stored]
        return (*self.fieldsets, (_("Bodies"), {"fields": shown_panels})) if shown_panels else self.fieldsets

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: RequestHistory | None = None,
    ) -> Any:
        if obj is not None and (_has_request(obj) or _has_response(obj) or _endpoint_errors(obj)):
            bodies.log_access(request.user, str(obj.pk), obj.model)
            context["has_bodies"] = True
        return super().render_change_form(request, context, add, change, form_url, obj)

    @admin.display(description=gettext_lazy("completed"))
    def completed(self, obj: RequestHistory) -> str:
        return moment(obj.completed_at)

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: RequestHistory) -> str:
        """Return the name as a link to the page with the reasons."""
        return _page_link(obj, NO_VALUE if _has_no_endpoint(obj) else str(obj.endpoint_name))

    @admin.display(description=gettext_lazy("endpoint"))
    def endpoint(self, obj: RequestHistory) -> str:
        if _has_no_endpoint(obj):
            return NO_VALUE
        return _admin_link(
            "admin:endpoints_endpoint_change", Endpoint.objects.filter(pk=obj.endpoint_id).first()
        ) or str(obj.endpoint_name)

    @admin.display(description=gettext_lazy("API key"))
    def key(self, obj: RequestHistory) -> str:
        if obj.api_key_id is None:
            return NO_VALUE
        key = stored_keys().filter(pk=obj.api_key_id).first()
        return _admin_link("admin:access_apikey_change", key) or _("deleted: %(id)s") % {"id": obj.api_key_id}

    @admin.display(description=gettext_lazy("outcome"))
    def shown_outcome(self, obj: RequestHistory) -> str:
        word = labels.outcome(obj.outcome or STATUSES.get(obj.status, obj.status))
        return format_html("{} <small>{}</small>", word, obj.status_code) if obj.status_code else word

    @admin.display(description=gettext_lazy("error"))
    def shown_error(self, obj: RequestHistory) -> str:
        return error_texts.shown(obj.outcome, obj.error_message, obj.status_code) or NO_VALUE

    @admin.display(description=gettext_lazy("route"))
    def way(self, obj: RequestHistory) -> str:
        return _page_link(obj, _("Why this endpoint"))

    @admin.display(description=gettext_lazy("queue time"))
    def queued(self, obj: RequestHistory) -> str:
        return NO_VALUE if obj.queue_us is None else duration(obj.queue_us / 1000)

    @admin.display(description=gettext_lazy("duration"))
    def duration(self, obj: RequestHistory) -> str:
        """Format the duration from microseconds if stored: llmlb's rows have whole milliseconds only, at least one."""
        return duration(obj.duration_ms if obj.duration_us is None else obj.duration_us / 1000)

    @admin.display(description=gettext_lazy("tokens (in / out)"))
    def tokens(self, obj: RequestHistory) -> str:
        return NO_VALUE if obj.total_tokens is None else f"{count(obj.input_tokens)} / {count(obj.output_tokens)}"

    @admin.display(description=gettext_lazy("streamed"), boolean=True)
    def shown_streamed(self, obj: RequestHistory) -> bool | None:
        return obj.streamed

    @admin.display(description=gettext_lazy("time to first token"))
    def first_token(self, obj: RequestHistory) -> str:
        return NO_VALUE if obj.first_token_us is None else duration(obj.first_token_us / 1000)

    @admin.display(description=gettext_lazy("input tokens"))
    def input_count(self, obj: RequestHistory) -> str:
        return count(obj.input_tokens)

    @admin.display(description=gettext_lazy("output tokens"))
    def output_count(self, obj: RequestHistory) -> str:
        number = count(obj.output_tokens)
        return _("%(number)s (estimated)") % {"number": number} if obj.tokens_estimated else number

    @admin.display(description=gettext_lazy("attempts"))
    def attempts_panel(self, obj: RequestHistory) -> str:
        attempts = stored_attempts(obj.attempts)
        names = {
            str(endpoint.pk): endpoint.name
            for endpoint in Endpoint.objects.filter(pk__in={attempt.endpoint_id for attempt in attempts})
        }
        return table(
            (_("Endpoint"), _("Chosen because"), _("Outcome"), _("Status code"), _("Duration"), _("Error")),
            [
                (
                    names.get(attempt.endpoint_id, attempt.endpoint_id),
                    labels.reason(attempt.reason),
                    labels.outcome(attempt.outcome),
                    attempt.status or NO_VALUE,
                    duration(attempt.duration_us / 1000),
                    error_texts.shown(attempt.outcome, attempt.error, attempt.status) or "",
                )
                for attempt in attempts
            ],
        )

    @admin.display(description=gettext_lazy("request"))
    def request_panel(self, obj: RequestHistory) -> str:
        return _json(obj.request_body)

    @admin.display(description=gettext_lazy("response"))
    def response_panel(self, obj: RequestHistory) -> str:
        return _json(obj.response_body)

    @admin.display(description=gettext_lazy("error responses of endpoints"))
    def errors_panel(self, obj: RequestHistory) -> str:
        lines = (
            (NO_VALUE if error.attempt is None else error.attempt, error.message) for error in _endpoint_errors(obj)
        )
        return table((_("Attempt"), _("Error")), list(lines))

    def get_queryset(self, request: HttpRequest) -> QuerySet[RequestHistory]:
        flushed()
        return super().get_queryset(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RequestHistory | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RequestHistory | None = None) -> bool:
        return False


def _has_no_endpoint(obj: RequestHistory) -> bool:
    return bool(obj.endpoint_name == "N/A")


def _page_link(obj: RequestHistory, text: str) -> str:
    """Return a link to the request's page."""
    try:
        page = reverse("request", args=(obj.pk,))
    except NoReverseMatch:  # an invalid id, written by hand
        return text
    return format_html('<a href="{}" title="{}">{}</a>', page, _("Why this endpoint"), text)


def _admin_link(page: str, obj: Any) -> str | None:
    return obj and format_html('<a href="{}">{}</a>', reverse(page, args=(obj.pk,)), obj)


def _has_request(obj: RequestHistory | None) -> bool:
    return obj is not None and bodies.stored_request(obj.request_body) is not None


def _has_response(obj: RequestHistory | None) -> bool:
    return obj is not None and obj.response_body is not None


def _endpoint_errors(obj: RequestHistory | None) -> tuple[bodies.EndpointErrorText, ...]:
    return () if obj is None else bodies.endpoint_errors(obj.outcome, obj.error_message, stored_attempts(obj.attempts))


def _json(body: Any) -> str:
    return format_html('<pre class="body">{}</pre>', json.dumps(body, ensure_ascii=False, indent=2))
