"""The pages that add endpoints, look for servers on this machine, and act on many endpoints at once."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any
from uuid import UUID

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

from endpoints import api, discovery, edits, operations
from endpoints.forms import AddForm
from endpoints.models import Endpoint, Kind, OperatorState, deadline
from endpoints.registry import registry

View = Callable[..., HttpResponse]

DEADLINES = (None, 0, 60, 300, 1800)  # seconds that a drain may be given, on the page that asks
NAMED = 5  # of many endpoints, in a sentence


def for_administrators(view: View) -> View:
    """Viewers read; they get no button that leads here, and a 403 if they come all the same."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        if not request.user.is_staff:
            raise PermissionDenied
        return view(request, *args, **options)

    return never_cache(login_required(checked))


def is_htmx(request: HttpRequest) -> bool:
    """Does a script put the answer into an open page? One that goes back in its history wants all of it."""
    return "HX-Request" in request.headers and "HX-History-Restore-Request" not in request.headers


def leads_back(url: str) -> bool:
    """Is this a page of ours?"""
    return url_has_allowed_host_and_scheme(url, None)


# Adding


@for_administrators
def add(request: HttpRequest) -> HttpResponse:
    """GET: the form, filled in by `base_url`. POST adds it; with `look` it is asked alone, and nothing is stored."""
    if request.method != "POST":
        form = AddForm(initial={"base_url": request.GET.get("base_url", "")})
        return _add_page(request, form, request.GET.get("next", ""))
    form = AddForm(request.POST)
    looked = added = None
    if form.is_valid():
        if "look" in request.POST:
            looked = _told(form, lambda: api.look(form.given()))
        else:
            added = _told(form, lambda: api.create(request, form.given()))
    if is_htmx(request):
        return _added_in_place(request, form, added)
    back = request.POST.get("next", "")
    if added is None:
        return _add_page(request, form, back, looked)
    messages.success(request, _("Added: %(name)s.") % {"name": added.name})
    return HttpResponseRedirect(back if leads_back(back) else reverse("endpoint", args=[added.pk]))


def _add_page(request: HttpRequest, form: AddForm, back: str, looked: Any = None) -> HttpResponse:
    kinds = {value: str(label) for value, label in Kind.choices}
    return render(request, "endpoint_add.html", {"form": form, "next": back, "looked": looked, "kinds": kinds})


def _told(form: AddForm, ask: Callable[[], Any]) -> Any:
    """What the API's own code answers; None where it refuses, which then stands beside the fields."""
    try:
        return ask()
    except ValidationError as error:
        form.refuse(error)
    except api.Failed as error:
        form.add_error("base_url", str(error.detail))
    return None


def _added_in_place(request: HttpRequest, form: AddForm, added: Endpoint | None) -> HttpResponse:
    """For the list of servers of an open page: the new line, or a sentence beside what was pressed."""
    if added is not None:
        return render(request, "inc/found_added.html", {"endpoint": added})
    response = render(request, "inc/found_refused.html", {"form": form})
    response["HX-Retarget"] = "[data-refused]"
    response["HX-Reswap"] = "innerHTML"
    return response


@for_administrators
def discover(request: HttpRequest) -> HttpResponse:
    """The ports are asked by POST alone: a link on another page must not make RouterDash knock anywhere."""
    places = discovery.discover() if request.method == "POST" else None
    back = request.POST.get("next", "")
    silent = [place for place in places or () if not place.listens and place.registered is None]
    context = {"places": places, "silent": silent, "next": back if leads_back(back) else ""}
    return render(request, "inc/found.html" if is_htmx(request) else "discover.html", context)


# Many at once


@for_administrators
def act(request: HttpRequest) -> HttpResponse:
    """Do one thing to the chosen endpoints. What changes where requests go, but for enabling, asks first. GET leads to
    the list: who switches the language of the question, or had to log in for it, comes by that.
    """
    if request.method != "POST":
        return redirect("endpoints")
    action, back = request.POST.get("action", ""), request.POST.get("next", "")
    chosen = list(Endpoint.objects.select_related("options").filter(pk__in=_ids(request)).order_by("name"))
    here = redirect(back if leads_back(back) else reverse("endpoints"))
    if action not in _ACTIONS or not chosen:
        messages.warning(request, _("Choose at least one endpoint, and what to do."))
        return here
    if action in _ASKED and "confirmed" not in request.POST:
        running = registry.in_flight()
        rows = [(endpoint, registry.get(str(endpoint.pk)), running.get(str(endpoint.pk), 0)) for endpoint in chosen]
        context = {
            "action": action,
            "title": _ASKED[action],
            "rows": rows,
            "running": sum(count for *_endpoint, count in rows),
            "deadlines": DEADLINES,
            "next": back,
            "back": here.url,
        }
        return render(request, "endpoints_confirm.html", context)
    _ACTIONS[action](request, chosen)
    return here


