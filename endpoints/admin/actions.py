"""Actions of administrators on endpoints: test, sync, enable, drain, disable, reset the circuit breaker."""

from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from endpoints import causes, edit_log, operations
from endpoints.admin.form import DrainForm
from endpoints.models import (
    Endpoint,
    OperatorState,
    deadline,
)
from endpoints.registry import registry


@admin.action(description=gettext_lazy("Test connection"))
def run_test(model_admin: ModelAdmin[Endpoint], request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
    chosen = list(queryset)
    for endpoint, result in zip(chosen, operations.test_all(chosen), strict=True):
        if result.success:
            messages.success(request, f"{endpoint.name}: {result.latency_ms} ms")
        else:
            messages.error(request, f"{endpoint.name}: {causes.shown(result.error)}")


@admin.action(description=gettext_lazy("Sync models"))
def run_sync(model_admin: ModelAdmin[Endpoint], request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
    chosen = list(queryset)
    for endpoint, result in zip(chosen, operations.sync_all(chosen), strict=True):
        if isinstance(result, Exception):
            messages.error(request, f"{endpoint.name}: {causes.shown(result)}")
        else:
            count = len(result.models)
            text = ngettext("%(name)s: %(count)d model", "%(name)s: %(count)d models", count)
            messages.success(request, text % {"name": endpoint.name, "count": count})


@admin.action(description=gettext_lazy("Enable"))
def enable(model_admin: ModelAdmin[Endpoint], request: HttpRequest, queryset: QuerySet[Endpoint]) -> None:
    _set_state(model_admin, request, queryset, OperatorState.ENABLED, _("Enabled: %(names)s"))


@admin.action(description=gettext_lazy("Drain: stop new requests, finish the running ones"))
def drain(model_admin: ModelAdmin[Endpoint], request: HttpRequest, queryset: QuerySet[Endpoint]) -> HttpResponse | None:
    """Drain endpoints. A page requests the deadline first."""
    form = DrainForm(request.POST if "confirmed" in request.POST else None)
    if not form.is_valid():
        return _ask_first(model_admin, request, queryset, "drain", _("Drain"), form)
    seconds = form.cleaned_data["deadline_secs"]
    text = _("No new requests are sent; running requests may finish: %(names)s")
    if seconds is not None:
        text = ngettext(
            "No new requests are sent; running requests are ended after %(count)d second: %(names)s",
            "No new requests are sent; running requests are ended after %(count)d seconds: %(names)s",
            seconds,
        )
    _set_state(model_admin, request, queryset, OperatorState.DRAINING, text, seconds)
    return None


@admin.action(description=gettext_lazy("Disable"))
def disable(
    model_admin: ModelAdmin[Endpoint], request: HttpRequest, queryset: QuerySet[Endpoint]
) -> HttpResponse | None:
    """Disable endpoints. A list needs a confirmation, because a wrong row is easily ticked; a button acts at once."""
    if not ("confirmed" in request.POST or request.POST.get("next")):
        return _ask_first(model_admin, request, queryset, "disable", _("Disable"))
    _set_state(model_admin, request, queryset, OperatorState.DISABLED, _("Disabled: %(names)s"))
    return None


@admin.action(description=gettext_lazy("Reset circuit breaker"))
def reset_breaker(
    model_admin: ModelAdmin[Endpoint], request: HttpRequest, queryset: QuerySet[Endpoint]
) -> HttpResponse | None:
    """Reset circuit breakers after a confirmation, because requests then go to endpoints that have just failed."""
    if "confirmed" not in request.POST:
        return _ask_first(model_admin, request, queryset, "reset_breaker", _("Reset circuit breaker"))
    chosen = list(queryset)
    for endpoint in chosen:
        model_admin.log_change(request, endpoint, edit_log.message(edit_log.RESET))
        registry.reset_breaker(str(endpoint.pk))
    names = ", ".join(endpoint.name for endpoint in chosen)
    messages.success(request, _("Circuit breaker reset: %(names)s") % {"names": names})
    return None


def _ask_first(
    model_admin: ModelAdmin[Endpoint],
    request: HttpRequest,
    queryset: QuerySet[Endpoint],
    action: str,
    title: str,
    form: DrainForm | None = None,
) -> HttpResponse:
    running, back = registry.in_flight(), request.POST.get("next", "")
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": title,
        "action": action,
        "form": form,
        "chosen": [(endpoint, running.get(str(endpoint.pk), 0)) for endpoint in queryset],
        "next": back,
        "next_is_local": is_local_page(back),
    }
    return TemplateResponse(request, "admin/endpoints/endpoint/confirm_action.html", context)


def _set_state(
    model_admin: ModelAdmin[Endpoint],
    request: HttpRequest,
    queryset: QuerySet[Endpoint],
    state: OperatorState,
    text: str,
    seconds: int | None = None,
) -> None:
    chosen = list(queryset)
    for endpoint in chosen:
        before = endpoint.options_or_default.operator_state
        endpoint.set_operator_state(state, deadline(seconds))
        model_admin.log_change(request, endpoint, edit_log.message({edit_log.STATE: (before, state.value)}))
    names = ", ".join(endpoint.name for endpoint in chosen)
    messages.success(request, text % {"names": names, "count": seconds})


def is_local_page(url: str) -> bool:
    """Return True if the URL is a page of this host."""
    return url_has_allowed_host_and_scheme(url, None)
