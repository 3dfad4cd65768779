"""Endpoints as the JSON API takes and tells them."""

from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework import serializers

from endpoints import base_url
from endpoints.models import Endpoint, Kind, OperatorState, Status
from endpoints.registry import Entry, ModelEntry


class ModelSerializer(serializers.Serializer[ModelEntry]):
    model_id = serializers.CharField(source="id")
    capabilities = serializers.ListField(child=serializers.CharField())
    max_tokens = serializers.IntegerField(allow_null=True)
    last_checked = serializers.DateTimeField(allow_null=True)
    canonical_name = serializers.CharField(allow_null=True)


class EndpointSerializer(serializers.Serializer[Entry]):
    """What is told. The upstream's key never is, only whether there is one."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    base_url = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
    endpoint_type = serializers.ChoiceField(choices=Kind.choices, source="kind")
    health_check_interval_secs = serializers.IntegerField()
    inference_timeout_secs = serializers.IntegerField()
    latency_ms = serializers.IntegerField(allow_null=True)
    last_seen = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField(allow_null=True)
    error_count = serializers.IntegerField()
    registered_at = serializers.DateTimeField(allow_null=True)
    notes = serializers.CharField(allow_null=True)
    device_info = serializers.JSONField(allow_null=True)
    has_api_key = serializers.SerializerMethodField()
    model_count = serializers.SerializerMethodField()

    def get_has_api_key(self, entry: Entry) -> bool:
        return bool(entry.sealed_api_key or entry.plain_api_key)

    def get_model_count(self, entry: Entry) -> int:
        return len(entry.models)


class EndpointDetailSerializer(EndpointSerializer):
    models = ModelSerializer(many=True)


class EndpointListSerializer(serializers.Serializer[Any]):
    endpoints = EndpointSerializer(many=True)
    total = serializers.IntegerField()


class EndpointModelsSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    models = ModelSerializer(many=True)


class TestResultSerializer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    latency_ms = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    models_found = serializers.IntegerField(allow_null=True)


class SyncResultSerializer(serializers.Serializer[Any]):
    synced_models = serializers.ListField(child=serializers.CharField(), source="models")
    added = serializers.IntegerField()
    removed = serializers.IntegerField()
    updated = serializers.IntegerField()


def _default_interval() -> int:
    return int(settings.ROUTERDASH.health_check_interval)


class EndpointWriteSerializer(serializers.Serializer[Endpoint]):
    """What staff may say of an endpoint. On an update every field may be left out."""

    name = serializers.CharField(max_length=200)
    base_url = serializers.CharField(max_length=2000)
    api_key = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, write_only=True, help_text="Empty or null forgets it."
    )
    health_check_interval_secs = serializers.IntegerField(min_value=1, max_value=3600, default=_default_interval)
    inference_timeout_secs = serializers.IntegerField(min_value=1, max_value=86400, default=120)
    notes = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=20000)
    capabilities = serializers.ListField(child=serializers.CharField(max_length=50), required=False, max_length=20)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices, required=False)

    def validate_name(self, name: str) -> str:
        others = Endpoint.objects.filter(name=name)
        if self.instance is not None:
            others = others.exclude(pk=self.instance.pk)
        if others.exists():
            raise serializers.ValidationError(_("An endpoint of this name exists already."))
        return name

    def validate_base_url(self, url: str) -> str:
        try:
            return base_url.normalise(url)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def write(self, endpoint: Endpoint) -> Endpoint:
        """Apply the validated fields and store the endpoint. Only what was sent is changed."""
        values = dict(self.validated_data)
        secret = values.pop("api_key", _ABSENT)
        state = values.pop("operator_state", None)
        for name, value in values.items():
            setattr(endpoint, name, value)
        if endpoint._state.adding:
            endpoint.save()
        elif values:
            endpoint.save(update_fields=list(values))
        if secret is not _ABSENT:
            endpoint.set_api_key(secret or None)
        if state is not None:
            endpoint.set_operator_state(state)
        return endpoint


_ABSENT: Any = object()
