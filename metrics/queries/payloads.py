"""JSON payloads of the figures from memory: the API, pages, live events and Prometheus share them.

The keys and their order are part of the API. `metrics.api` has a serializer for each, which tests compare with it.
"""

from typing import TypedDict


class EndpointPayload(TypedDict):
    """An endpoint with its figures."""

    id: str
    name: str
    base_url: str
    status: str
    status_since: str | None
    operator_state: str
    drain_until: str | None
    endpoint_type: str
    health_check_interval_secs: int
    inference_timeout_secs: int
    latency_ms: int | None
    last_seen: str | None
    last_error: str | None
    error_count: int
    registered_at: str | None
    notes: str | None
    model_count: int
    total_requests: int
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    active_requests: int
    slots: int | None
    tokens_per_second: float | None
    recent_attempts: int
    recent_failures: int
    breaker: str
    breaker_trial_due: str | None
    paused_until: str | None
    pause_cause: str | None
    lacks: list[str]


class LiveEndpointPayload(TypedDict):
    """The fields of an endpoint that change while an overview is open."""

    id: str
    status: str
    status_since: str | None
    operator_state: str
    drain_until: str | None
    breaker: str
    breaker_trial_due: str | None
    paused_until: str | None
    pause_cause: str | None
    lacks: list[str]
    last_error: str | None
    last_seen: str | None
    latency_ms: int | None
    active_requests: int
    slots: int | None
    tokens_per_second: float | None
    recent_attempts: int
    recent_failures: int
    total_requests: int
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    model_count: int


class WriterPayload(TypedDict):
    """State of the database writer: how far the database is behind the figures."""

    records_waiting: int
    records_waiting_secs: float | None
    oldest_waiting_secs: float | None
    last_commit_at: str | None
    last_batch_records: int
    last_batch_ms: float | None
    writer_errors: int
    writer_error: str | None


class _Counts(TypedDict):
    total_runtimes: int
    online_runtimes: int
    pending_runtimes: int
    registering_runtimes: int
    offline_runtimes: int
    total_requests: int
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    rejected_requests: int
    rejected_by_reason: dict[str, int]
    bound_hits: dict[str, int]
    total_active_requests: int
    queued_requests: int
    average_response_time_ms: float | None
    p50_response_time_ms: float | None
    p95_response_time_ms: float | None
    p99_response_time_ms: float | None
    average_first_token_ms: float | None
    p50_first_token_ms: float | None
    p95_first_token_ms: float | None
    p99_first_token_ms: float | None
    tokens_per_second: float
    today_requests: int
    today_failed_requests: int
    today_input_tokens: int
    today_output_tokens: int
    average_gpu_usage: float | None
    average_gpu_memory_usage: float | None
    last_metrics_updated_at: str | None
    last_registered_at: str | None
    last_seen_at: str | None
    openai_key_present: bool
    google_key_present: bool
    anthropic_key_present: bool
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    total_cached_tokens: int | None
    total_cached_of_tokens: int | None
    total_cache_write_tokens: int | None
    total_reasoning_tokens: int | None


class StatsPayload(_Counts, WriterPayload):
    """Figures of the whole router."""

    records_unrecorded: int
    journal_damaged_bytes: int
    figures_restored: bool
    figures_version: int


class MinutePayload(TypedDict):
    """Requests of one minute."""

    minute: str
    success: int
    error: int


class EndpointTpsPayload(TypedDict):
    endpoint_id: str
    model_count: int
    aggregate_tps: float | None
    total_output_tokens: int
    total_requests: int


class ModelTpsPayload(TypedDict):
    """Speed of a model at an endpoint."""

    model_id: str
    api_kind: str
    source: str
    tps: float | None
    request_count: int
    total_output_tokens: int
    average_duration_ms: float | None


class _EndpointOfSpeed(TypedDict):
    endpoint_id: str
    endpoint_name: str


class SpeedRowPayload(_EndpointOfSpeed, ModelTpsPayload):
    """Row of the overview's table of speeds."""


class OverviewPayload(TypedDict):
    endpoints: list[EndpointPayload]
    stats: StatsPayload
    history: list[MinutePayload]
    endpoint_tps: list[EndpointTpsPayload]
    generated_at: str
    generation_time_ms: int


class DayPayload(TypedDict):
    """Attempts of one endpoint on one local day."""

    date: str
    total_requests: int
    successful_requests: int
    failed_requests: int


class ModelTotalsPayload(TypedDict):
    """Attempts of one model."""

    model_id: str
    total_requests: int
    successful_requests: int
    failed_requests: int
    total_output_tokens: int
    total_duration_ms: int


class MinuteFiguresPayload(TypedDict):
    """Figures of one minute, beside its requests."""

    minute: str
    input_tokens: int
    output_tokens: int
    average_ms: float | None
    p95_ms: float | None
    first_token_ms: float | None
    in_flight: int | None
    queued: int | None
    online: int | None


class BusyModelPayload(TypedDict):
    model_id: str
    requests: int


class BusyKeyPayload(TypedDict):
    api_key_id: str | None
    api_key_name: str | None
    requests: int


class BusyClientPayload(TypedDict):
    ip: str
    requests: int


class BusiestPayload(TypedDict):
    models: list[BusyModelPayload]
    api_keys: list[BusyKeyPayload]
    clients: list[BusyClientPayload]


class EndpointEventPayload(TypedDict):
    at: str
    what: str
    endpoint_id: str
    endpoint_name: str | None
    status_before: str | None
    status_after: str | None
    detail: str | None
    by: str | None


class AttentionPayload(TypedDict):
    """Item that needs an operator. Fields that do not apply to its kind are None."""

    kind: str
    severity: str
    since: str | None
    cause: str | None
    endpoint_id: str | None
    endpoint_name: str | None
    models: int | None
    models_nowhere_else: int | None
    user_id: str | None
    username: str | None
    free_bytes: int | None
    keys: int | None
    model: str | None
    factor: float | None
    level: str | None
    subject_id: str | None
    subject_name: str | None
    unit: str | None
    period: str | None
    percent: int | None
    until: str | None
    budgets: int | None


class MarksPayload(TypedDict):
    """Which endpoint events of the last 60 minutes there are: a page fetches them again when this changes."""

    count: int
    last_at: str | None


class DigestsPayload(TypedDict):
    """Texts by which an open list notices that it has to be fetched again."""

    endpoints_digest: str
    states_digest: str


class LiveFigures(DigestsPayload):
    """What live events keep up to date on all pages. Its size does not depend on the number of endpoints."""

    stats: StatsPayload
    history: list[MinutePayload]
    speeds: list[SpeedRowPayload]
    speeds_known: int
    minutes: list[MinuteFiguresPayload]
    busiest: BusiestPayload
    attention: list[AttentionPayload]
    attention_count: int
    marks: MarksPayload
    states: dict[str, int]
    generated_at: str


class LiveOverviewPayload(LiveFigures):
    """Everything that an open page shows and live events keep up to date."""

    endpoints: list[LiveEndpointPayload]
