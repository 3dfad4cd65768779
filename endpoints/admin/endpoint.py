"""The admin of endpoints: list, form, panels of state, models and health checks, history of edits."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import PAGE_VAR
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints import capabilities, causes, clouds, connections, edit_log, operations, sync
from endpoints.admin import actions
from endpoints.admin.form import EndpointForm, entered_connection
from endpoints.admin.panels import capabilities_of, full_list_link, number, table
from endpoints.admin_base import (
    ENDPOINT_EXTENSIONS,
    ONE_LINE,
    CarefulAdmin,
    CsvExport,
    EndpointDisplay,
)
from endpoints.base_url import normalise
from endpoints.checks import assumed_slots
from endpoints.clouds.kinds import CLOUDS, KIND_CHOICES, KIND_LABELS
from endpoints.connections import form as connection_form
from endpoints.detection import Unsupported
from endpoints.models import (
    EDITED_OPTIONS,
    ENDPOINT_LIMITS,
    NUMBER_OPTIONS,
    ROUTING_OPTIONS,
    Endpoint,
    EndpointModel,
    HealthCheck,
    Kind,
    OperatorState,
)
from endpoints.probe import Unreachable
from gateway.upstream.connection_settings import PLAIN

HISTORY_SIZE = 100  # entries per page, Django's own number
SHOWN_CHECKS = 15
SHOWN_MODELS = 50

CHECKS: Any = (gettext_lazy("Checks"), {"fields": ("health_check_interval_secs",)})
CLOUD: Any = (gettext_lazy("Cloud"), {"fields": ("cloud_type", "external", "allowed_models", "api_version")})
CONNECTION: Any = (
    gettext_lazy("Proxy, certificates and extra headers"),
    {"fields": connection_form.NAMES, "classes": ("collapse",)},
)
ROUTING: Any = (gettext_lazy("Routing"), {"fields": ROUTING_OPTIONS})
CAN: Any = (gettext_lazy("Capabilities"), {"fields": ("capabilities",)})


class OperatorStateFilter(admin.SimpleListFilter):
    """Filter by administrative state. An endpoint without options counts as enabled."""

    title = gettext_lazy("administrative state")
    parameter_name = "operator_state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return OperatorState.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> QuerySet[Endpoint]:
        chosen = self.value()
        if chosen == OperatorState.ENABLED:
            return queryset.exclude(options__operator_state__in=(OperatorState.DRAINING, OperatorState.DISABLED))
        return queryset.filter(options__operator_state=chosen) if chosen else queryset


class TypeFilter(admin.SimpleListFilter):
    """Filter by type. That of a cloud is an option."""

    title = gettext_lazy("type")
    parameter_name = "endpoint_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return KIND_CHOICES

    def queryset(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> QuerySet[Endpoint]:
        chosen = self.value()
        if not chosen:
            return queryset
        if chosen in CLOUDS:
            return queryset.filter(options__cloud_type=chosen)
        return queryset.filter(endpoint_type=chosen).exclude(options__cloud_type__in=CLOUDS)


@admin.register(Endpoint)
class EndpointAdmin(CsvExport[Endpoint], CarefulAdmin[Endpoint]):
    form = EndpointForm
    formfield_overrides = ONE_LINE
    list_display = (
        "name",
        "shown_status",
        "shown_kind",
        "base_url",
        "shown_latency",
    )
    list_filter = (
        "status",
        OperatorStateFilter,
        TypeFilter,
    )
    search_fields = (
        "name",
        "base_url",
        "notes",
    )
    actions = (
        actions.run_test,
        actions.run_sync,
        actions.enable,
        actions.drain,
        actions.disable,
        actions.reset_breaker,
        "export_csv",
    )
    exported = (
        "id",
        "name",
        "base_url",
        "kind",
        "status",
        "operator_state",
        "health_check_interval_secs",
        "inference_timeout_secs",
        *NUMBER_OPTIONS,
        "learned_slots",
        "assumed_slots",
        "external",
        "allowed_models",
        "api_version",
        "capabilities",
        "notes",
        "registered_at",
    )
    list_select_related = ("options",)
    list_per_page = 50
    readonly_fields = (
        "shown_status",
        "shown_latency",
        "shown_kind",
        "shown_last_seen",
        "last_error",
        "shown_registered",
        "has_api_key",
        "learned_slots",
        "assumed_slots",
        "models_panel",
        "checks_panel",
    )
    state_fields = (
        "shown_status",
        "shown_kind",
        "shown_latency",
        "shown_last_seen",
        "last_error",
        "shown_registered",
    )

    def get_fieldsets(self, request: HttpRequest, obj: Endpoint | None = None) -> Any:
        """Return the fieldsets. A new endpoint has no state and no stored key yet."""
        if obj is None:
            new = (None, {"fields": ("name", "base_url", "api_key", "tags", "notes")})
            return new, CONNECTION, CLOUD, CHECKS, _limits(), ROUTING, CAN
        first = (None, {"fields": ("name", "base_url", "has_api_key", "api_key", "forget_api_key", "tags", "notes")})
        return (
            first,
            CONNECTION,
            CLOUD,
            CHECKS,
            _limits("learned_slots", "assumed_slots"),
            ROUTING,
            CAN,
            (_("State"), {"fields": (*self.state_fields, *_extra_columns())}),
            (_("Models"), {"fields": ("models_panel",)}),
            (_("Latest health checks"), {"fields": ("checks_panel",)}),
            *((extension.panel_title, {"fields": (extension.daily_panel,)}) for extension in ENDPOINT_EXTENSIONS),
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        name, status, *others = self.list_display
        after_status = [column for extension in ENDPOINT_EXTENSIONS for column in extension.status_columns]
        return (
            name,
            status,
            *after_status,
            *others,
            *(column for extension in ENDPOINT_EXTENSIONS for column in extension.columns),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Endpoint | None = None) -> Any:
        return (*self.readonly_fields, *_extra_columns(), *(extension.daily_panel for extension in ENDPOINT_EXTENSIONS))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Endpoint]:
        for extension in ENDPOINT_EXTENSIONS:
            extension.prepare()
        return super().get_queryset(request)

    def get_changeform_initial_data(self, request: HttpRequest) -> Any:
        interval = settings.ROUTERDASH.health_check_interval
        return {"health_check_interval_secs": interval, **super().get_changeform_initial_data(request)}

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Detect the type before Django opens the transaction of the save, so that a slow server holds no lock."""
        if request.method == "POST":
            request.detected_kind = self._detect(request, object_id)  # type: ignore[attr-defined]
        return super().changeform_view(request, object_id, form_url, extra_context)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Show the edits as the dashboard does: with old and new values, newest first."""
        context = dict(extra_context or {})
        if self._is_id(object_id):
            pages = self.get_paginator(request, edit_log.entries(object_id), HISTORY_SIZE)
            context["action_list"] = page = pages.get_page(request.GET.get(PAGE_VAR, 1))
            page.object_list = [edit_log.edit(entry) for entry in page.object_list]
        return super().history_view(request, object_id, context)

    def _detect(self, request: HttpRequest, object_id: str | None) -> Kind | str | None:
        """Return the type at a new address, an error message if detection fails, None if the address is not new.

        The type of a cloud is not detected.
        """
        try:
            url = clouds.complete(normalise(request.POST.get("base_url", "")))
        except ValueError:
            return None  # the form reports it
        if request.POST.get("cloud_type") or clouds.recognise(url):
            return None
        stored = self._stored(object_id)
        if stored is not None and stored.base_url == url:
            return None
        try:
            connection = entered_connection(request.POST.dict() | {"base_url": url}, stored)
            return operations.detect(url, request.POST.get("api_key") or _key_for(url, stored), connection)
        except connections.InvalidConnection:
            return None  # the form reports it
        except Unreachable as error:
            return _("The endpoint was saved, but it cannot be reached: %(why)s") % {"why": causes.shown(error)}
        except Unsupported as error:
            return _("The endpoint was saved, but its type could not be detected: %(why)s") % {
                "why": causes.shown(error)
            }

    def _stored(self, object_id: str | None) -> Endpoint | None:
        if object_id is None or not self._is_id(object_id):
            return None
        return Endpoint.objects.select_related("options").filter(pk=object_id).first()

    def save_model(self, request: HttpRequest, obj: Endpoint, form: EndpointForm, change: bool) -> None:
        """Save the endpoint. A new address gets its detected type; another server never gets the old secret."""
        before = Endpoint.objects.select_for_update().filter(pk=obj.pk).first() if change else None
        moves = before is not None and before.moves_to(obj.base_url)
        secret = form.cleaned_data["api_key"] or None
        orphaned = moves and secret is None and self.has_api_key(obj)
        unconnected = moves and form.connection in (None, PLAIN) and bool(obj.options_or_default.sealed_connection)
        kind = self._take_kind(request, obj, before)
        if not change and form.cleaned_data["cloud_type"] and "health_check_interval_secs" not in form.changed_data:
            obj.health_check_interval_secs = clouds.CHECK_SECONDS
        super().save_model(request, obj, form, change)
        if change and kind is not None:
            obj.save(update_fields=["endpoint_type"])
            assumed_slots.follow_kind(obj)
        elif not change:
            obj.set_options(assumed_slots=assumed_slots.of_new(obj.kind))
        if moves:
            obj.forget_server(secret)
        elif secret is not None or form.cleaned_data.get("forget_api_key"):
            obj.set_api_key(secret)
        if form.connection is not None:
            obj.set_connection(form.connection)
        self._set_options(obj, form)
        if unconnected:
            messages.warning(request, _("The address changed, so the stored connection settings were deleted."))
        if orphaned:
            messages.warning(request, _("The address changed, so the stored API key was deleted."))

    def _take_kind(self, request: HttpRequest, obj: Endpoint, before: Endpoint | None) -> Kind | None:
        """Set the detected type and return it; None if none was detected."""
        kind = request.detected_kind  # type: ignore[attr-defined]
        if isinstance(kind, Kind):
            if before is not None and before.endpoint_type != kind:
                labels = {"now": kind.label, "before": Kind(before.endpoint_type).label}
                messages.warning(
                    request,
                    _("A different type of server was found at this address: %(now)s instead of %(before)s.") % labels,
                )
            obj.endpoint_type = kind
            return kind
        if kind is not None:
            messages.warning(request, kind)
        return None

    def _set_options(self, obj: Endpoint, form: EndpointForm) -> None:
        options = {name: form.cleaned_data[name] for name in EDITED_OPTIONS if name in form.changed_data}
        if form.cleaned_data["cloud_type"] != obj.options_or_default.cloud_type:
            options["cloud_type"] = form.cleaned_data["cloud_type"]  # it may be recognised by the address
        if options:
            obj.set_options(**options)
            sync.follow_options(obj, options)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Return Django's message, with old and new values in addition to the names of the fields."""
        message: Any = super().construct_change_message(request, form, formsets, add)
        for part in message if not add else ():
            changed = [edit_log.CONNECTION if name in connection_form.NAMES else name for name in form.changed_data]
            new_values = {name: form.cleaned_data.get(name) for name in changed if name not in edit_log.LONG}
            part["values"] = {name: [form.initial.get(name), value] for name, value in new_values.items()}
            part["values"] |= {name: [None, None] for name in changed if name in edit_log.LONG}
        return message

    def export_value(self, obj: Endpoint, name: str) -> Any:
        value = getattr(obj if hasattr(obj, name) else obj.options_or_default, name)
        return value or None if name == "assumed_slots" else value

    # Columns and panels

    @admin.display(description=gettext_lazy("status"), ordering="status")
    def shown_status(self, obj: Endpoint) -> SafeString:
        state = obj.options_or_default.operator_state
        return render_to_string(
            "components/status.html", {"state": obj.status if state == OperatorState.ENABLED else state}
        )

    @admin.display(description=gettext_lazy("type"))
    def shown_kind(self, obj: Endpoint) -> str:
        return str(KIND_LABELS.get(obj.kind, obj.kind))

    @admin.display(description=gettext_lazy("latency"), ordering="latency_ms")
    def shown_latency(self, obj: Endpoint) -> SafeString:
        return render_to_string("components/latency.html", {"entry": obj})

    @admin.display(description=gettext_lazy("last response"), ordering="last_seen")
    def shown_last_seen(self, obj: Endpoint) -> SafeString:
        return render_to_string("components/moment.html", {"value": obj.last_seen})

    @admin.display(description=gettext_lazy("registered"))
    def shown_registered(self, obj: Endpoint) -> SafeString:
        return render_to_string("components/moment.html", {"value": obj.registered_at})

    @admin.display(description=gettext_lazy("API key stored"), boolean=True)
    def has_api_key(self, obj: Endpoint) -> bool:
        return bool(obj.options_or_default.sealed_api_key or obj.api_key_encrypted)

    @admin.display(description=gettext_lazy("models"))
    def models_panel(self, obj: Endpoint) -> str:
        rows = [
            (
                model.model_id,
                model.canonical_name or "—",
                number(model.max_tokens) if model.max_tokens else "—",
                ", ".join(capabilities.label(word) for word in capabilities.to_store(capabilities_of(model))) or "—",
            )
            for model in obj.models.order_by("model_id")[:SHOWN_MODELS]
        ]
        shown = table((_("Model"), _("Canonical name"), _("Context"), _("Capabilities")), rows)
        return (
            shown + full_list_link("admin:endpoints_endpointmodel_changelist", obj, _("All models")) if rows else shown
        )

    @admin.display(description=gettext_lazy("slots reported by the server"))
    def learned_slots(self, obj: Endpoint) -> str:
        slots = obj.options_or_default.learned_slots
        return "—" if slots is None else number(slots)

    @admin.display(description=gettext_lazy("assumed requests at a time"))
    def assumed_slots(self, obj: Endpoint) -> str:
        slots = obj.options_or_default.assumed_slots
        return number(slots) if slots else "—"

    @admin.display(description=gettext_lazy("health checks"))
    def checks_panel(self, obj: Endpoint) -> SafeString:
        checks = obj.health_checks.order_by("-id")[:SHOWN_CHECKS]
        link = full_list_link("admin:endpoints_healthcheck_changelist", obj, _("All health checks"))
        return render_to_string("admin/endpoints/endpoint/checks.html", {"checks": checks, "every": link})

    # Deleting

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return only counts: Django would list every health check, and read them all again for the delete."""
        chosen = list(objs)
        parts = {
            model._meta.verbose_name_plural: model._default_manager.filter(endpoint__in=chosen).count()
            for model in (EndpointModel, HealthCheck)
        }
        counts = {self.opts.verbose_name_plural: len(chosen), **parts}
        names = [f"{capfirst(str(self.opts.verbose_name))}: {endpoint}" for endpoint in chosen]
        return names, {name: number(count) for name, count in counts.items()}, set(), []

    # Actions

    def response_action(self, request: HttpRequest, queryset: QuerySet[Endpoint], *rest: Any, **more: Any) -> Any:
        """Run an action. Buttons for actions on an endpoint's own pages lead back to their page."""
        response = super().response_action(request, queryset, *rest, **more)
        back = request.POST.get("next", "")
        return (
            HttpResponseRedirect(back)
            if isinstance(response, HttpResponseRedirect) and actions.is_local_page(back)
            else response
        )


def _extra_columns() -> list[EndpointDisplay]:
    """Return the columns of other apps, which are also fields of the state."""
    return [column for extension in ENDPOINT_EXTENSIONS for column in (*extension.status_columns, *extension.columns)]


def _limits(*more: str) -> Any:
    return _("Limits"), {"fields": ("inference_timeout_secs", *ENDPOINT_LIMITS, *more)}


def _key_for(url: str, stored: Endpoint | None) -> str | None:
    """Return the API key for detection at a new address. The stored key is sent only to its own server."""
    return None if stored is None or stored.moves_to(url) else operations.secret(stored)
