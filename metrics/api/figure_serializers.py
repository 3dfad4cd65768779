"""Schemas of the figures from memory and of daily sums, compared with metrics.queries.payloads by tests."""

from typing import Any

from rest_framework import serializers

from endpoints.models import Kind, OperatorState, Status
from metrics.queries.breakers import PAUSE_CAUSES, STATES


class DashboardEndpointSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    base_url = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    status_since = serializers.DateTimeField(allow_null=True, help_text="Null if unknown.")
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
    total_requests = serializers.IntegerField(help_text="Attempts, without cancelled ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    active_requests = serializers.IntegerField()
    slots = serializers.IntegerField(
        allow_null=True, help_text="Maximum number of requests at a time; null means no limit."
    )
    tokens_per_second = serializers.FloatField(
        allow_null=True,
        help_text="Speed of one response: today's output tokens divided by the duration of their responses.",
    )
    recent_attempts = serializers.IntegerField(help_text="Successful and failed attempts of the last 60 minutes.")
    recent_failures = serializers.IntegerField(help_text="Failed attempts of the last 60 minutes.")
    breaker = serializers.ChoiceField(
        STATES, help_text="State of the circuit breaker; half-open means that a trial is due or running."
    )
    breaker_trial_due = serializers.DateTimeField(allow_null=True, help_text="Null while the breaker is closed.")
    paused_until = serializers.DateTimeField(
        allow_null=True, help_text="Until then its provider gets no requests; null: it is not paused."
    )
    pause_cause = serializers.ChoiceField(PAUSE_CAUSES, allow_null=True, help_text="Why it is paused.")
    lacks = serializers.ListField(
        child=serializers.CharField(), help_text="Paths that it lacked within the last ten minutes: it is asked last."
    )


class StatsSerializer(serializers.Serializer[Any]):
    total_runtimes = serializers.IntegerField()
    online_runtimes = serializers.IntegerField()
    pending_runtimes = serializers.IntegerField()
    registering_runtimes = serializers.IntegerField()
    offline_runtimes = serializers.IntegerField(help_text="Endpoints that are offline or in error.")
    total_requests = serializers.IntegerField(help_text="Requests that ended, without cancelled and rejected ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    rejected_requests = serializers.IntegerField()
    rejected_by_reason = serializers.DictField(child=serializers.IntegerField())
    bound_hits = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="Hits of each resource limit, by its name; docs/reference/limits.md lists the limits.",
    )
    total_active_requests = serializers.IntegerField()
    queued_requests = serializers.IntegerField(help_text="Requests that wait for a free slot of an endpoint.")
    average_response_time_ms = serializers.FloatField(allow_null=True)
    p50_response_time_ms = serializers.FloatField(
        allow_null=True,
        help_text="Median of the same requests as the average, from histograms with a precision of 1/16.",
    )
    p95_response_time_ms = serializers.FloatField(allow_null=True)
    p99_response_time_ms = serializers.FloatField(allow_null=True)
    average_first_token_ms = serializers.FloatField(
        allow_null=True, help_text="Average of the successful streams among these requests."
    )
    p50_first_token_ms = serializers.FloatField(allow_null=True)
    p95_first_token_ms = serializers.FloatField(allow_null=True)
    p99_first_token_ms = serializers.FloatField(allow_null=True)
    tokens_per_second = serializers.FloatField(
        help_text="Output tokens of requests that ended in this minute and the previous one, per second of that time."
    )
    today_requests = serializers.IntegerField(help_text="Requests of this local day.")
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
    total_cached_tokens = serializers.IntegerField(
        allow_null=True,
        help_text="Input tokens that servers read from prefix caches; null if no server reported any number.",
    )
    total_cached_of_tokens = serializers.IntegerField(
        allow_null=True, help_text="All input tokens of the requests that reported cached tokens."
    )
    total_cache_write_tokens = serializers.IntegerField(
        allow_null=True, help_text="Input tokens that servers wrote to prefix caches."
    )
    total_reasoning_tokens = serializers.IntegerField(
        allow_null=True, help_text="Output tokens that models spent on reasoning."
    )
    records_waiting = serializers.IntegerField(help_text="Records that are in the figures and not yet in the database.")
    records_waiting_secs = serializers.FloatField(
        allow_null=True,
        help_text="Delay of the database in seconds; null while records are written at once.",
    )
    oldest_waiting_secs = serializers.FloatField(
        allow_null=True, help_text="Age of the oldest of these records; null if there are none."
    )
    last_commit_at = serializers.DateTimeField(
        allow_null=True, help_text="Time at which the last batch of records was written."
    )
    last_batch_records = serializers.IntegerField()
    last_batch_ms = serializers.FloatField(allow_null=True)
    writer_errors = serializers.IntegerField(help_text="Failed writes since the start.")
    writer_error = serializers.CharField(allow_null=True, help_text="Reason why the database cannot be written now.")
    records_unrecorded = serializers.IntegerField(help_text="Requests served while the journal could not be written.")
    journal_damaged_bytes = serializers.IntegerField(help_text="Bytes of journals that could not be read.")
    figures_restored = serializers.BooleanField(help_text="False until the database has been read.")
    figures_version = serializers.IntegerField(
        help_text="Number of changes of the figures since the start of RouterDash, for comparing reads."
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
    tps = serializers.FloatField(allow_null=True, help_text="Output tokens per second, as a moving average.")
    request_count = serializers.IntegerField(help_text="Successful requests today.")
    total_output_tokens = serializers.IntegerField(help_text="Output tokens today.")
    average_duration_ms = serializers.FloatField(allow_null=True, help_text="Average duration today.")

    def get_fields(self) -> Any:
        """Add `source`, which cannot be declared like the others: DRF's fields have an attribute of this name."""
        return {**super().get_fields(), "source": serializers.CharField(help_text="Always `production`.")}
