"""Concurrency at full speed: gateways that append and die, the follower, the database writer, and readers."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection

from gateway.ipc.record import RequestRecord
from metrics.models import JournalPosition, RequestHistory
from metrics.storage import seeding, writer_step
from metrics.storage.writer import DatabaseWriter
from tests.metrics import appender, laws
from tests.metrics.appender import Board
from tests.metrics.records import A
from tests.metrics.world import DATABASE, UTC_ZONE, World, own_database, restored, same, where

RECORDS = 500  # in each of three processes


class Stopped(Exception):
    """A thread has ended too early."""


class Race:
    """Threads over one world, until `stop`."""

    def __init__(self, world: World, board: Board) -> None:
        self.world = world
        self.board = board
        self.stop = threading.Event()
        self.reads = 0
        self.killed = 0
        self.writer = DatabaseWriter(world.follower, UTC_ZONE, where, reseed=self._seed)

    def _seed(self) -> None:
        self.world.follower.seed(seeding.load(time.time()), DATABASE)

    def fold(self) -> None:
        while not self.stop.is_set():
            self.world.follower.catch_up()

    def write(self) -> None:
        """Write until the end: after the stop all records are in the journals."""
        try:
            while not self.stop.is_set():
                self._step()
            while self._step():
                pass
        finally:
            connection.close()

    def _step(self) -> bool:
        step = self.writer.step()
        self.board.commit(sum(isinstance(entry, RequestRecord) for entry in step.entries))
        return bool(step.moves)

    def read(self) -> None:
        """Check: acknowledged before ≤ shown ≤ started after, and never less than before."""
        last = 0
        while not self.stop.is_set():
            low = max(last, self.board.acknowledged)
            figures = self.world.follower.figures()
            last = figures.totals.get("requests_ok", 0)
            assert low <= last <= self.board.started
            counters = figures.endpoints.get(A)
            assert (counters.total if counters else 0) == last
            self.reads += 1
            if not self.reads % 100:
                self.writer.read_again.set()


@contextmanager
def impatient() -> Iterator[None]:
    """Let threads switch as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def gateways(race: Race, root: Path, path: Path) -> None:
    """Three processes; the first is killed in the middle and replaced. They end with the race."""
    running = [appender.start(root, DATABASE, path, slot, RECORDS) for slot in range(3)]
    try:
        wait(race, lambda: race.board.acknowledged_by(0) >= RECORDS // 2)
        running[0].kill()
        race.killed = running[0].pid
        running.append(appender.start(root, DATABASE, path, 3, RECORDS // 2))
        wait(race, lambda: all(process.poll() is not None for process in running))
        assert [process.returncode for process in running] == [-signal.SIGKILL, 0, 0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()


def wait(race: Race, done: Callable[[], bool]) -> None:
    while not done():
        if race.stop.wait(0.002):
            raise Stopped


def until(done: Callable[[], None], race: Race) -> None:
    """Run all threads during `done`; raise the first error of any of them."""
    with impatient(), ThreadPoolExecutor() as pool:
        started = [pool.submit(thread) for thread in (race.fold, race.write, race.read, race.read)]
        for thread in started:
            thread.add_done_callback(lambda _: race.stop.set())
        try:
            done()
        except Stopped:
            pass  # for the reason that a thread reports
        finally:
            race.stop.set()
        for thread in started:
            thread.result()


@pytest.mark.django_db(transaction=True)
def test_every_read_is_between_acknowledged_and_started_records(
    world: World, endpoints: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_step, "BATCH", 40)
    own_database()
    race = Race(world, Board(tmp_path / "board"))
    race._seed()
    until(lambda: gateways(race, world.root, tmp_path / "board"), race)
    now = time.time()
    figures = world.trackers.figures(now)
    assert race.board.acknowledged <= figures.totals["requests_ok"] == RequestHistory.objects.count()
    assert figures.totals["requests_ok"] <= race.board.started
    assert same(restored(now), figures)
    # A process that was killed while it created its directory leaves it, hidden, for the next start.
    assert [path for path in world.root.iterdir() if not path.match(f".*-{race.killed:x}-*")] == []
    world.writer.sweep()
    assert (list(world.root.iterdir()), JournalPosition.objects.count()) == ([], 0)
    laws.check_all()
    assert race.reads > 100
