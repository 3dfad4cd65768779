"""Endpoints as the JSON API takes and tells them."""

from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers

from endpoints import base_url, tags
from endpoints.capabilities import STORED, to_store
from endpoints.models import LIMITS, Endpoint, Kind, OperatorState, Status
from endpoints.registry import Entry, ModelEntry, registry
from endpoints.text import validate_line, validate_text
from gateway.kinds import CAN_CHAT

_TAG_TOO_LONG = gettext_lazy("A tag has at most {max_length} characters.")


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
    capabilities = serializers.ListField(
        child=serializers.CharField(), help_text="Added to those of each model, unless it is chat_completion alone."
    )
    connect_timeout_secs = serializers.IntegerField(allow_null=True, help_text="null: 5.")
    idle_timeout_secs = serializers.IntegerField(allow_null=True, help_text="null: as inference_timeout_secs.")
    total_timeout_secs = serializers.IntegerField(allow_null=True, help_text="Of a stream; null: none.")
    max_concurrency = serializers.IntegerField(allow_null=True, help_text="null: learned_slots, else any number.")
    learned_slots = serializers.IntegerField(allow_null=True, help_text="Requests at a time, as the server tells.")
    tags = serializers.ListField(child=serializers.CharField(), help_text="Words by which staff group endpoints.")
    drain_until = serializers.DateTimeField(
        allow_null=True, help_text="While draining: when requests are ended that still run; null: never."
    )
    has_api_key = serializers.SerializerMethodField()
    model_count = serializers.SerializerMethodField()

    def get_has_api_key(self, entry: Entry) -> bool:
        return bool(entry.sealed_api_key or entry.plain_api_key)

    def get_model_count(self, entry: Entry) -> int:
        return len(entry.models)


class EndpointDetailSerializer(EndpointSerializer):
    models = ModelSerializer(many=True)
    active_requests = serializers.SerializerMethodField(help_text="Requests that it is working on now.")

    def get_active_requests(self, entry: Entry) -> int:
        return registry.in_flight().get(entry.id, 0)


class EndpointListSerializer(serializers.Serializer[Any]):
    endpoints = EndpointSerializer(many=True)
    total = serializers.IntegerField()


class EndpointModelsSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    models = ModelSerializer(many=True)


class ModelInfoSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    endpoint_id = serializers.UUIDField()
    max_tokens = serializers.IntegerField(allow_null=True)
    last_checked = serializers.DateTimeField(allow_null=True)


class EndpointInfoSerializer(serializers.Serializer[Any]):
    model_count = serializers.IntegerField()


class TestResultSerializer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    latency_ms = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    models_found = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Names of the models that it lists; null: no list."
    )
    endpoint_info = EndpointInfoSerializer(required=False, help_text="Not there where there is no list of models.")


class DetectSerializer(serializers.Serializer[Any]):
    base_url = serializers.CharField(max_length=2000)
    api_key = serializers.CharField(default="", allow_null=True, allow_blank=True, write_only=True)

    def validate_base_url(self, url: str) -> str:
        return _normalise(url)


class OfferedModelSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField(source="id")
    capabilities = serializers.ListField(child=serializers.CharField())
    max_tokens = serializers.IntegerField(allow_null=True)


class RegisteredSerializer(serializers.Serializer[Entry]):
    id = serializers.UUIDField()
    name = serializers.CharField()


class LookSerializer(serializers.Serializer[Any]):
    """What a server tells before anything is stored."""

    base_url = serializers.CharField(help_text="As it would be stored.")
    endpoint_type = serializers.ChoiceField(choices=Kind.choices, source="look.kind")
    latency_ms = serializers.IntegerField(allow_null=True, source="look.latency_ms")
    models = OfferedModelSerializer(many=True, source="look.models")
    slots = serializers.IntegerField(
        allow_null=True, source="look.slots", help_text="Requests at a time; null: it does not tell."
    )
    problem = serializers.CharField(allow_null=True, source="look.problem", help_text="Why it names no models.")
    name = serializers.CharField(help_text="A proposal.")
    registered = RegisteredSerializer(allow_null=True, help_text="The endpoint that has this address already.")


