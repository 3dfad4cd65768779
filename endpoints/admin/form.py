"""Form of an endpoint, which detects edits that another user has saved meanwhile; form of a drain."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from django import forms
from django.contrib.admin.widgets import AdminIntegerFieldWidget, AdminTextareaWidget, AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints import capabilities, clouds, connections, edit_versions, tags
from endpoints.base_url import normalise
from endpoints.clouds import allowed_models
from endpoints.clouds.kinds import CLOUD_CHOICES, EXTERNAL_CHOICES
from endpoints.connections import form as connection_form
from endpoints.connections.form import ConnectionFields
from endpoints.models import EDITED_FIELDS, NUMBER_OPTIONS, Endpoint, EndpointOptions
from endpoints.text import validate_line
from gateway.providers.table import provider_of
from gateway.upstream.connection_settings import ConnectionSettings

CHOICES = {word: capabilities.LABELS[word] for word in capabilities.STORED}


def _option(name: str) -> Any:
    """Return the form field of an option."""
    field: Any = EndpointOptions._meta.get_field(name)
    bounds = NUMBER_OPTIONS[name]
    return field.formfield(widget=AdminIntegerFieldWidget, min_value=bounds.minimum, max_value=bounds.maximum)


_CLOUD_OPTIONS = ("external", "cloud_type", "api_version")


class Difference(NamedTuple):
    """Difference between the value that another user saved and the value in the form."""

    field: str
    stored: str
    entered: str


class EndpointForm(ConnectionFields, forms.ModelForm[Endpoint]):
    attributes: ClassVar = {"class": "vLargeTextField"}

    api_key = forms.CharField(
        label=gettext_lazy("API key of the server"),
        required=False,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}),
        help_text=gettext_lazy(
            "The key is sent as a bearer token. It is stored encrypted and never shown. Leave this "
            "empty to keep the stored key."
        ),
    )
    forget_api_key = forms.BooleanField(label=gettext_lazy("Delete the stored key"), required=False)
    capabilities = forms.MultipleChoiceField(
        label=gettext_lazy("Capabilities of all models"),
        choices=CHOICES.items,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy(
            "These are added to the detected capabilities of each model. Chat alone (the default) "
            "adds nothing, because embedding models do not support chat."
        ),
    )
    tags = forms.CharField(
        label=gettext_lazy("Tags"),
        required=False,
        max_length=1000,
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("Labels that group endpoints, separated by commas."),
    )
    external = forms.NullBooleanField(
        label=gettext_lazy("External"),
        required=False,
        widget=forms.Select(choices=EXTERNAL_CHOICES),
        help_text=EndpointOptions._meta.get_field("external").help_text,
    )
    cloud_type = forms.ChoiceField(
        label=gettext_lazy("Cloud"),
        choices=[("", "—"), *CLOUD_CHOICES],
        required=False,
        help_text=EndpointOptions._meta.get_field("cloud_type").help_text,
    )
    api_version = forms.CharField(
        label=gettext_lazy("API version"),
        required=False,
        max_length=40,
        widget=AdminTextInputWidget,
        help_text=EndpointOptions._meta.get_field("api_version").help_text,
    )
    allowed_models = forms.CharField(
        label=gettext_lazy("Allowed models"),
        required=False,
        max_length=20_000,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text=EndpointOptions._meta.get_field("allowed_models").help_text,
    )
    connect_timeout_secs = _option("connect_timeout_secs")
    idle_timeout_secs = _option("idle_timeout_secs")
    total_timeout_secs = _option("total_timeout_secs")
    max_concurrency = _option("max_concurrency")
    tier = _option("tier")
    cost_weight = _option("cost_weight")

    class Meta:
        model = Endpoint
        fields = ("name", "base_url", "health_check_interval_secs", "inference_timeout_secs", "notes", "capabilities")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        stored = self.instance.options_or_default
        self.initial = {name: getattr(stored, name) for name in NUMBER_OPTIONS} | dict(self.initial)
        self.initial["capabilities"] = stored_capabilities(self.instance.capabilities)
        self.initial["tags"] = ", ".join(stored.tags or [])
        self.initial["allowed_models"] = ", ".join(stored.allowed_models or [])
        self.initial |= {name: getattr(stored, name) for name in _CLOUD_OPTIONS}
        if stored.assumed_slots:
            placeholder = _("%(number)s (assumed)") % {"number": stored.assumed_slots}
            self.fields["max_concurrency"].widget.attrs["placeholder"] = placeholder
        self.initial |= connection_form.initial(stored.sealed_connection)
        self.connection: ConnectionSettings | None = None  # as entered; None: it stays as it is
        if self.instance._state.adding:
            self.fields["api_key"].help_text = _(
                "The key is sent as a bearer token. It is stored encrypted and never shown."
            )
        self.version = "" if self.instance._state.adding else edit_versions.of(self.instance)
        self.conflict: list[Difference] = []

    def clean_tags(self) -> list[str]:
        words = tags.parse(self.cleaned_data["tags"])
        for word in words:
            validate_line(word)
        if len(words) > tags.MAX_TAGS or any(len(word) > tags.MAX_LENGTH for word in words):
            raise ValidationError(
                _("An endpoint may have at most %(most)d tags of at most %(longest)d characters each.")
                % {"most": tags.MAX_TAGS, "longest": tags.MAX_LENGTH}
            )
        return words

    def clean_cloud_type(self) -> str | None:
        """Return the chosen cloud, or the one that has the address."""
        recognised = clouds.recognise(_as_stored("base_url", self.data.get("base_url", "")))
        return self.cleaned_data["cloud_type"] or recognised or None

    def clean_api_version(self) -> str | None:
        text = self.cleaned_data["api_version"].strip()
        try:
            return clouds.check_api_version(text) if text else None
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def clean_allowed_models(self) -> list[str] | None:
        patterns = allowed_models.parse(self.cleaned_data["allowed_models"])
        for pattern in patterns:
            validate_line(pattern)
        longest = allowed_models.MAX_LENGTH
        if len(patterns) > allowed_models.MAX_PATTERNS or any(len(pattern) > longest for pattern in patterns):
            raise ValidationError(
                _("An endpoint may have at most %(most)d patterns of at most %(longest)d characters each.")
                % {"most": allowed_models.MAX_PATTERNS, "longest": longest}
            )
        return patterns or None

    def clean(self) -> dict[str, Any] | None:
        """Reject an edit of an outdated version.

        The form then contains the newer version and shows its differences. If it is submitted again, the user has
        seen them.
        """
        cleaned = super().clean()
        self._clean_connection()
        seen = self.data.get("version", "")
        if not seen or self.instance._state.adding:
            return cleaned
        stored = Endpoint.objects.select_for_update().filter(pk=self.instance.pk).first()
        if stored is None:
            raise ValidationError(_("This endpoint has since been deleted."))
        self.version = edit_versions.of(stored)
        if seen != self.version:
            self.conflict = list(self._differences(stored, same_secret=edit_versions.same_secret(seen, self.version)))
            if not edit_versions.same_connection(seen, self.version):
                entered = _("unchanged") if self.connection is None else _("changed")
                self.conflict.append(Difference(_("connection settings"), _("changed"), entered))
        if self.conflict:
            raise ValidationError(
                _("Another user changed this endpoint after you opened it. Your changes are not saved.")
            )
        return cleaned

    def _clean_connection(self) -> None:
        """Check the connection settings together: which of them are kept depends on the address."""
        if "base_url" not in self.cleaned_data or not any(name in self.changed_data for name in connection_form.NAMES):
            return
        try:
            sent = {name: value for name, value in self.cleaned_data.items() if name in self.data}
            self.connection = entered_connection(sent, self.instance)
        except connections.InvalidConnection as error:
            for name, text in error.errors.items():
                self.add_error(name, text)

    def _differences(self, stored: Endpoint, *, same_secret: bool) -> Iterator[Difference]:
        options = stored.options_or_default
        for name in (*EDITED_FIELDS, *NUMBER_OPTIONS):
            if name in self.cleaned_data:
                stored_text = as_text(getattr(options if name in NUMBER_OPTIONS else stored, name))
                entered_text = as_text(_as_stored(name, self.cleaned_data[name]))
                if stored_text != entered_text:
                    yield Difference(str(self.fields[name].label), stored_text, entered_text)
        stored_text, entered_text = ", ".join(options.tags or []), ", ".join(self.cleaned_data.get("tags", []))
        if stored_text != entered_text:
            yield Difference(str(self.fields["tags"].label), stored_text or "—", entered_text or "—")
        for name in (*_CLOUD_OPTIONS, "allowed_models"):
            stored_value, entered_value = getattr(options, name) or None, self.cleaned_data.get(name) or None
            if name == "external":
                stored_value, entered_value = options.external, self.cleaned_data.get(name)
            if stored_value != entered_value:
                yield Difference(str(self.fields[name].label), _plain(stored_value), _plain(entered_value))
        if not same_secret:
            typed = self.cleaned_data.get("api_key") and _("a different key")
            forgotten = self.cleaned_data.get("forget_api_key") and _("deleted")
            yield Difference(str(self.fields["api_key"].label), _("changed"), typed or forgotten or _("unchanged"))


def entered_connection(data: Mapping[str, Any], stored: Endpoint | None) -> ConnectionSettings:
    """Return the connection settings of a submitted form. Raises connections.InvalidConnection.

    `stored` is the row; a model form has changed its address already, so that the database's is read.
    """
    before = None if stored is None else Endpoint.objects.filter(pk=stored.pk).select_related("options").first()
    sealed = None if before is None else before.options_or_default.sealed_connection
    cloud = data.get("cloud_type") or None
    return connections.merged(
        sealed,
        connection_form.entered(data),
        provider_of(cloud) if cloud else None,
        moves=before is not None and before.moves_to(data.get("base_url", "")),
    )


class DrainForm(forms.Form):
    deadline_secs = forms.IntegerField(
        label=gettext_lazy("Drain deadline (s)"),
        required=False,
        min_value=0,
        max_value=86400,
        widget=AdminIntegerFieldWidget,
        help_text=gettext_lazy(
            "Requests still running after this many seconds are ended; 0 ends them at once. Leave "
            "the field empty to let them finish."
        ),
    )


def stored_capabilities(stored: Any) -> list[str]:
    """Return capabilities as they are stored, without unknown words."""
    return capabilities.to_store(capabilities.normalise(stored))


def _as_stored(name: str, typed: Any) -> Any:
    """Return a value as the save would write it, so that equal values are no difference."""
    if name == "capabilities":
        return capabilities.to_store(typed)
    if name == "base_url":
        try:
            return clouds.complete(normalise(typed))
        except ValueError:  # the form reports it
            return typed
    return typed.strip() if name == "name" else typed


def _plain(value: Any) -> str:
    """Return the text of an option that is a flag, a text or a list of patterns."""
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    return ", ".join(value) if isinstance(value, list) else str(value or "—")


def as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(capabilities.label(word) for word in stored_capabilities(value)) or "—"
    return "—" if value in (None, "") else str(value)
