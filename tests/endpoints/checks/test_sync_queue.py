"""Passed health checks queue model syncs: after a recovery, and every 15 minutes."""

import logging
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ

from endpoints.checks import sync_queue
from endpoints.checks.sync_queue import AT_ONCE, SyncQueue
from tests.endpoints.conftest import sql

pytestmark = pytest.mark.django_db(transaction=True)


class Later(Executor):
    """Runs jobs when a test wants it, in the thread of the test."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append(fn)
        return Future()

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


class Clock:
    """A clock that stands still between the checks of a test."""

    now = 0.0


@pytest.fixture
def later() -> Later:
    return Later()


def queued() -> list[tuple[str, bool]]:
    return [task.task["args"] for task in OrmQ.objects.order_by("id")]


def passed(queue: SyncQueue, later: Later, clock: Clock, checks: dict[int, bool]) -> list[tuple[int, bool]]:
    """Pass checks of one endpoint at these times; return when a sync was queued, and whether with a detection."""
    times: list[tuple[int, bool]] = []
    for moment, recovered in checks.items():
        clock.now = moment
        before = len(queued())
        queue.passed_check("a", recovered)
        later.run()
        times += [(moment, detect) for _, detect in queued()[before:]]
    return times


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sync_queue, "monotonic", lambda: clock.now)
    return clock


def test_syncs_that_wait_are_queued_in_one_transaction(later: Later) -> None:
    queue = SyncQueue(later)
    for name in "abc":
        queue.passed_check(name, name == "b")
    assert len(later.jobs) == 1
    with CaptureQueriesContext(connection) as queries:
        later.run()
    assert queued() == [("b", True), ("a", False), ("c", False)]  # a recovery comes first
    assert [query["sql"][:6] for query in queries].count("COMMIT") <= 1
    queue.passed_check("d", False)
    later.run()
    assert queued()[3:] == [("d", False)]


def test_without_a_recovery_15_minutes_pass(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    times = passed(queue, later, clock, dict.fromkeys(range(0, 2000, 100), False))
    assert times == [(0, False), (900, False), (1800, False)]


def test_the_first_recovery_is_queued_at_once(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    assert passed(queue, later, clock, {0: False, 1: True, 2: False}) == [(0, False), (1, True)]


def test_pauses_grow_while_an_endpoint_comes_and_goes(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    times = passed(queue, later, clock, dict.fromkeys(range(0, 4000, 10), True))
    assert times == [(moment, True) for moment in (0, 60, 180, 420, 900, 1800, 2700, 3600)]


def test_a_recovery_soon_after_another_waits_for_a_later_check(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    times = passed(queue, later, clock, {0: True, 10: True, 59: False, 60: False, 70: False})
    assert times == [(0, True), (60, True)]


def test_an_endpoint_that_stays_online_is_synced_at_once_after_its_next_recovery(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    times = passed(queue, later, clock, {0: True, 60: True, 960: False, 961: True, 1021: True})
    assert times == [(0, True), (60, True), (960, False), (961, True), (1021, True)]


def test_the_syncs_of_many_endpoints_are_spread(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    many = range(round(AT_ONCE) + 50)
    for number in many:
        queue.passed_check(str(number), False)
    later.run()
    assert queued() == [(str(number), False) for number in many[:20]]
    queue.passed_check("0", False)
    assert not later.jobs  # no thread looks in vain
    clock.now += 2
    queue.passed_check("new", True)
    later.run()
    assert queued()[20:] == [("new", True), ("20", False), ("21", False), ("22", False)]


def test_syncs_that_wait_need_no_further_check(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    for number in range(round(AT_ONCE) + 3):
        queue.passed_check(str(number), False)
    later.run()
    queue.continue_waiting()
    assert not later.jobs  # no thread looks in vain
    for seconds, number in ((1, 22), (1, 23)):
        clock.now += seconds
        queue.continue_waiting()
        later.run()
        assert len(queued()) == number
    clock.now += 10
    queue.continue_waiting()
    assert not later.jobs


def test_all_syncs_of_a_large_installation_take_half_of_the_15_minutes(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    for number in range(1800):
        queue.passed_check(str(number), False)
    later.run()
    for _ in range(100):
        clock.now += 4.5
        queue.passed_check("0", False)
        later.run()
    assert len(queued()) == 1800


def test_an_endpoint_waits_once(later: Later, clock: Clock) -> None:
    queue = SyncQueue(later)
    for number in range(round(AT_ONCE)):
        queue.passed_check(str(number), False)
    later.run()
    queue.passed_check("last", False)
    queue.passed_check("last", True)
    clock.now += 60
    queue.unknown_model("last")
    later.run()
    assert queued()[20:] == [("last", True)]


def test_an_unknown_model_is_a_reason_once_a_minute(later: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SyncQueue(later)
    for _ in range(2):
        queue.unknown_model("a")
        later.run()
    assert queued() == [("a", False)]
    monkeypatch.setattr(sync_queue, "UNKNOWN_SECONDS", 0.0)
    queue.unknown_model("a")
    later.run()
    assert queued()[1:] == [("a", False)]


def test_the_next_check_tries_again_after_an_error(later: Later, caplog: pytest.LogCaptureFixture) -> None:
    queue = SyncQueue(later)
    queue.passed_check("a", False)
    sql("ALTER TABLE django_q_ormq RENAME TO elsewhere")
    try:
        with caplog.at_level(logging.WARNING, "endpoints.checks"):
            later.run()
    finally:
        sql("ALTER TABLE elsewhere RENAME TO django_q_ormq")
    assert "could not be queued" in caplog.text
    queue.passed_check("a", False)
    later.run()
    assert queued() == [("a", False)]
