"""Schemas of the overview beside its figures, compared with metrics.queries.payloads by tests."""

from typing import Any

from rest_framework import serializers

from endpoints.models import Status
from gateway.registry.limits import LEVELS, PERIODS, UNITS
from metrics.memory.endpoint_events import KINDS
from metrics.queries import attention


class AttentionSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(attention.KINDS)
    severity = serializers.ChoiceField(attention.SEVERITIES)
    since = serializers.DateTimeField(allow_null=True, help_text="Null if unknown.")
    cause = serializers.CharField(
        allow_null=True,
        help_text="Error of the health check or database, state of the circuit breaker, name of the limit, or of "
        "`unpriced` the names of at most five models.",
    )
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    models = serializers.IntegerField(
        allow_null=True,
        help_text="Number of models of the endpoint; for `slow`, of those that slowed down; for `unpriced`, of those "
        "for which budgets of money count nothing.",
    )
    models_nowhere_else = serializers.IntegerField(
        allow_null=True, help_text="Number of these models that no online endpoint has."
    )
    user_id = serializers.UUIDField(allow_null=True)
    username = serializers.CharField(allow_null=True)
    free_bytes = serializers.IntegerField(allow_null=True, help_text="Free bytes on the disk of the data directory.")
    keys = serializers.IntegerField(allow_null=True, help_text="Number of upstream keys stored in plain text.")
    model = serializers.CharField(
        allow_null=True,
        help_text="The model of a slow-down; of several, the one that slowed down most. Of a budget, the model name "
        "to which requests go once it is spent. Of `unpriced`, the most used one.",
    )
    factor = serializers.FloatField(
        allow_null=True, help_text="By how much longer its requests take than before, beside as many others."
    )
    level = serializers.ChoiceField(LEVELS, allow_null=True, help_text="Whose budget it is.")
    subject_id = serializers.UUIDField(allow_null=True, help_text="Id of the API key or user with the budget.")
    subject_name = serializers.CharField(allow_null=True, help_text="Name of the API key or user with the budget.")
    unit = serializers.ChoiceField(UNITS, allow_null=True, help_text="Unit of the budget.")
    period = serializers.ChoiceField(PERIODS, allow_null=True, help_text="Period of the budget.")
    percent = serializers.IntegerField(allow_null=True, help_text="Spent part of the budget, rounded down.")
    until = serializers.DateTimeField(allow_null=True, help_text="End of the budget's period; null: it has none.")
    budgets = serializers.IntegerField(
        allow_null=True, help_text="Number of further budgets that are spent, or nearly so."
    )


class BusyModelSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    requests = serializers.IntegerField()


class BusyKeySerializer(serializers.Serializer[Any]):
    api_key_id = serializers.UUIDField(allow_null=True, help_text="Null for requests without an API key.")
    api_key_name = serializers.CharField(allow_null=True)
    requests = serializers.IntegerField()


class BusyClientSerializer(serializers.Serializer[Any]):
    ip = serializers.CharField(help_text="An IPv4 address, or a /64 of IPv6.")
    requests = serializers.IntegerField(help_text="Includes failed and cancelled requests.")


class BusiestSerializer(serializers.Serializer[Any]):
    models = BusyModelSerializer(many=True)
    api_keys = BusyKeySerializer(many=True)
    clients = BusyClientSerializer(
        many=True,
        help_text="Clients of this UTC hour and the previous one, among the first 20,000 of each.",
    )


class EndpointEventSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    what = serializers.ChoiceField(KINDS)
    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    status_before = serializers.ChoiceField(choices=Status.choices, allow_null=True)
    status_after = serializers.ChoiceField(choices=Status.choices, allow_null=True)
    detail = serializers.CharField(allow_null=True, help_text="The cause, or the edited fields.")
    by = serializers.CharField(allow_null=True, help_text="Name of the user who edited the endpoint.")


class MinuteFiguresSerializer(serializers.Serializer[Any]):
    minute = serializers.DateTimeField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    average_ms = serializers.FloatField(allow_null=True, help_text="Average duration of the successful requests.")
    p95_ms = serializers.FloatField(allow_null=True)
    first_token_ms = serializers.FloatField(
        allow_null=True, help_text="Median time to first token of the successful streams."
    )
    in_flight = serializers.IntegerField(allow_null=True, help_text="Maximum; null before RouterDash started.")
    queued = serializers.IntegerField(allow_null=True, help_text="Maximum; null before RouterDash started.")
    online = serializers.IntegerField(allow_null=True, help_text="Minimum; null before RouterDash started.")
