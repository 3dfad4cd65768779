"""Figures as the JSON API tells them, for its schema: the values come from metrics.queries as they are."""

import re
from datetime import date, datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from endpoints.models import Kind, OperatorState, Status
from gateway.kinds import CHAT, KINDS
from metrics.breakers import STATES
from metrics.downloads import STATES as STATES_OF_EXPORTS
from metrics.history import ERROR, OUTCOMES, Wanted
from metrics.live import PHASES
from metrics.routes import EXCLUDED
from metrics.routes import REASONS as ROUTE_REASONS
from metrics.usage import BY, Period

MAX_USAGE_DAYS = 3 * 366
FIRST_DATE = date(1970, 1, 1)
ROUTED = tuple(kind.name for kind in KINDS)  # kinds of requests that name a model


class DashboardEndpointSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    base_url = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    status_since = serializers.DateTimeField(allow_null=True, help_text="Null where that is not known.")
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
    drain_until = serializers.DateTimeField(allow_null=True)
    endpoint_type = serializers.ChoiceField(choices=Kind.choices)
    health_check_interval_secs = serializers.IntegerField()
    inference_timeout_secs = serializers.IntegerField()
    latency_ms = serializers.IntegerField(allow_null=True)
    last_seen = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField(allow_null=True)
    error_count = serializers.IntegerField()
    registered_at = serializers.DateTimeField(allow_null=True)
    notes = serializers.CharField(allow_null=True)
    model_count = serializers.IntegerField()
    total_requests = serializers.IntegerField(help_text="Attempts, without those of clients who left.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    active_requests = serializers.IntegerField()
    slots = serializers.IntegerField(allow_null=True, help_text="Requests that it gets at a time; null: any number.")
    tokens_per_second = serializers.FloatField(
        allow_null=True, help_text="Of one answer: today's output tokens over the time that their answers took."
    )
    recent_attempts = serializers.IntegerField(help_text="In the last 60 minutes, answered and failed.")
    recent_failures = serializers.IntegerField(help_text="Failed attempts among them.")
    breaker = serializers.ChoiceField(STATES, help_text="Its circuit breaker; half open: a trial is due or under way.")
    breaker_trial_due = serializers.DateTimeField(allow_null=True, help_text="Null while the breaker is closed.")


class StatsSerializer(serializers.Serializer[Any]):
    total_runtimes = serializers.IntegerField()
    online_runtimes = serializers.IntegerField()
    pending_runtimes = serializers.IntegerField()
    registering_runtimes = serializers.IntegerField()
    offline_runtimes = serializers.IntegerField(help_text="Offline or in error.")
    total_requests = serializers.IntegerField(help_text="Requests that ended, without cancelled and rejected ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    rejected_requests = serializers.IntegerField()
    rejected_by_reason = serializers.DictField(child=serializers.IntegerField())
    bound_hits = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="How often each bound on resources was hit, by its name; docs/limits.md lists them.",
    )
    total_active_requests = serializers.IntegerField()
    queued_requests = serializers.IntegerField(help_text="Waiting for an endpoint to have a free slot.")
    average_response_time_ms = serializers.FloatField(allow_null=True)
    p50_response_time_ms = serializers.FloatField(
        allow_null=True, help_text="Of the requests that the average is of. From histograms, within 1/16 of itself."
    )
    p95_response_time_ms = serializers.FloatField(allow_null=True)
    p99_response_time_ms = serializers.FloatField(allow_null=True)
    average_first_token_ms = serializers.FloatField(allow_null=True, help_text="Of the answered streams among them.")
    p50_first_token_ms = serializers.FloatField(allow_null=True)
    p95_first_token_ms = serializers.FloatField(allow_null=True)
    p99_first_token_ms = serializers.FloatField(allow_null=True)
    tokens_per_second = serializers.FloatField(
        help_text="Output tokens of what ended in this minute and the one before, over the time since then."
    )
    today_requests = serializers.IntegerField(help_text="Of this local day.")
    today_failed_requests = serializers.IntegerField()
    today_input_tokens = serializers.IntegerField()
    today_output_tokens = serializers.IntegerField()
    average_gpu_usage = serializers.FloatField(allow_null=True)
    average_gpu_memory_usage = serializers.FloatField(allow_null=True)
    last_metrics_updated_at = serializers.DateTimeField(allow_null=True)
    last_registered_at = serializers.DateTimeField(allow_null=True)
    last_seen_at = serializers.DateTimeField(allow_null=True)
    openai_key_present = serializers.BooleanField()
    google_key_present = serializers.BooleanField()
    anthropic_key_present = serializers.BooleanField()
    total_input_tokens = serializers.IntegerField()
    total_output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    records_waiting = serializers.IntegerField(help_text="In the figures already, not yet in the database.")
    records_waiting_secs = serializers.FloatField(
        allow_null=True, help_text="For so long; null while each is written within a moment."
    )
    oldest_waiting_secs = serializers.FloatField(
        allow_null=True, help_text="Age of the oldest of them; null where none waits."
    )
    last_commit_at = serializers.DateTimeField(allow_null=True, help_text="The last batch of records that was written.")
    last_batch_records = serializers.IntegerField()
    last_batch_ms = serializers.FloatField(allow_null=True)
    writer_errors = serializers.IntegerField(help_text="Tries to write that failed since the start.")
    writer_error = serializers.CharField(allow_null=True, help_text="Why the database cannot be written now.")
    records_unrecorded = serializers.IntegerField(help_text="Served while the journal could not be written.")
    journal_damaged_bytes = serializers.IntegerField(help_text="Bytes of journals that could not be read.")
    figures_restored = serializers.BooleanField(help_text="False until the database has been read.")
    figures_version = serializers.IntegerField(
        help_text="Counts changes of the figures, for comparing reads. It starts anew when RouterDash does."
    )


class MinuteSerializer(serializers.Serializer[Any]):
    minute = serializers.DateTimeField()
    success = serializers.IntegerField()
    error = serializers.IntegerField()


class EndpointTpsSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    model_count = serializers.IntegerField()
    aggregate_tps = serializers.FloatField(allow_null=True)
    total_output_tokens = serializers.IntegerField()
    total_requests = serializers.IntegerField()


class OverviewSerializer(serializers.Serializer[Any]):
    endpoints = DashboardEndpointSerializer(many=True)
    stats = StatsSerializer()
    history = MinuteSerializer(many=True)
    endpoint_tps = EndpointTpsSerializer(many=True)
    generated_at = serializers.DateTimeField()
    generation_time_ms = serializers.IntegerField()


class DayStatsSerializer(serializers.Serializer[Any]):
    date = serializers.DateField()
    total_requests = serializers.IntegerField()
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()


class ModelStatsSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    total_requests = serializers.IntegerField()
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    total_output_tokens = serializers.IntegerField()
    total_duration_ms = serializers.IntegerField()


class ModelTpsSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    api_kind = serializers.CharField()
    tps = serializers.FloatField(allow_null=True, help_text="Output tokens a second, moving average.")
    request_count = serializers.IntegerField(help_text="Today.")
    total_output_tokens = serializers.IntegerField(help_text="Today.")
    average_duration_ms = serializers.FloatField(allow_null=True, help_text="Today.")

    def get_fields(self) -> dict[str, Any]:
        """`source` cannot be declared like the others: it is a name of DRF's own fields."""
        return {**super().get_fields(), "source": serializers.CharField(help_text="Always `production`.")}


class ScoreSerializer(serializers.Serializer[Any]):
    """An endpoint that was in question, with the requests on it at that moment."""

    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    in_flight = serializers.IntegerField()


class AttemptSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    outcome = serializers.CharField()
    status_code = serializers.IntegerField(allow_null=True)
    at_ms = serializers.FloatField(help_text="From the request's arrival to the attempt's start.")
    duration_ms = serializers.FloatField()
    error = serializers.CharField(allow_null=True)
    reason = serializers.CharField(
        allow_null=True,
        help_text="Why this endpoint: `only`, `least` in flight, `drawn` among these, `trial`, `made_it`, `searched`.",
    )
    scores = ScoreSerializer(many=True, help_text="Eight at most: the chosen one, and those with the least in flight.")


class RequestSerializer(serializers.Serializer[Any]):
    """One request of the history, as metrics.history tells it."""

    id = serializers.CharField()
    completed_at = serializers.DateTimeField(allow_null=True)
    model = serializers.CharField()
    kind = serializers.CharField()
    endpoint_id = serializers.UUIDField(allow_null=True, help_text="Null: no endpoint could be asked.")
    endpoint_name = serializers.CharField(allow_null=True)
    client_ip = serializers.CharField(allow_null=True)
    api_key_id = serializers.UUIDField(allow_null=True)
    outcome = serializers.CharField(
        help_text="`ok`, `refused`, `failed`, `truncated`, `cancelled`, `no_endpoint`, `queue`."
    )
    status_code = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    streamed = serializers.BooleanField(allow_null=True)
    duration_ms = serializers.FloatField()
    first_token_ms = serializers.FloatField(allow_null=True)
    input_tokens = serializers.IntegerField(allow_null=True)
    output_tokens = serializers.IntegerField(allow_null=True)
    total_tokens = serializers.IntegerField(allow_null=True)
    tokens_estimated = serializers.BooleanField(allow_null=True)
    attempts = AttemptSerializer(many=True)
    queue_ms = serializers.FloatField(allow_null=True, help_text="Waited for a free slot; null: it did not have to.")
    request_id = serializers.CharField(allow_null=True, help_text="What the client sent as `x-request-id`.")
    tokens_per_second = serializers.FloatField(allow_null=True, help_text="Output tokens over the whole answer.")


class RequestDetailSerializer(RequestSerializer):
    """With what only one request is worth looking up for."""

    api_key_name = serializers.CharField(allow_null=True)


class SaidSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField(
        allow_null=True, help_text="From 1. Null: of the whole request, in rows of earlier releases and of llmlb."
    )
    message = serializers.CharField(help_text="The endpoint's own words, at most 500 characters.")


class BodiesSerializer(serializers.Serializer[Any]):
    """JSON as it was sent; a string where it is none, or where it was cut at 64 KiB when it was stored."""

    request = serializers.JSONField(allow_null=True, help_text="Null: it was not stored.")
    response = serializers.JSONField(allow_null=True, help_text="Null: it was not stored; those of streams never are.")
    endpoint_errors = SaidSerializer(
        many=True, help_text="What endpoints said of their errors, which may quote the bodies."
    )


class RequestPageSerializer(serializers.Serializer[Any]):
    requests = RequestSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="`cursor` of the next page; null: there is nothing older.")
    previous = serializers.CharField(
        allow_null=True, help_text="`cursor` of the page of newer ones; null: this is the newest."
    )
    looked_back_to = serializers.DateTimeField(
        allow_null=True, help_text="Older requests have not been looked at yet; null: all have."
    )


