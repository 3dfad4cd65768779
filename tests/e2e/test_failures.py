"""What each failure may cost: one test for each row of the table in docs/guarantee.md, under load, audited afterwards.

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

pytestmark = pytest.mark.timeout(240)

RATE = 50.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Run]:
    """Two workers under load, for all tests of this module: the tally goes on from one to the next."""
    url = new_database()
    with started("failures", workers=2, rate=RATE, database_url=url, mounts=True, quiet=True) as run:
        yield run
    drop_database(url)


@pytest.fixture
def run(shared: Run) -> Iterator[Run]:
    """Under load when the test begins; every figure audited when it ends."""
    shared.sender.go()
    time.sleep(0.5)
    yield shared
    time.sleep(0.5)
    shared.sender.pause()
    assert shared.auditor.audit(shared.sender.tally, shared.scene.kill_times) == []


@pytest.fixture
def with_mounts(run: Run) -> Run:
    if not run.scene.can_mount:
        pytest.skip("this user may not mount file systems")
    return run


@pytest.fixture
def database_url() -> Iterator[str]:
    """Of a database for one test alone; empty for SQLite."""
    url = new_database()
    yield url
    drop_database(url)


def unanswered(run: Run) -> int:
    return run.sender.tally.total(BROKEN, UNSENT)


def moves_on(run: Run, seconds: float = 2.0) -> None:
    """Clients are answered, and the overview counts it, at a look and another."""
    before, answered = run.scene.router.stats()["total_requests"], run.sender.tally.sent
    time.sleep(seconds)
    assert run.scene.router.stats()["total_requests"] > before
    assert run.sender.tally.sent > answered


def test_a_clean_stop_and_start_breaks_nothing_and_changes_no_figure(run: Run) -> None:
    broken = run.sender.tally.total(BROKEN)
    assert run.scene.router.stop() == 0
    run.scene.router.start()
    run.sender.pause()
    assert run.sender.tally.total(BROKEN) == broken
    run.restart()
    assert run.result.wrong == []


def test_sigkill_of_everything_under_load_counts_whole_answers_once(run: Run) -> None:
    run.scene.kill_all()
    run.scene.router.start()


@pytest.mark.parametrize("outage", ["away", "locked"])
def test_a_database_that_is_away_or_locked_costs_nothing(run: Run, outage: str) -> None:
    before = unanswered(run)
    with getattr(run.scene, outage)():
        until(lambda: run.scene.router.stats()["records_waiting_secs"])
        moves_on(run)
        assert run.scene.router.stats()["oldest_waiting_secs"] > 1
    assert unanswered(run) == before


def test_a_read_only_database_costs_nothing(with_mounts: Run) -> None:
    with with_mounts.scene.read_only():
        with_mounts.scene.kill(CONTROL)
        until(lambda: with_mounts.scene.router.stats()["writer_error"], 20)
        moves_on(with_mounts)


def test_a_full_disk_of_the_database_costs_nothing(with_mounts: Run) -> None:
    if with_mounts.scene.router.database_url:
        pytest.skip("the server's disk is not ours to fill")
    before = unanswered(with_mounts)
    with with_mounts.scene.disk_full():
        until(lambda: with_mounts.scene.router.stats()["writer_error"])
        moves_on(with_mounts)
    assert unanswered(with_mounts) == before


def test_a_dead_worker_costs_its_open_requests_alone(run: Run) -> None:
    old = run.scene.of(GATEWAY)
    run.scene.kill(GATEWAY)
    until(lambda: len(set(run.scene.of(GATEWAY)) - set(old)) == 1, 10)
    moves_on(run, 0.5)


def test_a_dead_control_process_costs_nothing(run: Run) -> None:
    before = unanswered(run)
    run.scene.kill(CONTROL)
    moves_on(run)
    assert unanswered(run) == before


def test_a_control_process_killed_in_a_transaction_costs_nothing(run: Run) -> None:
    before = unanswered(run)
    run.scene.kill_control_in_a_transaction()
    moves_on(run)
    assert unanswered(run) == before


def test_a_control_process_that_hangs_costs_nothing(run: Run) -> None:
    before, answered = unanswered(run), run.sender.tally.sent
    with run.scene.stopped(CONTROL):
        until(lambda: run.sender.tally.sent > answered + 50)
    assert unanswered(run) == before


def test_a_full_journal_disk_is_counted_and_told(database_url: str) -> None:
    """On its own: what was not recorded stays in the figures."""
    with started("full", workers=1, rate=RATE, database_url=database_url, mounts=True, quiet=True) as run:
        if not run.scene.can_mount:
            pytest.skip("this user may not mount file systems")
        run.sender.go()
        with run.scene.full():
            until(lambda: run.scene.router.stats()["records_unrecorded"] > 20)
            # The last bytes that are left may take the count, while they take no record.
            until(lambda: "the journal cannot be written" in str(run.scene.router.get("/health").json()["reasons"]))
            assert '<span data-stat="records_unrecorded">' in run.auditor.page("/")
        time.sleep(1)
        run.audit()
        assert run.result.wrong == []
        assert run.sender.tally.total(BROKEN, UNSENT) == 0
        assert "cannot be written; requests go on, unrecorded" in run.scene.router.log_text()


CORRUPTIONS = {
    "endpoints": "UPDATE endpoints SET total_requests = total_requests + 1, failed_requests = failed_requests + 1",
    "history": "DELETE FROM request_history WHERE completed_at = "
    "(SELECT MAX(completed_at) FROM request_history WHERE outcome = 'ok')",
}


def test_an_audit_notices(database_url: str) -> None:
    """What is audited above could be told wrong."""
    with started("audit", workers=1, rate=RATE, database_url=database_url, quiet=True) as run:
        run.sender.go()
        time.sleep(1)
        run.audit()
        assert run.result.wrong == []
        for sql in CORRUPTIONS.values():
            run.scene.router.query(sql)
        run.audit()
        found = "\n".join(run.result.wrong)
        for named in (*CORRUPTIONS, "reconcile: L2", "reconcile: L3"):
            assert named in found


# What is tried at length by `python -m tests.torture`, in short; outages and stops under load are above.


def test_torture(database_url: str) -> None:
    result = torture("short", workers=2, rate=60, seed=5, database_url=database_url, minutes=0.2, kills=4)
    assert result.wrong == []
    assert result.kills >= 4
    assert result.audits >= 1


@pytest.mark.skipif(bool(SERVER), reason="tried on SQLite")
@pytest.mark.parametrize(
    "trial",
    [
        lambda: trials.read_your_write(times=150, workers=4),
        lambda: trials.big_start(rows=20_000, backlog=2_000, within=60, endpoints=20, models=50),
        lambda: trials.backlog(records=20_000),
    ],
    ids=["read your write", "big start", "backlog"],
)
def test_trials_in_short(trial: Any) -> None:
    assert trial().wrong == []
