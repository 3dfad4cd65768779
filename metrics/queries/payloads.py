"""JSON payloads of the figures from memory: the API, pages, live events and Prometheus share them.

The keys and their order are part of the API, and the OpenAPI schema is made from these types.
"""

from typing import Annotated, TypedDict

from endpoints.clouds.kinds import KIND_CHOICES
from endpoints.models import OperatorState, Status
from endpoints.openapi.payload_fields import Choices, DateText, Help, TimeText, UuidText
from metrics.memory.endpoint_events import KINDS
from metrics.queries.breakers import PAUSE_CAUSES, STATES


# An endpoint with its figures.
class DashboardEndpointPayload(TypedDict):
    id: UuidText
    name: str
    base_url: str
    status: Annotated[str, Choices(Status.choices)]
    status_since: Annotated[TimeText | None, Help("Null if unknown.")]
    operator_state: Annotated[str, Choices(OperatorState.choices)]
    drain_until: TimeText | None
    endpoint_type: Annotated[str, Choices(KIND_CHOICES)]
    health_check_interval_secs: int
    inference_timeout_secs: int
    latency_ms: int | None
    last_seen: TimeText | None
    last_error: str | None
    error_count: int
    registered_at: TimeText | None
    notes: str | None
    model_count: int
    total_requests: Annotated[int, Help("Attempts, without cancelled ones.")]
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    active_requests: int
    slots: Annotated[int | None, Help("Maximum number of requests at a time; null means no limit.")]
    tokens_per_second: Annotated[
        float | None, Help("Speed of one response: today's output tokens divided by the duration of their responses.")
    ]
    recent_attempts: Annotated[int, Help("Successful and failed attempts of the last 60 minutes.")]
    recent_failures: Annotated[int, Help("Failed attempts of the last 60 minutes.")]
    breaker: Annotated[
        str, Choices(STATES), Help("State of the circuit breaker; half-open means that a trial is due or running.")
    ]
    breaker_trial_due: Annotated[TimeText | None, Help("Null while the breaker is closed.")]
    paused_until: Annotated[TimeText | None, Help("Until then its provider gets no requests; null: it is not paused.")]
    pause_cause: Annotated[str | None, Choices(PAUSE_CAUSES), Help("Why it is paused.")]
    lacks: Annotated[list[str], Help("Paths that it lacked within the last ten minutes: it is asked last.")]


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


# State of the database writer: how far the database is behind the figures.
class WriterPayload(TypedDict):
    records_waiting: Annotated[int, Help("Records that are in the figures and not yet in the database.")]
    records_waiting_secs: Annotated[
        float | None, Help("Delay of the database in seconds; null while records are written at once.")
    ]
    oldest_waiting_secs: Annotated[float | None, Help("Age of the oldest of these records; null if there are none.")]
    last_commit_at: Annotated[TimeText | None, Help("Time at which the last batch of records was written.")]
    last_batch_records: int
    last_batch_ms: float | None
    writer_errors: Annotated[int, Help("Failed writes since the start.")]
    writer_error: Annotated[str | None, Help("Reason why the database cannot be written now.")]


class _Counts(TypedDict):
    total_runtimes: int
    online_runtimes: int
    pending_runtimes: int
    registering_runtimes: int
    offline_runtimes: Annotated[int, Help("Endpoints that are offline or in error.")]
    total_requests: Annotated[int, Help("Requests that ended, without cancelled and rejected ones.")]
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    rejected_requests: int
    rejected_by_reason: dict[str, int]
    bound_hits: Annotated[
        dict[str, int], Help("Hits of each bound, by its name; docs/reference/bounds.md lists the limits.")
    ]
    total_active_requests: int
    queued_requests: Annotated[int, Help("Requests that wait for a free slot of an endpoint.")]
    average_response_time_ms: float | None
    p50_response_time_ms: Annotated[
        float | None, Help("Median of the same requests as the average, from histograms with a precision of 1/16.")
    ]
    p95_response_time_ms: float | None
    p99_response_time_ms: float | None
    average_first_token_ms: Annotated[float | None, Help("Average of the successful streams among these requests.")]
    p50_first_token_ms: float | None
    p95_first_token_ms: float | None
    p99_first_token_ms: float | None
    tokens_per_second: Annotated[
        float,
        Help("Output tokens of requests that ended in this minute and the previous one, per second of that time."),
    ]
    today_requests: Annotated[int, Help("Requests of this local day.")]
    today_failed_requests: int
    today_input_tokens: int
    today_output_tokens: int
    average_gpu_usage: float | None
    average_gpu_memory_usage: float | None
    last_metrics_updated_at: TimeText | None
    last_registered_at: TimeText | None
    last_seen_at: TimeText | None
    openai_key_present: bool
    google_key_present: bool
    anthropic_key_present: bool
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    total_cached_tokens: Annotated[
        int | None, Help("Input tokens that servers read from prefix caches; null if no server reported any number.")
    ]
    total_cached_of_tokens: Annotated[int | None, Help("All input tokens of the requests that reported cached tokens.")]
    total_cache_write_tokens: Annotated[int | None, Help("Input tokens that servers wrote to prefix caches.")]
    total_reasoning_tokens: Annotated[int | None, Help("Output tokens that models spent on reasoning.")]


