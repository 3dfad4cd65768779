"""History rows: one row for each request, in groups for the grouped insert of metrics.storage.bulk.

Most records of a batch have most columns in common, for example model, endpoint and outcome. Rows are therefore built
and written as groups with common values.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.prices.costs import RequestCost
from gateway.prices.counts import part_of, plausible
from gateway.routing.balancer import ONLY
from metrics.costs.sums import NO_COSTS
from metrics.counting.cells import milliseconds
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.request_types import REQUEST_TYPES
from metrics.counting.stored_attempt import StoredAttempt
from metrics.storage.bulk import Columns, Group
from metrics.texts import storable

_COMMON = (
    "request_type", "model", "endpoint_id", "endpoint_name", "endpoint_ip", "request_body", "response_body", "status",
    "error_message", "outcome", "status_code", "kind", "tokens_estimated", "streamed", "request_id", "queue_class",
)  # fmt: skip
_OWN = (
    "id", "completed_at", "duration_ms", "input_tokens", "output_tokens", "total_tokens", "duration_us", "attempts",
    "conversation", "client_ip", "api_key_id", "first_token_us", "queue_us",
)  # fmt: skip
COLUMNS = Columns(_COMMON, _OWN, {"timestamp": "completed_at"})

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EndpointName:
    """Name and address of an endpoint in a history row."""

    name: str
    ip: str


NO_ENDPOINT_NAME = EndpointName("N/A", "0.0.0.0")  # noqa: S104


def rows(
    entries: Iterable[RequestRecord],
    endpoint_name: Callable[[str], EndpointName],
    *,
    successes: bool = True,
    costs: Mapping[str, RequestCost] = NO_COSTS,
) -> list[Group]:
    """Return the rows of all requests that were not rejected, without `successes` only of failed ones.

    The rows have COLUMNS. `costs` has the costs of requests by their id.
    """
    groups: dict[tuple[Any, ...], Group] = {}
    names: dict[str | None, EndpointName] = {None: NO_ENDPOINT_NAME}
    for entry in entries:
        outcome, endpoint_id = entry.outcome, entry.endpoint_id
        if outcome == record.REJECTED or (outcome == record.OK and not successes):
            continue
        if endpoint_id is not None and endpoint_id not in names:
            names[endpoint_id] = endpoint_name(endpoint_id)
        # All that the common columns depend on.
        key = (
            entry.kind, entry.model, outcome, endpoint_id, entry.status, entry.error, entry.estimated, entry.streamed,
            entry.request_id, entry.request_body, entry.response_body, entry.queue_class,
        )  # fmt: skip
        group = groups.get(key)
        if group is None:
            group = groups[key] = _common_values(entry, endpoint_id, names[endpoint_id]), []
        group[1].append(_own_values(entry, costs.get(entry.id)))
    return list(groups.values())


def _common_values(entry: RequestRecord, endpoint_id: str | None, name: EndpointName) -> tuple[Any, ...]:
    """Return the values of _COMMON, in this order."""
    model, request_body = model_and_body(entry.model)
    ok = entry.outcome == record.OK
    return (
        REQUEST_TYPES.get(entry.kind, "Chat"),
        model,
        endpoint_id or NO_ENDPOINT,
        name.name,
        name.ip,
        request_body if entry.request_body is None else _json_body(entry.request_body),
        None if entry.response_body is None else _json_body(entry.response_body),
        "success" if ok else "error",
        None if ok else storable(entry.error or f"HTTP {entry.status}"),
        entry.outcome,
        entry.status,
        entry.kind,
        entry.estimated,
        entry.streamed,
        entry.request_id and storable(entry.request_id),
        entry.queue_class,
    )


def _own_values(entry: RequestRecord, cost: RequestCost | None) -> tuple[Any, ...]:
    """Return the values of _OWN, in this order."""
    tokens_in, tokens_out = plausible(entry.input_tokens), plausible(entry.output_tokens)
    second, microseconds = divmod(entry.completed_us, 1_000_000)
    return (
        entry.id,
        f"{_second(second)}.{microseconds:06}+00:00",  # the format of `endpoints.fields.iso`
        milliseconds(entry.duration_us),
        tokens_in,
        tokens_out,
        None if tokens_in is None and tokens_out is None else (tokens_in or 0) + (tokens_out or 0),
        entry.duration_us,
        _attempts(entry, cost),
        entry.conversation,
        entry.client_ip,
        entry.api_key_id,
        entry.first_token_us,
        entry.queue_us,
    )


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def model_and_body(name: str) -> tuple[str, str]:
    """Return the storable name of a model, and the placeholder of a request body that is not stored."""
    name = storable(name)
    return name, json.dumps({"model": name}, ensure_ascii=False)


def _attempts(entry: RequestRecord, cost: RequestCost | None) -> str:
    """Return the attempts as a JSON list of objects (StoredAttempt). The last one has what is known of the response."""
    stored = [_stored(attempt, None, None) for attempt in entry.attempts[:-1]]
    if entry.attempts:
        stored.append(_stored(entry.attempts[-1], entry, cost))
    return attempts_text(stored)


def attempts_text(stored: Sequence[StoredAttempt]) -> str:
    """Return attempts as the column stores them."""
    text = _encode(stored).decode()
    return _json_body(text) if "\\" in text and "\\u" in text else text


def _stored(attempt: AttemptRecord, entry: RequestRecord | None, cost: RequestCost | None) -> StoredAttempt:
    """Return an attempt; the last one with the facts and the cost of its request."""
    stored = StoredAttempt(
        endpoint_id=attempt.endpoint_id,
        outcome=attempt.outcome,
        status=attempt.status,
        duration_us=attempt.duration_us,
        error=attempt.error,
        at_us=attempt.at_us,
        reason=attempt.reason,
        scores={} if attempt.reason == ONLY else dict(attempt.scores),
        said=attempt.said,
        costs=dict(attempt.costs),
        work=attempt.work,
        connect_us=attempt.connect_us,
        served=attempt.served,
        canonical=attempt.canonical,
        step=attempt.step,
    )
    if entry is None:
        return stored
    price_id, currency, amount = cost or (None, None, None)
    written = part_of(entry.cache_write_tokens, entry.input_tokens)
    return msgspec.structs.replace(
        stored,
        cached_tokens=part_of(entry.cached_tokens, entry.input_tokens),
        body_bytes=entry.body_bytes,
        cache_write_tokens=written,
        reasoning_tokens=part_of(entry.reasoning_tokens, entry.output_tokens),
        finish_reason=entry.finish_reason,
        left_steps=entry.left_steps,
        cost=amount,
        currency=currency,
        price_id=price_id,
        long_write_tokens=part_of(entry.long_write_tokens, written),
        service_tier=entry.service_tier and storable(entry.service_tier),
        images=plausible(entry.images),
        audio_ms=plausible(entry.audio_ms),
    )


def _json_body(text: str) -> str:
    """Return a body as JSON that both databases accept: the body itself, or a JSON string of a truncated body."""
    try:
        value = json.loads(text)
    except ValueError:
        return json.dumps(storable(text), ensure_ascii=False)
    if "\\u" not in text:
        return text
    return storable(json.dumps(value, ensure_ascii=False)).replace("\\u0000", "\\ufffd")
