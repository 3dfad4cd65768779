"""Explanation of a request: its time in parts, beside what is usual. Only numbers that are known are shown."""

from typing import Any

import msgspec
import pytest

from gateway.ipc import record
from gateway.registry.schema import Speeds
from metrics.queries.requests.explanation import (
    CONNECT,
    DECODE,
    EARLIER,
    PREFILL,
    QUEUE,
    RESPONSE,
    STALLS,
    RequestExplanation,
    candidates,
    explanation,
)
from metrics.queries.requests.payload import AttemptPayload, RequestPayload, WorkPayload
from tests.metrics.records import A, B

pytestmark = pytest.mark.every_database

SPEEDS = Speeds(setup=0.1, read=0.001, write=0.02, share=0.005, completions=40)
WORK: dict[str, Any] = {
    "prompt_tokens": 900, "output_tokens": 100, "prefix_tokens": 200, "expected_ms": 2000.0, "pending_tokens": 50,
    "read_tokens": 300, "mean_in_flight": 2.0, "was_idle": False, "is_cold": False,
}  # fmt: skip


def attempt(**fields: Any) -> AttemptPayload:
    given: dict[str, Any] = {
        "endpoint_id": A, "endpoint_name": "a", "outcome": record.OK, "status_code": 200, "at_ms": 600.0,
        "duration_ms": 4000.0, "error": None, "reason": "fastest", "scores": [], "connect_ms": 0.0,
        "served_model": None, "canonical_name": None, "step": None,
        "work": msgspec.convert(WORK, dict),
        "costs": [
            {"endpoint_id": A, "endpoint_name": "a", "cost_ms": 1900},
            {"endpoint_id": B, "endpoint_name": "b", "cost_ms": 2400},
        ],
    }  # fmt: skip
    return msgspec.convert({**given, **fields}, AttemptPayload)


def request(**fields: Any) -> RequestPayload:
    given: dict[str, Any] = {name: None for name in RequestPayload.__annotations__}
    given |= {
        "id": "x", "model": "tiny", "kind": "chat_completions", "outcome": record.OK, "duration_ms": 4600.0,
        "queue_ms": 500.0, "first_token_ms": 1600.0, "input_tokens": 1000, "output_tokens": 101, "cached_tokens": 250,
        "attempts": [attempt()], "queue_class": "interactive", "left_steps": [],
    }  # fmt: skip
    return msgspec.convert({**given, **fields}, RequestPayload)


def explained(speeds: Speeds | None = SPEEDS, **fields: Any) -> RequestExplanation:
    request_explanation = explanation(request(**fields), speeds)
    assert request_explanation is not None
    return request_explanation


def parts(request_explanation: RequestExplanation) -> list[tuple[str, float, float | None]]:
    return [(part.what, part.took_ms, part.usual_ms and round(part.usual_ms, 6)) for part in request_explanation.parts]


def work(**fields: Any) -> WorkPayload:
    return msgspec.convert({**WORK, **fields}, WorkPayload)


def test_a_stream_is_split_at_its_first_token() -> None:
    # 0.1 + 0.001 * (50 + 1000 - 250) + 0.02 + 2 * 0.005; 100 * 0.03; 0.001 * 300
    assert parts(explained()) == [
        (QUEUE, 500.0, None), (CONNECT, 0.0, None), (PREFILL, 1000.0, 930.0), (DECODE, 2700.0, 3000.0),
        (STALLS, 300.0, 300.0),
    ]  # fmt: skip


def test_parts_add_up_to_the_time_of_the_request() -> None:
    request_explanation = explained(attempts=[attempt(connect_ms=40.0)])
    assert parts(request_explanation)[1:3] == [(CONNECT, 40.0, None), (PREFILL, 960.0, 930.0)]
    assert sum(part.took_ms for part in request_explanation.parts) == 4500.0


def test_stalls_are_estimated_and_no_longer_than_the_stream() -> None:
    many = explained(attempts=[attempt(work=work(read_tokens=9000))])
    assert parts(many)[-2:] == [(DECODE, 0.0, 3000.0), (STALLS, 3000.0, 9000.0)]
    assert [part.is_estimated for part in many.parts] == [False, False, False, False, True]
    assert [part.what for part in explained(attempts=[attempt(work=work(read_tokens=0))]).parts][-1] == DECODE


def test_another_response_is_one_part_beside_its_stalls() -> None:
    # 0.1 + 0.001 * (50 + 750) + 101 * 0.03; 0.001 * 300
    shown_parts = parts(explained(first_token_ms=None, queue_ms=None))
    assert shown_parts == [(QUEUE, 0.0, None), (CONNECT, 0.0, None), (RESPONSE, 3700.0, 3930.0), (STALLS, 300.0, 300.0)]


