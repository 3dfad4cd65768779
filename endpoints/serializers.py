"""Serializers of endpoints for the JSON API."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers

from endpoints import causes, clouds, sync, tags
from endpoints.capabilities import FEATURES, NEEDS, STORED, to_store
from endpoints.checks import assumed_slots
from endpoints.clouds import allowed_models
from endpoints.clouds.environment import CloudOffer
from endpoints.clouds.kinds import CLOUD_CHOICES, KIND_CHOICES
from endpoints.clouds.serializers import CloudSerializer, ConnectionSerializer
from endpoints.endpoint_fields import FIELDS, EndpointField, Shape
from endpoints.models import EDITED_OPTIONS, NUMBER_OPTIONS, Endpoint, OperatorState, Status
from endpoints.registry import Entry, ModelEntry, registry
from endpoints.text import validate_line, validate_text
from gateway.base.request_kinds import CAN_CHAT

_TAG_TOO_LONG = gettext_lazy("A tag may have at most {max_length} characters.")


class CauseField(serializers.CharField):
    """A stored cause of an error, in the language of the caller."""

    def to_representation(self, value: str) -> str:
        return causes.localized(value)


class ModelSerializer(serializers.Serializer[ModelEntry]):
    model_id = serializers.CharField(source="id")
    capabilities = serializers.ListField(child=serializers.CharField())
    max_tokens = serializers.IntegerField(allow_null=True, help_text="Context length.")
    last_checked = serializers.DateTimeField(allow_null=True)
    canonical_name = serializers.CharField(allow_null=True)
    max_output_tokens = serializers.IntegerField(allow_null=True, help_text="As a cloud lists it.")
    lacks = serializers.ListField(
        child=serializers.ChoiceField(NEEDS), help_text="What the model cannot do, as its server reports it."
    )
    features = serializers.ListField(
        child=serializers.ChoiceField(FEATURES), help_text="What the model can do, as its server reports it."
    )


AnyField = serializers.Field[Any, Any, Any, Any]

_SHAPES: Mapping[Shape, Callable[..., AnyField]] = {
    Shape.UUID: serializers.UUIDField,
    Shape.TEXT: serializers.CharField,
    Shape.INTEGER: serializers.IntegerField,
    Shape.NUMBER: serializers.FloatField,
    Shape.MOMENT: serializers.DateTimeField,
    Shape.WORDS: lambda **options: serializers.ListField(child=serializers.CharField(), **options),
    Shape.ANY: serializers.JSONField,
    Shape.STATUS: partial(serializers.ChoiceField, choices=Status.choices),
    Shape.OPERATOR_STATE: partial(serializers.ChoiceField, choices=OperatorState.choices),
    Shape.KIND: partial(serializers.ChoiceField, choices=KIND_CHOICES),
    Shape.CLOUD: partial(serializers.ChoiceField, choices=CLOUD_CHOICES),
    Shape.FLAG: serializers.BooleanField,
}


def _declared(field: EndpointField, shape: Shape) -> AnyField:
    options: dict[str, Any] = {}
    if field.nullable:
        options["allow_null"] = True
    if field.help:
        options["help_text"] = field.help
    if field.column != field.name:
        options["source"] = field.name
    return _SHAPES[shape](**options)


class EndpointSerializer(serializers.Serializer[Entry]):
    """An endpoint. The API key of the server is never included; `has_api_key` indicates if one is stored."""

    has_api_key = serializers.SerializerMethodField()
    connection = ConnectionSerializer(
        source="shown_connection",
        allow_null=True,
        help_text="Proxy, certificates and extra headers, with masked secrets; null if there are none.",
    )
    model_count = serializers.SerializerMethodField()
    is_external = serializers.SerializerMethodField(
        help_text="Whether only API keys that may use external endpoints reach it."
    )

    def get_fields(self) -> dict[str, AnyField]:
        """Return the declared fields, and those that follow from several of them."""
        declared = {field.column: _declared(field, field.shape) for field in FIELDS if field.shape is not None}
        return declared | super().get_fields()

    def get_has_api_key(self, entry: Entry) -> bool:
        return bool(entry.sealed_api_key or entry.plain_api_key)

    def get_model_count(self, entry: Entry) -> int:
        return len(entry.models)

    def get_is_external(self, entry: Entry) -> bool:
        return entry.is_external


class EndpointDetailSerializer(EndpointSerializer):
    models = ModelSerializer(many=True)
    active_requests = serializers.SerializerMethodField(help_text="Requests in flight at this endpoint.")

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
        child=serializers.CharField(), allow_null=True, help_text="Names in the model list; null if there is no list."
    )
    endpoint_info = EndpointInfoSerializer(required=False, help_text="Missing if there is no model list.")


class DetectSerializer(CloudSerializer):
    api_key = serializers.CharField(default="", allow_null=True, allow_blank=True, write_only=True)


class OfferedModelSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField(source="id")
    capabilities = serializers.ListField(child=serializers.CharField())
    max_tokens = serializers.IntegerField(allow_null=True)


class RegisteredSerializer(serializers.Serializer[Entry]):
    id = serializers.UUIDField()
    name = serializers.CharField()


class ServerInfoSerializer(serializers.Serializer[Any]):
    """Data that a server reports before anything is stored."""

    base_url = serializers.CharField(help_text="The address as it would be stored.")
    endpoint_type = serializers.ChoiceField(choices=KIND_CHOICES, source="server.kind")
    latency_ms = serializers.IntegerField(allow_null=True, source="server.latency_ms")
    models = OfferedModelSerializer(many=True, source="server.models")
    slots = serializers.IntegerField(
        allow_null=True, source="server.slots", help_text="Requests at a time; null if the server does not report them."
    )
    assumed_slots = serializers.IntegerField(
        allow_null=True,
        source="server.assumed_slots",
        help_text="Requests at a time that are assumed if the server is added as it is.",
    )
    problem = CauseField(allow_null=True, source="server.problem", help_text="Reason for a missing model list.")
    name = serializers.CharField(help_text="Proposed name of the endpoint.")
    registered = RegisteredSerializer(allow_null=True, help_text="The endpoint that already has this address.")


class PlaceSerializer(serializers.Serializer[Any]):
    """One port that was checked."""

    port = serializers.IntegerField()
    usual = serializers.ChoiceField(
        choices=KIND_CHOICES, allow_null=True, help_text="The type of server that usually has this port."
    )
    base_url = serializers.CharField()
    endpoint_type = serializers.ChoiceField(
        choices=KIND_CHOICES, allow_null=True, help_text="null if no known server was found."
    )
    latency_ms = serializers.IntegerField(allow_null=True)
    models = OfferedModelSerializer(many=True)
    slots = serializers.IntegerField(allow_null=True)
    assumed_slots = serializers.IntegerField(
        allow_null=True, help_text="Requests at a time that are assumed if the server is added as it is."
    )
    listens = serializers.BooleanField()
    problem = CauseField(allow_null=True, help_text="Reason why the server cannot be added as it is.")
    name = serializers.CharField(allow_null=True, help_text="Proposed name of the endpoint.")
    registered = RegisteredSerializer(allow_null=True)


class CloudOfferSerializer(serializers.Serializer[CloudOffer]):
    """A cloud whose API key is in the environment of RouterDash. The key is never shown."""

    cloud_type = serializers.ChoiceField(choices=CLOUD_CHOICES, source="found.provider.kind")
    variable = serializers.CharField(source="found.variable", help_text="Name of the variable that has the key.")
    base_url = serializers.CharField(help_text="The address as it would be stored.")
    problem = serializers.CharField(allow_null=True, help_text="Reason why the cloud cannot be added as it is.")
    name = serializers.CharField(source="found.name", help_text="Name of the endpoint.")
    registered = RegisteredSerializer(allow_null=True, help_text="The endpoint that this cloud has already.")


class OfferedCloudSerializer(serializers.Serializer[Any]):
    """A cloud that `discover` offers."""

    cloud_type = serializers.ChoiceField(choices=CLOUD_CHOICES)


class DiscoverySerializer(serializers.Serializer[Any]):
    places = PlaceSerializer(many=True)
    clouds = CloudOfferSerializer(many=True)


class SyncResultSerializer(serializers.Serializer[Any]):
    synced_models = ModelSerializer(many=True)
    added = serializers.IntegerField()
    removed = serializers.IntegerField()
    updated = serializers.IntegerField()


def _default_interval() -> int:
    return int(settings.ROUTERDASH.health_check_interval)


def _number(field: EndpointField) -> AnyField:
    assert field.shape is not None
    return _SHAPES[field.shape](required=False, allow_null=True, min_value=field.minimum, max_value=field.maximum)


class DrainSerializer(serializers.Serializer[Any]):
    deadline_secs = serializers.IntegerField(
        min_value=0,
        max_value=86400,
        allow_null=True,
        default=None,
        help_text="Seconds until running requests are ended; null lets them finish.",
    )


class EndpointWriteSerializer(CloudSerializer):
    """Fields that administrators may edit. On an update, every field may be left out."""

    name = serializers.CharField(max_length=200, validators=[validate_line])
    api_key = serializers.CharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        write_only=True,
        help_text="Secret of the server; empty or null deletes the stored one.",
    )
    health_check_interval_secs = serializers.IntegerField(min_value=1, max_value=3600, default=_default_interval)
    inference_timeout_secs = serializers.IntegerField(
        min_value=1,
        max_value=86400,
        default=120,
        help_text=next(field.help for field in FIELDS if field.name == "inference_timeout_secs"),
    )
    notes = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=20000, validators=[validate_text]
    )
    capabilities = serializers.ListField(
        child=serializers.ChoiceField(choices=[*STORED, CAN_CHAT]),
        required=False,
        max_length=20,
        help_text="Capabilities that are added to all models; chat_completion alone adds nothing.",
    )
    operator_state = serializers.ChoiceField(choices=OperatorState.choices, required=False)
    tags = serializers.ListField(
        child=serializers.CharField(
            max_length=tags.MAX_LENGTH, error_messages={"max_length": _TAG_TOO_LONG}, validators=[validate_line]
        ),
        required=False,
        max_length=tags.MAX_TAGS,
    )
    external = serializers.BooleanField(
        required=False, allow_null=True, help_text="null: clouds are external, others are not."
    )
    allowed_models = serializers.ListField(
        child=serializers.CharField(max_length=allowed_models.MAX_LENGTH, validators=[validate_line]),
        required=False,
        allow_null=True,
        max_length=allowed_models.MAX_PATTERNS,
        help_text="Patterns such as `gpt-5*`; null: all models.",
    )

    def get_fields(self) -> dict[str, AnyField]:
        """Return the fields of this class, and the numeric options."""
        fields = super().get_fields()
        numbers = {name: _number(field) for name, field in NUMBER_OPTIONS.items()}
        return {"name": fields["name"]} | fields | numbers  # the name first, in the documentation

    def validate_name(self, name: str) -> str:
        others = Endpoint.objects.filter(name=name)
        if self.instance is not None:
            others = others.exclude(pk=self.instance.pk)
        if others.exists():
            raise serializers.ValidationError(_("An endpoint with this name already exists."))
        return name

    def validate_capabilities(self, words: list[str]) -> list[str]:
        return to_store(words)

    def validate_tags(self, words: list[str]) -> list[str]:
        return tags.normalise(words)

    def validate(self, attrs: Any) -> Any:
        attrs = super().validate(attrs)
        if attrs.get("cloud_type") and not self.partial and "health_check_interval_secs" not in self.initial_data:
            attrs["health_check_interval_secs"] = clouds.CHECK_SECONDS
        return attrs

    def validate_allowed_models(self, patterns: list[str] | None) -> list[str] | None:
        return tags.normalise(patterns or ()) or None

    def write(self, endpoint: Endpoint) -> Endpoint:
        """Apply the validated fields and store the endpoint. Fields that were not sent stay as they are."""
        values = dict(self.validated_data)
        secret = values.pop("api_key", _ABSENT)
        state = values.pop("operator_state", None)
        connection = values.pop("connection", None)
        options = {name: values.pop(name) for name in EDITED_OPTIONS if name in values}
        is_new = endpoint._state.adding
        moves = not endpoint._state.adding and endpoint.moves_to(values.get("base_url", endpoint.base_url))
        for name, value in values.items():
            setattr(endpoint, name, value)
        if is_new:
            endpoint.save()
            options = {"assumed_slots": assumed_slots.of_new(endpoint.kind)} | options
        elif values:
            endpoint.save(update_fields=list(values))
        if moves:
            endpoint.forget_server(None if secret is _ABSENT else secret or None)
        elif secret is not _ABSENT:
            endpoint.set_api_key(secret or None)
        if connection is not None:
            endpoint.set_connection(connection)
        if options:
            endpoint.set_options(**options)
            sync.follow_options(endpoint, options)
        if not is_new and "endpoint_type" in values:
            assumed_slots.follow_kind(endpoint)
        if state not in (None, endpoint.options_or_default.operator_state):
            endpoint.set_operator_state(state)
        return endpoint


_ABSENT: Any = object()
