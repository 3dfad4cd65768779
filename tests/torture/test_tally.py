"""Limits of the figures that the responses of a client allow."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from gateway.ipc import record
from tests.torture.tally import UNCERTAIN_SECONDS, Tally
from tests.torture.traffic import (
    BROKEN,
    FAILED,
    LEFT,
    NO_ENDPOINT,
    ODD,
    OK,
    REJECTED,
    UNSENT,
    Ended,
    judge,
    judge_lines,
)


def tally(**ends: int) -> Tally:
    """A tally of requests for `m` with the given ends."""
    made = Tally()
    for end, count in ends.items():
        for _ in range(count):
            made.add(asdict(Ended("m", end, 100.0, 1, 2, cached_tokens=1, detail="x")))
    return made


def counted(**outcomes: int) -> Counter[tuple[str, str]]:
    return Counter({("m", outcome): count for outcome, count in outcomes.items()})


@pytest.mark.parametrize(
    ("ends", "outcomes"),
    [
        ({OK: 3}, {record.OK: 3}),
        ({OK: 3, BROKEN: 2}, {record.OK: 5}),
        ({OK: 3, BROKEN: 2}, {record.OK: 3, record.CANCELLED: 1, record.FAILED: 1}),
        ({FAILED: 3}, {record.FAILED: 1, record.TRUNCATED: 1, record.REFUSED: 1}),
        ({LEFT: 3}, {record.CANCELLED: 3}),
        ({OK: 3, UNSENT: 5}, {record.OK: 3}),
    ],
)
def test_possible_figures(ends: dict[str, int], outcomes: dict[str, int]) -> None:
    assert tally(**ends).check(counted(**outcomes), 0, []) == []


@pytest.mark.parametrize(
    ("ends", "outcomes"),
    [
        ({OK: 3}, {record.OK: 2}),
        ({OK: 3}, {record.OK: 4}),
        ({OK: 3, BROKEN: 1}, {record.OK: 2}),
        ({OK: 3, BROKEN: 1}, {record.OK: 4, record.FAILED: 1}),
        ({OK: 3}, {record.OK: 3, record.FAILED: 1}),
        ({FAILED: 1}, {record.OK: 1}),
        ({LEFT: 3}, {record.CANCELLED: 4}),
        ({LEFT: 3}, {record.CANCELLED: 2}),
        ({OK: 3, UNSENT: 5}, {record.OK: 4}),
        ({ODD: 1}, {}),
    ],
)
def test_impossible_figures(ends: dict[str, int], outcomes: dict[str, int]) -> None:
    assert tally(**ends).check(counted(**outcomes), 0, [])


def test_only_reported_unrecorded_requests_may_be_missing() -> None:
    assert tally(ok=5).check(counted(ok=3), 2, []) == []
    assert tally(ok=5).check(counted(ok=3), 1, [])


def test_unrecorded_requests_are_missing_once_over_all_models() -> None:
    made = tally(ok=5)
    made.add(asdict(Ended("n", OK, 0.0)))
    assert made.check(counted(ok=4), 1, [])


@pytest.mark.parametrize(("after", "uncertain"), [(1.0, True), (UNCERTAIN_SECONDS + 1, False), (-5.0, False)])
def test_a_disconnect_is_uncertain_when_a_gateway_was_killed_soon_after(after: float, uncertain: bool) -> None:
    assert (tally(left=1).check(counted(), 0, [100.0 + after]) == []) is uncertain


@pytest.mark.parametrize(("rejected", "right"), [(1, False), (2, True), (3, True), (4, False)])
def test_rejections_are_within_the_range(rejected: int, right: bool) -> None:
    assert (tally(rejected=2, broken=1).check_rejected(rejected, 0) == []) is right


@pytest.mark.parametrize(("tokens", "right"), [(5, False), (6, True), (16, True), (17, False)])
def test_tokens_are_within_the_range(tokens: int, right: bool) -> None:
    token_counts: Counter[tuple[str, str]] = Counter({("m", "input"): 3, ("m", "output"): tokens, ("m", "cached"): 3})
    assert (tally(ok=3, broken=1).check_tokens(token_counts, 0, largest=10) == []) is right


def test_missing_tokens_of_a_kind_are_found() -> None:
    token_counts: Counter[tuple[str, str]] = Counter({("m", "input"): 3, ("m", "output"): 6, ("m", "cached"): 2})
    assert tally(ok=3).check_tokens(token_counts, 0, largest=10) == ["m cached tokens: 2 counted, 3 to 3 possible"]


@pytest.mark.parametrize("streamed", [False, True])
def test_every_kind_of_token_is_read(streamed: bool) -> None:
    usage = {
        "prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 8},
        "completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 7},
    }  # fmt: skip
    text = json.dumps({"usage": usage}).encode()
    ended = judge("m", 200, b"data: %b\n\ndata: [DONE]\n\n" % text if streamed else text, streamed=streamed)
    assert (ended.end, ended.input_tokens, ended.output_tokens) == (OK, 100, 12)
    assert (ended.cached_tokens, ended.cache_write_tokens, ended.reasoning_tokens) == (40, 8, 7)


def test_only_sent_requests_count_as_sent() -> None:
    made: Any = tally(ok=2, broken=1, unsent=4, rejected=1)
    assert (made.sent, made.total(OK, REJECTED)) == (4, 3)


COUNTS = {"prompt_eval_count": 21, "eval_count": 9}


def ollama(*objects: Any) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in objects)


@pytest.mark.parametrize(
    ("status", "text", "end"),
    [
        (200, ollama({"done": True, **COUNTS}), OK),
        (200, ollama({"done": False}, {"done": True, **COUNTS}), OK),
        (200, ollama({"done": False}, {"error": "simulated"}), FAILED),
        (200, ollama({"done": False}), ODD),
        (200, b"data: [DONE]", ODD),
        (502, ollama({"error": "simulated"}), FAILED),
        (503, ollama({"error": "simulated"}), NO_ENDPOINT),
        (404, ollama({"error": "simulated"}), REJECTED),
        (503, ollama({"error": {"code": "of another API"}}), ODD),
        (418, ollama({"error": "simulated"}), ODD),
    ],
)
def test_responses_of_ollamas_api_are_read(status: int, text: bytes, end: str) -> None:
    ended = judge_lines("m", status, text, streamed=True)
    assert (ended.end, ended.input_tokens, ended.output_tokens) == (end, *((21, 9) if end == OK else (0, 0)))
