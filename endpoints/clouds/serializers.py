"""Serializer of the address and the cloud of a server."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from endpoints import base_url, clouds
from endpoints.clouds.kinds import CLOUD_CHOICES


class CloudSerializer(serializers.Serializer[Any]):
    """Address and type of a server. A known cloud has its own address, and is recognised by it."""

    base_url = serializers.CharField(
        max_length=2000, help_text="May be left out with the type of a cloud that has one address."
    )
    cloud_type = serializers.ChoiceField(choices=CLOUD_CHOICES, required=False, allow_null=True)
    api_version = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=40)

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
        return attrs


def _normalise(url: str) -> str:
    try:
        return base_url.normalise(url)
    except ValueError as error:
        raise serializers.ValidationError(str(error)) from None
