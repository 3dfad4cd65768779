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
    connect_us: int | None = None  # for opening a connection; 0: an idle one was used
    # Of the request, on its last attempt, so that rows of older releases need no new columns.
    cached_tokens: int | None = None
    body_bytes: int = 0
    # Of the attempt again.
    served: str | None = None  # the endpoint's own id of the model; None: the requested name
    canonical: str | None = None  # canonical name of that model
    step: int = 0  # of the model name's steps, from 1; 0: no model name
    # Of the request again, on its last attempt.
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None
    left_steps: tuple[tuple[int, str], ...] = ()  # steps that were left or skipped, and why
    cost: int | None = None  # of the request, in 10⁻⁹ of the currency; None: it has no price
    currency: str | None = None
    price_id: int | None = None  # row of the price book; negative: of the catalogue
    long_write_tokens: int | None = None
    service_tier: str | None = None  # None: the default one, or not reported
    images: int | None = None
    audio_ms: int | None = None


_decode = msgspec.json.Decoder(list[StoredAttempt]).decode


def stored_attempts(stored: Any) -> list[StoredAttempt]:
    """Return the attempts of a row: SQLite gives text, PostgreSQL its value. A damaged row has none."""
    if stored is None:
        return []
    try:
        return _decode(stored) if isinstance(stored, str) else msgspec.convert(stored, list[StoredAttempt])
    except (msgspec.DecodeError, UnicodeError):
        return []
