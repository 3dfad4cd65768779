"""Pages of a user's own API keys: list, form for a new key, and confirmation of a deletion."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import count
from typing import Any, NotRequired, TypedDict, cast
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from rest_framework.exceptions import ValidationError

from access.api import make, own_keys, rotate
from access.keys.form import EXTERNAL_HELP, ApiKeyForm
from access.keys.rules import FIELDS, read_rules
from access.keys.use import uses_of
from access.limits.gauges import Use, panels_of_key
from access.models import DISABLED_BY_ADMIN, PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User
from access.permissions import EFFECTS
from access.snippets import chat_models, first_model
from endpoints.lists.page_links import PageLinks
from endpoints.page_parts import wants_part
from endpoints.registry import registry
from gateway.dialects.openai_requests import MAX_MODEL_NAME

USED_DAYS = 30
PAGE = 100  # keys
LISTED_MODELS = 200  # that the page of clients offers

Used = Callable[[Sequence[str], date], Mapping[str, Mapping[str, Any]]]  # metrics.queries.api_keys.keys_used

OVERLAPS = (
    ("3600", gettext_lazy("In an hour")),
    ("86400", gettext_lazy("In a day")),
    ("604800", gettext_lazy("In 7 days")),
    ("2592000", gettext_lazy("In 30 days")),
    ("0", gettext_lazy("At once")),
)

EXPIRIES = (
    ("", gettext_lazy("Never")),
    ("7", gettext_lazy("In 7 days")),
    ("30", gettext_lazy("In 30 days")),
    ("90", gettext_lazy("In 90 days")),
    ("365", gettext_lazy("In a year")),
)


class NewKey(TypedDict):
    """Fields of a key that a person creates."""

    name: str
    permissions: NotRequired[list[str]]
    expires_at: NotRequired[datetime]
    external: NotRequired[bool]


class KeyForm(forms.Form):
    """Form for a new API key. Viewers cannot choose permissions: their keys always get the two of OpenAI clients."""

    name = forms.CharField(
        label=gettext_lazy("Name"), max_length=200, widget=forms.TextInput({"class": "input", "autocomplete": "off"})
    )
    expires = forms.ChoiceField(
        label=gettext_lazy("Expires"),
        choices=EXPIRIES,
        required=False,
        widget=forms.Select({"class": "input"}),
    )
    permissions = forms.MultipleChoiceField(
        label=gettext_lazy("Permissions"),
        choices=[(name, format_lazy("{} – {}", name, allows)) for name, allows in EFFECTS.items()],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )
    external = forms.BooleanField(
        label=gettext_lazy("May use external endpoints"), required=False, help_text=EXTERNAL_HELP
    )

    def __init__(self, owner: User, *args: Any, **options: Any) -> None:
        options.setdefault("initial", {"name": _free_name(owner), "permissions": VIEWER_PERMISSIONS})
        super().__init__(*args, **options)
        self.owner = owner
        if not owner.is_admin:
            del self.fields["permissions"], self.fields["external"]

    def make(self) -> tuple[ApiKey, str] | None:
        """Create the key; return its row and the key itself.

        If the API rejects the input, return None and add the errors to the fields.
        """
        if not self.is_valid():
            return None
        try:
            return make(self.owner, self._input())
        except ValidationError as error:
            for name, texts in cast("dict[str, Any]", error.detail).items():
                for text in texts if isinstance(texts, list) else [texts]:
                    self.add_error(name if name in self.fields else None, str(text))
        return None

    def _input(self) -> NewKey:
        values: NewKey = {"name": self.cleaned_data["name"]}
        if self.owner.is_admin:
            values["permissions"] = self.cleaned_data["permissions"] or list(VIEWER_PERMISSIONS)
            values["external"] = self.cleaned_data["external"]
        if days := self.cleaned_data["expires"]:
            values["expires_at"] = timezone.now() + timedelta(days=int(days))
        return values


def _free_name(owner: User) -> str:
    """Return an unused name as the default, so that one click is enough to create a key."""
    stem = _("my laptop")
    taken = set(own_keys(owner).filter(name__startswith=stem).values_list("name", flat=True))
    return stem if stem not in taken else next(name for number in count(2) if (name := f"{stem} {number}") not in taken)


@never_cache
@login_required
def keys(request: HttpRequest, used: Used) -> HttpResponse:
    """Show the keys, and create one on POST. The new key is in this response only, in no cookie and no redirect."""
    owner = request.user
    assert isinstance(owner, User)
    created = None
    form = KeyForm(owner, request.POST) if request.method == "POST" else KeyForm(owner)
    if request.method == "POST":
        created = form.make()
        if wants_part(request):
            return render(request, "first_run/key_created.html", {"made": created, "form": form})
    since = datetime.now(settings.ROUTERDASH.zone).date() - timedelta(days=USED_DAYS - 1)
    page = Paginator(own_keys(owner), PAGE).get_page(request.GET.get("page"))
    rows = list(page)
    values = used([str(row.pk) for row in rows], since) if rows else {}
    uses = uses_of([row.pk for row in rows])
    context = {
        "form": KeyForm(owner) if created else form,
        "made": created,
        "rows": [(row, values[str(row.pk)], uses[str(row.pk)]) for row in rows],
        "page": page,
        "pages": PageLinks.of(page, lambda page: urlencode({"page": page})),
        "days": USED_DAYS,
        "most": len(PERMISSIONS),
        "now": timezone.now(),
    }
    return render(request, "keys/page.html", context)


@login_required
def connect(request: HttpRequest) -> HttpResponse:
    """Show the settings of clients, with a model of the fleet or the one that the query names, and without a key."""
    names = chat_models()[:LISTED_MODELS]
    model = request.GET.get("model", "").strip()[:MAX_MODEL_NAME]
    return render(request, "keys/connect.html", {"model": model or first_model() or "", "names": names})


@login_required
def key(request: HttpRequest, key_id: UUID, use: Use) -> HttpResponse:
    """Show a key of the user, its restrictions and limits with their use, and forms to change it."""
    row = _own_row(request, key_id)
    context = {
        "row": row,
        "use": uses_of([row.pk])[str(row.pk)],
        "rules": _restrictions(row),
        "panels": panels_of_key(row, use),
        "now": timezone.now(),
        "may_enable": row.may_enable(cast(User, request.user)),
    }
    return render(request, "keys/key.html", context)


def _restrictions(row: ApiKey) -> list[tuple[str, Sequence[str]]]:
    """Return the labels of the restrictions of a key, each with its entries; endpoints by their names."""
    rules = read_rules(row.rules)
    if rules is None:
        return []
    entries = {name: getattr(rules, name) for name in FIELDS}
    entries["endpoints"] = [registry.name(pk) or pk for pk in entries["endpoints"]]
    return [(str(ApiKeyForm.base_fields[name].label), allowed) for name, allowed in entries.items() if allowed]


class RotationForm(forms.Form):
    """How long the old value of a key stays valid."""

    overlap = forms.ChoiceField(
        label=gettext_lazy("The old key expires"),
        choices=OVERLAPS,
        initial="86400",
        widget=forms.Select({"class": "input"}),
    )


@never_cache
@login_required
def rotation(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Show the confirmation on GET, and replace the key on POST. The new one is in that response only."""
    row = _own_row(request, key_id)
    form = RotationForm(request.POST or None)
    made = None
    if request.method == "POST" and form.is_valid():
        try:
            made = row, rotate(row, timedelta(seconds=int(form.cleaned_data["overlap"])))
        except ValidationError as error:
            for text in cast("dict[str, list[str]]", error.detail)["non_field_errors"]:
                form.add_error(None, str(text))
    return render(request, "keys/rotate.html", {"row": row, "form": form, "made": made})


@require_POST
@login_required
def enabled(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Enable or disable a key. One that an administrator disabled is not enabled (403)."""
    row = _own_row(request, key_id)
    user, wanted = cast(User, request.user), request.POST.get("enabled") == "true"
    if wanted and not row.may_enable(user):
        return render(request, "keys/disabled.html", {"row": row, "reason": DISABLED_BY_ADMIN}, status=403)
    row.save(update_fields=row.set_enabled(user, enabled=wanted))
    text = _("Enabled: %(name)s") if row.enabled else _("Disabled: %(name)s")
    messages.success(request, text % {"name": row.name})
    return redirect("key", row.pk)


def _own_row(request: HttpRequest, key_id: UUID) -> ApiKey:
    """Return an API key of the user. Raises Http404."""
    assert isinstance(request.user, User)
    return get_object_or_404(own_keys(request.user), pk=key_id)


@never_cache
@login_required
def delete(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Show the confirmation on GET, and delete the key on POST."""
    row = _own_row(request, key_id)
    if request.method != "POST":
        return render(request, "keys/delete.html", {"row": row})
    row.delete()
    messages.success(request, _("Deleted: %(name)s.") % {"name": row.name})
    return redirect("keys")
