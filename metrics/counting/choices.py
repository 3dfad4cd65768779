"""Totals of adaptive routing: why endpoints were chosen, and how what was expected compares with what happened."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.prices.counts import MAX_TOKENS, plausible
from gateway.routing import adaptive, balancer
from metrics.counting.plausibility import MAX_DURATION_US

CHOICES = "choices:"  # followed by the reason, of each attempt
REASONS = (
    adaptive.FASTEST, adaptive.KEPT_PREFIX, adaptive.LOADED, adaptive.PROBE, adaptive.WAITED, balancer.ONLY,
    balancer.TRIAL, balancer.CREATOR, balancer.PINNED, balancer.SEARCHED, balancer.SPILLED,
)  # fmt: skip
LATE_US = "late_binding_us"  # requests waited for a better endpoint or a slot of it
COLD_LOADS = "cold_loads"  # requests for which the model had to be loaded
# Durations of successful attempts, without cold loads: as routing expected them, and as they were.
EXPECTED_US, ACTUAL_US = "choices_expected_us", "choices_actual_us"
# Tokens of attempts whose endpoint reports cached ones: expected in the prefix cache, and at most as many found there.
EXPECTED_PREFIX, FOUND_PREFIX = "prefix_tokens_expected", "prefix_tokens_found"

MANY = 32  # requests for which counting by columns pays off
_TOTAL_OF = {reason: CHOICES + reason for reason in REASONS}


def count(totals: Counter[str], entries: Iterable[RequestRecord]) -> None:
    """Add what adaptive routing did for these requests to totals. Requests of other policies change nothing."""
    chosen: dict[str, int] = {}
    expected_us = actual_us = 0
    for entry in entries:
        attempts = entry.attempts
        if not attempts or (work := (last := attempts[-1]).work) is None:
            continue
        reason = last.reason
        chosen[reason] = chosen.get(reason, 0) + 1
        if len(attempts) > 1:
            for attempt in attempts[:-1]:
                chosen[attempt.reason] = chosen.get(attempt.reason, 0) + 1
        if reason == adaptive.WAITED and 0 <= (entry.queue_us or 0) <= MAX_DURATION_US:
            totals[LATE_US] += entry.queue_us or 0
        if work.is_cold:
            totals[COLD_LOADS] += 1
        elif entry.outcome == record.OK and last.outcome == record.OK and 0 < work.expected_us <= MAX_DURATION_US:
            expected_us += work.expected_us
            actual_us += last.duration_us
        if (cached := entry.cached_tokens) is not None and work.prefix_tokens:
            _count_prefix(totals, work.prefix_tokens, cached)
    _add(totals, chosen, expected_us, actual_us)


def count_successes(totals: Counter[str], entries: Sequence[RequestRecord]) -> None:
    """Do the same for successful requests with one attempt, by columns: two thirds of the instructions."""
    attempts = [entry.attempts[0] for entry in entries]
    works = [work for attempt in attempts if (work := attempt.work) is not None]
    expected_us = [work.expected_us for work in works if not work.is_cold]
    chosen = Counter([attempt.reason for attempt in attempts]) if works else {}
    if (
        len(expected_us) < len(entries)
        or adaptive.WAITED in chosen
        or not 0 < min(expected_us) <= max(expected_us) <= MAX_DURATION_US
    ):
        count(totals, entries)
        return
    if any([entry.cached_tokens is not None for entry in entries]):
        for entry, work in zip(entries, works, strict=True):
            if (cached := entry.cached_tokens) is not None and work.prefix_tokens:
                _count_prefix(totals, work.prefix_tokens, cached)
    _add(totals, chosen, sum(expected_us), sum([attempt.duration_us for attempt in attempts]))


def _add(totals: Counter[str], chosen: Mapping[str, int], expected_us: int, actual_us: int) -> None:
    totals.update({_TOTAL_OF[reason]: number for reason, number in chosen.items() if reason in _TOTAL_OF})
    if expected_us:
        totals.update({EXPECTED_US: expected_us, ACTUAL_US: actual_us})


def _count_prefix(totals: Counter[str], expected: int, reported: int) -> None:
    cached = plausible(reported)
    if cached is not None and 0 < expected <= MAX_TOKENS:
        totals[EXPECTED_PREFIX] += expected
        totals[FOUND_PREFIX] += min(cached, expected)
