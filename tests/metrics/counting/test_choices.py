"""Totals of adaptive routing."""

from collections import Counter

from msgspec import structs

from gateway.ipc.record import RequestRecord, Work
from metrics.counting import choices
from tests.metrics.records import attempt, request


def work(expected_us: int = 5, prefix_tokens: int = 7, *, is_cold: bool = False) -> Work:
    return Work(9, 8, prefix_tokens, 0, expected_us, 4, 3, 2, was_idle=True, is_cold=is_cold)


def decided(made: Work | None, reason: str, cached: int | None, queue_us: int | None) -> RequestRecord:
    only = structs.replace(attempt(), work=made, reason=reason)
    return structs.replace(request(attempts=(only,)), cached_tokens=cached, queue_us=queue_us)


def test_the_totals_of_successes() -> None:
    totals: Counter[str] = Counter()
    entries = [decided(work(), "fastest", 3, None), decided(work(), "fastest", 9, None)]
    for entry in entries:
        choices.count(totals, entry)
    taken_us = sum(entry.attempts[0].duration_us for entry in entries)
    assert totals == {
        "choices:fastest": 2,
        choices.EXPECTED_US: 10,
        choices.ACTUAL_US: taken_us,
        choices.EXPECTED_PREFIX: 14,
        choices.FOUND_PREFIX: 10,
    }