class PlaceSerializer(serializers.Serializer[Any]):
    """One port that was looked at."""

    port = serializers.IntegerField()
    usual = serializers.ChoiceField(
        choices=Kind.choices, allow_null=True, help_text="The type whose port this usually is."
    )
    base_url = serializers.CharField()
    endpoint_type = serializers.ChoiceField(choices=Kind.choices, allow_null=True, help_text="null: no known server.")
    latency_ms = serializers.IntegerField(allow_null=True)
    models = OfferedModelSerializer(many=True)
    slots = serializers.IntegerField(allow_null=True)
    listens = serializers.BooleanField()
    problem = serializers.CharField(allow_null=True, help_text="Why it cannot be added as it is.")
    name = serializers.CharField(allow_null=True, help_text="A proposal.")
    registered = RegisteredSerializer(allow_null=True)


class DiscoverySerializer(serializers.Serializer[Any]):
    places = PlaceSerializer(many=True)


class SyncResultSerializer(serializers.Serializer[Any]):
    synced_models = ModelSerializer(many=True)
    added = serializers.IntegerField()
    removed = serializers.IntegerField()
    updated = serializers.IntegerField()


def _default_interval() -> int:
    return int(settings.ROUTERDASH.health_check_interval)


def _limit(name: str) -> serializers.IntegerField:
    return serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=LIMITS[name])


class DrainSerializer(serializers.Serializer[Any]):
    deadline_secs = serializers.IntegerField(
        min_value=0,
        max_value=86400,
        allow_null=True,
        default=None,
        help_text="Requests that still run by then are ended; null: they may finish.",
    )


class EndpointWriteSerializer(serializers.Serializer[Endpoint]):
    """What staff may say of an endpoint. On an update every field may be left out."""

    name = serializers.CharField(max_length=200, validators=[validate_line])
    base_url = serializers.CharField(max_length=2000)
    api_key = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, write_only=True, help_text="Empty or null forgets it."
    )
    health_check_interval_secs = serializers.IntegerField(min_value=1, max_value=3600, default=_default_interval)
    inference_timeout_secs = serializers.IntegerField(min_value=1, max_value=86400, default=120)
    notes = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=20000, validators=[validate_text]
    )
    capabilities = serializers.ListField(
        child=serializers.ChoiceField(choices=[*STORED, CAN_CHAT]),
        required=False,
        max_length=20,
        help_text="Added to those of each model, unless it is chat_completion alone.",
    )
    operator_state = serializers.ChoiceField(choices=OperatorState.choices, required=False)
    tags = serializers.ListField(
        child=serializers.CharField(
            max_length=tags.LONGEST, error_messages={"max_length": _TAG_TOO_LONG}, validators=[validate_line]
        ),
        required=False,
        max_length=tags.MOST,
    )
    connect_timeout_secs = _limit("connect_timeout_secs")
    idle_timeout_secs = _limit("idle_timeout_secs")
    total_timeout_secs = _limit("total_timeout_secs")
    max_concurrency = _limit("max_concurrency")

    def validate_name(self, name: str) -> str:
        others = Endpoint.objects.filter(name=name)
        if self.instance is not None:
            others = others.exclude(pk=self.instance.pk)
        if others.exists():
            raise serializers.ValidationError(_("An endpoint of this name exists already."))
        return name

    def validate_base_url(self, url: str) -> str:
        return _normalise(url)

    def validate_capabilities(self, words: list[str]) -> list[str]:
        return to_store(words)

    def validate_tags(self, words: list[str]) -> list[str]:
        return tags.normalise(words)

    def write(self, endpoint: Endpoint) -> Endpoint:
        """Apply the validated fields and store the endpoint. Only what was sent is changed."""
        values = dict(self.validated_data)
        secret = values.pop("api_key", _ABSENT)
        state = values.pop("operator_state", None)
        options = {name: values.pop(name) for name in (*LIMITS, "tags") if name in values}
        moves = not endpoint._state.adding and endpoint.moves_to(values.get("base_url", endpoint.base_url))
        for name, value in values.items():
            setattr(endpoint, name, value)
        if endpoint._state.adding:
            endpoint.save()
        elif values:
            endpoint.save(update_fields=list(values))
        if moves:
            endpoint.forget_server(None if secret is _ABSENT else secret or None)
        elif secret is not _ABSENT:
            endpoint.set_api_key(secret or None)
        if options:
            endpoint.set_options(**options)
        if state not in (None, endpoint.options_or_default.operator_state):
            endpoint.set_operator_state(state)
        return endpoint


def _normalise(url: str) -> str:
    try:
        return base_url.normalise(url)
    except ValueError as error:
        raise serializers.ValidationError(str(error)) from None


_ABSENT: Any = object()
