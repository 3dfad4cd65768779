"""Counting of one record, implemented a second time: see docs/concepts/counting.md."""

import re
from collections import Counter
from collections.abc import Iterable

from gateway.ipc import record
from gateway.ipc.record import Entry, RequestRecord

MAX_TOKENS = 1 << 40
MAX_COUNT = 1 << 32
MAX_DURATION_US = 365 * 86_400 * 1_000_000
MAX_COMPLETED_US = 4_102_444_800_000_000  # 2100

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

CountedFigures = Counter[str]  # by names such as `stats/failed_requests` and `endpoints/<id>/total_requests`


def counts(entry: Entry) -> bool:
    """Return True for a request that is counted. A record with impossible values is not."""
    if not isinstance(entry, RequestRecord):
        return False
    durations = (entry.duration_us, entry.first_token_us or 0, *(attempt.duration_us for attempt in entry.attempts))
    return (
        bool(_ID.fullmatch(entry.id))
        and 0 <= entry.completed_us < MAX_COMPLETED_US
        and min(durations) >= 0
        and max(durations) <= MAX_DURATION_US
        and 1 <= entry.count <= MAX_COUNT
    )


def count(entries: Iterable[Entry]) -> CountedFigures:
    """Return the figures of these entries by name."""
    figures: CountedFigures = Counter()
    for entry in entries:
        if isinstance(entry, RequestRecord) and counts(entry):
            _add(figures, entry)
    return figures


def _add(figures: CountedFigures, entry: RequestRecord) -> None:
    if entry.outcome == record.REJECTED:
        figures[f"rejected/{entry.error or ''}"] += entry.count
        return
    for attempt in entry.attempts:
        if attempt.outcome != record.CANCELLED:
            name = f"endpoints/{attempt.endpoint_id}"
            figures[f"{name}/total_requests"] += 1
            figures[f"{name}/{'successful' if attempt.outcome == record.OK else 'failed'}_requests"] += 1
    minute = f"history/{entry.completed_us // 60_000_000}"
    if entry.outcome == record.OK:
        figures["stats/successful_requests"] += 1
        figures[f"{minute}/success"] += 1
    elif entry.outcome == record.CANCELLED:
        figures["stats/cancelled_requests"] += 1
        if entry.endpoint_id is not None:
            figures[f"endpoints/{entry.endpoint_id}/cancelled_requests"] += 1
    else:
        figures["stats/failed_requests"] += 1
        figures[f"{minute}/error"] += 1
    figures["stats/total_input_tokens"] += _plausible(entry.input_tokens)
    figures["stats/total_output_tokens"] += _plausible(entry.output_tokens)
    if entry.attempts:
        figures["stats/total_cached_tokens"] += _part(entry.cached_tokens, entry.input_tokens)
        figures["stats/total_cache_write_tokens"] += _part(entry.cache_write_tokens, entry.input_tokens)
        figures["stats/total_reasoning_tokens"] += _part(entry.reasoning_tokens, entry.output_tokens)


def _part(tokens: int | None, of: int | None) -> int:
    """Return tokens that are part of others. No server has more of them."""
    return min(_plausible(tokens), _plausible(of))


def _plausible(tokens: int | None) -> int:
    return tokens if tokens is not None and 0 <= tokens <= MAX_TOKENS else 0
