"""Conversations: requests of one API key and model whose prompts begin alike, with what their endpoints kept of them.

Nothing is stored beside the history, so a conversation is what the history still has of it. A list is a page of the
history that shows only the last request of each conversation; a second query reads the latest requests of those.
Imports nothing of Django.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Annotated, TypedDict

from endpoints.openapi.payload_fields import Help, TimeText, UuidText
from metrics import sql
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.stored_attempt import stored_attempts
from metrics.queries.requests.payload import NameOf, no_name
from metrics.queries.requests.statements import CONVERSATION
from metrics.sql import RunSql, SqlRow, Vendor
from metrics.times import json_time, parse_time, stored_text

TURNS = 500  # latest requests of a conversation that are read

_COLUMNS = (
    "conversation", "id", "completed_at", "endpoint_id", "endpoint_name", "outcome", "duration_us", "first_token_us",
    "input_tokens", "output_tokens", "attempts", "api_key_id", "model",
)  # fmt: skip


class TurnPayload(TypedDict):
    """One request of a conversation."""

    id: UuidText
    completed_at: TimeText | None
    endpoint_id: UuidText | None
    endpoint_name: str | None
    moved: Annotated[bool, Help("It went to another endpoint than the request before.")]
    outcome: str
    duration_ms: float | None
    first_token_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reason: Annotated[str | None, Help("Why its endpoint was chosen, as in the attempts of a request.")]
    failed_over: Annotated[bool, Help("It moved because the endpoint of the request before failed it.")]


class ServingEndpointPayload(TypedDict):
    """An endpoint that has served requests of the conversation."""

    endpoint_id: UuidText
    endpoint_name: str | None
    turns: Annotated[int, Help("Requests that it served.")]


class ConversationPayload(TypedDict):
    """Requests of one API key and model whose prompts begin alike, or that have the same session."""

    conversation: Annotated[str, Help("16 hexadecimal digits. They reveal nothing of the content.")]
    api_key_id: UuidText | None
    api_key_name: str | None
    model: str
    turns: Annotated[int, Help(f"Requests, at most {TURNS}: all figures are of the latest ones.")]
    is_cut: Annotated[bool, Help(f"Whether there are more than {TURNS} requests.")]
    first_at: Annotated[TimeText | None, Help("Completion of the first of these requests.")]
    last_at: TimeText | None
    input_tokens: int
    output_tokens: int
    cached_tokens: Annotated[int | None, Help("Input tokens from prefix caches; null if no endpoint reported them.")]
    cached_share: Annotated[
        float | None, Help("Cached tokens ÷ input tokens of the requests whose endpoint reported them.")
    ]
    endpoints: Annotated[list[ServingEndpointPayload], Help("The one with the most requests first.")]
    moves: Annotated[int, Help("How often a request went to another endpoint than the one before.")]


KEY_PATTERN = "[0-9a-f]{16}"
_KEY = re.compile(KEY_PATTERN)


def is_key(text: str) -> bool:
    """Return True if a text has the form of a conversation's key."""
    return _KEY.fullmatch(text) is not None


class ConversationDetailPayload(ConversationPayload):
    """Requests of one API key and model whose prompts begin alike, or that have the same session."""

    requests: Annotated[list[TurnPayload], Help(f"The latest {TURNS}, the oldest first.")]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with its latest requests, the oldest first."""

    payload: ConversationPayload
    turns: list[TurnPayload]


def conversations(
    run: RunSql, vendor: Vendor, keys: Sequence[str], name_of: NameOf = no_name, turns: int = TURNS
) -> dict[str, Conversation]:
    """Return the conversations of these keys, as far as there are any, without names of API keys. One query."""
    if not keys:
        return {}
    rows = run(_latest(vendor, len(keys), turns + 1), list(keys))
    grouped = groupby(sorted(rows, key=lambda row: str(row[0])), key=lambda row: str(row[0]))
    return {key: _conversation(key, list(of_key), name_of, turns) for key, of_key in grouped}


def _latest(vendor: Vendor, keys: int, limit: int) -> str:
    one = sql.select(
        _COLUMNS,
        sql.indexed("request_history", CONVERSATION, vendor),
        where="conversation = %s",
        order_by="completed_at DESC, id DESC",
        limit=limit,
    )
    return sql.union_all(sql.select("*", sql.subquery(one, f"latest{number}")) for number in range(keys))


def _conversation(key: str, rows: list[SqlRow], name_of: NameOf, most: int) -> Conversation:
    rows.sort(key=lambda row: (stored_text(row[2]), str(row[1])))
    is_cut = len(rows) > most
    turns = _turns(rows[-most:], name_of)
    last = rows[-1]
    reported = [
        (turn["cached_tokens"], turn["input_tokens"] or 0) for turn in turns if turn["cached_tokens"] is not None
    ]
    cached, read = (sum(column) for column in zip(*reported, strict=True)) if reported else (None, 0)
    return Conversation(
        {
            "conversation": key,
            "api_key_id": None if last[11] is None else str(last[11]),
            "api_key_name": None,
            "model": str(last[12]),
            "turns": len(turns),
            "is_cut": is_cut,
            "first_at": turns[0]["completed_at"],
            "last_at": turns[-1]["completed_at"],
            "input_tokens": sum(turn["input_tokens"] or 0 for turn in turns),
            "output_tokens": sum(turn["output_tokens"] or 0 for turn in turns),
            "cached_tokens": cached,
            "cached_share": min(1.0, cached / read) if cached is not None and read else None,
            "endpoints": _serving(turns),
            "moves": sum(turn["moved"] for turn in turns),
        },
        turns,
    )


def _turns(rows: Iterable[SqlRow], name_of: NameOf) -> list[TurnPayload]:
    turns: list[TurnPayload] = []
    before: str | None = None
    for row in rows:
        _, request_id, completed, endpoint, name, outcome, duration, first, tokens_in, tokens_out, attempts, *_ = row
        endpoint_id = None if str(endpoint) == NO_ENDPOINT else str(endpoint)
        tried = stored_attempts(attempts)
        moved = before is not None and endpoint_id is not None and endpoint_id != before
        turns.append(
            {
                "id": str(request_id),
                "completed_at": json_time(parse_time(completed)),
                "endpoint_id": endpoint_id,
                "endpoint_name": None if endpoint_id is None else name_of(endpoint_id) or str(name),
                "moved": moved,
                "outcome": str(outcome),
                "duration_ms": _ms(duration),
                "first_token_ms": _ms(first),
                "input_tokens": _count(tokens_in),
                "output_tokens": _count(tokens_out),
                "cached_tokens": tried[-1].cached_tokens if tried else None,
                "reason": tried[-1].reason or None if tried else None,
                "failed_over": moved and any(attempt.endpoint_id == before for attempt in tried[:-1]),
            }
        )
        before = endpoint_id or before
    return turns


def _serving(turns: Iterable[TurnPayload]) -> list[ServingEndpointPayload]:
    """Return the endpoints of the turns, the one with the most first."""
    by_id: dict[str, ServingEndpointPayload] = {}
    for turn in turns:
        endpoint_id = turn["endpoint_id"]
        if endpoint_id is not None:
            name = turn["endpoint_name"]
            by_id.setdefault(endpoint_id, {"endpoint_id": endpoint_id, "endpoint_name": name, "turns": 0})["turns"] += 1
    return sorted(by_id.values(), key=itemgetter("turns"), reverse=True)


def _ms(microseconds: object) -> float | None:
    return microseconds / 1000 if isinstance(microseconds, int) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