class QuerySerializer(serializers.Serializer[Any]):
    """What may stand behind the question mark. An unknown name is an error: it would have been meant to leave out
    something.
    """

    def to_internal_value(self, data: Any) -> Any:
        if unknown := sorted(set(data) - set(self.fields)):
            known = ", ".join(sorted(self.fields))
            raise serializers.ValidationError(
                {name: [f"There is no such parameter; known are {known}."] for name in unknown}
            )
        return super().to_internal_value(data)


_AGO = re.compile(r"-([1-9][0-9]{0,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@extend_schema_field(OpenApiTypes.STR)
class MomentField(serializers.DateTimeField):
    """A moment, or how long ago it was: `-15m`, `-24h`, `-7d`."""

    def to_internal_value(self, value: Any) -> datetime:
        if isinstance(value, str) and (ago := _AGO.fullmatch(value)):
            return timezone.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return super().to_internal_value(value)


class RequestQuerySerializer(QuerySerializer):
    since = MomentField(required=False, help_text="Completed then or later; also as `-15m`, `-24h` or `-7d`.")
    until = MomentField(required=False, help_text="Completed before; also as `-15m`, `-24h` or `-7d`.")
    endpoint_id = serializers.UUIDField(required=False)
    outcome = serializers.ChoiceField((*OUTCOMES, ERROR), required=False, help_text="`error`: any but `ok`.")
    status_code = serializers.IntegerField(required=False, min_value=0, max_value=999)
    model = serializers.CharField(required=False, help_text="The name that the client asked for.")
    api_key_id = serializers.UUIDField(required=False)
    client_ip = serializers.IPAddressField(required=False)
    streamed = serializers.BooleanField(required=False, allow_null=True, default=None)
    retried = serializers.BooleanField(
        required=False, allow_null=True, default=None, help_text="Whether it took more than one attempt."
    )
    min_duration_ms = serializers.FloatField(required=False, min_value=0, max_value=1e12)
    min_tokens = serializers.IntegerField(
        required=False, min_value=0, max_value=10**12, help_text="Input and output tokens together."
    )
    request_id = serializers.CharField(required=False, help_text="What the client sent as `x-request-id`.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("since") and attrs.get("until") and attrs["since"] >= attrs["until"]:
            raise serializers.ValidationError({"since": ["It must lie before `until`."]})
        return attrs

    @property
    def wanted(self) -> Wanted:
        given = {name: value for name, value in self.validated_data.items() if name in Wanted.__dataclass_fields__}
        ids = {name: str(given[name]) for name in ("endpoint_id", "api_key_id") if name in given}
        return Wanted(**{**given, **ids})


class RequestPageQuerySerializer(RequestQuerySerializer):
    cursor = serializers.CharField(required=False, help_text="`next` of the page before.")
    limit = serializers.IntegerField(default=50, min_value=1, max_value=500)


class ExportQuerySerializer(RequestQuerySerializer):
    format = serializers.ChoiceField(("csv", "jsonl"), default="csv")
    progress = serializers.UUIDField(
        required=False, help_text="An id of your own, by which /api/requests/exports tells how far it is."
    )


class ExportProgressSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(STATES_OF_EXPORTS, help_text="`failed`: it broke off, or nobody read on.")
    rows = serializers.IntegerField(help_text="Handed on so far.")
    bytes = serializers.IntegerField(help_text="Handed on so far.")


class RouteQuerySerializer(QuerySerializer):
    model = serializers.CharField(trim_whitespace=False, help_text="Any name that clients may ask for.")
    kind = serializers.ChoiceField(
        ROUTED,
        default=CHAT,
        error_messages={"invalid_choice": f'There is no kind "{{input}}"; known are {", ".join(ROUTED)}.'},
    )


class RouteDecisionSerializer(serializers.Serializer[Any]):
    endpoint_ids = serializers.ListField(
        child=serializers.UUIDField(), help_text="Where it would go; of several, to each with the same chance."
    )
    reason = serializers.ChoiceField(ROUTE_REASONS, help_text="`wait`: every endpoint is full.")


class RouteEndpointSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    name = serializers.CharField()
    model = serializers.CharField(help_text="What the endpoint calls the model.")
    status = serializers.ChoiceField(choices=Status.choices)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
    breaker = serializers.ChoiceField(STATES)
    trial_due = serializers.DateTimeField(allow_null=True)
    in_flight = serializers.IntegerField()
    max_concurrency = serializers.IntegerField(allow_null=True, help_text="Null: any number.")
    capable = serializers.BooleanField(help_text="Of this kind of request; where that is not known, yes.")
    excluded = serializers.ChoiceField(EXCLUDED, allow_null=True, help_text="Why it is not in question now.")


class RouteSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    kind = serializers.CharField()
    decision = RouteDecisionSerializer(allow_null=True, help_text="Null: no endpoint can be asked.")
    endpoints = RouteEndpointSerializer(many=True)


class PresentSerializer(serializers.Serializer[Any]):
    """A request that is here now."""

    id = serializers.CharField()
    worker = serializers.IntegerField()
    model = serializers.CharField()
    kind = serializers.CharField()
    api_key_id = serializers.UUIDField(allow_null=True)
    api_key_name = serializers.CharField(allow_null=True)
    client_ip = serializers.CharField(allow_null=True)
    since = serializers.DateTimeField(help_text="When it arrived.")
    age_ms = serializers.FloatField()
    phase = serializers.ChoiceField(
        PHASES,
        help_text="`queue`, `first_token`: the first is awaited, `stream`: it has come; `answer`: not streamed.",
    )


class WaitingSerializer(PresentSerializer):
    position = serializers.IntegerField(help_text="In its worker's queue; 1 goes first.")


class RunningSerializer(PresentSerializer):
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    streamed = serializers.BooleanField()
    deltas = serializers.IntegerField(help_text="Pieces of its stream that have gone to the client.")
    first_token_ms = serializers.FloatField(allow_null=True, help_text="After its arrival; null: none has come yet.")


class CancelledSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    cancelled = serializers.BooleanField(
        help_text="True: workers are told, and the one that has it ends it in a moment. Where there are more requests "
        "than are told, that is not known before."
    )


class LiveSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    workers = serializers.IntegerField()
    workers_told = serializers.IntegerField(help_text="Workers that have told what they have within three seconds.")
    waiting_total = serializers.IntegerField()
    running_total = serializers.IntegerField()
    waiting_is_cut = serializers.BooleanField(help_text="There are more than are told: `waiting_total` counts all.")
    running_is_cut = serializers.BooleanField(help_text="There are more than are told: `running_total` counts all.")
    waiting = WaitingSerializer(many=True)
    running = RunningSerializer(many=True)


class UsageQuerySerializer(QuerySerializer):
    by = serializers.ChoiceField(tuple(BY), default="day")
    since = serializers.DateField(required=False, help_text="The first local day; 29 days before `until` if not given.")
    until = serializers.DateField(required=False, help_text="The last local day, inclusive; today if not given.")
    model = serializers.CharField(required=False)
    endpoint_id = serializers.UUIDField(required=False)
    api_key_id = serializers.UUIDField(required=False)
    compare = serializers.BooleanField(default=False, help_text="Tell the period before as well, which is as long.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        until: date = attrs.setdefault("until", self.context["today"])
        since: date = attrs.setdefault("since", max(until, FIRST_DATE + timedelta(days=29)) - timedelta(days=29))
        if since > until:
            raise serializers.ValidationError({"since": ["It must not lie behind `until`."]})
        if (until - since).days >= MAX_USAGE_DAYS:
            raise serializers.ValidationError({"since": [f"At most {MAX_USAGE_DAYS} days at a time."]})
        if since < FIRST_DATE:
            raise serializers.ValidationError({"since": [f"Not before {FIRST_DATE}."]})
        return attrs

    @property
    def period(self) -> Period:
        return Period(self.validated_data["since"], self.validated_data["until"])

    @property
    def only(self) -> dict[str, str]:
        given = self.validated_data
        return {name: str(given[name]) for name in ("model", "endpoint_id", "api_key_id") if name in given}


class UsageExportQuerySerializer(UsageQuerySerializer):
    format = serializers.ChoiceField(("csv", "json"), default="csv")


class UsedSerializer(serializers.Serializer[Any]):
    requests = serializers.IntegerField(help_text="Without cancelled and rejected ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    rejected_requests = serializers.IntegerField(
        help_text="Refused by RouterDash itself. They came to no model: by model, they are in the total alone."
    )
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class UsageRowSerializer(UsedSerializer):
    """With what `by` says."""

    day = serializers.DateField(required=False)
    month = serializers.CharField(required=False, help_text="`YYYY-MM`")
    model_id = serializers.CharField(required=False)
    endpoint_id = serializers.UUIDField(required=False, allow_null=True)
    endpoint_name = serializers.CharField(required=False, allow_null=True)
    api_key_id = serializers.UUIDField(required=False, allow_null=True)
    api_key_name = serializers.CharField(required=False, allow_null=True)
    user_id = serializers.UUIDField(required=False, allow_null=True, help_text="Null: no key, or one that is gone.")
    username = serializers.CharField(required=False, allow_null=True, help_text="The owner of the key.")
    previous_requests = serializers.IntegerField(required=False, help_text="With `compare`, of what is no time.")
    previous_total_tokens = serializers.IntegerField(required=False)


class PreviousSerializer(serializers.Serializer[Any]):
    """As many days, right before."""

    since = serializers.DateField()
    until = serializers.DateField()
    total = UsedSerializer()


class UsageSerializer(serializers.Serializer[Any]):
    by = serializers.ChoiceField(tuple(BY))
    since = serializers.DateField()
    until = serializers.DateField()
    rows = UsageRowSerializer(many=True)
    total = UsedSerializer()
    previous = PreviousSerializer(required=False)
