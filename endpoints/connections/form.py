"""Form fields of connection settings, for the page that adds an endpoint and for the admin."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints import connections
from endpoints.connections import HEADERS
from endpoints.connections.certificates import MAX_CHARACTERS
from gateway.base.connecting.forward_proxy import MASK, MAX_URL

NAMES = connections.FIELDS


class _KeyText(forms.Textarea):
    """It shows the mask of a stored key, but no key that was pasted into a form with an error: see PasswordInput."""

    def format_value(self, value: Any) -> str | None:
        return MASK if value == MASK else None


def _pem(label: Any, text: Any, widget: type[forms.Textarea] = forms.Textarea) -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        max_length=MAX_CHARACTERS,
        widget=widget({"rows": 3}),
        help_text=text,
    )


class ConnectionFields(forms.Form):
    """Base of forms with these fields."""

    proxy_url = forms.CharField(
        label=gettext_lazy("Proxy"),
        required=False,
        max_length=MAX_URL,
        help_text=gettext_lazy(
            "An HTTP proxy such as http://user:password@proxy.example.com:3128, which opens all connections to the "
            "endpoint by CONNECT. If this is empty, the proxy of ROUTERDASH_UPSTREAM_PROXY applies, if there is one."
        ),
    )
    ca_bundle = _pem(
        gettext_lazy("CA certificates (PEM)"),
        gettext_lazy(
            "Paste the certificates of a private CA. Then only these are trusted for this endpoint, and not those of "
            "the system."
        ),
    )
    client_certificate = _pem(
        gettext_lazy("Client certificate (PEM)"),
        gettext_lazy("Paste the certificate, with its chain, by which RouterDash identifies itself."),
    )
    client_key = _pem(
        gettext_lazy("Key of the client certificate (PEM)"),
        gettext_lazy("Paste the key without a passphrase. It is stored encrypted and never shown."),
        _KeyText,
    )
    headers = _pem(
        gettext_lazy("Extra headers"),
        gettext_lazy("Sent with each request to the endpoint: one header on each line, such as X-Team: blue."),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in self.fields.keys() & NAMES:  # the admin leaves out what a user may not edit
            self.fields[name].widget.attrs |= {**self.attributes, "autocomplete": "off", "spellcheck": "false"}

    attributes: ClassVar[Mapping[str, str]] = {}  # of the widgets

    def clean_headers(self) -> str:
        text: str = self.cleaned_data[HEADERS]
        try:
            parse_headers(text)
        except connections.InvalidConnection as error:
            raise forms.ValidationError(str(error)) from None
        return text


def initial(sealed: str | None) -> dict[str, str]:
    """Return the texts of stored settings, with a mask for each secret."""
    shown = connections.shown(sealed)
    if shown is None:
        return {}
    values: dict[str, Any] = {**shown}
    values[HEADERS] = "\n".join(f"{name}: {value}" for name, value in shown["headers"].items())
    return {name: values[name] or "" for name in NAMES}


def entered(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was entered, for `connections.merged`; empty if the form had none of the fields.

    Raises InvalidConnection.
    """
    values: dict[str, Any] = {name: str(data[name]) for name in NAMES if name in data}
    if HEADERS in values:
        values[HEADERS] = parse_headers(values[HEADERS])
    return values


def parse_headers(text: str) -> dict[str, str]:
    """Return the headers on the lines of a text. Raises InvalidConnection."""
    headers: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise connections.InvalidConnection({HEADERS: _("Write each header as its name, a colon and its value.")})
        if name.strip().lower() in map(str.lower, headers):
            raise connections.InvalidConnection(
                {HEADERS: _("The header %(name)s occurs twice.") % {"name": name.strip()}}
            )
        headers[name.strip()] = value.strip()
    return headers