def test_earlier_attempts_are_a_part() -> None:
    failed = attempt(endpoint_id=B, outcome=record.FAILED, at_ms=0.0, duration_ms=90.0, work=None)
    assert parts(explained(attempts=[failed, attempt()]))[1] == (EARLIER, 90.0, None)


def test_older_records_do_not_tell_how_long_connecting_took() -> None:
    request_explanation = explained(attempts=[attempt(connect_ms=None)])
    assert [part.what for part in request_explanation.parts] == [QUEUE, PREFILL, DECODE, STALLS]


def test_a_part_that_took_much_longer_is_slow() -> None:
    slow = explained(attempts=[attempt(duration_ms=7000.0)])
    assert [part.what for part in slow.parts if part.is_slow] == [DECODE]
    assert not any(part.is_slow for part in explained().parts)


def test_a_small_difference_is_not_slow() -> None:
    quick = Speeds(setup=0.01, read=0.0, write=0.0, share=0.0, completions=5)
    part = explained(quick, first_token_ms=None, attempts=[attempt(duration_ms=90.0)]).parts[-1]
    assert (part.ratio, part.is_slow) == (9.0, False)


@pytest.mark.parametrize("speeds", [None, Speeds(0.0, 0.0, 0.0, 0.0), Speeds(0.1, 0.001, 0.02, 0.005, completions=4)])
def test_without_learned_speeds_nothing_is_usual(speeds: Speeds | None) -> None:
    request_explanation = explained(speeds)
    assert [part.usual_ms for part in request_explanation.parts] == [None] * 4
    assert (request_explanation.completions, request_explanation.saved_ms) == (0, None)
    assert (request_explanation.expected_ms, request_explanation.took_ms, request_explanation.ratio) == (
        2000.0,
        4000.0,
        2.0,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"attempts": [attempt(work=work(mean_in_flight=None))]},
        {"attempts": [attempt(work=work(is_cold=True))]},
        {"attempts": [attempt(outcome=record.TRUNCATED)]},
    ],
)
def test_a_part_whose_load_or_end_is_not_known_has_no_usual_time(changed: dict[str, Any]) -> None:
    assert [part.usual_ms for part in explained(**changed).parts if part.what != STALLS] == [None] * 4


def test_without_output_tokens_only_the_first_token_has_a_usual_time() -> None:
    usual = {part.what: part.usual_ms for part in explained(output_tokens=None).parts}
    assert usual[DECODE] is None
    assert usual[PREFILL] == pytest.approx(930.0)
    assert explained(output_tokens=None, first_token_ms=None).parts[-2].usual_ms is None


@pytest.mark.parametrize(
    ("fields", "unread", "reported"),
    [
        ({}, 750, True),
        ({"cached_tokens": None}, 800, False),
        ({"cached_tokens": None, "input_tokens": None}, 700, False),
        ({"cached_tokens": 0}, 1000, True),
        ({"cached_tokens": 2000}, 0, True),
    ],
)
def test_prompt_tokens_to_read_are_those_that_were_reported_else_expected(
    fields: dict[str, Any], unread: int, reported: bool
) -> None:
    request_explanation = explained(**fields)
    assert (request_explanation.unread_tokens, request_explanation.is_reported) == (unread, reported)


def test_the_saved_time_is_of_the_learned_speed() -> None:
    assert explained().saved_ms == 200.0
    assert explained(attempts=[attempt(work=work(prefix_tokens=0))]).saved_ms is None


def test_the_next_best_candidate_has_the_least_expected_time_of_the_others() -> None:
    candidate = explained().next_best
    assert candidate is not None
    assert (candidate.endpoint_name, candidate.expected_ms) == ("b", 2400)
    assert explained(attempts=[attempt(costs=[])]).next_best is None


def test_candidates_have_costs_and_loads_where_they_were_recorded() -> None:
    scores = [{"endpoint_id": B, "endpoint_name": "b", "in_flight": 5}]
    shown_candidates = candidates(attempt(scores=scores))
    assert [
        (candidate.endpoint_name, candidate.expected_ms, candidate.in_flight) for candidate in shown_candidates
    ] == [("a", 1900, None), ("b", 2400, 5)]


@pytest.mark.parametrize("attempts", [[], [attempt(work=None)]])
def test_a_request_without_recorded_work_is_not_explained(attempts: list[AttemptPayload]) -> None:
    assert explanation(request(attempts=attempts), SPEEDS) is None
