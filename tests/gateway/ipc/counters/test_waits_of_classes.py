"""Bulk requests let interactive ones of other gateways go first, and take turns with each other."""

from pathlib import Path

import pytest

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.other_waits import OtherWaits
from gateway.ipc.counters.plan import Allowance
from gateway.ipc.counters.subject import Subject
from gateway.ipc.live_page import LivePage

NOW = 1000.0


@pytest.fixture
def two(tmp_path: Path) -> tuple[OtherWaits, Subject]:
    """The waits as one gateway sees them, and the subject of another one. A request of each has been taken."""
    page = LivePage(tmp_path / "page")
    page.counters.clock = lambda: NOW
    plans, subjects, wakers = [], [], []
    for _ in range(2):
        counters = LimitCounters(page, page.claim_row())
        wakers.append(counters.waker)
        subjects.append(counters.subject("key", "a"))
        plans.append(counters.plan((subjects[-1], Allowance(concurrency=10))))
        plans[-1].take()
    plans[0].look()
    return OtherWaits(plans[0], wakers[0]), subjects[1]


def test_a_bulk_request_lets_a_younger_interactive_one_go_first(two: tuple[OtherWaits, Subject]) -> None:
    waits, other = two
    other.wait_since(NOW - 1)
    assert waits.first_before(NOW - 30, gives_way=True) is not None
    assert waits.first_before(NOW - 30) is None


def test_an_interactive_request_does_not_wait_for_an_older_bulk_request(two: tuple[OtherWaits, Subject]) -> None:
    waits, other = two
    other.wait_since(NOW - 30, gives_way=True)
    assert waits.first_before(NOW) is None


def test_bulk_requests_take_turns_by_age(two: tuple[OtherWaits, Subject]) -> None:
    waits, other = two
    other.wait_since(NOW - 30, gives_way=True)
    assert waits.first_before(NOW - 1, gives_way=True) is not None
    assert waits.first_before(NOW - 40, gives_way=True) is None


def test_of_both_classes_the_interactive_request_is_published(two: tuple[OtherWaits, Subject]) -> None:
    waits, other = two
    other.wait_since(NOW - 30, gives_way=True)
    other.wait_since(NOW - 2)
    other.wait_since(NOW - 50, gives_way=True)
    assert waits.first_before(NOW) is not None
    assert waits.first_before(NOW - 10) is None, "the ages of bulk requests do not count"
