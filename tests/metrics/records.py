"""Records for tests: single ones by `request`, or a random day of traffic by `load`."""

import itertools
import random
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.base import request_kinds
from gateway.base.queue_class import BULK
from gateway.base.request_kinds import CHAT, OLLAMA_SHOW
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord

NOW = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)
AT = NOW.timestamp()
MINUTE = int(AT // 60)

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
KEY = "cccccccc-0000-4000-8000-000000000003"

WITHOUT_ENDPOINT = {record.NO_ENDPOINT, record.QUEUE, record.REJECTED}
STATUS = {
    record.OK: 200,
    record.REFUSED: 422,
    record.FAILED: 502,
    record.TRUNCATED: 200,
    record.CANCELLED: 0,
    record.NO_ENDPOINT: 503,
    record.QUEUE: 429,
    record.REJECTED: 401,
}
ENDED = (record.OK, record.REFUSED, record.FAILED, record.TRUNCATED, record.CANCELLED, record.NO_ENDPOINT, record.QUEUE)
KINDS = tuple(request_kinds.BY_NAME)
CLIENTS = ("192.0.2.1", "2001:db8::5", None)

_numbers = itertools.count(1)


def uuid_of(number: int) -> str:
    """Return the ID with this number: tests that compare runs need the same IDs each time."""
    return f"00000000-0000-7000-8000-{number:012x}"


def request(outcome: str = record.OK, *, ago: float = 0.0, endpoint: str = A, **fields: Any) -> RequestRecord:
    """A request that ended `ago` seconds before NOW, with one attempt unless its outcome has none."""
    duration = fields.pop("duration_us", 2_000_000)
    attempts: tuple[AttemptRecord, ...] = (attempt(outcome, endpoint, duration_us=duration),)
    if outcome in WITHOUT_ENDPOINT:
        attempts = ()
    given: dict[str, Any] = {
        "id": uuid_of(next(_numbers)),
        "completed_us": round((AT - ago) * 1_000_000),
        "kind": CHAT,
        "model": "tiny",
        "outcome": outcome,
        "status": STATUS[outcome],
        "duration_us": duration,
        "attempts": attempts,
    }
    return RequestRecord(**{**given, **fields})


def attempt(
    outcome: str = record.OK, endpoint: str = A, *, duration_us: int = 2_000_000, error: str | None = None
) -> AttemptRecord:
    status = STATUS.get(outcome, 0)
    return AttemptRecord(endpoint, outcome, status, duration_us, error)


def load(seed: int, count: int, *, seconds: float = 3600.0) -> list[RequestRecord]:
    """Traffic of the last `seconds` in random order: every outcome, failed-over attempts, with and without tokens."""
    rng = random.Random(seed)
    return [_any_request(rng, seconds) for _ in range(count)]


def _any_request(rng: random.Random, seconds: float) -> RequestRecord:
    outcome = rng.choice((record.OK,) * 6 + (*ENDED, record.REJECTED))
    attempts: list[AttemptRecord] = []
    if outcome not in WITHOUT_ENDPOINT or outcome == record.QUEUE:  # also after one that failed it
        attempts = [attempt(record.FAILED, rng.choice((A, B)), duration_us=5) for _ in range(rng.choice((0, 0, 0, 1)))]
    if outcome not in WITHOUT_ENDPOINT:
        attempts.append(attempt(outcome, rng.choice((A, B)), duration_us=rng.randrange(1, 9_000_000)))
    spoke = outcome == record.OK or rng.random() < 0.2
    made = request(
        outcome,
        ago=rng.uniform(0, seconds),
        kind=rng.choice(KINDS),
        model=rng.choice(("tiny", "large")),
        attempts=tuple(attempts),
        duration_us=rng.randrange(1, 10_000_000),
        input_tokens=rng.randrange(100) if spoke else None,
        output_tokens=rng.randrange(900) if spoke else None,
        first_token_us=rng.choice((None, rng.randrange(1, 10_000_000))),
        api_key_id=rng.choice((None, KEY)),
        error=None if outcome == record.OK else rng.choice(("unknown_key", "too_large")),
        queue_us=rng.choice((None, rng.randrange(1, 5_000_000))),
        request_id=rng.choice((None, "of-the-client")),
    )
    number = made.duration_us
    if made.kind == OLLAMA_SHOW and outcome == record.OK and number % 2:  # known without asking a server
        made = msgspec.structs.replace(made, attempts=(), input_tokens=None, output_tokens=None, first_token_us=None)
    made = msgspec.structs.replace(
        made, client_ip=CLIENTS[number % len(CLIENTS)], queue_class=None if number % 7 else BULK
    )
    if outcome == record.REJECTED and made.api_key_id is None:
        return msgspec.structs.replace(made, count=1 + number % 4)
    return with_details(made, number) if made.attempts else made


def with_details(made: RequestRecord, number: int) -> RequestRecord:
    """Return the request with tokens that only some servers report, and a served model; `number` decides which."""
    tokens_in, tokens_out = made.input_tokens or 0, made.output_tokens or 0
    last = msgspec.structs.replace(
        made.attempts[-1],
        served=(None, made.model, f"{made.model}:q4", None)[number % 4],
        canonical=(None, "maker/tiny", made.model)[number % 3],
        step=number % 5 if number % 2 else 0,
    )
    return msgspec.structs.replace(
        made,
        attempts=(*made.attempts[:-1], last),
        cached_tokens=(None, 0, tokens_in // 2, tokens_in + 5)[number % 8 % 4],
        cache_write_tokens=tokens_in // 3 if number % 5 else None,
        reasoning_tokens=(None, tokens_out // 4)[number % 3 % 2],
        finish_reason=(None, "stop", "length")[number % 3],
        left_steps=((1, "full"),) if number % 11 == 0 else (),
        estimated=number % 9 == 0,
    )


def split(entries: list[Any], rng: Any) -> list[list[Any]]:
    """Split into batches at random places."""
    cuts = sorted(rng.randrange(len(entries) + 1) for _ in range(3)) if entries else []
    edges = [0, *cuts, len(entries)]
    return [entries[start:end] for start, end in itertools.pairwise(edges)]
