"""Attempts of a request in a row of the history."""

from typing import Any

import msgspec

from gateway.ipc.record import Work


class StoredAttempt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Attempt in a history row: a JSON object without fields that have their default."""

    endpoint_id: str
    outcome: str
    status: int
    duration_us: int
    error: str | None = None
    at_us: int = 0  # since the arrival of the request
    reason: str = ""  # a reason defined in gateway.routing.balancer
    scores: dict[str, int] = {}  # endpoint and requests in flight
    said: str | None = None  # error text of the endpoint; content, protected like bodies
    costs: dict[str, int] = {}  # endpoint and cost in ms, of adaptive routing
    work: Work | None = None  # of adaptive routing
    # Of the request, on its last attempt, so that rows of older releases need no new columns.
    cached_tokens: int | None = None
    body_bytes: int = 0
    conversation: str | None = None


_decode = msgspec.json.Decoder(list[StoredAttempt]).decode


def stored_attempts(stored: Any) -> list[StoredAttempt]:
    """Return the attempts of a row: SQLite gives text, PostgreSQL its value. A damaged row has none."""
    if stored is None:
        return []
    try:
        return _decode(stored) if isinstance(stored, str) else msgspec.convert(stored, list[StoredAttempt])
    except (msgspec.DecodeError, UnicodeError):
        return []
