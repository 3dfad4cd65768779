"""The waterfall of a request: each part once, in order, and within the total time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ipc import record
from metrics.queries.requests.waterfall import (
    ATTEMPT,
    FIRST_TOKEN,
    QUEUE,
    STREAM,
    WaterfallBar,
    is_failure,
    total_ms,
    waterfall_bars,
)
from metrics.templatetags.requests import bar

pytestmark = pytest.mark.every_database


def tried(at_ms: float, duration_ms: float, outcome: str = record.OK) -> dict[str, Any]:
    return {"at_ms": at_ms, "duration_ms": duration_ms, "outcome": outcome}


def waterfall_of(*attempts: dict[str, Any], **fields: Any) -> Any:
    given = {"duration_ms": 1000.0, "queue_ms": None, "first_token_ms": None, "attempts": list(attempts)}
    return given | fields


def parts(*attempts: dict[str, Any], **of: Any) -> list[tuple[str, float, float]]:
    return [(part.what, part.start_ms, part.length_ms) for part in waterfall_bars(waterfall_of(*attempts, **of))]


def test_a_complete_response_is_one_part() -> None:
    assert list(waterfall_bars(waterfall_of(tried(1, 999)))) == [WaterfallBar(ATTEMPT, 1, 999, 1, record.OK)]


def test_a_stream_has_a_first_token() -> None:
    assert parts(tried(0, 1000), first_token_ms=300) == [(FIRST_TOKEN, 0, 300), (STREAM, 300, 700)]


def test_a_wait_is_before_the_first_attempt() -> None:
    assert parts(tried(410, 590), queue_ms=400) == [(QUEUE, 10, 400), (ATTEMPT, 410, 590)]


def test_a_wait_after_an_attempt_is_after_it() -> None:
    waterfall_parts = parts(tried(0, 90, record.FAILED), queue_ms=900)
    assert waterfall_parts == [(ATTEMPT, 0, 90), (QUEUE, 100, 900)]


def test_a_wait_between_attempts_is_between_them() -> None:
    waterfall_parts = parts(tried(10, 90, record.FAILED), tried(600, 400), queue_ms=450)
    assert [(what, start) for what, start, _ in waterfall_parts] == [(ATTEMPT, 10), (QUEUE, 150), (ATTEMPT, 600)]


def test_a_queue_timeout_is_the_only_part() -> None:
    assert list(waterfall_bars(waterfall_of(queue_ms=1000))) == [WaterfallBar(QUEUE, 0, 1000)]


def test_a_request_without_wait_and_attempt_has_no_parts() -> None:
    assert list(waterfall_bars(waterfall_of())) == []


def test_a_failed_attempt_is_before_the_next() -> None:
    waterfall_parts = list(
        waterfall_bars(waterfall_of(tried(0, 90, record.FAILED), tried(95, 905), first_token_ms=200))
    )
    assert [(part.what, part.attempt) for part in waterfall_parts] == [(ATTEMPT, 1), (FIRST_TOKEN, 2), (STREAM, 2)]


def test_attempts_of_rows_of_older_releases_are_consecutive() -> None:
    assert [start for _, start, _ in parts(tried(0, 90, record.FAILED), tried(0, 900))] == [0, 90]


def test_a_first_token_belongs_to_its_own_attempt() -> None:
    waterfall_parts = parts(tried(0, 90, record.FAILED), tried(500, 500), first_token_ms=50)
    assert [what for what, *_ in waterfall_parts] == [ATTEMPT, ATTEMPT]


TIMES = st.floats(0, 1e7)


@given(st.lists(st.tuples(TIMES, TIMES), max_size=3), st.none() | TIMES, st.none() | TIMES, TIMES)
def test_every_part_lies_within_the_whole(
    attempts: list[tuple[float, float]], queue: float | None, first: float | None, duration: float
) -> None:
    made = waterfall_of(
        *(tried(*times) for times in attempts), queue_ms=queue, first_token_ms=first, duration_ms=duration
    )
    whole = total_ms(made)
    for part in waterfall_bars(made):
        assert part.length_ms >= 0
        assert 0 <= part.start_ms <= part.start_ms + part.length_ms <= whole + 1e-6


@pytest.mark.parametrize(
    ("span", "total", "drawn"),
    [
        (WaterfallBar(QUEUE, 0, 500), 1000, 'class="wf-queue" x="0.00%" width="50.00%"'),
        (WaterfallBar(STREAM, 250, 750, 1, record.OK), 1000, 'class="wf-stream" x="25.00%" width="75.00%"'),
        (WaterfallBar(ATTEMPT, 0, 10, 1, record.FAILED), 100_000, 'class="wf-bad" x="0.00%" width="0.90%"'),
        (WaterfallBar(STREAM, 1000, 0, 1, record.TRUNCATED), 1000, 'class="wf-bad" x="99.10%" width="0.90%"'),
        (WaterfallBar(FIRST_TOKEN, 0, 0, 1, record.OK), 0, 'class="wf-first" x="0.00%" width="0.90%"'),
    ],
)
def test_a_part_is_drawn_to_scale_and_never_too_short_to_see(span: WaterfallBar, total: float, drawn: str) -> None:
    assert drawn in bar(span, total)


def test_the_failed_part_shows_the_error_of_the_endpoint() -> None:
    assert [is_failure(outcome) for outcome in (record.OK, record.FAILED, record.TRUNCATED, record.CANCELLED)] == [
        False, True, True, False,
    ]  # fmt: skip
