"""Where the time of a request went: every part once, in order, none outside of the whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import record
from metrics import waterfall
from metrics.templatetags.requests import bar
from metrics.waterfall import ATTEMPT, FIRST_TOKEN, QUEUE, STREAM, Span, spans, total_ms


def tried(at_ms: float, duration_ms: float, outcome: str = record.OK) -> dict[str, Any]:
    return {"at_ms": at_ms, "duration_ms": duration_ms, "outcome": outcome}


def told(*attempts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    given = {"duration_ms": 1000.0, "queue_ms": None, "first_token_ms": None, "attempts": list(attempts)}
    return given | fields


def parts(*attempts: dict[str, Any], **of: Any) -> list[tuple[str, float, float]]:
    return [(it.what, it.start_ms, it.length_ms) for it in spans(told(*attempts, **of))]


def test_a_whole_answer_is_one_part() -> None:
    assert list(spans(told(tried(1, 999)))) == [Span(ATTEMPT, 1, 999, 1, record.OK)]


def test_a_stream_has_a_first_token() -> None:
    assert parts(tried(0, 1000), first_token_ms=300) == [(FIRST_TOKEN, 0, 300), (STREAM, 300, 700)]


def test_a_wait_stands_before_the_first_attempt() -> None:
    assert parts(tried(410, 590), queue_ms=400) == [(QUEUE, 10, 400), (ATTEMPT, 410, 590)]


def test_a_wait_behind_an_attempt_stands_there() -> None:
    found = parts(tried(0, 90, record.FAILED), queue_ms=900)
    assert found == [(ATTEMPT, 0, 90), (QUEUE, 100, 900)]


def test_a_wait_between_attempts_stands_there() -> None:
    found = parts(tried(10, 90, record.FAILED), tried(600, 400), queue_ms=450)
    assert [(what, start) for what, start, _ in found] == [(ATTEMPT, 10), (QUEUE, 150), (ATTEMPT, 600)]


def test_a_wait_in_vain_is_all_there_was() -> None:
    assert list(spans(told(queue_ms=1000))) == [Span(QUEUE, 0, 1000)]


def test_what_never_waited_nor_reached_an_endpoint_has_no_parts() -> None:
    assert list(spans(told())) == []


def test_a_failed_attempt_stands_before_the_next() -> None:
    found = list(spans(told(tried(0, 90, record.FAILED), tried(95, 905), first_token_ms=200)))
    assert [(it.what, it.attempt) for it in found] == [(ATTEMPT, 1), (FIRST_TOKEN, 2), (STREAM, 2)]


def test_attempts_of_former_rows_follow_each_other() -> None:
    assert [start for _, start, _ in parts(tried(0, 90, record.FAILED), tried(0, 900))] == [0, 90]


def test_a_first_token_of_another_attempt_is_none_of_this() -> None:
    found = parts(tried(0, 90, record.FAILED), tried(500, 500), first_token_ms=50)
    assert [what for what, *_ in found] == [ATTEMPT, ATTEMPT]


TIMES = st.floats(0, 1e7)


@given(st.lists(st.tuples(TIMES, TIMES), max_size=3), st.none() | TIMES, st.none() | TIMES, TIMES)
def test_every_part_lies_within_the_whole(
    attempts: list[tuple[float, float]], queue: float | None, first: float | None, duration: float
) -> None:
    made = told(*(tried(*it) for it in attempts), queue_ms=queue, first_token_ms=first, duration_ms=duration)
    whole = total_ms(made)
    for it in spans(made):
        assert it.length_ms >= 0
        assert 0 <= it.start_ms <= it.start_ms + it.length_ms <= whole + 1e-6


@pytest.mark.parametrize(
    ("span", "total", "drawn"),
    [
        (Span(QUEUE, 0, 500), 1000, 'class="wf-queue" x="0.00%" width="50.00%"'),
        (Span(STREAM, 250, 750, 1, record.OK), 1000, 'class="wf-stream" x="25.00%" width="75.00%"'),
        (Span(ATTEMPT, 0, 10, 1, record.FAILED), 100_000, 'class="wf-bad" x="0.00%" width="0.90%"'),
        (Span(STREAM, 1000, 0, 1, record.TRUNCATED), 1000, 'class="wf-bad" x="99.10%" width="0.90%"'),
        (Span(FIRST_TOKEN, 0, 0, 1, record.OK), 0, 'class="wf-first" x="0.00%" width="0.90%"'),
    ],
)
def test_a_part_is_drawn_to_scale_and_never_too_short_to_see(span: Span, total: float, drawn: str) -> None:
    assert drawn in bar(span, total)


def test_what_went_wrong_is_what_the_endpoint_did() -> None:
    assert [waterfall.went_wrong(it) for it in (record.OK, record.FAILED, record.TRUNCATED, record.CANCELLED)] == [
        False, True, True, False,
    ]  # fmt: skip
