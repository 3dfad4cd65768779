"""Pages that add endpoints, discover servers on this machine, and act on several endpoints at once."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.cache import never_cache
from rest_framework.exceptions import ValidationError

from endpoints import api, clouds, discovery, edit_log, operations
from endpoints.clouds import environment
from endpoints.clouds.kinds import KIND_CHOICES
from endpoints.forms import AddForm
from endpoints.models import Endpoint, OperatorState, deadline
from endpoints.page_parts import REFUSED, wants_part
from endpoints.registry import registry

View = Callable[..., HttpResponse]

DEADLINES = (None, 0, 60, 300, 1800)  # choices of a drain deadline in seconds on the confirmation page
NAMED = 5  # endpoints that a message lists by name


def for_administrators(view: View) -> View:
    """Restrict a view to administrators. Viewers see no button for it, and get a 403 if they open its URL."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        if not request.user.is_staff:
            raise PermissionDenied
        return view(request, *args, **options)

    return never_cache(login_required(checked))


def is_local_url(url: str) -> bool:
    """Return True if the URL is a page of this host."""
    return url_has_allowed_host_and_scheme(url, None)


# Adding


@for_administrators
def add(request: HttpRequest) -> HttpResponse:
    """Show the form (GET, with `base_url` filled in) or add the endpoint (POST).

    With `look`, POST only queries the server and stores nothing.
    """
    if request.method != "POST":
        form = AddForm(initial={"base_url": request.GET.get("base_url", "")})
        return _add_page(request, form, request.GET.get("next", ""))
    form = AddForm(request.POST)
    server = added = None
    if form.is_valid():
        if "look" in request.POST:
            server = _call_api(form, lambda: api.inspect_server(form.entered()))
        else:
            added = _call_api(form, lambda: api.create(request, form.entered()))
    if wants_part(request):
        return _added_in_place(request, form, added)
    back = request.POST.get("next", "")
    if added is None:
        return _add_page(request, form, back, server)
    messages.success(request, _("%(name)s was added.") % {"name": added.name})
    return HttpResponseRedirect(back if is_local_url(back) else reverse("endpoint", args=[added.pk]))


def _add_page(request: HttpRequest, form: AddForm, back: str, server: Any = None) -> HttpResponse:
    context = {
        "form": form,
        "next": back,
        "server_info": server,
        "kinds": {value: str(label) for value, label in KIND_CHOICES},
        "addresses": dict(clouds.ADDRESSES),
    }
    return render(request, "endpoints/add.html", context)


def _call_api(form: AddForm, call: Callable[[], Any]) -> Any:
    """Return the result of the API's code; None after an error, which is added to the form."""
    try:
        return call()
    except ValidationError as error:
        form.refuse(error)
    except api.ErrorResponse as error:
        form.add_error("base_url", str(error.detail))
    return None


def _added_in_place(request: HttpRequest, form: AddForm, added: Endpoint | None) -> HttpResponse:
    """Return a fragment for the servers on an open page: the new line, or an error next to the pressed button."""
    if added is not None:
        return render(request, "discover/server_added.html", {"endpoint": added})
    return render(request, "discover/server_refused.html", {"form": form}, status=REFUSED)


@for_administrators
def discover(request: HttpRequest) -> HttpResponse:
    """Show servers on this machine. Only POST queries the ports, so that a link on another page cannot trigger it."""
    places = discovery.discover() if request.method == "POST" else None
    back = request.POST.get("next", "")
    silent = [place for place in places or () if not place.listens and place.registered is None]
    context = {
        "places": places,
        "silent": silent,
        "clouds": environment.offers(settings.ROUTERDASH) if places is not None else (),
        "next": back if is_local_url(back) else "",
    }
    return render(request, "discover/servers.html" if wants_part(request) else "discover/page.html", context)


@for_administrators
def discover_cloud(request: HttpRequest) -> HttpResponse:
    """Add a cloud with its API key of the environment."""
    if request.method != "POST":
        return redirect("discover")
    try:
        added = api.create_from_environment(request, request.POST.get("cloud_type", ""))
    except api.ErrorResponse as error:
        if wants_part(request):
            form = {"errors": {"": [str(error.detail)]}}
            return render(request, "discover/server_refused.html", {"form": form}, status=REFUSED)
        messages.error(request, str(error.detail))
        return redirect("discover")
    if wants_part(request):
        return render(request, "discover/server_added.html", {"endpoint": added})
    messages.success(request, _("%(name)s was added.") % {"name": added.name})
    return redirect("endpoint", added.pk)


# Several endpoints at once


