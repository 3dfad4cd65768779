"""Pages of limits for administrators: a list, and forms for everyone, a user, a key, and several keys at once."""

from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from access.directory import is_uuid
from access.limits.api import EVERYONE, subject_names
from access.limits.form import LimitsInput
from access.limits.gauges import Use, panel_of, spent_now
from access.limits.listed import LimitedSubjects
from access.limits.reading import read_limits
from access.limits.rules import MAX_KEYS
from access.limits.storing import InvalidLimits, store_limits, stored_limits
from access.limits.tables import LEVEL_LABELS
from access.models import ApiKey
from endpoints.lists.page_links import PageLinks
from endpoints.views import for_administrators
from gateway.registry.limits import KEY_LEVEL, NO_LIMITS, USER_LEVEL, Subject

PAGE = 100  # subjects
OFFERED_SOURCES = 200  # keys whose limits can be copied


@for_administrators
def limits(request: HttpRequest, use: Use) -> HttpResponse:
    """List everyone's limits, and all keys and users with limits, with their present use."""
    page = Paginator(LimitedSubjects(), PAGE).get_page(request.GET.get("page"))
    subjects = list(page)
    facts, names, spent = read_limits(subjects), subject_names(subjects), spent_now().spent
    rows = [
        {
            "panel": panel_of(subject, facts.get(subject, NO_LIMITS), use, spent),
            "name": names.get(subject, ""),
            "url": _form_url(subject),
        }
        for subject in subjects
        if subject == EVERYONE or subject in names
    ]
    pages = PageLinks.of(page, lambda page: urlencode({"page": page}))
    return render(request, "limits/page.html", {"rows": rows, "page": page, "pages": pages})


def _form_url(subject: Subject) -> str:
    if subject == EVERYONE:
        return reverse("limits-everyone")
    return reverse(f"limits-{subject[0]}", args=[subject[1]])


@for_administrators
def of_everyone(request: HttpRequest) -> HttpResponse:
    """Show and change the limits of everyone."""
    return _form(request, [EVERYONE], str(LEVEL_LABELS[EVERYONE[0]]), reverse("limits"))


@for_administrators
def of_user(request: HttpRequest, user_id: UUID) -> HttpResponse:
    """Show and change the limits of a user."""
    return _form_of(request, (USER_LEVEL, str(user_id)), reverse("admin:access_user_change", args=[user_id]))


@for_administrators
def of_key(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Show and change the limits of an API key."""
    return _form_of(request, (KEY_LEVEL, str(key_id)), reverse("admin:access_apikey_change", args=[key_id]))


@for_administrators
def of_keys(request: HttpRequest) -> HttpResponse:
    """Change the limits of several API keys at once, as entered or copied from another key."""
    ids = [text for text in request.GET.get("ids", "").split(",") if is_uuid(text)][:MAX_KEYS]
    subjects = [(KEY_LEVEL, text) for text in dict.fromkeys(ids)]
    names = subject_names(subjects)
    if not names:
        return redirect("limits")
    chosen = [subject for subject in subjects if subject in names]
    text = ngettext("%(count)d API key: %(names)s", "%(count)d API keys: %(names)s", len(chosen))
    named = text % {"count": len(chosen), "names": ", ".join(names[subject] for subject in chosen)}
    return _form(request, chosen, named, reverse("admin:access_apikey_changelist"))


def _form_of(request: HttpRequest, subject: Subject, back: str) -> HttpResponse:
    name = subject_names([subject]).get(subject)
    if name is None:
        raise Http404
    return _form(request, [subject], name, back)


def _form(request: HttpRequest, subjects: list[Subject], name: str, back: str) -> HttpResponse:
    """Show the form, or store the limits of all subjects; `back` is the page after that."""
    source = request.GET.get("from", "")
    shown = (KEY_LEVEL, source) if is_uuid(source) else subjects[0] if len(subjects) == 1 else None
    facts = NO_LIMITS if shown is None else stored_limits(shown)
    form = LimitsInput(facts, request.POST if request.method == "POST" else None)
    if request.method == "POST" and (entered := form.facts()) is not None:
        try:
            with transaction.atomic():
                changed = sum(store_limits(request, subject, entered) for subject in subjects)
        except InvalidLimits as error:
            form.refuse(error)
        except IntegrityError:
            messages.error(request, _("The limits were saved by somebody else at the same time."))
        else:
            _report(request, changed)
            return redirect(back)
    context = {"form": form, "name": name, "level": subjects[0][0], "back": back, "several": len(subjects) > 1}
    return render(request, "limits/form.html", {**context, "sources": _sources(), "source": source})


def _sources() -> list[tuple[str, str]]:
    """Return id and name of keys whose limits can be copied."""
    subjects = LimitedSubjects(KEY_LEVEL)[:OFFERED_SOURCES]
    ids = [subject_id for _level, subject_id in subjects if is_uuid(subject_id)]
    return [
        (str(pk), name) for pk, name in ApiKey.objects.filter(pk__in=ids).order_by("name").values_list("pk", "name")
    ]


def _report(request: HttpRequest, changed: int) -> None:
    text = ngettext(
        "The limits of %(count)d key or user were changed.",
        "The limits of %(count)d keys or users were changed.",
        changed,
    )
    messages.success(request, text % {"count": changed})
