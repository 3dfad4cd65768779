"""Endpoints in the admin: what staff edit, what they can do to many at once, and panels that only show."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import PAGE_VAR
from django.contrib.admin.widgets import AdminIntegerFieldWidget, AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from endpoints import capabilities, edits, operations, tags, versions
from endpoints.admin_base import CarefulAdmin, CsvExport, EndpointFilter, FactsAdmin, endpoint_name
from endpoints.base_url import normalise
from endpoints.capabilities import CHAT_COMPLETION
from endpoints.detection import Unsupported
from endpoints.fields import LineField
from endpoints.models import (
    LIMITS,
    STAFF_FIELDS,
    Endpoint,
    EndpointModel,
    EndpointOptions,
    HealthCheck,
    Kind,
    OperatorState,
    deadline,
)
from endpoints.probe import Unreachable
from endpoints.registry import registry
from endpoints.text import validate_line
from gateway import kinds

HISTORY_SIZE = 100  # entries of a page, as many as Django goes by
SHOWN_CHECKS = 15
SHOWN_MODELS = 50

# The admin would give these its text area, as to any other text.
ONE_LINE: dict[type, dict[str, Any]] = {LineField: {"widget": AdminTextInputWidget}}


CHECKS: Any = (gettext_lazy("Checks"), {"fields": ("health_check_interval_secs",)})
CAN: Any = (gettext_lazy("Capabilities"), {"fields": ("capabilities",)})
CAN_WORDS = {
    CHAT_COMPLETION: gettext_lazy("Chat"),
    kinds.CAN_EMBED: gettext_lazy("Embeddings"),
    kinds.CAN_TRANSCRIBE: gettext_lazy("Transcription of speech"),
    kinds.CAN_SPEAK: gettext_lazy("Speech"),
    kinds.CAN_DRAW: gettext_lazy("Images"),
    kinds.CAN_RERANK: gettext_lazy("Reranking"),
    kinds.CAN_MODERATE: gettext_lazy("Moderation"),
}


def _option(name: str) -> Any:
    """A field of the options in the form of the endpoint."""
    field: Any = EndpointOptions._meta.get_field(name)
    return field.formfield(widget=AdminIntegerFieldWidget, min_value=1, max_value=LIMITS[name])


class Difference(NamedTuple):
    """Between what somebody else has saved and what was typed."""

    field: str
    theirs: str
    yours: str


class EndpointForm(forms.ModelForm[Endpoint]):
    api_key = forms.CharField(
        label=gettext_lazy("API key of the server"),
        required=False,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}),
        help_text=gettext_lazy("Sent as a bearer token. Stored sealed, never shown. Empty: stays as it is."),
    )
    forget_api_key = forms.BooleanField(label=gettext_lazy("Forget the stored key"), required=False)
    capabilities = forms.MultipleChoiceField(
        label=gettext_lazy("All of its models can"),
        choices=CAN_WORDS.items,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy(
            "Added to what is known of each model. Chat alone, the default, adds nothing: a model for embeddings does "
            "not chat."
        ),
    )
    tags = forms.CharField(
        label=gettext_lazy("Tags"),
        required=False,
        max_length=1000,
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("Words to group endpoints by, separated by commas."),
    )
    connect_timeout_secs = _option("connect_timeout_secs")
    idle_timeout_secs = _option("idle_timeout_secs")
    total_timeout_secs = _option("total_timeout_secs")
    max_concurrency = _option("max_concurrency")

    class Meta:
        model = Endpoint
        fields = ("name", "base_url", "health_check_interval_secs", "inference_timeout_secs", "notes", "capabilities")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        stored = self.instance.options_or_default
        self.initial = {name: getattr(stored, name) for name in LIMITS} | dict(self.initial)
        self.initial["capabilities"] = _words(self.instance.capabilities)
        self.initial["tags"] = ", ".join(stored.tags or [])
        if self.instance._state.adding:
            self.fields["api_key"].help_text = _("Sent as a bearer token. Stored sealed, never shown.")
        self.version = "" if self.instance._state.adding else versions.of(self.instance)
        self.conflict: list[Difference] = []

    def clean_tags(self) -> list[str]:
        found = tags.parse(self.cleaned_data["tags"])
        for word in found:
            validate_line(word)
        if len(found) > tags.MOST or any(len(word) > tags.LONGEST for word in found):
            raise ValidationError(
                _("At most %(most)d tags of at most %(longest)d characters.")
                % {"most": tags.MOST, "longest": tags.LONGEST}
            )
        return found

    def clean(self) -> dict[str, Any] | None:
        """Nobody saves over an edit that they have not seen. The form then holds the newer version beside what was
        typed: whoever sends it once more has seen it.
        """
        cleaned = super().clean()
        seen = self.data.get("version", "")
        if not seen or self.instance._state.adding:
            return cleaned
        stored = Endpoint.objects.select_for_update().filter(pk=self.instance.pk).first()
        if stored is None:
            raise ValidationError(_("This endpoint has been deleted meanwhile."))
        self.version = versions.of(stored)
        if seen != self.version:
            self.conflict = list(self._differences(stored, same_secret=versions.same_secret(seen, self.version)))
        if self.conflict:
            raise ValidationError(_("Somebody else has changed this endpoint since you opened it. Nothing is saved."))
        return cleaned

    def _differences(self, stored: Endpoint, *, same_secret: bool) -> Iterator[Difference]:
        options = stored.options_or_default
        for name in (*STAFF_FIELDS, *LIMITS):
            if name in self.cleaned_data:
                theirs = _written(getattr(options if name in LIMITS else stored, name))
                yours = _written(_as_stored(name, self.cleaned_data[name]))
                if theirs != yours:
                    yield Difference(str(self.fields[name].label), theirs, yours)
        theirs, yours = ", ".join(options.tags or []), ", ".join(self.cleaned_data.get("tags", []))
        if theirs != yours:
            yield Difference(str(self.fields["tags"].label), theirs or "—", yours or "—")
        if not same_secret:
            typed = self.cleaned_data.get("api_key") and _("another")
            forgotten = self.cleaned_data.get("forget_api_key") and _("forgotten")
            yield Difference(str(self.fields["api_key"].label), _("changed"), typed or forgotten or _("not changed"))


class DrainForm(forms.Form):
    deadline_secs = forms.IntegerField(
        label=gettext_lazy("Deadline (s)"),
        required=False,
        min_value=0,
        max_value=86400,
        widget=AdminIntegerFieldWidget,
        help_text=gettext_lazy(
            "Requests that still run after so many seconds are ended; 0 ends them now. Empty: they may finish."
        ),
    )


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
class EndpointAdmin(CsvExport[Endpoint], CarefulAdmin[Endpoint]):
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
        "reset_breaker",
        "export_csv",
    )
    exported = (
        "id",
        "name",
        "base_url",
        "endpoint_type",
        "status",
        "operator_state",
        "health_check_interval_secs",
        "inference_timeout_secs",
        *LIMITS,
        "capabilities",
        "notes",
        "registered_at",
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
        "learned_slots",
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
            return (None, {"fields": ("name", "base_url", "api_key", "tags", "notes")}), CHECKS, _limits(), CAN
        first = (None, {"fields": ("name", "base_url", "has_api_key", "api_key", "forget_api_key", "tags", "notes")})
        return (
            first,
            CHECKS,
            _limits("learned_slots"),
            CAN,
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

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """As the dashboard tells it: old and new values, the newest first."""
        context = dict(extra_context or {})
        if self._is_id(object_id):
            pages = self.get_paginator(request, edits.entries(object_id), HISTORY_SIZE)
            context["action_list"] = page = pages.get_page(request.GET.get(PAGE_VAR, 1))
            page.object_list = [edits.edit(entry) for entry in page.object_list]
        return super().history_view(request, object_id, context)

    def _ask(self, request: HttpRequest, object_id: str | None) -> Kind | str | None:
        """The type at a new address, a sentence if it cannot be told, None if the address is not new."""
        try:
            url = normalise(request.POST.get("base_url", ""))
        except ValueError:
            return None  # the form says so
        stored = self._stored(object_id)
        if stored is not None and stored.base_url == url:
            return None
        try:
            return operations.detect(url, request.POST.get("api_key") or _key_for(url, stored))
        except Unreachable as error:
            return _("Saved, but it cannot be reached now: %(why)s.") % {"why": error}
        except Unsupported as error:
            return _("Saved, but its type is not known: %(why)s.") % {"why": error}

    def _stored(self, object_id: str | None) -> Endpoint | None:
        if object_id is None or not self._is_id(object_id):
            return None
        return Endpoint.objects.select_related("options").filter(pk=object_id).first()

    def save_model(self, request: HttpRequest, obj: Endpoint, form: EndpointForm, change: bool) -> None:
        """Another address is another server: it gets its own type, and the old secret does not go there."""
        before = Endpoint.objects.select_for_update().filter(pk=obj.pk).first() if change else None
        moves = before is not None and before.moves_to(obj.base_url)
        secret = form.cleaned_data["api_key"] or None
        orphaned = moves and secret is None and self.has_api_key(obj)
        found = request.found_kind  # type: ignore[attr-defined]
        if isinstance(found, Kind):
            if before is not None and before.endpoint_type != found:
                told = {"now": found.label, "before": Kind(before.endpoint_type).label}
                messages.warning(
                    request, _("Another type of server is at this address: %(now)s, not %(before)s.") % told
                )
            obj.endpoint_type = found
        elif found is not None:
            messages.warning(request, found)
        super().save_model(request, obj, form, change)
        if change and isinstance(found, Kind):
            obj.save(update_fields=["endpoint_type"])
        if moves:
            obj.forget_server(secret)
        elif secret is not None or form.cleaned_data.get("forget_api_key"):
            obj.set_api_key(secret)
        options = {name: form.cleaned_data[name] for name in (*LIMITS, "tags") if name in form.changed_data}
        if options:
            obj.set_options(**options)
        if orphaned:
            messages.warning(request, _("The address has changed, so the stored API key was forgotten."))

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Django's, with old and new values beside the names of the fields."""
        told: Any = super().construct_change_message(request, form, formsets, add)
        for part in told if not add else ():
            given = {name: form.cleaned_data.get(name) for name in form.changed_data if name not in edits.LONG}
            part["values"] = {name: [form.initial.get(name), value] for name, value in given.items()}
            part["values"] |= {name: [None, None] for name in form.changed_data if name in edits.LONG}
        return told

    def export_value(self, obj: Endpoint, name: str) -> Any:
        return getattr(obj if hasattr(obj, name) else obj.options_or_default, name)

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
            (
                model.model_id,
                model.canonical_name or "—",
                _number(model.max_tokens) if model.max_tokens else "—",
                ", ".join(str(CAN_WORDS[word]) for word in capabilities.to_store(_can(model))) or "—",
            )
            for model in obj.models.order_by("model_id")[:SHOWN_MODELS]
        ]
        shown = table((_("Model"), _("Canonical name"), _("Context"), _("Capabilities")), rows)
        return shown + every("admin:endpoints_endpointmodel_changelist", obj, _("All models")) if rows else shown

    @admin.display(description=gettext_lazy("slots that the server tells"))
    def learned_slots(self, obj: Endpoint) -> str:
        slots = obj.options_or_default.learned_slots
        return "—" if slots is None else _number(slots)

    @admin.display(description=gettext_lazy("checks"))
    def checks_panel(self, obj: Endpoint) -> SafeString:
        checks = obj.health_checks.order_by("-id")[:SHOWN_CHECKS]
        link = every("admin:endpoints_healthcheck_changelist", obj, _("All checks"))
        return render_to_string("admin/endpoints/endpoint/checks.html", {"checks": checks, "every": link})

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
        back = request.POST.get("next", "")
        return (
            HttpResponseRedirect(back) if isinstance(response, HttpResponseRedirect) and _leads_back(back) else response
        )

    @admin.action(description=gettext_lazy("Test the connection"))
    def run_test(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        chosen = list(queryset)
        for endpoint, result in zip(chosen, operations.test_all(chosen), strict=True):
            if result.success:
                messages.success(request, f"{endpoint.name}: {result.latency_ms} ms")
            else:
                messages.error(request, f"{endpoint.name}: {result.error}")

    @admin.action(description=gettext_lazy("Sync the models"))
    def run_sync(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        chosen = list(queryset)
        for endpoint, result in zip(chosen, operations.sync_all(chosen), strict=True):
            if isinstance(result, Exception):
                messages.error(request, f"{endpoint.name}: {result}")
            else:
                found = len(result.models)
                text = ngettext("%(name)s: %(count)d model", "%(name)s: %(count)d models", found)
                messages.success(request, text % {"name": endpoint.name, "count": found})

    @admin.action(description=gettext_lazy("Enable"))
    def enable(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
        self._set_state(request, queryset, OperatorState.ENABLED, _("Enabled: %(names)s."))

    @admin.action(description=gettext_lazy("Drain: take nothing new, finish what runs"))
    def drain(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> HttpResponse | None:
        """Asks for the deadline first."""
        form = DrainForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask_first(request, queryset, "drain", _("Drain"), form)
        seconds = form.cleaned_data["deadline_secs"]
        said = _("Takes nothing new, finishes what runs: %(names)s.")
        if seconds is not None:
            said = ngettext(
                "Takes nothing new, ends what still runs after %(count)d second: %(names)s.",
                "Takes nothing new, ends what still runs after %(count)d seconds: %(names)s.",
                seconds,
            )
        self._set_state(request, queryset, OperatorState.DRAINING, said, seconds)
        return None

    @admin.action(description=gettext_lazy("Disable"))
    def disable(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> HttpResponse | None:
        """From a list it asks first: there, the wrong ones are easily ticked. A button of an endpoint's page acts."""
        if not ("confirmed" in request.POST or request.POST.get("next")):
            return self._ask_first(request, queryset, "disable", _("Disable"))
        self._set_state(request, queryset, OperatorState.DISABLED, _("Disabled: %(names)s."))
        return None

    @admin.action(description=gettext_lazy("Reset the circuit breaker"))
    def reset_breaker(self, request: HttpRequest, queryset: QuerySet[Endpoint]) -> HttpResponse | None:
        """Asks first: requests go to what failed a moment ago."""
        if "confirmed" not in request.POST:
            return self._ask_first(request, queryset, "reset_breaker", _("Reset the circuit breaker"))
        chosen = list(queryset)
        for endpoint in chosen:
            self.log_change(request, endpoint, edits.message(edits.RESET))
            registry.reset_breaker(str(endpoint.pk))
        names = ", ".join(endpoint.name for endpoint in chosen)
        messages.success(request, _("Circuit breaker reset: %(names)s.") % {"names": names})
        return None

    def _ask_first(
        self,
        request: HttpRequest,
        queryset: QuerySet[Endpoint],
        action: str,
        title: str,
        form: DrainForm | None = None,
    ) -> HttpResponse:
        running, back = registry.in_flight(), request.POST.get("next", "")
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "action": action,
            "form": form,
            "chosen": [(endpoint, running.get(str(endpoint.pk), 0)) for endpoint in queryset],
            "next": back,
            "leads_back": _leads_back(back),
        }
        return TemplateResponse(request, "admin/endpoints/endpoint/asked.html", context)

    def _set_state(
        self,
        request: HttpRequest,
        queryset: QuerySet[Endpoint],
        state: OperatorState,
        said: str,
        seconds: int | None = None,
    ) -> None:
        chosen = list(queryset)
        for endpoint in chosen:
            before = endpoint.options_or_default.operator_state
            endpoint.set_operator_state(state, deadline(seconds))
            self.log_change(request, endpoint, edits.message({edits.STATE: (before, state.value)}))
        names = ", ".join(endpoint.name for endpoint in chosen)
        messages.success(request, said % {"names": names, "count": seconds})


@admin.register(EndpointModel)
class ModelAdmin(FactsAdmin[EndpointModel]):
    """What servers offer. It is brought up to date by syncs: nobody edits it."""

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
        return _linked(obj.endpoint_id)

    @admin.display(description=gettext_lazy("canonical name"))
    def canonical(self, obj: EndpointModel) -> str:
        return obj.canonical_name or "—"

    @admin.display(description=gettext_lazy("context"))
    def context(self, obj: EndpointModel) -> str:
        return _number(obj.max_tokens) if obj.max_tokens else "—"

    @admin.display(description=gettext_lazy("capabilities"))
    def can(self, obj: EndpointModel) -> str:
        return _written(list(_can(obj)))

    @admin.display(description=gettext_lazy("last checked"))
    def checked(self, obj: EndpointModel) -> SafeString:
        return render_to_string("inc/moment.html", {"value": obj.last_checked})


class ChangesFilter(admin.SimpleListFilter):
    """The few checks that changed a status, which have an index of their own."""

    title = gettext_lazy("status")
    parameter_name = "changes"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("only", gettext_lazy("Changes alone"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[HealthCheck]) -> QuerySet[HealthCheck]:
        if not self.value():
            return queryset
        every = Endpoint.objects.values("pk")  # named, so that SQLite goes by the index and not through all checks
        return queryset.exclude(status_before=F("status_after")).filter(endpoint__in=every)


@admin.register(HealthCheck)
class HealthCheckAdmin(FactsAdmin[HealthCheck]):
    list_display = ("checked", "shown_endpoint", "change", "latency", "error")
    list_filter = (EndpointFilter, ChangesFilter)
    ordering = ("-id",)

    @admin.display(description=gettext_lazy("time"))
    def checked(self, obj: HealthCheck) -> SafeString:
        return render_to_string("inc/moment.html", {"value": obj.checked_at})

    @admin.display(description=gettext_lazy("endpoint"))
    def shown_endpoint(self, obj: HealthCheck) -> str:
        return _linked(obj.endpoint_id)

    @admin.display(description=gettext_lazy("status"))
    def change(self, obj: HealthCheck) -> SafeString:
        return render_to_string("inc/change.html", {"check": obj})

    @admin.display(description=gettext_lazy("latency"))
    def latency(self, obj: HealthCheck) -> str:
        return "—" if obj.latency_ms is None else f"{_number(obj.latency_ms)} ms"

    @admin.display(description=gettext_lazy("error"))
    def error(self, obj: HealthCheck) -> str:
        return obj.error_message or ""


def _linked(endpoint_id: Any) -> str:
    page = reverse("admin:endpoints_endpoint_change", args=[endpoint_id])
    return format_html('<a href="{}">{}</a>', page, endpoint_name(endpoint_id))


def _leads_back(url: str) -> bool:
    """Is this a page of ours?"""
    return url_has_allowed_host_and_scheme(url, None)


def _limits(*more: str) -> Any:
    return _("Limits"), {"fields": ("inference_timeout_secs", *LIMITS, *more)}


def _key_for(url: str, stored: Endpoint | None) -> str | None:
    """What to ask at a new address with. The stored secret goes nowhere but to its own server."""
    return None if stored is None or stored.moves_to(url) else operations.secret(stored)


def _words(stored: Any) -> list[str]:
    """Capabilities as they are stored, without what nobody knows."""
    return capabilities.to_store(capabilities.normalise(stored))


def _as_stored(name: str, typed: Any) -> Any:
    """As the save would write it, so that only a difference is one."""
    if name == "capabilities":
        return capabilities.to_store(typed)
    if name == "base_url":
        try:
            return normalise(typed)
        except ValueError:  # which the form says by itself
            return typed
    return typed.strip() if name == "name" else typed


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(CAN_WORDS[word]) for word in _words(value)) or "—"
    return "—" if value in (None, "") else str(value)


def _can(model: EndpointModel) -> tuple[str, ...]:
    return capabilities.normalise(model.capabilities)


def _number(value: int) -> str:
    return number_format(value, force_grouping=True)


def table(head: tuple[object, ...], rows: Sequence[tuple[object, ...]]) -> SafeString:
    """A read-only panel; a dash when there is nothing."""
    if not rows:
        return SafeString("—")
    return format_html(
        '<div class="wide" tabindex="0"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>',
        _cells("th", head),
        format_html_join("", "<tr>{}</tr>", ((_cells("td", row),) for row in rows)),
    )


def every(changelist: str, endpoint: Endpoint, text: str) -> SafeString:
    """Below a panel: the list that has all of it."""
    return format_html('<p><a href="{}?endpoint={}">{}</a></p>', reverse(changelist), endpoint.pk, text)


def _cells(tag: str, row: tuple[object, ...]) -> SafeString:
    return format_html_join("", "<{0}>{1}</{0}>", ((tag, cell) for cell in row))