def _test(request: HttpRequest, chosen: list[Endpoint]) -> None:
    results = operations.test_all(chosen)
    failed = [endpoint.name for endpoint, result in zip(chosen, results, strict=True) if not result.success]
    _say(
        request,
        len(chosen) - len(failed),
        ngettext("%(count)d endpoint answered.", "%(count)d endpoints answered.", len(chosen) - len(failed)),
    )
    if failed:
        messages.error(request, _("No good answer from: %(names)s.") % {"names": names(failed)})


def _sync(request: HttpRequest, chosen: list[Endpoint]) -> None:
    results = operations.sync_all(chosen)
    failed = [endpoint.name for endpoint, result in zip(chosen, results, strict=True) if isinstance(result, Exception)]
    done = len(chosen) - len(failed)
    _say(
        request,
        done,
        ngettext(
            "The models of %(count)d endpoint are up to date.",
            "The models of %(count)d endpoints are up to date.",
            done,
        ),
    )
    if failed:
        messages.error(request, _("No list of models from: %(names)s.") % {"names": names(failed)})


def _say(request: HttpRequest, count: int, text: str) -> None:
    if count:
        messages.success(request, text % {"count": count})


def _enable(request: HttpRequest, chosen: list[Endpoint]) -> None:
    _set_state(request, chosen, OperatorState.ENABLED, _("Enabled: %(names)s."))


def _drain(request: HttpRequest, chosen: list[Endpoint]) -> None:
    asked = request.POST.get("deadline_secs", "")
    seconds = int(asked) if asked.isascii() and asked.isdigit() and len(asked) <= 5 else None
    _set_state(request, chosen, OperatorState.DRAINING, _("Draining: %(names)s."), seconds)


def _disable(request: HttpRequest, chosen: list[Endpoint]) -> None:
    _set_state(request, chosen, OperatorState.DISABLED, _("Disabled: %(names)s."))


def _set_state(
    request: HttpRequest, chosen: list[Endpoint], state: OperatorState, said: str, seconds: int | None = None
) -> None:
    """As the admin does it, its log included."""
    with transaction.atomic():
        for endpoint in chosen:
            before = endpoint.options_or_default.operator_state
            endpoint.set_operator_state(state, deadline(seconds))
            edits.note_state(request, endpoint, before, state)
    messages.success(request, said % {"names": names(endpoint.name for endpoint in chosen)})


def _reset_breaker(request: HttpRequest, chosen: list[Endpoint]) -> None:
    with transaction.atomic():
        for endpoint in chosen:
            edits.note_reset(request, endpoint)
    for endpoint in chosen:
        registry.reset_breaker(str(endpoint.pk))
    told = names(endpoint.name for endpoint in chosen)
    messages.success(request, _("Circuit breaker reset: %(names)s.") % {"names": told})


_ACTIONS: dict[str, Callable[[HttpRequest, list[Endpoint]], None]] = {
    "test": _test,
    "sync": _sync,
    "enable": _enable,
    "drain": _drain,
    "disable": _disable,
    "reset_breaker": _reset_breaker,
}
# Those that ask first, by what their page is called.
_ASKED = {
    "drain": gettext_lazy("Drain"),
    "disable": gettext_lazy("Disable"),
    "reset_breaker": gettext_lazy("Reset the circuit breaker"),
}


def names(found: Iterable[str]) -> str:
    """The first few, and how many more there are: a message travels in a cookie."""
    every = list(found)
    shown, more = ", ".join(every[:NAMED]), len(every) - NAMED
    if more <= 0:
        return shown
    return ngettext("%(names)s and %(count)d more", "%(names)s and %(count)d more", more) % {
        "names": shown,
        "count": more,
    }


def _ids(request: HttpRequest) -> list[UUID]:
    found = []
    for text in request.POST.getlist("endpoint"):
        try:
            found.append(UUID(text))
        except ValueError:
            continue
    return found


URLS = [
    path("endpoints/add", add, name="endpoint-add"),
    path("endpoints/discover", discover, name="discover"),
    path("endpoints/act", act, name="endpoints-act"),
]
