"""JSON payload of a request of the history. Imports nothing of Django."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from gateway.base.queue_class import INTERACTIVE
from gateway.base.request_kinds import GENERATING
from gateway.ipc import error_texts, record
from gateway.ipc.record import QUEUE
from gateway.prices.amounts import text_of
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.queries.requests.filters import STATUSES
from metrics.queries.requests.rows import COLUMNS
from metrics.sql import SqlRow
from metrics.times import json_time, parse_time

NameOf = Callable[[str], str | None]  # returns an endpoint's name, or its last one, by id


class ScorePayload(TypedDict):
    endpoint_id: str
    endpoint_name: str | None
    in_flight: int


class CostPayload(TypedDict):
    endpoint_id: str
    endpoint_name: str | None
    cost_ms: int


class WorkPayload(TypedDict):
    prompt_tokens: int
    output_tokens: int
    prefix_tokens: int
    expected_ms: float
    pending_tokens: int
    read_tokens: int
    mean_in_flight: float | None
    was_idle: bool
    is_cold: bool


class LeftStepPayload(TypedDict):
    step: int
    reason: str


class AttemptPayload(TypedDict):
    endpoint_id: str
    endpoint_name: str | None
    outcome: str
    status_code: int | None
    at_ms: float
    duration_ms: float
    error: str | None
    reason: str | None
    scores: list[ScorePayload]
    costs: list[CostPayload]
    work: WorkPayload | None
    connect_ms: float | None
    served_model: str | None
    canonical_name: str | None
    step: int | None


class RequestPayload(TypedDict):
    id: str
    completed_at: str | None
    model: str
    kind: str
    endpoint_id: str | None
    endpoint_name: str | None
    client_ip: str | None
    api_key_id: str | None
    outcome: str
    status_code: int | None
    error: str | None
    streamed: bool | None
    duration_ms: float
    first_token_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    tokens_estimated: bool | None
    attempts: list[AttemptPayload]
    queue_ms: float | None
    request_id: str | None
    tokens_per_second: float | None
    cached_tokens: int | None
    body_bytes: int | None
    conversation: str | None
    queue_class: str
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    finish_reason: str | None
    served_model: str | None
    canonical_name: str | None
    step: int | None
    left_steps: list[LeftStepPayload]
    long_cache_write_tokens: int | None
    service_tier: str | None
    cost: str | None
    currency: str | None
    price_id: int | None
    images: int | None
    audio_ms: int | None


class CostPartPayload(TypedDict):
    part: str
    count: int
    amount: str | None
    cost: str | None


class RequestHardwarePayload(TypedDict):
    endpoint_id: str
    endpoint_name: str | None
    currency: str
    cost: str
    is_provisional: bool


class RequestDetailPayload(RequestPayload):
    api_key_name: str | None
    cost_parts: list[CostPartPayload]
    partly_priced: bool
    reporting_cost: str | None
    hardware_costs: list[RequestHardwarePayload]


FIELDS = tuple(RequestPayload.__annotations__)


def no_name(endpoint_id: str) -> str | None:
    """Return None for every endpoint: a `NameOf` without a registry."""
    return None


def request_payload(row: SqlRow, name_of: NameOf = no_name) -> RequestPayload:
    """Return a row of COLUMNS as the API has it: durations in milliseconds, null for unknown values."""
    record = dict(zip(COLUMNS, row, strict=True))
    endpoint_id = None if str(record["endpoint_id"]) == NO_ENDPOINT else str(record["endpoint_id"])

    def name(attempted_id: str) -> str | None:
        """Return the present name, else the one that the row has stored."""
        return name_of(attempted_id) or (record["endpoint_name"] if attempted_id == endpoint_id else None)

    attempts = stored_attempts(record["attempts"])
    last = attempts[-1] if attempts else None
    served = None if last is None or record["outcome"] == QUEUE else last
    return {
        "id": str(record["id"]),
        "completed_at": json_time(parse_time(record["completed_at"])),
        "model": record["model"],
        "kind": record["kind"] or record["request_type"].lower(),
        "endpoint_id": endpoint_id,
        "endpoint_name": None if endpoint_id is None else record["endpoint_name"],
        "client_ip": record["client_ip"],
        "api_key_id": None if record["api_key_id"] is None else str(record["api_key_id"]),
        "outcome": record["outcome"] or STATUSES.get(record["status"], record["status"]),
        "status_code": record["status_code"],
        "error": error_texts.shown(record["outcome"], record["error_message"], record["status_code"]),
        "streamed": _flag(record["streamed"]),
        "duration_ms": record["duration_ms"] if record["duration_us"] is None else record["duration_us"] / 1000,
        "first_token_ms": None if record["first_token_us"] is None else record["first_token_us"] / 1000,
        "input_tokens": record["input_tokens"],
        "output_tokens": record["output_tokens"],
        "total_tokens": record["total_tokens"],
        "tokens_estimated": _flag(record["tokens_estimated"]),
        "attempts": [_attempt(attempt, name) for attempt in attempts],
        "queue_ms": None if record["queue_us"] is None else record["queue_us"] / 1000,
        "request_id": record["request_id"],
        "tokens_per_second": _speed(record, attempts),
        "cached_tokens": last.cached_tokens if last else None,
        "body_bytes": (last.body_bytes or None) if last else None,
        "conversation": record["conversation"],
        "queue_class": record["queue_class"] or INTERACTIVE,
        "cache_write_tokens": last.cache_write_tokens if last else None,
        "reasoning_tokens": last.reasoning_tokens if last else None,
        "finish_reason": last.finish_reason if last else None,
        "served_model": served.served if served else None,
        "canonical_name": served.canonical if served else None,
        "step": (served.step or None) if served else None,
        "left_steps": [{"step": step, "reason": reason} for step, reason in last.left_steps] if last else [],
        "long_cache_write_tokens": last.long_write_tokens if last else None,
        "service_tier": last.service_tier if last else None,
        "cost": None if last is None or last.cost is None else text_of(last.cost),
        "currency": last.currency if last else None,
        "price_id": last.price_id if last else None,
        "images": last.images if last else None,
        "audio_ms": last.audio_ms if last else None,
    }


def _speed(columns: Mapping[str, Any], attempts: Sequence[StoredAttempt]) -> float | None:
    """Return output tokens per second of the whole last attempt, as the moving average counts them."""
    if columns["outcome"] != record.OK or columns["kind"] not in GENERATING or not attempts:
        return None
    seconds = attempts[-1].duration_us / 1e6
    return columns["output_tokens"] / seconds if columns["output_tokens"] and seconds else None


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _attempt(attempt: StoredAttempt, name_of: NameOf) -> AttemptPayload:
    return {
        "endpoint_id": attempt.endpoint_id,
        "endpoint_name": name_of(attempt.endpoint_id),
        "outcome": attempt.outcome,
        "status_code": attempt.status or None,
        "at_ms": attempt.at_us / 1000,
        "duration_ms": attempt.duration_us / 1000,
        "error": error_texts.shown(attempt.outcome, attempt.error, attempt.status),
        "reason": attempt.reason or None,
        "scores": [
            {"endpoint_id": key, "endpoint_name": name_of(key), "in_flight": count}
            for key, count in sorted(attempt.scores.items(), key=lambda score: (score[1], score[0]))
        ],
        "costs": [
            {"endpoint_id": key, "endpoint_name": name_of(key), "cost_ms": cost}
            for key, cost in sorted(attempt.costs.items(), key=lambda cost: (cost[1], cost[0]))
        ],
        "work": _work(attempt),
        "connect_ms": None if attempt.connect_us is None else attempt.connect_us / 1000,
        "served_model": attempt.served,
        "canonical_name": attempt.canonical,
        "step": attempt.step or None,
    }


def _work(attempt: StoredAttempt) -> WorkPayload | None:
    work = attempt.work
    if work is None:
        return None
    return {
        "prompt_tokens": work.prompt_tokens,
        "output_tokens": work.output_tokens,
        "prefix_tokens": work.prefix_tokens,
        "expected_ms": work.expected_us / 1000,
        "pending_tokens": work.pending_tokens,
        "read_tokens": work.read_tokens,
        "mean_in_flight": work.shared_us / attempt.duration_us if attempt.duration_us else None,
        "was_idle": work.was_idle,
        "is_cold": work.is_cold,
    }
