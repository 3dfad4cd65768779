"""JSON payload of a request of the history. Imports nothing of Django."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from endpoints.openapi.payload_fields import Choices, Help, TimeText, UuidText
from gateway.base.queue_class import CLASSES, INTERACTIVE
from gateway.base.request_kinds import GENERATING
from gateway.ipc import error_texts, record
from gateway.ipc.record import QUEUE
from gateway.prices.amounts import text_of
from gateway.registry.prices import AMOUNTS
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.queries.requests.filters import STATUSES
from metrics.queries.requests.rows import COLUMNS
from metrics.sql import SqlRow
from metrics.times import json_time, parse_time

NameOf = Callable[[str], str | None]  # returns an endpoint's name, or its last one, by id


class ScorePayload(TypedDict):
    """A candidate, with its requests in flight when the endpoint was chosen."""

    endpoint_id: UuidText
    endpoint_name: str | None
    in_flight: int


class CostPayload(TypedDict):
    """A candidate, with its cost when the endpoint was chosen."""

    endpoint_id: UuidText
    endpoint_name: str | None
    cost_ms: Annotated[int, Help("Expected duration, plus the time by which other requests there would be delayed.")]


class WorkPayload(TypedDict):
    """What adaptive routing expected of an attempt, and what the endpoint did for others meanwhile."""

    prompt_tokens: Annotated[int, Help("Expected before the attempt.")]
    output_tokens: Annotated[int, Help("Expected before the attempt.")]
    prefix_tokens: Annotated[int, Help("Prompt tokens expected in the endpoint's prefix cache.")]
    expected_ms: Annotated[float, Help("Expected duration.")]
    pending_tokens: Annotated[
        int, Help("Prompt tokens of other requests that the endpoint still had to read at the start.")
    ]
    read_tokens: Annotated[int, Help("Prompt tokens of others that were sent there meanwhile.")]
    mean_in_flight: Annotated[float | None, Help("Mean requests in flight there over the attempt, itself included.")]
    was_idle: Annotated[bool, Help("Whether no other request was in flight there at the start.")]
    is_cold: Annotated[bool, Help("Whether the model had to be loaded.")]


class LeftStepPayload(TypedDict):
    """A step of the model name that was left or skipped."""

    step: int
    reason: str


class ServedModelPayload(TypedDict):
    """The model that served an attempt; of a request, that of the last one."""

    served_model: Annotated[
        str | None, Help("The endpoint's own id of the model; null if it is the requested name, or unknown.")
    ]
    canonical_name: Annotated[str | None, Help("Canonical name of the served model, if any.")]
    step: Annotated[int | None, Help("Step of the model name, from 1; null if the request asked for no model name.")]


# One attempt of a request, with the model that served it.
class AttemptPayload(ServedModelPayload):
    """The model that served an attempt; of a request, that of the last one."""

    endpoint_id: UuidText
    endpoint_name: str | None
    outcome: str
    status_code: int | None
    at_ms: Annotated[float, Help("Time from the request's arrival to the attempt's start.")]
    duration_ms: float
    error: str | None
    reason: Annotated[
        str | None,
        Help(
            "Reason for this endpoint. `only`: it was the only candidate; `least`: it had the fewest requests in "
            "flight; `drawn`: it was drawn at random among these; `trial`: trial of its circuit breaker; `made_it`: it "
            "created the stored response; `searched`: it was searched for the stored response. Adaptive routing: "
            "`fastest`: it had the least cost; `kept_prefix`: and it has the beginning of the prompt in its cache; "
            "`loaded_there`: and it has the model loaded; `probe`: it is being measured; `waited_for`: the request "
            "waited in the queue, and then it had the least cost."
        ),
    ]
    scores: Annotated[
        list[ScorePayload],
        Help("At most eight candidates: the chosen one, and those with the fewest requests in flight."),
    ]
    costs: Annotated[
        list[CostPayload], Help("At most eight candidates, least cost first. Empty without adaptive routing.")
    ]
    work: Annotated[WorkPayload | None, Help("Null without adaptive routing.")]
    connect_ms: Annotated[
        float | None, Help("Time for opening a connection; 0 if an idle one was used; null in older rows.")
    ]


class RequestPayload(ServedModelPayload):
    """One request of the history."""

    id: str
    completed_at: TimeText | None
    model: str
    kind: str
    endpoint_id: Annotated[UuidText | None, Help("Null if no endpoint was available.")]
    endpoint_name: str | None
    client_ip: str | None
    api_key_id: UuidText | None
    outcome: Annotated[str, Help("`ok`, `refused`, `failed`, `truncated`, `cancelled`, `no_endpoint`, `queue`.")]
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
    queue_ms: Annotated[float | None, Help("Time in the queue; null if the request did not wait.")]
    request_id: Annotated[str | None, Help("Value of the client's `x-request-id` header.")]
    tokens_per_second: Annotated[float | None, Help("Output tokens divided by the duration of the response.")]
    cached_tokens: Annotated[
        int | None, Help("Input tokens from the endpoint's prefix cache; null if it did not report them.")
    ]
    body_bytes: Annotated[int | None, Help("Size of the request's body, if it is known.")]
    conversation: Annotated[
        str | None, Help("Equal for the requests of one conversation. It tells nothing of their content.")
    ]
    queue_class: Annotated[str, Choices(CLASSES), Help("`bulk`: it gave way to interactive requests.")]
    cache_write_tokens: Annotated[
        int | None, Help("Input tokens written to a prefix cache; null if the endpoint did not report them.")
    ]
    reasoning_tokens: Annotated[
        int | None, Help("Output tokens spent on reasoning; null if the endpoint did not report them.")
    ]
    finish_reason: Annotated[
        str | None, Help("`stop`, `length`, `tool_calls`, `content_filter` or `error`; null if unknown.")
    ]
    left_steps: Annotated[list[LeftStepPayload], Help("Steps of the model name that were left or skipped, and why.")]
    long_cache_write_tokens: Annotated[
        int | None, Help("Those of `cache_write_tokens` that are kept for long; null if it was not reported.")
    ]
    service_tier: Annotated[
        str | None, Help("As the response reported it; null for the default one, or none reported.")
    ]
    cost: Annotated[str | None, Help("In units of `currency`, up to nine decimal places; null if there is no price.")]
    currency: Annotated[str | None, Help("ISO 4217 code of the price's currency.")]
    price_id: Annotated[int | None, Help("Row of the price book; negative for rows of the catalogue.")]
    images: Annotated[int | None, Help("Of the response; null if it is none of images.")]
    audio_ms: Annotated[int | None, Help("Duration of the transcribed audio; null if the response did not report it.")]


class CostPartPayload(TypedDict):
    """What one kind of token, the request itself, its images or its audio add to the cost of a request."""

    part: Annotated[
        str, Choices(AMOUNTS), Help("Each token is in one part: cached and written ones are not in `input`.")
    ]
    count: Annotated[int, Help("Tokens, requests or images; of `minute`, milliseconds of audio.")]
    amount: Annotated[
        str | None,
        Help(
            "Per million tokens, or per thousand requests, images or minutes; null if the price has none: it adds "
            "nothing."
        ),
    ]
    cost: Annotated[str | None, Help("Exact; the sum is rounded half up to nine decimal places.")]


class HardwareCostPayload(TypedDict):
    """What a request costs at one endpoint of own hardware: its share of the hours in which it ran."""

    endpoint_id: UuidText
    endpoint_name: Annotated[str | None, Help("Null for a deleted endpoint.")]
    currency: Annotated[str, Help("ISO 4217 code of the currency of the endpoint's rate.")]
    cost: Annotated[str, Help("In units of the currency, up to nine decimal places; exact.")]
    is_provisional: Annotated[
        bool, Help("Whether an hour of it is not counted yet: other requests may still take their part.")
    ]


class RequestDetailPayload(RequestPayload):
    """A request with names and costs that need another query."""

    api_key_name: str | None
    cost_parts: Annotated[list[CostPartPayload], Help("In `currency`; empty without a price.")]
    partly_priced: Annotated[bool, Help("Whether the price has no amount for some of the tokens.")]
    reporting_cost: Annotated[
        str | None, Help("`cost` in the reporting currency; null without a cost or a rate of that day.")
    ]
    hardware_costs: Annotated[
        list[HardwareCostPayload],
        Help("At own hardware, never part of `cost`; empty without a rate, and once hours are deleted."),
    ]


_SERVED = tuple(ServedModelPayload.__annotations__)
_OTHERS = [name for name in RequestPayload.__annotations__ if name not in _SERVED]
_BEFORE_SERVED = _OTHERS.index("finish_reason") + 1
FIELDS = (
    *_OTHERS[:_BEFORE_SERVED],
    *_SERVED,
    *_OTHERS[_BEFORE_SERVED:],
)  # in the order of the payload, also in exports


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
