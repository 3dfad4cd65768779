"""Endpoints in the admin: what staff edit, what they can do to many at once, and panels that only show."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextInputWidget
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.template.loader import render_to_string
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from endpoints import operations, sync
from endpoints.admin_base import CarefulAdmin
from endpoints.base_url import normalise
from endpoints.detection import Unsupported
from endpoints.fields import LineField
from endpoints.models import Endpoint, EndpointModel, HealthCheck, Kind, OperatorState
from endpoints.probe import Unreachable

SHOWN_CHECKS = 15

# The admin would give these its text area, as to any other text.
ONE_LINE: dict[type, dict[str, Any]] = {LineField: {"widget": AdminTextInputWidget}}


LIMITS: Any = (
    gettext_lazy("Checks and timeouts"),
    {"fields": ("health_check_interval_secs", "inference_timeout_secs")},
)


class EndpointForm(forms.ModelForm[Endpoint]):
    api_key = forms.CharField(
        label=gettext_lazy("API key of the server"),
        required=False,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}),
        help_text=gettext_lazy("Sent as a bearer token. Stored sealed, never shown. Empty: stays as it is."),
    )
    forget_api_key = forms.BooleanField(label=gettext_lazy("Forget the stored key"), required=False)

    class Meta:
        model = Endpoint
        fields = ("name", "base_url", "health_check_interval_secs", "inference_timeout_secs", "notes")


class OperatorStateFilter(admin.SimpleListFilter):
    """An endpoint without options of ours is enabled, too."""

    title = gettext_lazy("operator's state")
    parameter_name = "operator_state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return OperatorState.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> QuerySet[Endpoint]:
        chosen = self.value()
        if chosen == OperatorState.ENABLED:
            return queryset.exclude(options__operator_state__in=(OperatorState.DRAINING, OperatorState.DISABLED))
        return queryset.filter(options__operator_state=chosen) if chosen else queryset


@admin.register(Endpoint)
class EndpointAdmin(CarefulAdmin[Endpoint]):
    form = EndpointForm
    formfield_overrides = ONE_LINE
    list_display: tuple[str, ...] = (
        "name",
        "shown_status",
        "endpoint_type",
        "base_url",
        "shown_latency",
        "shown_last_seen",
    )
    list_filter = (
        "status",
        OperatorStateFilter,
        "endpoint_type",
    )
    search_fields = (
        "name",
        "base_url",
        "notes",
    )
    actions = (
        "run_test",
        "run_sync",
        "enable",
        "drain",
        "disable",
    )
    list_select_related = ("options",)
    list_per_page = 50
    readonly_fields: ClassVar[tuple[str, ...]] = (
        "shown_status",
        "shown_latency",
        "endpoint_type",
        "shown_last_seen",
        "last_error",
        "shown_registered",
        "has_api_key",
        "models_panel",
        "checks_panel",
    )
    state_fields: tuple[str, ...] = (
        "shown_status",
        "endpoint_type",
        "shown_latency",
        "shown_last_seen",
        "last_error",
        "shown_registered",
    )

    def get_fieldsets(self, request: HttpRequest, obj: Endpoint | None = None) -> Any:
        """A new endpoint has no state to show and no key to forget yet."""
        if obj is None:
            return (None, {"fields": ("name", "base_url", "api_key", "notes")}), LIMITS
        first = (None, {"fields": ("name", "base_url", "has_api_key", "api_key", "forget_api_key", "notes")})
        return (
            first,
            LIMITS,
            (_("State"), {"fields": self.state_fields}),
            (_("Models"), {"fields": ("models_panel",)}),
            (_("Last checks"), {"fields": ("checks_panel",)}),
        )

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
        """What an address is gets asked before Django opens the transaction of the save: a slow server locks nobody."""
        if request.method == "POST":
            request.found_kind = self._ask(request, object_id)  # type: ignore[attr-defined]
        return super().changeform_view(request, object_id, form_url, extra_context)

    def _ask(self, request: HttpRequest, object_id: str | None) -> Kind | str | None:
        """The type at a new address, a sentence if it cannot be told, None if the address is not new."""
        try:
            url = normalise(request.POST.get("base_url", ""))
        except ValueError:
            return None  # the form says so
        if object_id is not None and self._stands_at(object_id, url):
            return None
        try:
            return operations.detect(url, request.POST.get("api_key") or None)
        except Unreachable as error:
            return _("Saved, but it cannot be reached now: %(why)s.") % {"why": error}
        except Unsupported as error:
            return _("Saved, but its type is not known: %(why)s.") % {"why": error}

    def _stands_at(self, object_id: str, url: str) -> bool:
        return self._is_id(object_id) and Endpoint.objects.filter(pk=object_id, base_url=url).exists()

    def save_model(self, request: HttpRequest, obj: Endpoint, form: EndpointForm, change: bool) -> None:
        """Another address is another server: it gets its own type, and the old secret does not go there."""
        moved = form.initial.get("base_url") != obj.base_url
        secret = form.cleaned_data["api_key"] or None
        orphaned = change and moved and secret is None and self.has_api_key(obj)
        found = request.found_kind  # type: ignore[attr-defined]
        if isinstance(found, Kind):
            obj.endpoint_type = found
        elif found is not None:
            messages.warning(request, found)
        super().save_model(request, obj, form, change)
        if change and isinstance(found, Kind):
            obj.save(update_fields=["endpoint_type"])
        if secret is not None or orphaned or form.cleaned_data.get("forget_api_key"):
            obj.set_api_key(secret)
        if orphaned:
            messages.warning(request, _("The address has changed, so the stored API key was forgotten."))

    # Columns and panels

    @admin.display(description=gettext_lazy("status"), ordering="status")
    def shown_status(self, obj: Endpoint) -> SafeString:
        state = obj.options_or_default.operator_state
        return render_to_string("inc/status.html", {"state": obj.status if state == OperatorState.ENABLED else state})

    @admin.display(description=gettext_lazy("latency"), ordering="latency_ms")
    def shown_latency(self, obj: Endpoint) -> SafeString:
        return render_to_string("inc/latency.html", {"entry": obj})

    @admin.display(description=gettext_lazy("last seen"), ordering="last_seen")
    def shown_last_seen(self, obj: Endpoint) -> SafeString:
        return render_to_string("inc/moment.html", {"value": obj.last_seen})

    @admin.display(description=gettext_lazy("registered"))
    def shown_registered(self, obj: Endpoint) -> SafeString:
        return render_to_string("inc/moment.html", {"value": obj.registered_at})

    @admin.display(description=gettext_lazy("API key stored"), boolean=True)
    def has_api_key(self, obj: Endpoint) -> bool:
        return bool(obj.options_or_default.sealed_api_key or obj.api_key_encrypted)

    @admin.display(description=gettext_lazy("models"))
    def models_panel(self, obj: Endpoint) -> str:
        rows = [
            (model.model_id, model.canonical_name or "—", _number(model.max_tokens) if model.max_tokens else "—")
            for model in obj.models.order_by("model_id")
        ]
        return table((_("Model"), _("Canonical name"), _("Context")), rows)

    @admin.display(description=gettext_lazy("checks"))
    def checks_panel(self, obj: Endpoint) -> SafeString:
        checks = obj.health_checks.order_by("-id")[:SHOWN_CHECKS]
        return render_to_string("admin/endpoints/endpoint/checks.html", {"checks": checks})

    # Deleting

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Counts alone: Django would list every health check, and read them all once more for the delete itself."""
        chosen = list(objs)
        parts = {
            model._meta.verbose_name_plural: model._default_manager.filter(endpoint__in=chosen).count()
            for model in (EndpointModel, HealthCheck)
        }
        counts = {self.opts.verbose_name_plural: len(chosen), **parts}
        names = [f"{capfirst(str(self.opts.verbose_name))}: {endpoint}" for endpoint in chosen]
        return names, {name: _number(count) for name, count in counts.items()}, set(), []

    # Actions

    def response_action(self, request: HttpRequest, queryset: QuerySet[Endpoint], *rest: Any, **more: Any) -> Any:
        """An endpoint's own pages have buttons for these actions; they lead back to where they stand."""
        response = super().response_action(request, queryset, *rest, **more)
        back = request.POST.get("next")
        leads_back = isinstance(response, HttpResponseRedirect) and url_has_allowed_host_and_scheme(back, None)
        return HttpResponseRedirect(back or "") if leads_back else response

    @admin.action(description=gettext_lazy("Test the connection"))
    def run_test(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        for endpoint in queryset:
            result = operations.test(endpoint)
            if result.success:
                messages.success(request, f"{endpoint.name}: {result.latency_ms} ms")
            else:
                messages.error(request, f"{endpoint.name}: {result.error}")

    @admin.action(description=gettext_lazy("Sync the models"))
    def run_sync(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        for endpoint in queryset:
            try:
                result = operations.sync_models(endpoint)
            except (Unreachable, sync.SyncFailed) as error:
                messages.error(request, f"{endpoint.name}: {error}")
            else:
                found = len(result.models)
                text = ngettext("%(name)s: %(count)d model", "%(name)s: %(count)d models", found)
                messages.success(request, text % {"name": endpoint.name, "count": found})

    @admin.action(description=gettext_lazy("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        _set_state(queryset, OperatorState.ENABLED)
        _say(request, queryset, _("Enabled: %(names)s."))

    @admin.action(description=gettext_lazy("Drain: take nothing new, finish what runs"))
    def drain(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        _set_state(queryset, OperatorState.DRAINING)
        _say(request, queryset, _("Takes nothing new, finishes what runs: %(names)s."))

    @admin.action(description=gettext_lazy("Disable"))
    def disable(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        _set_state(queryset, OperatorState.DISABLED)
        _say(request, queryset, _("Disabled: %(names)s."))


def _set_state(queryset: QuerySet[Endpoint], state: OperatorState) -> None:
    for endpoint in queryset:
        endpoint.set_operator_state(state)


def _say(request: HttpRequest, queryset: QuerySet[Endpoint], text: str) -> None:
    messages.success(request, text % {"names": ", ".join(endpoint.name for endpoint in queryset)})


def _number(value: int) -> str:
    return number_format(value, force_grouping=True)


def table(head: tuple[object, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """A read-only panel; a dash when there is nothing."""
    if not rows:
        return "—"
    return format_html(
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
        _cells("th", head),
        format_html_join("", "<tr>{}</tr>", ((_cells("td", row),) for row in rows)),
    )


def _cells(tag: str, row: tuple[object, ...]) -> SafeString:
    return format_html_join("", "<{0}>{1}</{0}>", ((tag, cell) for cell in row))
