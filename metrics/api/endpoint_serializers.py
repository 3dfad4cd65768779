"""Schemas of one endpoint's days, health, failures and edits."""

from typing import Any

from django.contrib.admin.models import ADDITION, DELETION
from rest_framework import serializers

from endpoints.edit_log import Edit
from gateway.routing.adaptive import SLOW_START
from metrics.api.figure_serializers import ModelStatsSerializer
from metrics.api.request_serializers import AttemptSerializer, RequestSerializer
from metrics.queries import slowdowns
from metrics.queries.learned import FEW, MANY, MANY_SAMPLES, SOME
from metrics.queries.uptime import STATES

KNOWN_STATES = STATES[1:]


class ModelDaysSerializer(ModelStatsSerializer):
    """Sums of one model. All-time sums lack the optional fields."""

    output_tokens = serializers.IntegerField(
        required=False, help_text="All output tokens, also of requests without a speed. Only with `days`."
    )
    tokens_per_second = serializers.FloatField(
        required=False, allow_null=True, help_text="total_output_tokens over total_duration_ms. Only with `days`."
    )
    p50_duration_ms = serializers.FloatField(
        required=False,
        allow_null=True,
        help_text="Median of successful requests, from histograms with a precision of 1/16. Only with `days`.",
    )
    p50_first_token_ms = serializers.FloatField(
        required=False, allow_null=True, help_text="Median of successful streams. Only with `days`."
    )


class SecondsSerializer(serializers.Serializer[Any]):
    """Seconds in each state."""

    def get_fields(self) -> Any:
        return {name: serializers.FloatField() for name in KNOWN_STATES}


class HealthDaySerializer(serializers.Serializer[Any]):
    date = serializers.DateField(help_text="Local day in the server's time zone.")
    uptime = serializers.FloatField(allow_null=True)
    seconds = SecondsSerializer()


class HealthSpanSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(KNOWN_STATES)
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="End of the state; the present time for the first one.")
    duration_secs = serializers.FloatField()
    cause = serializers.CharField(
        allow_null=True, help_text="The result of a check, or the user who changed the state."
    )


class HealthSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    days = serializers.IntegerField()
    since = serializers.DateTimeField(help_text="Midnight of the first local day.")
    until = serializers.DateTimeField(help_text="The present time.")
    uptime = serializers.FloatField(
        allow_null=True,
        help_text="Share of time online, among online, error and offline: 0 to 1; null if nothing was measured.",
    )
    seconds = SecondsSerializer()
    by_day = HealthDaySerializer(many=True, help_text="Days, oldest first.")
    spans = HealthSpanSerializer(many=True, help_text="Successive states, newest first, at most 200.")
    spans_total = serializers.IntegerField()
    latencies_ms = serializers.ListField(
        child=serializers.IntegerField(allow_null=True),
        help_text="Latencies of the last 120 checks, oldest first; null if a check failed or traffic replaced it.",
    )


class FailureSerializer(RequestSerializer):
    attempt = AttemptSerializer(
        allow_null=True, help_text="The attempt at this endpoint; null for rows without attempts."
    )


class LearnedPointSerializer(serializers.Serializer[Any]):
    in_flight = serializers.FloatField(help_text="Mean requests in flight over the response, itself included.")
    token_ms = serializers.FloatField(help_text="Time for each output token after the prompt.")


class LearnedSerializer(serializers.Serializer[Any]):
    """What adaptive routing has learned about requests of one kind to a model of an endpoint."""

    model_id = serializers.CharField()
    kind = serializers.CharField()
    samples = serializers.IntegerField(help_text="Responses that it was learned from, at most 256.")
    newest = serializers.DateTimeField(allow_null=True, help_text="Completion of the last of them.")
    confidence = serializers.ChoiceField(
        (FEW, SOME, MANY), help_text=f"`{FEW}`: fewer than {SLOW_START} samples; `{MANY}`: at least {MANY_SAMPLES}."
    )
    tokens_per_second_alone = serializers.FloatField(
        allow_null=True, help_text="Output tokens per second of a request that runs alone. Null if nothing is learned."
    )
    tokens_per_second_with_four = serializers.FloatField(
        allow_null=True, help_text="Output tokens per second of each of four requests."
    )
    prompt_tokens_per_second = serializers.FloatField(
        allow_null=True, help_text="Prompt tokens per second, of those that are not in the prefix cache."
    )
    setup_ms = serializers.FloatField(allow_null=True, help_text="Time for each request.")
    load_ms = serializers.FloatField(allow_null=True, help_text="Time for loading the model; null if never seen.")
    ratio_p50 = serializers.FloatField(
        allow_null=True, help_text="Actual over predicted duration, median; null with fewer than five."
    )
    ratio_p90 = serializers.FloatField(allow_null=True, help_text="The same, 90th percentile.")
    prefix_hit_rate = serializers.FloatField(
        allow_null=True,
        help_text="Share of responses with a cached part of the prompt; null if the endpoint does not report it.",
    )
    prefix_reports = serializers.IntegerField(help_text="Responses that reported cached tokens, or that none were.")
    points = LearnedPointSerializer(many=True, help_text="The samples as points of the curve, oldest first.")


class EngineSerializer(serializers.Serializer[Any]):
    """What an endpoint's engine last reported about itself. Null: it does not report that."""

    loaded_models = serializers.ListField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="Ids of the models in memory, least recently used first where the engine reports that.",
    )
    loading_models = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Ids of models that are being loaded."
    )
    other_requests = serializers.IntegerField(
        allow_null=True, help_text="Requests that run or wait there and are not RouterDash's."
    )
    read_at = serializers.DateTimeField(allow_null=True, help_text="When it was last read.")


class NearbySerializer(serializers.Serializer[Any]):
    """What happened to an endpoint when it became slower."""

    at = serializers.DateTimeField()
    what = serializers.ChoiceField(slowdowns.WHATS)
    state = serializers.ChoiceField(KNOWN_STATES, allow_null=True, help_text="The state that began.")
    cause = serializers.CharField(allow_null=True, help_text="Of the state, as in its health.")
    user = serializers.CharField(allow_null=True, help_text="Who edited the endpoint.")
    changed = serializers.ListField(child=serializers.CharField(), help_text="Names of the edited fields.")


class SlowdownSerializer(serializers.Serializer[Any]):
    """Requests of one kind to a model that take longer than before, beside as many others."""

    model = serializers.CharField(help_text="The requested name.")
    kind = serializers.CharField()
    since = serializers.DateTimeField(help_text="When it began, as far as requests show it; at most eight days ago.")
    factor = serializers.FloatField(help_text="By which the requests since then take longer, in the median.")
    requests = serializers.IntegerField(help_text="Requests since then that were compared.")
    last_request_at = serializers.DateTimeField()
    nearby = NearbySerializer(
        many=True, help_text="Changes of state and edits from six hours before it to one after, oldest first."
    )


class EditSerializer(serializers.Serializer[Edit]):
    at = serializers.DateTimeField()
    user = serializers.CharField()
    action = serializers.SerializerMethodField()
    via = serializers.ChoiceField(("admin", "api"), help_text="`api` for the JSON API, `admin` for any page.")
    values = serializers.DictField(
        child=serializers.ListField(help_text="Old and new value; both null for secrets."),
        help_text="Changes by field name.",
    )

    def get_action(self, edit: Edit) -> str:
        return {ADDITION: "added", DELETION: "deleted"}.get(edit.flag, "changed")

    def to_representation(self, edit: Edit) -> Any:
        return super().to_representation(edit) | {"via": edit.via or "admin"}


class HealthMetricsSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
