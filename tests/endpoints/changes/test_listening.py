"""Waiting for changes: what other processes commit is noticed at once, by each database's own means."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from endpoints.changes import log, postgresql_listening
from endpoints.changes.listening import ChangeSignal, change_signal
from endpoints.changes.sqlite_listening import DataVersionSignal
from endpoints.changes.watched import ENDPOINT
from tests.endpoints.conftest import make_endpoint, rolled_back, sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("logged")]

sqlite_only = pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL notifies")
postgresql_only = pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no notifications")

PROGRAM = """
import sys
vendor, database, statement = sys.argv[1:]
if vendor == "postgresql":
    import psycopg as module
    connection = module.connect(database)
else:
    import sqlite3 as module
    connection = module.connect(database)
print("ready", flush=True)
for line in sys.stdin:
    connection.execute(statement)
    connection.commit()
"""


class Program:
    """Another process that runs one statement whenever it is told to."""

    def __init__(self, statement: str) -> None:
        if connection.vendor == "postgresql":
            from psycopg.conninfo import make_conninfo

            names = ("host", "port", "user", "password", "dbname")
            database = make_conninfo("", **{n: v for n, v in connection.get_connection_params().items() if n in names})
        else:
            database = str(connection.settings_dict["NAME"])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, connection.vendor, database, statement],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def commit(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()


@pytest.fixture
def signal() -> Iterator[ChangeSignal]:
    made = change_signal()
    yield made
    made.close()


@pytest.fixture
def settled(signal: ChangeSignal, monkeypatch: pytest.MonkeyPatch) -> ChangeSignal:
    """A signal that waits for changes: it has connected, and reported that once."""
    monkeypatch.setattr(postgresql_listening, "QUIET_SECONDS", 3600)
    assert signal.wait(0) is True
    while signal.wait(0):
        pass
    return signal


def wait_in_thread(signal: ChangeSignal, timeout: float) -> tuple[threading.Thread, list[bool]]:
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(signal.wait(timeout)))
    thread.start()
    return thread, woken


def test_the_first_wait_reports_that_the_log_must_be_read(signal: ChangeSignal) -> None:
    assert signal.wait(0) is True


def test_nothing_is_reported_without_a_change(settled: ChangeSignal) -> None:
    started = time.monotonic()
    assert settled.wait(0.2) is False
    assert time.monotonic() - started >= 0.2


def test_commits_of_another_process_are_noticed(settled: ChangeSignal) -> None:
    endpoint = make_endpoint()
    while settled.wait(0.2):
        log.forget(log.read().ranges, token_before=log.token(), token="settled")
    program = Program("UPDATE endpoints SET notes = coalesce(notes, '') || 'x'")
    try:
        for number in range(3):
            assert settled.wait(0) is False
            program.commit()
            assert settled.wait(4) is True, number
            batch = log.read()
            assert batch.of(ENDPOINT) == {str(endpoint.pk)}
            assert log.forget(batch.ranges, token_before=log.token(), token=str(number))
            while settled.wait(0):
                pass
    finally:
        program.end()


def test_commits_of_this_process_are_noticed(settled: ChangeSignal) -> None:
    make_endpoint()
    assert settled.wait(4) is True


def test_many_commits_are_reported_together(settled: ChangeSignal) -> None:
    for number in range(20):
        make_endpoint(f"e{number}")
    assert settled.wait(4) is True
    reports = 1
    while settled.wait(0.2):
        reports += 1
    assert reports < 20


def test_what_is_rolled_back_is_not_reported(settled: ChangeSignal) -> None:
    with rolled_back():
        make_endpoint()
    assert settled.wait(0.2) is False


@postgresql_only
def test_only_changes_of_the_log_are_reported(settled: ChangeSignal) -> None:
    make_endpoint()
    assert settled.wait(4) is True
    sql("UPDATE endpoints SET status = 'online', error_count = 1, total_requests = 5")
    assert settled.wait(0.2) is False


def test_a_waiting_thread_is_woken(settled: ChangeSignal) -> None:
    thread, woken = wait_in_thread(settled, 60)
    settled.wake()
    thread.join(10)
    assert woken == [True]
    assert settled.wait(0) is False


def test_a_wake_is_kept_for_the_next_wait(settled: ChangeSignal) -> None:
    for _ in range(100_000):  # more than the buffer of a socket
        settled.wake()
    assert settled.wait(10) is True


def test_a_close_ends_a_waiting_thread(settled: ChangeSignal) -> None:
    thread, woken = wait_in_thread(settled, 60)
    settled.close()
    thread.join(10)
    assert woken == [False]
    assert settled.wait(60) is False
    settled.wake()
    settled.close()


def test_a_close_closes_the_connection(settled: ChangeSignal) -> None:
    files = len(os.listdir("/proc/self/fd"))
    settled.close()
    assert len(os.listdir("/proc/self/fd")) < files


@postgresql_only
def test_a_lost_connection_is_opened_again(settled: ChangeSignal, caplog: pytest.LogCaptureFixture) -> None:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = %s"
    ((pid,),) = sql(query, "LISTEN routerdash_registry")
    sql("SELECT pg_terminate_backend(%s)", pid)
    assert settled.wait(4) is True
    assert [record.message[:40] for record in caplog.records] == ["the connection for notifications was los"]
    assert settled.wait(4) is True  # connected again
    assert settled.wait(0.2) is False
    make_endpoint()
    assert settled.wait(4) is True


@postgresql_only
def test_the_log_is_read_now_and_then_without_a_notification(
    signal: ChangeSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_listening, "QUIET_SECONDS", 0.1)
    assert [signal.wait(10) for _ in range(3)] == [True] * 3


def test_an_unreachable_database_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings: dict[str, Any] = connection.settings_dict
    name = settings["NAME"]
    monkeypatch.setitem(settings, "NAME", f"file:{tmp_path}/nothing?mode=rw" if connection.vendor == "sqlite" else "no")
    signal = change_signal()
    try:
        assert [signal.wait(4) for _ in range(2)] == [True, True]
        assert signal.wait(0.01) is False
        if connection.vendor == "postgresql":
            monkeypatch.setitem(settings, "NAME", name)
        else:
            shutil.copy(name, tmp_path / "nothing")
        assert signal.wait(4) is True
        assert signal.wait(0.6) is False
    finally:
        signal.close()


@sqlite_only
def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    sql("PRAGMA wal_checkpoint(TRUNCATE)")
    live, restored = tmp_path / "live", tmp_path / "restored"
    for path in (live, restored):
        shutil.copy(connection.settings_dict["NAME"], path)
    with pytest.MonkeyPatch.context() as patch:  # undone before fixtures use the database again
        patch.setitem(connection.settings_dict, "NAME", str(live))
        signal = DataVersionSignal()
    try:
        assert signal.changed()
        assert not signal.changed()
        os.replace(restored, live)
        assert signal.wait(4) is True
        assert not signal.changed()
    finally:
        signal.close()
