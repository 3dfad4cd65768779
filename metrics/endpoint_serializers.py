"""What the API tells of one endpoint's days, for its schema: the values come from metrics.daily and metrics.uptime."""

from typing import Any

from django.contrib.admin.models import ADDITION, DELETION
from rest_framework import serializers

from endpoints.edits import Edit
from metrics.serializers import AttemptSerializer, ModelStatsSerializer, RequestSerializer
from metrics.uptime import STATES

KNOWN_STATES = STATES[1:]


class ModelDaysSerializer(ModelStatsSerializer):
    """Over all time without what needs `days`."""

    output_tokens = serializers.IntegerField(
        required=False, help_text="All of them, also those of answers that have no speed. Only with `days`."
    )
    tokens_per_second = serializers.FloatField(
        required=False, allow_null=True, help_text="total_output_tokens over total_duration_ms. Only with `days`."
    )
    p50_duration_ms = serializers.FloatField(
        required=False,
        allow_null=True,
        help_text="Of the answered requests, from histograms, within 1/16 of itself. Only with `days`.",
    )
    p50_first_token_ms = serializers.FloatField(
        required=False, allow_null=True, help_text="Of the answered streams among them. Only with `days`."
    )


class SecondsSerializer(serializers.Serializer[Any]):
    """In each state."""

    def get_fields(self) -> Any:
        return {name: serializers.FloatField() for name in KNOWN_STATES}


class HealthDaySerializer(serializers.Serializer[Any]):
    date = serializers.DateField(help_text="Local, of the server's zone.")
    uptime = serializers.FloatField(allow_null=True)
    seconds = SecondsSerializer()


class HealthSpanSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(KNOWN_STATES)
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="Of the first one: now, it goes on.")
    duration_secs = serializers.FloatField()
    cause = serializers.CharField(allow_null=True, help_text="What a check found, or which operator said so.")


class HealthSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    days = serializers.IntegerField()
    since = serializers.DateTimeField(help_text="Midnight of the first of these local days.")
    until = serializers.DateTimeField(help_text="Now.")
    uptime = serializers.FloatField(
        allow_null=True, help_text="Online over online, error and offline: 0 to 1; null where nothing was measured."
    )
    seconds = SecondsSerializer()
    by_day = HealthDaySerializer(many=True, help_text="Oldest first.")
    spans = HealthSpanSerializer(many=True, help_text="One state after another, newest first, at most 200.")
    spans_total = serializers.IntegerField()
    latencies_ms = serializers.ListField(
        child=serializers.IntegerField(allow_null=True),
        help_text="Of the last 120 checks, oldest first; null where one failed, or where traffic vouched for it.",
    )


class FailureSerializer(RequestSerializer):
    attempt = AttemptSerializer(allow_null=True, help_text="The one on this endpoint; null of rows without attempts.")


class EditSerializer(serializers.Serializer[Edit]):
    at = serializers.DateTimeField()
    user = serializers.CharField()
    action = serializers.SerializerMethodField()
    via = serializers.ChoiceField(
        ("admin", "api"), help_text="The JSON API, or a page: the dashboard's or the admin's."
    )
    values = serializers.DictField(
        child=serializers.ListField(help_text="Old and new; both null of what is not told."),
        help_text="By the name of the field.",
    )

    def get_action(self, edit: Edit) -> str:
        return {ADDITION: "added", DELETION: "deleted"}.get(edit.flag, "changed")

    def to_representation(self, edit: Edit) -> Any:
        return super().to_representation(edit) | {"via": edit.via or "admin"}
