"""Passed health checks queue model syncs: after a recovery, and every 15 minutes."""

import logging
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ

from endpoints.checks import sync_queue
from endpoints.checks.sync_queue import SyncQueue
from tests.endpoints.conftest import sql

pytestmark = pytest.mark.django_db(transaction=True)


class Later(Executor):
    """Runs jobs when it is told to, in the thread of the test."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append(fn)
        return Future()

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


@pytest.fixture
def later() -> Later:
    return Later()


def queued() -> list[tuple[str, bool]]:
    return [task.task["args"] for task in OrmQ.objects.order_by("id")]


def test_syncs_that_wait_are_queued_in_one_transaction(later: Later) -> None:
    queue = SyncQueue(later)
    for name in "abc":
        queue.passed_check(name, name == "b")
    assert len(later.jobs) == 1
    with CaptureQueriesContext(connection) as queries:
        later.run()
    assert queued() == [("a", False), ("b", True), ("c", False)]
    assert [query["sql"][:6] for query in queries].count("COMMIT") <= 1
    queue.passed_check("d", False)
    later.run()
    assert queued()[3:] == [("d", False)]


def test_only_a_recovery_is_queued_again_within_15_minutes(later: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SyncQueue(later)
    for recovered in (False, False, True, False):
        queue.passed_check("a", recovered)
        later.run()
    assert queued() == [("a", False), ("a", True)]
    monkeypatch.setattr(sync_queue, "SYNC_SECONDS", 0.0)
    queue.passed_check("a", False)
    later.run()
    assert queued()[2:] == [("a", False)]


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
