"""One test per row of "What each failure may cost" in docs/concepts/guarantee.md, under load, audited afterwards.

An audit compares every figure of the API, the pages, the admin, the Prometheus text and the database with each other
and with what the client received.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import SERVER, drop_database, new_database
from tests.router import until
from tests.torture import trials
from tests.torture.faults import CONTROL, GATEWAY
from tests.torture.run import Run, started, torture
from tests.torture.traffic import BROKEN, UNSENT

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(240)]

RATE = 50.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Run]:
    """Two workers under load for all tests of this module; the tally continues from test to test."""
    url = new_database()
    with started("failures", workers=2, rate=RATE, database_url=url, mounts=True, quiet=True) as run:
        yield run
    drop_database(url)


@pytest.fixture
def run(shared: Run) -> Iterator[Run]:
    """The shared installation under load; every figure is audited when the test ends."""
    shared.sender.go()
    shared.sender.wait_for_requests()
    yield shared
    shared.sender.go()
    shared.sender.wait_for_requests()
    shared.sender.pause()
    assert shared.auditor.audit(shared.sender.tally, shared.scene.kill_times) == []


@pytest.fixture
def with_mounts(run: Run) -> Run:
    if not run.scene.can_mount:
        pytest.skip("this user may not mount file systems")
    return run


@pytest.fixture
def database_url() -> Iterator[str]:
    """Return the URL of a database for one test; empty for SQLite."""
    url = new_database()
    yield url
    drop_database(url)


def without_response(run: Run) -> int:
    return run.sender.tally.total(BROKEN, UNSENT)


def check_progress(run: Run, seconds: float = 2.0) -> None:
    """Assert that for so many seconds clients get responses, and that the overview counts them."""
    before, end = run.scene.router.stats()["total_requests"], time.monotonic() + seconds
    while time.monotonic() < end:
        run.sender.wait_for_requests(5)
    assert run.scene.router.stats()["total_requests"] > before


def test_a_clean_stop_and_start_breaks_nothing_and_changes_no_figure(run: Run) -> None:
    broken = run.sender.tally.total(BROKEN)
    assert run.scene.router.stop() == 0
    run.scene.router.start()
    run.sender.pause()
    assert run.sender.tally.total(BROKEN) == broken
    run.restart()
    assert run.result.wrong == []


def test_sigkill_of_all_processes_under_load_counts_complete_responses_once(run: Run) -> None:
    run.scene.kill_all()
    run.scene.router.start()


@pytest.mark.parametrize("outage", ["away", "locked"])
def test_an_unavailable_or_locked_database_loses_nothing(run: Run, outage: str) -> None:
    before = without_response(run)
    with getattr(run.scene, outage)():
        until(lambda: run.scene.router.stats()["records_waiting_secs"])
        check_progress(run)
        assert run.scene.router.stats()["oldest_waiting_secs"] > 1
    assert without_response(run) == before


def test_a_read_only_database_loses_nothing(with_mounts: Run) -> None:
    with with_mounts.scene.read_only():
        with_mounts.scene.kill(CONTROL)
        until(lambda: with_mounts.scene.router.stats()["writer_error"], 20)
        check_progress(with_mounts)


def test_a_full_disk_of_the_database_loses_nothing(with_mounts: Run) -> None:
    if with_mounts.scene.router.database_url:
        pytest.skip("the disk of the database server cannot be filled")
    before = without_response(with_mounts)
    with with_mounts.scene.disk_full():
        until(lambda: with_mounts.scene.router.stats()["writer_error"])
        check_progress(with_mounts)
    assert without_response(with_mounts) == before


def test_a_dead_worker_breaks_only_its_open_requests(run: Run) -> None:
    old = run.scene.of(GATEWAY)
    run.scene.kill(GATEWAY)
    until(lambda: len(set(run.scene.of(GATEWAY)) - set(old)) == 1, 10)
    check_progress(run, 0.5)


def test_a_dead_control_process_loses_nothing(run: Run) -> None:
    before = without_response(run)
    run.scene.kill(CONTROL)
    check_progress(run)
    assert without_response(run) == before


def test_a_control_process_killed_in_a_transaction_loses_nothing(run: Run) -> None:
    before = without_response(run)
    run.scene.kill_control_in_a_transaction()
    check_progress(run)
    assert without_response(run) == before


def test_a_control_process_that_hangs_loses_nothing(run: Run) -> None:
    before, served = without_response(run), run.sender.tally.sent
    with run.scene.stopped(CONTROL):
        until(lambda: run.sender.tally.sent > served + 50)
    assert without_response(run) == before


def test_unrecorded_requests_of_a_full_journal_disk_are_counted_and_shown(database_url: str) -> None:
    """Use a separate installation: unrecorded requests stay in the figures."""
    with started("full", workers=1, rate=RATE, database_url=database_url, mounts=True, quiet=True) as run:
        if not run.scene.can_mount:
            pytest.skip("this user may not mount file systems")
        run.sender.go()
        with run.scene.full():
            until(lambda: run.scene.router.stats()["records_unrecorded"] > 20)
            # The last free bytes may store the count, although they cannot store a record.
            until(lambda: "the journal cannot be written" in str(run.scene.router.get("/health").json()["reasons"]))
            assert '<span data-stat="records_unrecorded">' in run.auditor.page("/")
        run.sender.wait_for_requests()
        run.audit()
        assert run.result.wrong == []
        assert run.sender.tally.total(BROKEN, UNSENT) == 0
        assert "cannot be written; requests are served but not recorded" in run.scene.router.log_text()


CORRUPTIONS = {
    "endpoints": "UPDATE endpoints SET total_requests = total_requests + 1, failed_requests = failed_requests + 1",
    "history": "DELETE FROM request_history WHERE completed_at = "
    "(SELECT MAX(completed_at) FROM request_history WHERE outcome = 'ok')",
}


@pytest.mark.rare
def test_an_audit_detects_wrong_figures(database_url: str) -> None:
    """The figures that the audits compare can be wrong in this test."""
    with started("audit", workers=1, rate=RATE, database_url=database_url, quiet=True) as run:
        run.sender.go()
        run.sender.wait_for_requests()
        run.audit()
        assert run.result.wrong == []
        for sql in CORRUPTIONS.values():
            run.scene.router.query(sql)
        run.audit()
        wrong = "\n".join(run.result.wrong)
        for named in (*CORRUPTIONS, "reconcile: L2", "reconcile: L3"):
            assert named in wrong


# Short versions of the trials of `python -m tests.torture`; outages and stops under load are above.


@pytest.mark.rare
def test_torture(database_url: str) -> None:
    result = torture("short", workers=2, rate=60, seed=5, database_url=database_url, minutes=0.2, kills=4, clouds=True)
    assert result.wrong == []
    assert result.kills >= 4
    assert result.audits >= 1


@pytest.mark.skipif(bool(SERVER), reason="tested on SQLite")
@pytest.mark.parametrize(
    "trial",
    [
        lambda: trials.read_your_write(times=150, workers=4),
        pytest.param(
            lambda: trials.big_start(rows=20_000, backlog=2_000, within=60, endpoints=20, models=50),
            marks=pytest.mark.rare,
        ),
        pytest.param(lambda: trials.backlog(records=20_000), marks=pytest.mark.rare),
    ],
    ids=["read your write", "big start", "backlog"],
)
def test_short_trials(trial: Any) -> None:
    assert trial().wrong == []
