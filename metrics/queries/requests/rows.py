"""Rows of the request history as both databases return them. Imports nothing of Django."""

import re
from typing import Any

from metrics.sql import SqlRow

COLUMNS = (
    "id", "completed_at", "model", "kind", "request_type", "endpoint_id", "endpoint_name", "client_ip", "api_key_id",
    "outcome", "status", "status_code", "error_message", "streamed", "duration_us", "duration_ms", "first_token_us",
    "input_tokens", "output_tokens", "total_tokens", "tokens_estimated", "attempts", "queue_us", "request_id",
    "endpoint_ip", "conversation", "queue_class",
)  # fmt: skip

_NUMBERS = frozenset(
    COLUMNS.index(name)
    for name in (
        "status_code", "streamed", "duration_us", "duration_ms", "first_token_us", "input_tokens", "output_tokens",
        "total_tokens", "tokens_estimated", "queue_us",
    )
)  # fmt: skip
_valid_types: set[tuple[type, ...]] = set()  # types that the columns of undamaged rows have


def readable(rows: list[SqlRow]) -> list[SqlRow]:
    """Return rows of COLUMNS in which damaged cells are replaced: SQLite stores any type in any column."""
    return [row if tuple(map(type, row)) in _valid_types else _readable(row) for row in rows]


def _readable(row: SqlRow) -> SqlRow:
    fixed = tuple(_number(value) if column in _NUMBERS else _text(value) for column, value in enumerate(row))
    if all(new is old for new, old in zip(fixed, row, strict=True)):
        _valid_types.add(tuple(map(type, row)))
    return fixed


def _number(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else 0


def _text(value: Any) -> Any:
    """Decode bytes. Moments, UUIDs and lists are PostgreSQL's types."""
    return str(value, "utf-8", "replace") if isinstance(value, bytes) else value


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def has_page(row: SqlRow) -> bool:
    """Return True if the row's id is valid in the URL of its page."""
    return _UUID.fullmatch(str(row[0])) is not None
