"""Serializers of API keys for the JSON API."""

from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers

from access.bootstrap import BOOTSTRAP
from access.models import PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User
from endpoints.fields import validate_expiry
from endpoints.text import validate_line


class ApiKeySerializer(serializers.Serializer[ApiKey]):
    id = serializers.UUIDField()
    key_prefix = serializers.CharField(allow_null=True)
    name = serializers.CharField()
    created_by = serializers.UUIDField(source="created_by_id")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    permissions = serializers.ListField(child=serializers.CharField(), source="granted")
    external = serializers.SerializerMethodField(help_text="Whether the key may use external endpoints.")

    def get_external(self, row: ApiKey) -> bool:
        return bool(row.external)


class ApiKeyListSerializer(serializers.Serializer[Any]):
    api_keys = ApiKeySerializer(many=True)


class NewApiKeySerializer(ApiKeySerializer):
    key = serializers.CharField(help_text="The key. It is shown only in this response, and not stored.")


class ApiKeyChangeSerializer(serializers.Serializer[ApiKey]):
    """Name and expiry of a key, and whether it may use external endpoints."""

    name = serializers.CharField(max_length=200, validators=[validate_line])
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    external = serializers.BooleanField(
        required=False, help_text="Whether the key may use external endpoints; only administrators may allow it."
    )

    @property
    def owner(self) -> User:
        owner: User = self.context["owner"]
        return owner

    def validate_name(self, name: str) -> str:
        others = ApiKey.objects.filter(created_by=self.owner, name=name)
        if self.instance is not None:
            others = others.exclude(pk=self.instance.pk)
        if others.exists():
            raise serializers.ValidationError(
                _("An API key with this name already exists: '%(name)s'") % {"name": name}
            )
        if (name == BOOTSTRAP) != (getattr(self.instance, "name", None) == BOOTSTRAP):
            raise serializers.ValidationError(_("This name is reserved for ROUTERDASH_BOOTSTRAP_API_KEY."))
        return name

    def to_internal_value(self, data: Any) -> Any:
        try:
            return super().to_internal_value(data)
        except OverflowError:  # the time is after the year 9999 in our time zone
            raise serializers.ValidationError(
                {"expires_at": _("Choose a date no later than the year 9000, or leave the field empty for no expiry.")}
            ) from None

    def validate_external(self, value: bool) -> bool:
        if value and not self.owner.is_admin and not getattr(self.instance, "external", False):
            raise serializers.ValidationError(_("Only administrators may let a key use external endpoints."))
        return value

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None:
            validate_expiry(value)
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError(_("The expiry is in the past."))
        return value


class ApiKeyCreateSerializer(ApiKeyChangeSerializer):
    """Administrators choose the permissions; viewers' keys always get the two of OpenAI clients."""

    permissions = serializers.ListField(
        child=serializers.ChoiceField(choices=PERMISSIONS), required=False, allow_empty=True
    )
    scopes = serializers.JSONField(required=False, write_only=True, help_text="No longer supported.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "scopes" in attrs:
            raise serializers.ValidationError({"scopes": _("Use `permissions`.")})
        if self.owner.is_admin and not attrs.get("permissions"):
            raise serializers.ValidationError({"permissions": _("Choose at least one permission.")})
        if not self.owner.is_admin:
            if attrs.get("permissions"):
                raise serializers.ValidationError({"permissions": _("Only administrators may choose permissions.")})
            attrs["permissions"] = VIEWER_PERMISSIONS
        return attrs
