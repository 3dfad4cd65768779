"""Rows of the history: what is written of each request, beside the sums.

Most records of a batch have most of a row in common: the model, the endpoint, how it ended. So rows are made, and
written (`database.insert`), as groups of those that are alike.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from gateway import kinds, record
from gateway.balancer import ONLY
from gateway.record import Attempt, RequestRecord
from metrics.database import Columns, Group, storable
from metrics.fold import MAX_TOKENS, NO_ENDPOINT
from metrics.history import StoredAttempt

# How the reference calls a kind; it knows nine names and refuses rows with any other.
REQUEST_TYPES = {
    kinds.CHAT: "Chat",
    kinds.COMPLETIONS: "Generate",
    kinds.EMBEDDINGS: "Embeddings",
    kinds.RESPONSES: "Chat",
    kinds.COMPACTIONS: "Chat",
    kinds.STORED: "Chat",
    kinds.MESSAGES: "AnthropicMessages",
    kinds.COUNT_TOKENS: "AnthropicMessages",
    kinds.TRANSCRIPTIONS: "Transcription",
    kinds.TRANSLATIONS: "Transcription",
    kinds.SPEECH: "Speech",
    kinds.IMAGES: "ImageGeneration",
    kinds.IMAGE_EDITS: "ImageEdit",
    kinds.IMAGE_VARIATIONS: "ImageVariation",
    kinds.RERANK: "Embeddings",
    kinds.MODERATIONS: "Chat",
    kinds.TOKENIZE: "Generate",
}
# And back, for rows that the reference wrote.
KINDS = {
    "Chat": kinds.CHAT,
    "Generate": kinds.COMPLETIONS,
    "Embeddings": kinds.EMBEDDINGS,
    "Transcription": kinds.TRANSCRIPTIONS,
    "Speech": kinds.SPEECH,
    "ImageGeneration": kinds.IMAGES,
    "ImageEdit": kinds.IMAGE_EDITS,
    "ImageVariation": kinds.IMAGE_VARIATIONS,
    "AnthropicMessages": kinds.MESSAGES,
}

COLUMNS = Columns(
    common=(
        "request_type", "model", "endpoint_id", "endpoint_name", "endpoint_ip", "request_body", "response_body",
        "status", "error_message", "outcome", "status_code", "kind", "tokens_estimated", "streamed", "request_id",
    ),
    own=(
        "id", "completed_at", "client_ip", "duration_ms", "input_tokens", "output_tokens", "total_tokens",
        "api_key_id", "duration_us", "first_token_us", "attempts", "queue_us",
    ),
    copies={"timestamp": "completed_at"},
)  # fmt: skip

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Where:
    """An endpoint as a history row names it."""

    name: str
    ip: str


NOWHERE = Where("N/A", "0.0.0.0")  # noqa: S104


def rows(entries: Iterable[RequestRecord], where: Callable[[str], Where], *, successes: bool = True) -> list[Group]:
    """Of all that were not rejected, or only of those that were not answered either."""
    groups: dict[tuple[Any, ...], Group] = {}
    places: dict[str | None, Where] = {None: NOWHERE}
    at_second = -1
    for entry in entries:
        outcome = entry.outcome
        if outcome == record.REJECTED or (outcome == record.OK and not successes):
            continue
        attempts = entry.attempts
        endpoint_id = attempts[-1].endpoint_id if attempts and outcome != record.QUEUE else None  # as its property
        # All that the columns in common are made of.
        key = (
            entry.kind, entry.model, outcome, entry.status, endpoint_id, entry.error, entry.estimated, entry.streamed,
            entry.request_id, entry.request_body, entry.response_body,
        )  # fmt: skip
        group = groups.get(key)
        if group is None:
            if endpoint_id is not None and endpoint_id not in places:
                places[endpoint_id] = where(endpoint_id)
            group = groups[key] = (_common(entry, endpoint_id, places[endpoint_id]), [])
        second, rest = divmod(entry.completed_us, 1_000_000)
        if second != at_second:
            at_second, shown = second, _second(second)
        # As `plausible` has it, without a call for each.
        tokens_in, tokens_out = entry.input_tokens, entry.output_tokens
        if tokens_in is not None and not 0 <= tokens_in <= MAX_TOKENS:
            tokens_in = None
        if tokens_out is not None and not 0 <= tokens_out <= MAX_TOKENS:
            tokens_out = None
        group[1].append(
            (
                entry.id,
                f"{shown}.{rest:06d}+00:00",  # as `endpoints.fields.iso` writes moments
                entry.client_ip,
                round(entry.duration_us / 1000) or 1,  # as `milliseconds`
                tokens_in,
                tokens_out,
                None if tokens_in is None and tokens_out is None else (tokens_in or 0) + (tokens_out or 0),
                entry.api_key_id,
                entry.duration_us,
                entry.first_token_us,
                _attempts(attempts),
                entry.queue_us,
            )
        )
    return list(groups.values())


def _common(entry: RequestRecord, endpoint_id: str | None, where: Where) -> tuple[Any, ...]:
    """In the order of the columns."""
    model, request_body = _of_model(entry.model)
    ok = entry.outcome == record.OK
    return (
        REQUEST_TYPES.get(entry.kind, "Chat"),
        model,
        endpoint_id or NO_ENDPOINT,
        where.name,
        where.ip,
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
    )


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _of_model(name: str) -> tuple[str, str]:
    """Its name as the database takes it, and what stands in place of a body that was not stored."""
    name = storable(name)
    return name, json.dumps({"model": name}, ensure_ascii=False)


def _attempts(attempts: tuple[Attempt, ...]) -> str | None:
    """As a list of JSON objects."""
    stored = [
        StoredAttempt(
            it.endpoint_id, it.outcome, it.status, it.duration_us, it.error, it.at_us, it.reason,
            {} if it.reason == ONLY else dict(it.scores), it.said,
        )
        for it in attempts
    ]  # fmt: skip
    text = _encode(stored).decode()
    return _json_body(text) if "\\u" in text else text


def _json_body(text: str) -> str:
    """A stored body as JSON that both databases take: itself, or, where it was cut short, a string of it."""
    try:
        value = json.loads(text)
    except ValueError:
        return json.dumps(storable(text), ensure_ascii=False)
    if "\\u" not in text:
        return text
    return storable(json.dumps(value, ensure_ascii=False)).replace("\\u0000", "\\ufffd")
