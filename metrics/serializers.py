"""Figures as the JSON API tells them, for its schema: the values come from metrics.queries as they are."""

from typing import Any

from rest_framework import serializers

from endpoints.models import Kind, OperatorState, Status


class DashboardEndpointSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    base_url = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
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
    total_active_requests = serializers.IntegerField()
    queued_requests = serializers.IntegerField()
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
