"""The form that adds an endpoint. What is right, its serializer says: the same for page and API."""

from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import ValidationError

from endpoints import naming, tags
from endpoints.base_url import normalise
from endpoints.models import Kind

_LINE = {"class": "input"}
_CODE = {"class": "input mono", "autocomplete": "off", "spellcheck": "false"}


class AddForm(forms.Form):
    base_url = forms.CharField(
        label=_("Address"),
        max_length=2000,
        widget=forms.TextInput(_CODE | {"inputmode": "url", "placeholder": "http://192.168.1.10:8000"}),
        help_text=_("As it is written in the server's own documentation; /v1 at its end may stay or go."),
    )
    api_key = forms.CharField(
        label=_("API key of the server"),
        required=False,
        widget=forms.PasswordInput(_CODE | {"autocomplete": "new-password"}),
        help_text=_("Only if the server asks for one. Stored sealed, never shown."),
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=200,
        required=False,
        widget=forms.TextInput(_LINE | {"autocomplete": "off"}),
        help_text=_("Empty: after the host."),
    )
    tags = forms.CharField(
        label=_("Tags"),
        max_length=1000,
        required=False,
        widget=forms.TextInput(_LINE | {"autocomplete": "off"}),
        help_text=_("Words to group endpoints by, separated by commas."),
    )
    max_concurrency = forms.IntegerField(
        label=_("Requests at a time"),
        required=False,
        widget=forms.NumberInput(_LINE | {"min": 1}),
        help_text=_("More of them wait in the queue. Empty: as many as the server tells, else any number."),
    )
    health_check_interval_secs = forms.IntegerField(
        label=_("Health check interval (s)"), required=False, widget=forms.NumberInput(_LINE | {"min": 1, "max": 3600})
    )
    inference_timeout_secs = forms.IntegerField(
        label=_("Inference timeout (s)"),
        required=False,
        widget=forms.NumberInput(_LINE | {"min": 1}),
        help_text=_("To the first byte, between two chunks of a stream, and for the whole of any other answer."),
    )
    notes = forms.CharField(label=_("Notes"), required=False, widget=forms.Textarea(_LINE | {"rows": 3}))

    FIRST = ("base_url", "api_key", "name", "tags")
    MORE = ("max_concurrency", "health_check_interval_secs", "inference_timeout_secs", "notes")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        interval: forms.Field = self.fields["health_check_interval_secs"]
        interval.widget.attrs["placeholder"] = settings.ROUTERDASH.health_check_interval
        self.fields["inference_timeout_secs"].widget.attrs["placeholder"] = 120

    def first(self) -> list[forms.BoundField]:
        return [self[name] for name in self.FIRST]

    def more(self) -> list[forms.BoundField]:
        return [self[name] for name in self.MORE]

    @property
    def more_is_used(self) -> bool:
        return any(self[name].value() or self[name].errors for name in self.MORE)

    def given(self, kind: Kind | None = None) -> dict[str, Any]:
        """For the serializer: what was filled in, and a name in any case."""
        found = {name: value for name, value in self.cleaned_data.items() if value not in ("", None)}
        if "tags" in found:
            found["tags"] = tags.parse(found["tags"])
        if "name" not in found:
            found["name"] = _proposed(found.get("base_url", ""), kind)
        return found

    def refuse(self, error: ValidationError) -> None:
        """Its sentences beside the fields that they are about."""
        detail = error.detail if isinstance(error.detail, dict) else {"": error.detail}
        for name, texts in detail.items():
            for text in _flat(texts):
                self.add_error(name if name in self.fields else None, text)


def _flat(texts: Any) -> list[str]:
    """Of lists the sentences of each item, too."""
    if isinstance(texts, dict):
        texts = list(texts.values())
    if isinstance(texts, list):
        return [text for item in texts for text in _flat(item)]
    return [str(texts)]


def _proposed(url: str, kind: Kind | None) -> str:
    try:
        return naming.propose(normalise(url), kind)
    except ValueError:
        return url  # the serializer says what is wrong with it
