"""Totals of adaptive routing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.ipc.record import RequestRecord, Work
from gateway.prices.counts import MAX_TOKENS
from metrics.counting import choices
from metrics.counting.plausibility import MAX_DURATION_US
from tests.metrics.records import attempt, request


def work(expected_us: int = 5, prefix_tokens: int = 7, *, is_cold: bool = False) -> Work:
    return Work(9, 8, prefix_tokens, 0, expected_us, 4, 3, 2, was_idle=True, is_cold=is_cold)


WORK = st.builds(
    work,
    expected_us=st.sampled_from((-1, 0, 5, 9, MAX_DURATION_US, MAX_DURATION_US + 1)),
    prefix_tokens=st.sampled_from((-1, 0, 7, MAX_TOKENS + 1)),
    is_cold=st.booleans(),
)


def decided(made: Work | None, reason: str, cached: int | None, queue_us: int | None) -> RequestRecord:
    only = structs.replace(attempt(), work=made, reason=reason)
    return structs.replace(request(attempts=(only,)), cached_tokens=cached, queue_us=queue_us)


def successes(works: st.SearchStrategy[Work | None], reasons: tuple[str, ...]) -> st.SearchStrategy[RequestRecord]:
    cached = st.sampled_from((None, -1, 0, 5, 9, MAX_TOKENS + 1))
    return st.builds(decided, works, st.sampled_from(reasons), cached, st.sampled_from((None, -1, 6)))


USUAL = successes(st.builds(work, prefix_tokens=st.sampled_from((0, 7))), ("fastest", "kept_prefix", "", "unknown"))
ANY = successes(st.none() | WORK, (*choices.REASONS, "unknown"))


@given(st.lists(USUAL, min_size=1) | st.lists(ANY, min_size=1))
def test_successes_are_counted_like_other_requests(entries: list[RequestRecord]) -> None:
    each, together = Counter({"other": 1}), Counter({"other": 1})
    choices.count(each, entries)
    choices.count_successes(together, entries)
    assert together == each


def test_the_totals_of_successes() -> None:
    totals: Counter[str] = Counter()
    entries = [decided(work(), "fastest", 3, None), decided(work(), "fastest", 9, None)]
    choices.count_successes(totals, entries)
    taken_us = sum(entry.attempts[0].duration_us for entry in entries)
    assert totals == {
        "choices:fastest": 2,
        choices.EXPECTED_US: 10,
        choices.ACTUAL_US: taken_us,
        choices.EXPECTED_PREFIX: 14,
        choices.FOUND_PREFIX: 10,
    }
