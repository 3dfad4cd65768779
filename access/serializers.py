"""Serializers of API keys for the JSON API."""

from collections.abc import Mapping
from typing import Any, cast

from django.core.exceptions import ValidationError as DjangoValidationError
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied

from access.bootstrap import BOOTSTRAP
from access.keys.rules import FIELDS, KINDS, check_rules, read_rules
from access.keys.use import UseOfKey, uses_of
from access.models import DISABLED_BY_ADMIN, PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User
from access.permissions import EFFECTS
from endpoints.fields import validate_expiry
from endpoints.text import validate_line
from gateway.base.queue_class import BULK, CLASSES, INTERACTIVE

MAX_OVERLAP_SECONDS = 90 * 86400
_PERMISSIONS_HELP = format_lazy(
    "; ".join(f"`{name}`: {{}}" for name in EFFECTS) + ". The others come from llmlb and allow nothing.",
    *EFFECTS.values(),
)


class KeyRulesSerializer(serializers.Serializer[Any]):
    """Restrictions of a key. An empty list restricts nothing."""

    models = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Models and model names; `*` stands for any characters. A model name allows what it leads to.",
    )
    forbidden_models = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Models that no name leads to for this key."
    )
    endpoints = serializers.ListField(child=serializers.UUIDField(), required=False, help_text="Ids of endpoints.")
    tags = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Only endpoints with one of these tags."
    )
    kinds = serializers.ListField(child=serializers.ChoiceField(choices=KINDS), required=False)
    networks = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Networks of clients, such as `10.0.0.0/8`."
    )


class RefusedRequestsSerializer(serializers.Serializer[Any]):
    """Refused requests of a key for one reason, by day in the server's time zone."""

    code = serializers.CharField(help_text="Code of the error, such as `rate_limit_exceeded`.")
    limit = serializers.CharField(
        allow_null=True, help_text="Level and limit or budget, such as `key:requests` or `user:tokens_day`."
    )
    today = serializers.IntegerField()
    last_7_days = serializers.IntegerField(help_text="Today and the six days before.")


class ApiKeySerializer(serializers.Serializer[ApiKey]):
    """A key. `uses` of the context has the use of several keys."""

    id = serializers.UUIDField()
    key_prefix = serializers.CharField(allow_null=True)
    name = serializers.CharField()
    created_by = serializers.UUIDField(source="created_by_id")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    permissions = serializers.ListField(child=serializers.CharField(), source="granted", help_text=_PERMISSIONS_HELP)
    external = serializers.SerializerMethodField(help_text="Whether the key may use external endpoints.")

    enabled = serializers.SerializerMethodField(help_text="False: requests with the key are refused.")
    disabled_by_admin = serializers.SerializerMethodField(
        help_text="True: an administrator disabled it, and only one can enable it again."
    )
    queue_class = serializers.SerializerMethodField(
        help_text="`bulk`: its requests give way to interactive ones, whatever they ask for."
    )
    rules = serializers.SerializerMethodField(help_text="Restrictions of the key; null: there are none.")
    replaced_until = serializers.DateTimeField(
        allow_null=True, help_text="When the key that this one replaced at its last rotation expires."
    )

    last_used_at = serializers.SerializerMethodField(
        help_text="When its latest request completed that was not refused; null: not since RouterDash stores it."
    )
    refused = serializers.SerializerMethodField(help_text="Refused requests by reason.")

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_last_used_at(self, row: ApiKey) -> str | None:
        last = self._use(row).last_used
        return None if last is None else last.isoformat(timespec="microseconds").replace("+00:00", "Z")

    @extend_schema_field(RefusedRequestsSerializer(many=True))
    def get_refused(self, row: ApiKey) -> Any:
        return RefusedRequestsSerializer(cast(Any, self._use(row).refused), many=True).data

    def _use(self, row: ApiKey) -> UseOfKey:
        uses: Mapping[str, UseOfKey] = self.context.get("uses") or uses_of([row.pk])
        return uses[str(row.pk)]

    def get_external(self, row: ApiKey) -> bool:
        return bool(row.external)

    def get_enabled(self, row: ApiKey) -> bool:
        return row.enabled is not False

    def get_disabled_by_admin(self, row: ApiKey) -> bool:
        return bool(row.disabled_by_admin)

    @extend_schema_field(serializers.ChoiceField(choices=CLASSES))
    def get_queue_class(self, row: ApiKey) -> str:
        return BULK if row.bulk else INTERACTIVE

    @extend_schema_field(KeyRulesSerializer(allow_null=True))
    def get_rules(self, row: ApiKey) -> dict[str, list[str]] | None:
        rules = read_rules(row.rules)
        return None if rules is None else {name: list(getattr(rules, name)) for name in FIELDS}


class ApiKeyListSerializer(serializers.Serializer[Any]):
    api_keys = ApiKeySerializer(many=True)


class NewApiKeySerializer(ApiKeySerializer):
    key = serializers.CharField(help_text="The key. It is shown only in this response, and not stored.")


class ApiKeyChangeSerializer(serializers.Serializer[ApiKey]):
    """Name, expiry and restrictions of a key. Fields that are missing stay as they are."""

    name = serializers.CharField(max_length=200, validators=[validate_line])
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    external = serializers.BooleanField(
        required=False, help_text="Whether the key may use external endpoints; only administrators may allow it."
    )

    enabled = serializers.BooleanField(required=False, help_text="False: requests with the key are refused.")
    queue_class = serializers.ChoiceField(
        choices=CLASSES, required=False, help_text="Only administrators may change it."
    )
    rules = KeyRulesSerializer(
        required=False, allow_null=True, help_text="Only administrators may change them; null: no restrictions."
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

    def validate_enabled(self, value: bool) -> bool:
        if value and self.instance is not None and not self.instance.may_enable(self.owner):
            raise PermissionDenied(DISABLED_BY_ADMIN)
        return value

    def validate_queue_class(self, value: str) -> str:
        if not self.owner.is_admin and (value == BULK) != bool(getattr(self.instance, "bulk", False)):
            raise serializers.ValidationError(_("Only administrators may change the class of a key."))
        return value

    def validate_rules(self, value: dict[str, list[Any]] | None) -> dict[str, list[str]] | None:
        try:
            checked = check_rules({name: map(str, entries) for name, entries in (value or {}).items()})
        except DjangoValidationError as error:
            raise serializers.ValidationError(error.message_dict) from None
        if not self.owner.is_admin and checked != getattr(self.instance, "rules", None):
            raise serializers.ValidationError(_("Only administrators may change the restrictions of a key."))
        return checked

    def columns(self) -> Mapping[str, Any]:
        """Return the values of the columns that were sent."""
        values = dict(self.validated_data)
        if "queue_class" in values:
            values["bulk"] = values.pop("queue_class") == BULK
        return values

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None:
            validate_expiry(value)
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError(_("The expiry is in the past."))
        return value


class ApiKeyCreateSerializer(ApiKeyChangeSerializer):
    """Administrators choose the permissions; viewers' keys always get the two of OpenAI clients."""

    permissions = serializers.ListField(
        child=serializers.ChoiceField(choices=PERMISSIONS),
        required=False,
        allow_empty=True,
        help_text=_PERMISSIONS_HELP,
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


class RotationSerializer(serializers.Serializer[Any]):
    overlap_secs = serializers.IntegerField(
        min_value=0,
        max_value=MAX_OVERLAP_SECONDS,
        default=86400,
        help_text="How long the old key stays valid. Both count as one key.",
    )
