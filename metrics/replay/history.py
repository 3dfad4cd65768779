"""Reading of recorded requests for a replay. Imports nothing of Django: it runs in a process of its own too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from gateway.base.request_kinds import GENERATING
from gateway.ipc import record
from gateway.prices.counts import plausible
from gateway.routing import adaptive, balancer
from metrics import sql
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.learning.samples import UNKNOWN
from metrics.replay.traffic import PastRequest
from metrics.sql import RunSql, SqlRow, Vendor
from metrics.times import parse_time, sql_time

MOST_REQUESTS = 20_000  # the latest ones
COLUMNS = (
    "completed_at", "model", "kind", "api_key_id", "outcome", "duration_us", "first_token_us", "input_tokens",
    "output_tokens", "attempts", "conversation",
)  # fmt: skip
_ADAPTIVE_REASONS = {
    adaptive.FASTEST, adaptive.KEPT_PREFIX, adaptive.LOADED, adaptive.PROBE, adaptive.WAITED,
}  # fmt: skip
_LEAST_REASONS = {balancer.LEAST, balancer.DRAWN, balancer.SPILLED}  # without expected times
BYTES_PER_TOKEN = adaptive.UNKNOWN_BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Past:
    """What the history has of a span of time."""

    requests: list[PastRequest]  # by arrival
    is_cut: bool = False  # there were more than MOST_REQUESTS
    failed: int = 0  # ended without an answer
    queue_refused: int = 0  # of these, in the queue
    unusable: int = 0  # answered, but without the tokens or times that a replay needs
    cold: int = 0  # a model was loaded for them


def read_past(
    run: RunSql, vendor: Vendor, since: datetime, until: datetime, models: Mapping[str, str] | None = None
) -> Past:
    """Read the requests that ended between two moments. One query; its errors pass.

    `models`: the name of a model by each of its casefolded names.
    """
    statement = sql.select(
        COLUMNS,
        sql.indexed("request_history", "history_completed", vendor),
        where=("completed_at >= %s", "completed_at < %s"),
        order_by="completed_at DESC, id DESC",
        limit=MOST_REQUESTS + 1,
    )
    rows = run(statement, [sql_time(since, vendor), sql_time(until, vendor)])
    return past_of(rows, models or {})


def past_of(rows: Sequence[SqlRow], models: Mapping[str, str]) -> Past:
    """Return the requests of rows of COLUMNS, which are sorted by completion, the latest first."""
    requests: list[PastRequest] = []
    failed = queue_refused = unusable = cold = 0
    for row in rows[:MOST_REQUESTS]:
        outcome, attempts = row[4], stored_attempts(row[9])
        if outcome != record.OK:
            failed += 1
            queue_refused += outcome == record.QUEUE
            continue
        one = _request(row, attempts[-1], models) if attempts else None
        if one is None:
            unusable += 1
            continue
        cold += attempts[-1].work is not None and attempts[-1].work.is_cold
        requests.append(one)
    requests.sort()
    return Past(requests, len(rows) > MOST_REQUESTS, failed, queue_refused, unusable, cold)


def _request(row: SqlRow, attempt: StoredAttempt, models: Mapping[str, str]) -> PastRequest | None:
    completed_at, model, kind, key, _, duration_us, first_us, prompt, output, _, conversation = row
    completed = parse_time(completed_at)
    if completed is None or not isinstance(duration_us, int) or not attempt.duration_us or not isinstance(model, str):
        return None
    written = plausible(output) or 0
    if kind in GENERATING:
        if not written:
            return None
    else:
        written = 0
    tokens = plausible(prompt)
    if not tokens:
        tokens = attempt.work.prompt_tokens if attempt.work is not None else int(attempt.body_bytes / BYTES_PER_TOKEN)
    arrived = completed.timestamp() - duration_us / 1e6
    sent = arrived + attempt.at_us / 1e6
    ended = sent + attempt.duration_us / 1e6
    first = arrived + first_us / 1e6 if isinstance(first_us, int) and first_us > attempt.at_us else 0.0
    return PastRequest(
        arrived, sent, min(first, ended), ended, attempt.endpoint_id, str(key or ""),
        models.get(model.casefold(), model), str(kind), max(1, tokens), written,
        UNKNOWN if attempt.cached_tokens is None else min(attempt.cached_tokens, max(1, tokens)),
        str(conversation or ""), _balancer(attempt),
    )  # fmt: skip


def _balancer(attempt: StoredAttempt) -> str:
    if attempt.reason in _ADAPTIVE_REASONS or attempt.costs or attempt.work is not None:
        return ADAPTIVE
    return LEAST_INFLIGHT if attempt.reason in _LEAST_REASONS else ""
