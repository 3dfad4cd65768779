"""The background process: it sees jobs without Django, and starts a process for them only then."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from gateway.base.config import Config, load
from routerdash.processes import background, schedules
from routerdash.processes.background import Background
from routerdash.processes.job_queue import JobQueue, Unavailable
from routerdash.processes.schedules import CLUSTER
from tests.router import ROOT, until
from tests.routerdash.commands import manage, python
from tests.routerdash.processes.test_prepare import UP_TO_DATE

pytestmark = pytest.mark.every_database


def settings(data_dir: Path) -> Config:
    """Settings of an installation whose database is that of the tests."""
    given = connection.settings_dict
    url = f"sqlite:///{given['NAME']}"
    if connection.vendor == "postgresql":
        password = f":{given['PASSWORD']}" if given["PASSWORD"] else ""
        url = f"postgres://{given['USER']}{password}@{given['HOST']}:{given['PORT'] or 5432}/{given['NAME']}"
    return load({"ROUTERDASH_DATA_DIR": str(data_dir), "DATABASE_URL": url})


@pytest.fixture
def queue(transactional_db: None, tmp_path: Path) -> Iterator[JobQueue]:
    """The queue of a database in which nothing is due."""
    schedules.ensure()
    Schedule.objects.update(next_run=timezone.now() + timedelta(hours=1))
    made = JobQueue(settings(tmp_path))
    yield made
    made.close()


def test_nothing_is_due(queue: JobQueue) -> None:
    assert not queue.has_work()


def test_a_due_schedule_is_work(queue: JobQueue) -> None:
    Schedule.objects.filter(name="prune history").update(next_run=timezone.now() - timedelta(seconds=1))
    assert queue.has_work()


def test_a_schedule_that_is_due_later_becomes_work(queue: JobQueue) -> None:
    Schedule.objects.update(next_run=timezone.now() + timedelta(seconds=1))
    assert not queue.has_work()
    until(queue.has_work)


@pytest.mark.parametrize("change", [{"minutes": 1}, {"func": "metrics.tasks.gone"}, {"name": "of an older release"}])
def test_a_schedule_of_another_release_is_work(queue: JobQueue, change: dict[str, Any]) -> None:
    Schedule.objects.filter(name="prune history").update(**change)
    assert queue.has_work()


@pytest.mark.parametrize(
    ("key", "seconds", "expected"),
    [(CLUSTER, -1, True), (CLUSTER, 300, False), ("of another program", -1, False)],
    ids=["queued", "taken by a worker", "of another cluster"],
)
def test_a_queued_job_is_work(queue: JobQueue, key: str, seconds: int, expected: bool) -> None:
    assert not queue.has_work()
    OrmQ.objects.create(key=key, payload="", lock=timezone.now() + timedelta(seconds=seconds))
    assert queue.has_work() is expected


def test_a_database_that_returns_is_read_again(tmp_path: Path) -> None:
    """A file that was moved away, or replaced by a backup, is not read any more."""
    done = python(UP_TO_DATE, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert done.code == 0, done.err
    queue = JobQueue(load({"ROUTERDASH_DATA_DIR": str(tmp_path)}))
    assert queue.has_work()  # no schedule is stored
    path = tmp_path / "routerdash.sqlite3"
    path.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(Unavailable, match="unable to open database file"):
            queue.has_work()
    (tmp_path / "away").rename(path)
    assert queue.has_work()
    queue.close()


def test_a_postgresql_server_that_is_away_is_reported() -> None:
    queue = JobQueue(load({"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none?sslmode=disable"}))
    with pytest.raises(Unavailable, match="connection failed"):
        queue.has_work()


def test_jobs_run_what_is_due_and_end(tmp_path: Path) -> None:
    data = {"ROUTERDASH_DATA_DIR": str(tmp_path)}
    assert python(UP_TO_DATE, **data).code == 0
    done = manage("jobs", "--kept", "0", **data)
    assert (done.code, done.err) == (0, "")
    code = "from django_q.models import Task; print(sorted(Task.objects.values_list('func', 'success')))"
    assert python(code, **data).out.strip() == str(sorted((name, True) for name, _ in schedules.SCHEDULES.values()))


# The loop


class Loop:
    """A running background process whose jobs append to a file."""

    def __init__(self, config: Config, code: str) -> None:
        self.began = config.data_dir / "began"
        body = f"open({str(self.began)!r}, 'a').write('x'); {code}"
        self.background = Background(config, [sys.executable, "-c", body])

    def run(self, until_true: Any) -> None:
        """Run in the main thread, as signals need it, until the condition holds; then close the supervisor's pipe."""
        alive, end = os.pipe()

        def wait() -> None:
            try:
                until(until_true, 20)
            finally:
                os.close(end)

        waiting = threading.Thread(target=wait)
        waiting.start()
        self.background.run(alive)
        waiting.join()
        os.close(alive)
        assert until_true()

    def count(self) -> int:
        return len(self.began.read_text()) if self.began.exists() else 0


@pytest.mark.django_db(transaction=True)
def test_jobs_start_when_there_is_work(tmp_path: Path) -> None:
    loop = Loop(settings(tmp_path), "")
    loop.run(lambda: loop.count() >= 2)  # no schedule is stored, and this program stores none


def test_no_process_starts_without_work(queue: JobQueue, tmp_path: Path) -> None:
    loop, began = Loop(settings(tmp_path), ""), time.monotonic()
    loop.run(lambda: time.monotonic() > began + 1.5)
    assert loop.count() == 0


@pytest.mark.django_db(transaction=True)
def test_jobs_that_fail_are_started_again_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(settings(tmp_path), "raise SystemExit(3)")
    loop.run(lambda: "failed" in caplog.text)
    assert loop.count() == 1
    assert "the process for background jobs failed (exit code 3); the next one starts in 2 s" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_stop_stops_the_jobs(tmp_path: Path) -> None:
    loop = Loop(settings(tmp_path), "import time; time.sleep(600)")
    loop.run(lambda: loop.count() == 1)
    jobs = loop.background._jobs
    assert jobs is not None
    assert jobs.poll() is not None


def test_a_database_that_is_away_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "LOOK_SECONDS", 0.01)
    loop = Loop(load({"ROUTERDASH_DATA_DIR": str(tmp_path)}), "")
    began = time.monotonic()
    loop.run(lambda: time.monotonic() > began + 0.5)
    assert caplog.text.count("background jobs wait for the database") == 1
    assert loop.count() == 0


@pytest.mark.unmeasured
@pytest.mark.parametrize("program", ["serve", "background"])
def test_small_processes_load_nothing_of_django(program: str) -> None:
    code = f"import sys, routerdash.processes.{program}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    names = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert "routerdash" in names
    assert not names & {"django", "rest_framework", "django_q", "aiohttp", "psycopg", "cryptography", "uvicorn", "ssl"}
