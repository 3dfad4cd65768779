"""Serializer of the address and the cloud of a server."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from endpoints import base_url, clouds, connections
from endpoints.clouds.kinds import CLOUD_CHOICES
from endpoints.connections.certificates import MAX_CHARACTERS
from gateway.base.connecting.forward_proxy import MASK, MAX_URL
from gateway.providers.table import provider_of
from gateway.upstream.connection_settings import ConnectionSettings
from gateway.upstream.extra_headers import MAX_VALUE


def _pem(text: str) -> serializers.CharField:
    return serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=MAX_CHARACTERS, help_text=text
    )


class ConnectionSerializer(serializers.Serializer[Any]):
    """How RouterDash connects to an endpoint. All secrets are masked when they are read; a mask that is sent keeps what
    is stored.
    """

    proxy_url = serializers.CharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        max_length=MAX_URL,
        help_text="HTTP proxy such as `http://user:password@proxy.example.com:3128`; the login is masked.",
    )
    ca_bundle = _pem("Certificates of a private CA as PEM; then only these are trusted.")
    client_certificate = _pem("Certificate by which RouterDash identifies itself, with its chain, as PEM.")
    client_certificate_expires = serializers.DateTimeField(read_only=True, allow_null=True)
    client_key = _pem("Key of the client certificate as PEM, without a passphrase.")
    headers = serializers.DictField(
        child=serializers.CharField(max_length=MAX_VALUE),
        required=False,
        allow_null=True,
        help_text=f"Headers of each request to the endpoint, in place of the stored ones; the value `{MASK}` keeps the "
        "stored one.",
    )


class CloudSerializer(serializers.Serializer[Any]):
    """Address and type of a server. A known cloud has its own address, and is recognised by it."""

    base_url = serializers.CharField(
        max_length=2000, help_text="May be left out with the type of a cloud that has one address."
    )
    cloud_type = serializers.ChoiceField(choices=CLOUD_CHOICES, required=False, allow_null=True)
    api_version = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=40)
    connection = ConnectionSerializer(
        required=False,
        allow_null=True,
        help_text="Proxy, certificates and extra headers; null deletes them. Fields left out stay as they are.",
    )

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("cloud_type"):
            self.fields["base_url"].required = False
        return super().to_internal_value(data)

    def validate_base_url(self, url: str) -> str:
        return clouds.complete(_normalise(url))

    def validate_api_version(self, text: str | None) -> str | None:
        try:
            return clouds.check_api_version(text) if text else None
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def validate(self, attrs: Any) -> Any:
        """Add the address of the chosen cloud, or the cloud that has the address."""
        if "base_url" not in attrs and not self.partial:
            try:
                attrs["base_url"] = clouds.address_of(attrs["cloud_type"])
            except ValueError as error:
                raise serializers.ValidationError({"base_url": str(error)}) from None
        url = attrs.get("base_url") or (self.instance.base_url if self.instance is not None else "")
        if not attrs.get("cloud_type") and ("base_url" in attrs or "cloud_type" in attrs):
            recognised = clouds.recognise(url)
            if recognised is not None:
                attrs["cloud_type"] = recognised
        if "connection" in attrs:
            attrs["connection"] = self._merged(attrs["connection"] or dict.fromkeys(connections.FIELDS), attrs, url)
        return attrs

    def _merged(self, entered: Mapping[str, Any], attrs: Mapping[str, Any], url: str) -> ConnectionSettings:
        """Return the connection settings after the edit. Raises ValidationError."""
        stored = self.instance
        options = None if stored is None else stored.options_or_default
        cloud = attrs.get("cloud_type", options and options.cloud_type)
        try:
            return connections.merged(
                options and options.sealed_connection,
                entered,
                provider_of(cloud) if cloud else None,
                moves=stored is not None and stored.moves_to(url),
            )
        except connections.InvalidConnection as error:
            raise serializers.ValidationError(
                {f"connection.{name}": text for name, text in error.errors.items()}
            ) from None


def _normalise(url: str) -> str:
    try:
        return base_url.normalise(url)
    except ValueError as error:
        raise serializers.ValidationError(str(error)) from None