@for_administrators
def act(request: HttpRequest) -> HttpResponse:
    """Run an action on the chosen endpoints.

    Actions that change routing, except for enabling, need a confirmation. GET redirects to the list: a language switch
    or a login on the confirmation page leads to it.
    """
    if request.method != "POST":
        return redirect("endpoints")
    action, back = request.POST.get("action", ""), request.POST.get("next", "")
    chosen = list(Endpoint.objects.select_related("options").filter(pk__in=_ids(request)).order_by("name"))
    here = redirect(back if is_local_url(back) else reverse("endpoints"))
    if action not in _ACTIONS or not chosen:
        messages.warning(request, _("Choose an action and at least one endpoint."))
        return here
    if action in _CONFIRMED_ACTIONS and "confirmed" not in request.POST:
        running = registry.in_flight()
        rows = [(endpoint, registry.get(str(endpoint.pk)), running.get(str(endpoint.pk), 0)) for endpoint in chosen]
        context = {
            "action": action,
            "title": _CONFIRMED_ACTIONS[action],
            "rows": rows,
            "running": sum(count for *_endpoint, count in rows),
            "deadlines": DEADLINES,
            "next": back,
            "back": here.url,
        }
        return render(request, "endpoints/confirm.html", context)
    _ACTIONS[action](request, chosen)
    return here


def _test(request: HttpRequest, chosen: list[Endpoint]) -> None:
    results = operations.test_all(chosen)
    failed = [endpoint.name for endpoint, result in zip(chosen, results, strict=True) if not result.success]
    _report_success(
        request,
        len(chosen) - len(failed),
        ngettext("%(count)d endpoint responded.", "%(count)d endpoints responded.", len(chosen) - len(failed)),
    )
    if failed:
        messages.error(request, _("These endpoints did not respond correctly: %(names)s") % {"names": names(failed)})


def _sync(request: HttpRequest, chosen: list[Endpoint]) -> None:
    results = operations.sync_all(chosen)
    failed = [endpoint.name for endpoint, result in zip(chosen, results, strict=True) if isinstance(result, Exception)]
    done = len(chosen) - len(failed)
    _report_success(
        request,
        done,
        ngettext(
            "The models of %(count)d endpoint are up to date.",
            "The models of %(count)d endpoints are up to date.",
            done,
        ),
    )
    if failed:
        messages.error(
            request, _("The model lists of these endpoints could not be read: %(names)s") % {"names": names(failed)}
        )


def _report_success(request: HttpRequest, count: int, text: str) -> None:
    if count:
        messages.success(request, text % {"count": count})


def _enable(request: HttpRequest, chosen: list[Endpoint]) -> None:
    _set_state(request, chosen, OperatorState.ENABLED, _("Enabled: %(names)s"))


def _drain(request: HttpRequest, chosen: list[Endpoint]) -> None:
    text = request.POST.get("deadline_secs", "")
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else None
    _set_state(request, chosen, OperatorState.DRAINING, _("Draining started: %(names)s"), seconds)


def _disable(request: HttpRequest, chosen: list[Endpoint]) -> None:
    _set_state(request, chosen, OperatorState.DISABLED, _("Disabled: %(names)s"))


def _set_state(
    request: HttpRequest, chosen: list[Endpoint], state: OperatorState, message: str, seconds: int | None = None
) -> None:
    """Set the administrative state of endpoints, and log the edit as the admin does."""
    with transaction.atomic():
        for endpoint in chosen:
            before = endpoint.options_or_default.operator_state
            endpoint.set_operator_state(state, deadline(seconds))
            edit_log.note_state(request, endpoint, before, state)
    messages.success(request, message % {"names": names(endpoint.name for endpoint in chosen)})


def _reset_breaker(request: HttpRequest, chosen: list[Endpoint]) -> None:
    with transaction.atomic():
        for endpoint in chosen:
            edit_log.note_reset(request, endpoint)
    for endpoint in chosen:
        registry.reset_breaker(str(endpoint.pk))
    listed = names(endpoint.name for endpoint in chosen)
    messages.success(request, _("Circuit breaker reset: %(names)s") % {"names": listed})


_ACTIONS: dict[str, Callable[[HttpRequest, list[Endpoint]], None]] = {
    "test": _test,
    "sync": _sync,
    "enable": _enable,
    "drain": _drain,
    "disable": _disable,
    "reset_breaker": _reset_breaker,
}
# Actions that need a confirmation, with the title of its page.
_CONFIRMED_ACTIONS = {
    "drain": gettext_lazy("Drain"),
    "disable": gettext_lazy("Disable"),
    "reset_breaker": gettext_lazy("Reset circuit breaker"),
}


def names(endpoint_names: Iterable[str]) -> str:
    """Return the first names and the number of others; a message must be short, because a cookie carries it."""
    all_names = list(endpoint_names)
    shown, more = ", ".join(all_names[:NAMED]), len(all_names) - NAMED
    if more <= 0:
        return shown
    return ngettext("%(names)s and %(count)d more", "%(names)s and %(count)d more", more) % {
        "names": shown,
        "count": more,
    }


def _ids(request: HttpRequest) -> list[UUID]:
    ids = []
    for text in request.POST.getlist("endpoint"):
        try:
            ids.append(UUID(text))
        except ValueError:
            continue
    return ids


URLS = [
    path("endpoints/add", add, name="endpoint-add"),
    path("endpoints/discover", discover, name="discover"),
    path("endpoints/discover/cloud", discover_cloud, name="discover-cloud"),
    path("endpoints/act", act, name="endpoints-act"),
]
