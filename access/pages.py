"""A person's own API keys: a list, a form that makes one, and a question before one is deleted."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import count
from typing import Any, cast
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from rest_framework.exceptions import ValidationError

from access.admin import OFFERED
from access.api import make, own_keys
from access.models import PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User

USED_DAYS = 30

Used = Callable[[Sequence[str], date], Mapping[str, tuple[int, str]]]

EXPIRIES = (
    ("", gettext_lazy("Never")),
    ("7", gettext_lazy("In 7 days")),
    ("30", gettext_lazy("In 30 days")),
    ("90", gettext_lazy("In 90 days")),
    ("365", gettext_lazy("In a year")),
)


class KeyForm(forms.Form):
    """Viewers' keys always get the two permissions of OpenAI clients, so they are not asked."""

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
        choices=[(name, format_lazy("{} – {}", name, allows)) for name, allows in OFFERED],
        widget=forms.CheckboxSelectMultiple,
        required=False,
    )

    def __init__(self, owner: User, *args: Any, **options: Any) -> None:
        options.setdefault("initial", {"name": _free_name(owner), "permissions": VIEWER_PERMISSIONS})
        super().__init__(*args, **options)
        self.owner = owner
        if not owner.is_admin:
            del self.fields["permissions"]

    def make(self) -> tuple[ApiKey, str] | None:
        """The row and the key; None where the API's own rules refuse it, which then stands beside the fields."""
        if not self.is_valid():
            return None
        try:
            return make(self.owner, self._given())
        except ValidationError as error:
            for name, texts in cast("dict[str, Any]", error.detail).items():
                for text in texts if isinstance(texts, list) else [texts]:
                    self.add_error(name if name in self.fields else None, str(text))
        return None

    def _given(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.cleaned_data["name"]}
        if self.owner.is_admin:
            found["permissions"] = self.cleaned_data["permissions"] or list(VIEWER_PERMISSIONS)
        if days := self.cleaned_data["expires"]:
            found["expires_at"] = timezone.now() + timedelta(days=int(days))
        return found


def _free_name(owner: User) -> str:
    """So that a key takes no more than a press of the button."""
    taken = set(own_keys(owner).values_list("name", flat=True))
    stem = _("my laptop")
    return stem if stem not in taken else next(it for number in count(2) if (it := f"{stem} {number}") not in taken)


@never_cache
@login_required
def keys(request: HttpRequest, used: Used) -> HttpResponse:
    """The key goes into this answer alone: not into a cookie, not into a redirect."""
    owner = request.user
    assert isinstance(owner, User)
    made = None
    form = KeyForm(owner, request.POST) if request.method == "POST" else KeyForm(owner)
    if request.method == "POST":
        made = form.make()
        if "HX-Request" in request.headers:
            return render(request, "inc/key_made.html", {"made": made, "form": form})
    since = datetime.now(settings.ROUTERDASH.zone).date() - timedelta(days=USED_DAYS - 1)
    rows = list(own_keys(owner))
    found = used([str(row.pk) for row in rows], since) if rows else {}
    context = {
        "form": KeyForm(owner) if made else form,
        "made": made,
        "rows": [(row, *found.get(str(row.pk), (0, None))) for row in rows],
        "days": USED_DAYS,
        "most": len(PERMISSIONS),
        "now": timezone.now(),
    }
    return render(request, "keys.html", context)


@never_cache
@login_required
def delete(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """GET asks, POST does it."""
    assert isinstance(request.user, User)
    row = own_keys(request.user).filter(pk=key_id).first()
    if row is None:
        raise Http404
    if request.method != "POST":
        return render(request, "key_delete.html", {"row": row})
    row.delete()
    messages.success(request, _("Deleted: %(name)s.") % {"name": row.name})
    return redirect("keys")
