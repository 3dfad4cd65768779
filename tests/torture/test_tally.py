"""Limits of the figures that the responses of a client allow."""

from collections import Counter
from typing import Any

import pytest

from gateway.ipc import record
from tests.torture.tally import UNCERTAIN_SECONDS, Tally
from tests.torture.traffic import BROKEN, FAILED, LEFT, ODD, OK, REJECTED, UNSENT


def tally(**ends: int) -> Tally:
    """A tally of requests for `m` with the given ends."""
    made = Tally()
    for end, count in ends.items():
        for _ in range(count):
            made.add({"model": "m", "end": end, "at": 100.0, "input_tokens": 1, "output_tokens": 2, "detail": "x"})
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
    made.add({"model": "n", "end": OK, "at": 0.0, "input_tokens": 0, "output_tokens": 0, "detail": ""})
    assert made.check(counted(ok=4), 1, [])


@pytest.mark.parametrize(("after", "uncertain"), [(1.0, True), (UNCERTAIN_SECONDS + 1, False), (-5.0, False)])
def test_a_disconnect_is_uncertain_when_a_gateway_was_killed_soon_after(after: float, uncertain: bool) -> None:
    assert (tally(left=1).check(counted(), 0, [100.0 + after]) == []) is uncertain


@pytest.mark.parametrize(("rejected", "right"), [(1, False), (2, True), (3, True), (4, False)])
def test_rejections_are_within_the_range(rejected: int, right: bool) -> None:
    assert (tally(rejected=2, broken=1).check_rejected(rejected, 0) == []) is right


@pytest.mark.parametrize(("tokens", "right"), [(5, False), (6, True), (16, True), (17, False)])
def test_tokens_are_within_the_range(tokens: int, right: bool) -> None:
    found: Counter[tuple[str, str]] = Counter({("m", "input"): 3, ("m", "output"): tokens})
    assert (tally(ok=3, broken=1).check_tokens(found, 0, largest=10) == []) is right


def test_only_sent_requests_count_as_sent() -> None:
    made: Any = tally(ok=2, broken=1, unsent=4, rejected=1)
    assert (made.sent, made.total(OK, REJECTED)) == (4, 3)
