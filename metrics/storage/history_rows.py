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
from gateway.prices.counts import MAX_TOKENS, part_of, plausible
from gateway.routing.balancer import ONLY
from metrics.counting.costs import NO_COSTS
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.request_types import REQUEST_TYPES
from metrics.counting.stored_attempt import StoredAttempt, UsualAttempt
from metrics.counting.token_details import has_details
from metrics.storage.bulk import ROWS_PER_STATEMENT, Columns, Group
from metrics.texts import storable

_COMMON = (
    "request_type", "model", "endpoint_id", "endpoint_name", "endpoint_ip", "request_body", "response_body", "status",
    "error_message", "outcome", "status_code", "kind", "tokens_estimated", "streamed", "request_id", "queue_class",
)  # fmt: skip
_OWN = (
    "id", "completed_at", "duration_ms", "input_tokens", "output_tokens", "total_tokens", "duration_us", "attempts",
    "conversation",
)  # fmt: skip
_COPIES = {"timestamp": "completed_at"}
COLUMNS = Columns(_COMMON, (*_OWN, "client_ip", "api_key_id", "first_token_us", "queue_us"), _COPIES)
# Of many requests of one client that were no streams and did not wait. What is missing is null.
PLAIN_COLUMNS = Columns((*_COMMON, "client_ip", "api_key_id"), _OWN, _COPIES)
MANY = ROWS_PER_STATEMENT[0]

NO_COST = None, None, None
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EndpointName:
    """Name and address of an endpoint in a history row."""

    name: str
    ip: str


NO_ENDPOINT_NAME = EndpointName("N/A", "0.0.0.0")  # noqa: S104


def rows(
    alike: Iterable[Sequence[RequestRecord]],
    endpoint_name: Callable[[str], EndpointName],
    *,
    successes: bool = True,
    costs: Mapping[str, RequestCost] = NO_COSTS,
) -> list[tuple[Columns, list[Group]]]:
    """Return the rows of all requests that were not rejected, without `successes` only of failed ones.

    `alike` has requests in sequences with the same kind, model, outcome, endpoint, API key and client address. `costs`
    has the costs of requests by their id.
    """
    groups: dict[tuple[Any, ...], Group] = {}
    plain: dict[tuple[Any, ...], Group] = {}
    names: dict[str | None, EndpointName] = {None: NO_ENDPOINT_NAME}
    for entries in alike:
        first = entries[0]
        outcome, endpoint_id = first.outcome, first.endpoint_id
        if outcome == record.REJECTED or (outcome == record.OK and not successes):
            continue
        if endpoint_id is not None and endpoint_id not in names:
            names[endpoint_id] = endpoint_name(endpoint_id)
        if len(entries) >= MANY and _are_plain(entries):
            client = (first.client_ip, first.api_key_id)
            _add_rows(plain, entries, endpoint_id, names[endpoint_id], costs, client)
        else:
            _add_rows(groups, entries, endpoint_id, names[endpoint_id], costs, None)
    found = ((COLUMNS, list(groups.values())), (PLAIN_COLUMNS, list(plain.values())))
    return [(columns, of_columns) for columns, of_columns in found if of_columns]


def _are_plain(entries: Sequence[RequestRecord]) -> bool:
    """Return True if PLAIN_COLUMNS suffice for requests of one client."""
    key = entries[0].api_key_id
    if not key and any([entry.api_key_id != key for entry in entries]):  # alike are also those with "" and with None
        return False
    return not any([entry.first_token_us is not None or entry.queue_us is not None for entry in entries])


