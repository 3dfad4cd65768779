"""Totals of adaptive routing: why endpoints were chosen, and how what was expected compares with what happened."""

from collections import Counter

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

_TOTAL_OF = {reason: CHOICES + reason for reason in REASONS}


def count(totals: Counter[str], entry: RequestRecord) -> None:
    """Add what adaptive routing did for a request to totals. Requests of other policies change nothing."""
    attempts = entry.attempts
    if not attempts or (work := attempts[-1].work) is None:
        return
    for attempt in attempts:
        if (name := _TOTAL_OF.get(attempt.reason)) is not None:
            totals[name] += 1
    last = attempts[-1]
    if last.reason == adaptive.WAITED and 0 <= (entry.queue_us or 0) <= MAX_DURATION_US:
        totals[LATE_US] += entry.queue_us or 0
    if work.is_cold:
        totals[COLD_LOADS] += 1
    elif entry.outcome == record.OK and last.outcome == record.OK and 0 < work.expected_us <= MAX_DURATION_US:
        totals[EXPECTED_US] += work.expected_us
        totals[ACTUAL_US] += last.duration_us
    if (cached := entry.cached_tokens) is not None and work.prefix_tokens:
        _count_prefix(totals, work.prefix_tokens, cached)


def _count_prefix(totals: Counter[str], expected: int, reported: int) -> None:
    cached = plausible(reported)
    if cached is not None and 0 < expected <= MAX_TOKENS:
        totals[EXPECTED_PREFIX] += expected
        totals[FOUND_PREFIX] += min(cached, expected)
