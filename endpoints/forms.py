"""Form that adds an endpoint. The API's serializer validates it, so page and API have the same rules."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import ValidationError

from endpoints import clouds, proposed_names, tags
from endpoints.base_url import normalise
from endpoints.clouds import allowed_models
from endpoints.clouds.kinds import CLOUD_CHOICES, EXTERNAL_CHOICES
from endpoints.connections import form as connection_form
from endpoints.connections.form import ConnectionFields
from endpoints.models import Endpoint, EndpointOptions, Kind

_LINE = {"class": "input"}
_CODE = {"class": "input mono", "autocomplete": "off", "spellcheck": "false"}


class AddForm(ConnectionFields):
    attributes = _CODE

    cloud_type = forms.ChoiceField(
        label=_("Server"),
        choices=[("", _("A server of your own: its type is detected")), *CLOUD_CHOICES],
        required=False,
        widget=forms.Select({"class": "input"}),
    )
    base_url = forms.CharField(
        label=_("Address"),
        max_length=2000,
        required=False,
        widget=forms.TextInput(_CODE | {"inputmode": "url", "placeholder": "192.168.1.10:8000"}),
        help_text=_(
            "Enter the URL from the server's documentation. A trailing /v1 is optional. Clouds have their address by "
            "themselves, except for Azure OpenAI: enter that of the resource."
        ),
    )
    api_key = forms.CharField(
        label=_("API key of the server"),
        required=False,
        widget=forms.PasswordInput(_CODE | {"autocomplete": "new-password"}),
        help_text=_("Enter a key only if the server requires one. It is stored encrypted and never shown."),
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=200,
        required=False,
        widget=forms.TextInput(_LINE | {"autocomplete": "off"}),
        help_text=_("Leave this empty to use the host name."),
    )
    tags = forms.CharField(
        label=_("Tags"),
        max_length=1000,
        required=False,
        widget=forms.TextInput(_LINE | {"autocomplete": "off"}),
        help_text=_("Labels that group endpoints, separated by commas."),
    )
    max_concurrency = forms.IntegerField(
        label=_("Requests at a time"),
        required=False,
        widget=forms.NumberInput(_LINE | {"min": 1}),
        help_text=EndpointOptions._meta.get_field("max_concurrency").help_text,
    )
    health_check_interval_secs = forms.IntegerField(
        label=_("Health check interval (s)"), required=False, widget=forms.NumberInput(_LINE | {"min": 1, "max": 3600})
    )
    inference_timeout_secs = forms.IntegerField(
        label=_("Inference timeout (s)"),
        required=False,
        widget=forms.NumberInput(_LINE | {"min": 1}),
        help_text=Endpoint._meta.get_field("inference_timeout_secs").help_text,
    )
    external = forms.NullBooleanField(
        label=_("External"),
        required=False,
        widget=forms.Select({"class": "input"}, choices=EXTERNAL_CHOICES),
        help_text=EndpointOptions._meta.get_field("external").help_text,
    )
    allowed_models = forms.CharField(
        label=_("Allowed models"),
        required=False,
        max_length=20_000,
        widget=forms.Textarea(_CODE | {"rows": 2}),
        help_text=EndpointOptions._meta.get_field("allowed_models").help_text,
    )
    api_version = forms.CharField(
        label=_("API version"),
        required=False,
        max_length=40,
        widget=forms.TextInput(_CODE),
        help_text=EndpointOptions._meta.get_field("api_version").help_text,
    )
    notes = forms.CharField(label=_("Notes"), required=False, widget=forms.Textarea(_LINE | {"rows": 3}))

    FIRST = ("cloud_type", "base_url", "api_key", "name", "tags")
    MORE = (
        "allowed_models",
        "external",
        "api_version",
        "max_concurrency",
        "health_check_interval_secs",
        "inference_timeout_secs",
        "notes",
    )
    CONNECTION = connection_form.NAMES

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        interval: forms.Field = self.fields["health_check_interval_secs"]
        interval.widget.attrs["placeholder"] = settings.ROUTERDASH.health_check_interval
        self.fields["inference_timeout_secs"].widget.attrs["placeholder"] = 120

    def first(self) -> list[forms.BoundField]:
        return [self[name] for name in self.FIRST]

    def more(self) -> list[forms.BoundField]:
        return [self[name] for name in self.MORE]

    def connection(self) -> list[forms.BoundField]:
        return [self[name] for name in self.CONNECTION]

    @property
    def connection_is_used(self) -> bool:
        return any(self[name].value() or self[name].errors for name in self.CONNECTION)

    @property
    def more_is_used(self) -> bool:
        return any(self[name].value() or self[name].errors for name in self.MORE)

    def entered(self, kind: Kind | None = None) -> Mapping[str, Any]:
        """Return the filled-in fields for the serializer, with a proposed name if none was entered."""
        values = {name: value for name, value in self.cleaned_data.items() if value not in ("", None)}
        connection = {name: values.pop(name) for name in self.CONNECTION if name in values}
        if connection:
            values["connection"] = connection_form.entered(connection)
        if "tags" in values:
            values["tags"] = tags.parse(values["tags"])
        if "allowed_models" in values:
            values["allowed_models"] = allowed_models.parse(values["allowed_models"])
        if "name" not in values:
            address = clouds.ADDRESSES.get(values.get("cloud_type", ""), "")
            values["name"] = _proposed(values.get("base_url", address), kind)
        return values

    def refuse(self, error: ValidationError) -> None:
        """Add the messages of a serializer's error to the fields that they concern."""
        detail = error.detail if isinstance(error.detail, dict) else {"": error.detail}
        connection = detail.get("connection")
        if isinstance(connection, dict):
            detail = {name: texts for name, texts in detail.items() if name != "connection"} | connection
        for name, texts in detail.items():
            name = name.removeprefix("connection.")
            for text in _flat(texts):
                self.add_error(name if name in self.fields else None, text)


def _flat(texts: Any) -> list[str]:
    """Return the messages in a text, or in nested lists and dicts."""
    if isinstance(texts, dict):
        texts = list(texts.values())
    if isinstance(texts, list):
        return [text for item in texts for text in _flat(item)]
    return [str(texts)]


def _proposed(url: str, kind: Kind | None) -> str:
    try:
        return proposed_names.propose(normalise(url), kind)
    except ValueError:
        return url  # the serializer reports the error