def _add_rows(
    groups: dict[tuple[Any, ...], Group],
    entries: Sequence[RequestRecord],
    endpoint_id: str | None,
    name: EndpointName,
    costs: Mapping[str, RequestCost],
    client: tuple[str | None, str | None] | None,
) -> None:
    """Add rows of COLUMNS, or those of PLAIN_COLUMNS for a client."""
    same = (entries[0].kind, entries[0].model, entries[0].outcome, endpoint_id, client)
    differing: tuple[Any, ...] | None = None
    at_second = -1
    for entry in entries:
        # All other values that the common columns depend on.
        values = (
            entry.status, entry.error, entry.estimated, entry.streamed, entry.request_id, entry.request_body,
            entry.response_body, entry.queue_class,
        )  # fmt: skip
        if values != differing:
            differing = values
            key = (*same, *values)
            group = groups.get(key)
            if group is None:
                group = groups[key] = ((*_common_values(entry, endpoint_id, name), *(client or ())), [])
            append = group[1].append
        second, rest = divmod(entry.completed_us, 1_000_000)
        if second != at_second:
            at_second, shown = second, _second(second)
        # The condition of `plausible`, without a call for each row.
        tokens_in, tokens_out = entry.input_tokens, entry.output_tokens
        if tokens_in is not None and not 0 <= tokens_in <= MAX_TOKENS:
            tokens_in = None
        if tokens_out is not None and not 0 <= tokens_out <= MAX_TOKENS:
            tokens_out = None
        request_id, duration_us = entry.id, entry.duration_us
        row = (
            request_id,
            f"{shown}.{str(1_000_000 + rest)[1:]}+00:00",  # the format of `endpoints.fields.iso`
            (duration_us + 499 + (duration_us // 1000 & 1)) // 1000 or 1,  # as `milliseconds`
            tokens_in,
            tokens_out,
            None if tokens_in is None and tokens_out is None else (tokens_in or 0) + (tokens_out or 0),
            duration_us,
            _attempts(entry, costs.get(request_id) if costs else None),
            entry.conversation,
        )
        if client is None:
            append((*row, entry.client_ip, entry.api_key_id, entry.first_token_us, entry.queue_us))
        else:
            append(row)


def _common_values(entry: RequestRecord, endpoint_id: str | None, name: EndpointName) -> tuple[Any, ...]:
    """Return the values of _COMMON, in this order."""
    model, request_body = _model_and_body(entry.model)
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


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _model_and_body(name: str) -> tuple[str, str]:
    """Return the storable name of a model, and the placeholder of a request body that is not stored."""
    name = storable(name)
    return name, json.dumps({"model": name}, ensure_ascii=False)


def _attempts(entry: RequestRecord, cost: RequestCost | None) -> str | None:
    """Return the attempts as a JSON list of objects (StoredAttempt). The last one has what is known of the response."""
    attempts = entry.attempts
    if len(attempts) == 1:
        (only,) = attempts
        if (
            (only.reason == ONLY or not only.scores)
            and only.error is None
            and only.said is None
            and only.served is None
            and only.canonical is None
            and not only.step
            and entry.reasoning_tokens is None
            and entry.cache_write_tokens is None
            and not entry.left_steps
            and entry.long_write_tokens is None
            and entry.service_tier is None
            and entry.images is None
            and entry.audio_ms is None
        ):
            price_id, currency, amount = cost or NO_COST
            usual = UsualAttempt(
                only.endpoint_id,
                only.outcome,
                only.status,
                only.duration_us,
                only.at_us,
                only.reason,
                dict(only.costs),
                only.work,
                only.connect_us,
                None if entry.cached_tokens is None else part_of(entry.cached_tokens, entry.input_tokens),
                entry.body_bytes,
                entry.finish_reason,
                amount,
                currency,
                price_id,
            )
            text = _encode((usual,)).decode()
            return _json_body(text) if "\\" in text and "\\u" in text else text
        return attempts_text((_stored(only, entry, cost),))
    stored = [_stored(attempt, None, None) for attempt in attempts[:-1]]
    if attempts:
        stored.append(_stored(attempts[-1], entry, cost))
    return attempts_text(stored)


def attempts_text(stored: Sequence[StoredAttempt]) -> str:
    """Return attempts as the column stores them."""
    text = _encode(stored).decode()
    return _json_body(text) if "\\" in text and "\\u" in text else text


def _stored(attempt: AttemptRecord, entry: RequestRecord | None, cost: RequestCost | None) -> StoredAttempt:
    """Return an attempt; the last one with the facts and the cost of its request."""
    cached_tokens = cache_write_tokens = reasoning_tokens = finish_reason = None
    body_bytes = 0
    left_steps: tuple[tuple[int, str], ...] = ()
    if cost is None:
        amount = currency = price_id = None
    else:
        price_id, currency, amount = cost
    if entry is not None:
        if has_details(entry):
            cached_tokens = part_of(entry.cached_tokens, entry.input_tokens)
            cache_write_tokens = part_of(entry.cache_write_tokens, entry.input_tokens)
            reasoning_tokens = part_of(entry.reasoning_tokens, entry.output_tokens)
        body_bytes, finish_reason, left_steps = entry.body_bytes, entry.finish_reason, entry.left_steps
    made = StoredAttempt(  # by position: by name it takes several times as long
        attempt.endpoint_id,
        attempt.outcome,
        attempt.status,
        attempt.duration_us,
        attempt.error,
        attempt.at_us,
        attempt.reason,
        {} if attempt.reason == ONLY else dict(attempt.scores),
        attempt.said,
        dict(attempt.costs),
        attempt.work,
        attempt.connect_us,
        cached_tokens,
        body_bytes,
        attempt.served,
        attempt.canonical,
        attempt.step,
        cache_write_tokens,
        reasoning_tokens,
        finish_reason,
        left_steps,
        amount,
        currency,
        price_id,
    )
    if entry is not None and (
        entry.long_write_tokens is not None
        or entry.service_tier is not None
        or entry.images is not None
        or entry.audio_ms is not None
    ):
        return _with_rare_facts(made, entry)
    return made


def _with_rare_facts(last: StoredAttempt, entry: RequestRecord) -> StoredAttempt:
    """Return the last attempt with the facts of its request that few requests have."""
    return msgspec.structs.replace(
        last,
        long_write_tokens=part_of(entry.long_write_tokens, last.cache_write_tokens),
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
