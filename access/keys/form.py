"""Forms of API keys in the admin: a key with its permissions and restrictions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from access.bootstrap import BOOTSTRAP
from access.keys.bound import check_key_bound
from access.keys.rules import FIELDS, KINDS, check_rules, read_rules
from access.models import VIEWER_PERMISSIONS, ApiKey, User
from access.permissions import EFFECTS
from endpoints.models import Endpoint

EXTERNAL_HELP = gettext_lazy(
    "Requests to external endpoints, such as clouds, leave your network and may cost money. Without this, the key "
    "reaches no such endpoint under any model name."
)


_LINES = forms.Textarea({"rows": 3, "cols": 60})
_CHOSEN = ("endpoints", "kinds")  # restrictions that are chosen; the others are entered, one on each line


class ApiKeyForm(forms.ModelForm[ApiKey]):
    permissions = forms.MultipleChoiceField(
        label=gettext_lazy("Permissions"),
        choices=[(name, format_lazy("{} – {}", name, allows)) for name, allows in EFFECTS.items()],
        widget=forms.CheckboxSelectMultiple,
        initial=VIEWER_PERMISSIONS,
        required=True,
    )
    external = forms.BooleanField(
        label=gettext_lazy("May use external endpoints"), required=False, help_text=EXTERNAL_HELP
    )

    enabled = forms.BooleanField(
        label=gettext_lazy("Enabled"),
        required=False,
        help_text=gettext_lazy("Requests with a disabled key are refused, and its running requests end."),
    )
    bulk = forms.BooleanField(
        label=gettext_lazy("Bulk requests"),
        required=False,
        help_text=gettext_lazy("All requests of the key give way to interactive ones."),
    )
    models = forms.CharField(
        label=gettext_lazy("Allowed models"),
        required=False,
        widget=_LINES,
        help_text=gettext_lazy(
            "Models and model names, one on each line; * stands for any characters. If this is empty, all are allowed. "
            "A model name also allows the models that it leads to, through that name only."
        ),
    )
    forbidden_models = forms.CharField(
        label=gettext_lazy("Forbidden models"),
        required=False,
        widget=_LINES,
        help_text=gettext_lazy("Models that the key never gets, under whatever name."),
    )
    endpoints = forms.MultipleChoiceField(
        label=gettext_lazy("Only these endpoints"), required=False, widget=forms.SelectMultiple({"size": 6})
    )
    tags = forms.CharField(label=gettext_lazy("Only endpoints with one of these tags"), required=False, widget=_LINES)
    kinds = forms.MultipleChoiceField(
        label=gettext_lazy("Only these kinds of requests"),
        choices=[(kind, kind) for kind in KINDS],
        required=False,
        widget=forms.SelectMultiple({"size": 6}),
    )
    networks = forms.CharField(
        label=gettext_lazy("Only clients in these networks"),
        required=False,
        widget=_LINES,
        help_text=gettext_lazy("Addresses, or networks in CIDR notation, one on each line."),
    )

    class Meta:
        model = ApiKey
        fields = ("name", "created_by", "permissions", "external", "expires_at", "enabled", "bulk")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add the permissions of an adopted key that RouterDash does not use: they stay until unticked."""
        super().__init__(*args, **kwargs)
        self._fill_restrictions()
        if isinstance(widget := self.fields["expires_at"].widget, AdminSplitDateTime):  # one label for two input fields
            for box, name in zip(widget.widgets, (_("Expiry date"), _("Expiry time")), strict=True):
                box.attrs["aria-label"] = name
        field = cast("forms.MultipleChoiceField", self.fields["permissions"])
        idle = [name for name in self.instance.granted if name not in EFFECTS]
        field.choices = [
            *cast("list[Any]", field.choices),
            *((name, _("%(name)s (not used by RouterDash)") % {"name": name}) for name in idle),
        ]

    def _fill_restrictions(self) -> None:
        """Fill the fields of the restrictions; a deleted endpoint among them stays until it is deselected."""
        self.initial["enabled"] = self.instance.enabled is not False
        rules = read_rules(self.instance.rules)
        stored = {name: () if rules is None else getattr(rules, name) for name in FIELDS}
        for name, entries in stored.items():
            self.initial[name] = list(entries) if name in _CHOSEN else "\n".join(entries)
        names = dict(Endpoint.objects.order_by("name").values_list("pk", "name"))
        offered = {str(pk): name for pk, name in names.items()}
        offered |= {pk: _("%(id)s (deleted)") % {"id": pk} for pk in stored["endpoints"] if pk not in offered}
        cast("forms.MultipleChoiceField", self.fields["endpoints"]).choices = list(offered.items())

    def clean(self) -> None:
        """Join the restrictions into the value of their column."""
        cleaned = super().clean() or self.cleaned_data
        values: dict[str, Iterable[str]] = {
            name: cleaned[name] if name in _CHOSEN else cleaned[name].splitlines() for name in FIELDS if name in cleaned
        }
        try:
            self.instance.rules = check_rules(values)
        except ValidationError as error:
            for name, messages in error.message_dict.items():
                self.add_error(name, messages)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"].strip()
        if (name == BOOTSTRAP) != (self.instance.name == BOOTSTRAP):
            raise ValidationError(_("This name is reserved for ROUTERDASH_BOOTSTRAP_API_KEY."))
        return name

    def clean_created_by(self) -> User:
        owner: User = self.cleaned_data["created_by"]
        if owner.pk != self.instance.created_by_id:
            check_key_bound(owner)
        return owner

    def clean_expires_at(self) -> datetime | None:
        expires: datetime | None = self.cleaned_data["expires_at"]
        if expires is not None and expires != self.instance.expires_at and expires <= timezone.now():
            raise ValidationError(_("The expiry is in the past."))
        return expires