# Figures of the whole router.
class StatsPayload(_Counts, WriterPayload):
    records_unrecorded: Annotated[int, Help("Requests that were served and have no record.")]
    journal_damaged_bytes: Annotated[int, Help("Bytes of journals that could not be read.")]
    figures_restored: Annotated[bool, Help("False until the database has been read.")]
    figures_version: Annotated[
        int, Help("Number of changes of the figures since the start of RouterDash, for comparing reads.")
    ]


# Requests of one minute.
class MinutePayload(TypedDict):
    minute: TimeText
    success: int
    error: int


class EndpointTpsPayload(TypedDict):
    endpoint_id: UuidText
    model_count: int
    aggregate_tps: float | None
    total_output_tokens: int
    total_requests: int


# Speed of a model at an endpoint.
class ModelTpsPayload(TypedDict):
    model_id: str
    api_kind: str
    tps: Annotated[float | None, Help("Output tokens per second, as a moving average.")]
    request_count: Annotated[int, Help("Successful requests today.")]
    total_output_tokens: Annotated[int, Help("Output tokens today.")]
    average_duration_ms: Annotated[float | None, Help("Average duration today.")]
    source: Annotated[str, Help("Always `production`.")]


class _EndpointOfSpeed(TypedDict):
    endpoint_id: str
    endpoint_name: str


class SpeedRowPayload(_EndpointOfSpeed, ModelTpsPayload):
    """Row of the overview's table of speeds."""


class OverviewPayload(TypedDict):
    endpoints: list[DashboardEndpointPayload]
    stats: StatsPayload
    history: list[MinutePayload]
    endpoint_tps: list[EndpointTpsPayload]
    generated_at: TimeText
    generation_time_ms: int


# Attempts of one endpoint on one local day.
class DayStatsPayload(TypedDict):
    date: DateText
    total_requests: int
    successful_requests: int
    failed_requests: int


# Attempts of one model.
class ModelStatsPayload(TypedDict):
    model_id: str
    total_requests: int
    successful_requests: int
    failed_requests: int
    total_output_tokens: int
    total_duration_ms: int


# Figures of one minute, beside its requests.
class MinuteFiguresPayload(TypedDict):
    minute: TimeText
    input_tokens: int
    output_tokens: int
    average_ms: Annotated[float | None, Help("Average duration of the successful requests.")]
    p95_ms: float | None
    first_token_ms: Annotated[float | None, Help("Median time to first token of the successful streams.")]
    in_flight: Annotated[int | None, Help("Maximum; null before RouterDash started.")]
    queued: Annotated[int | None, Help("Maximum; null before RouterDash started.")]
    online: Annotated[int | None, Help("Minimum; null before RouterDash started.")]


class BusyModelPayload(TypedDict):
    model_id: str
    requests: int


class BusyKeyPayload(TypedDict):
    api_key_id: Annotated[UuidText | None, Help("Null for requests without an API key.")]
    api_key_name: str | None
    requests: int


class BusyClientPayload(TypedDict):
    ip: Annotated[str, Help("An IPv4 address, or a /64 of IPv6.")]
    requests: Annotated[int, Help("Includes failed and cancelled requests.")]


class BusiestPayload(TypedDict):
    models: list[BusyModelPayload]
    api_keys: list[BusyKeyPayload]
    clients: Annotated[
        list[BusyClientPayload], Help("Clients of this UTC hour and the previous one, among the first 20,000 of each.")
    ]


class EndpointEventPayload(TypedDict):
    at: TimeText
    what: Annotated[str, Choices(KINDS)]
    endpoint_id: UuidText
    endpoint_name: str | None
    status_before: Annotated[str | None, Choices(Status.choices)]
    status_after: Annotated[str | None, Choices(Status.choices)]
    detail: Annotated[str | None, Help("The cause, or the edited fields.")]
    by: Annotated[str | None, Help("Name of the user who edited the endpoint.")]
