"""What befalls RouterDash. A fault begins, may last, and is over; what it takes away, it puts back."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.router import RouterDash, command_of, until
from tests.torture.postgres import Postgres

GATEWAY, CONTROL, BACKGROUND = "gateway.main", "manage.py control", "manage.py background"


@dataclass(slots=True)
class Scene:
    """What faults happen to, and what they leave in the minutes."""

    router: RouterDash
    rng: random.Random
    say: Callable[[str], None]
    postgres: Postgres | None = None
    can_mount: bool = False
    edited: str = ""  # the endpoint that edits are made on
    kills: int = 0
    kill_times: list[float] = field(default_factory=list)  # of gateways: what their clients saw is uncertain

    # Processes

    def kill(self, role: str) -> None:
        """SIGKILL to one process of a role."""
        if victims := self.of(role):
            self._kill(self.rng.choice(victims), gateway=role == GATEWAY)

    def kill_all(self) -> None:
        self.kills += 1
        self.kill_times.append(time.time())
        self.router.kill()

    def of(self, role: str) -> list[int]:
        return [pid for pid in self.router.pids() if role in command_of(pid)]

    def _kill(self, pid: int, *, gateway: bool = False) -> None:
        self.kills += 1
        if gateway:
            self.kill_times.append(time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_control_in_a_transaction(self) -> None:
        """Stop control again and again until it stands in the middle of one, then kill it there."""
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and (found := self.of(CONTROL)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGSTOP)
                if self._writes(found[0]):
                    self.say("control stands in a transaction")
                    self._kill(found[0])
                    return
                os.kill(found[0], signal.SIGCONT)
            time.sleep(self.rng.uniform(0.001, 0.02))
        self.kill(CONTROL)

    def _writes(self, pid: int) -> bool:
        """Does it hold the write lock (SQLite: byte 120 of the -shm), or have a transaction open on PostgreSQL?"""
        if self.router.database_url:
            sql = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock'"
            with closing(psycopg.connect(self.router.database_url, autocommit=True)) as connection:
                found = connection.execute(sql).fetchone()
            return bool(found and found[0])
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(line[3:5] == ["WRITE", str(pid)] and line[6] == "120" for line in locks if len(line) == 8)

    @contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """One process of a role does nothing meanwhile, like a machine that is out of breath."""
        victims = self.of(role)
        pid = self.rng.choice(victims) if victims else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    # The database

    @property
    def database(self) -> Path:
        return self.router.data_dir / "routerdash.sqlite3"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another process writes, and takes its time."""
        if self.router.database_url:
            with psycopg.connect(self.router.database_url) as connection:
                connection.execute("LOCK TABLE request_history, journal_positions IN ACCESS EXCLUSIVE MODE")
                yield
                connection.rollback()
            return
        with closing(sqlite3.connect(self.database, timeout=20, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    @contextmanager
    def away(self) -> Iterator[None]:
        """The file is moved away with its -wal and -shm; the server stops, or, where it is not ours, takes nobody."""
        if self.postgres is not None:
            self.postgres.stop()
            try:
                yield
            finally:
                self.postgres.start()
            return
        if self.router.database_url:
            self._allow_connections(False)
            try:
                yield
            finally:
                self._allow_connections(True)
            return
        elsewhere = self.router.data_dir / "elsewhere"  # of the same file system: in one step
        elsewhere.mkdir(exist_ok=True)
        _move(self.database, elsewhere, ("", "-wal", "-shm"))
        try:
            yield
        finally:  # the file last: without its -wal it would be an older one
            _move(elsewhere / self.database.name, self.database.parent, ("-wal", "-shm", ""))

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """The database lies on a file system that was mounted anew, read-only; on PostgreSQL a standby answers."""
        if self.router.database_url:
            self._default_read_only("on")
            try:
                yield
            finally:
                self._default_read_only("off")
            return
        with _read_only_mount(self.database):
            yield

    def _default_read_only(self, value: str) -> None:
        self._alter(f"SET default_transaction_read_only = {value}")

    def _allow_connections(self, allowed: bool) -> None:
        self._alter(f"ALLOW_CONNECTIONS {str(allowed).lower()}")

    def _alter(self, change: str) -> None:
        """Change a PostgreSQL database from another one, and cut off who is connected."""
        url = urlsplit(self.router.database_url)
        name = url.path[1:]
        with closing(psycopg.connect(urlunsplit(url._replace(path="/template1")), autocommit=True)) as connection:
            connection.execute(f'ALTER DATABASE "{name}" {change}')
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """The database's file system has no room (it is a small one, see `mount`); the journal's is another."""
        with _without_room(self.router.data_dir):
            yield

    # The journal

    @property
    def journal(self) -> Path:
        return self.router.data_dir / "journal"

    @contextmanager
    def full(self) -> Iterator[None]:
        """The journal's file system has no room (it is a small one, see `mount`)."""
        with _without_room(self.journal):
            yield

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        """No file can be made in the journal."""
        with _read_only_mount(self.journal):
            yield

    def damage(self) -> None:
        """Garbage behind the last record of a segment, which goes on behind it."""
        segments = sorted(self.journal.glob("*/*.seg"))
        if segments:
            with self.rng.choice(segments).open("ab", buffering=0) as file:
                file.write(self.rng.randbytes(self.rng.randrange(1, 200)))

    # Edits

    def edit(self) -> None:
        """As staff do it meanwhile: rename, disable, enable. A database that is away refuses, and that is fine."""
        state = self.rng.choice(("enabled", "enabled", "disabled", "draining"))
        changes = {"operator_state": state, "notes": f"edited {self.rng.random()}"}
        with contextlib.suppress(OSError):
            self.router.request("PATCH", f"/api/endpoints/{self.edited}", changes)


@contextmanager
def _without_room(directory: Path) -> Iterator[None]:
    """Its file system is filled to the last byte."""
    filler = directory / ".filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    try:
        yield
    finally:
        filler.unlink()


def _move(database: Path, target: Path, ends: Sequence[str]) -> None:
    for end in ends:
        path = database.with_name(database.name + end)
        if path.exists():
            shutil.move(path, target / path.name)


@contextmanager
def _read_only_mount(path: Path) -> Iterator[None]:
    """What is open already stays writable; whoever opens it now cannot write. That is how a disk goes bad, too."""
    until(lambda: _mount_read_only(path), 10, 0)
    try:
        yield
    finally:
        unmount(path)


def _mount_read_only(path: Path) -> bool:
    """False if somebody opened it for writing between the two steps."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    remount = ["mount", "-o", "remount,bind,ro", str(path)]
    if subprocess.run(remount, capture_output=True, check=False).returncode:
        unmount(path)
        return False
    return True


def mount(path: Path, megabytes: int) -> bool:
    """A small file system, to be filled. False where this user may not mount any."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = f"size={megabytes}m,mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], capture_output=True, check=False)
    return done.returncode == 0


def unmount(path: Path) -> None:
    """From the path at once; who has a file of it open keeps that, as it is after a real remount."""
    subprocess.run(["umount", "--lazy", str(path)], check=True)


# The faults by name. Each leaves RouterDash running, or says by its result that it has to be started again.

RESTART = "restart"


def kill_gateway(scene: Scene) -> None:
    scene.kill(GATEWAY)


def kill_control(scene: Scene) -> None:
    scene.kill(CONTROL)


def kill_control_in_a_transaction(scene: Scene) -> None:
    scene.kill_control_in_a_transaction()


def kill_background(scene: Scene) -> None:
    scene.kill(BACKGROUND)


def kill_all(scene: Scene) -> str:
    scene.kill_all()
    return RESTART


def kill_all_while_the_database_is_away(scene: Scene) -> str:
    """The start serves from the snapshot, and what it records waits for the database's return."""
    with scene.away():
        scene.kill_all()
        scene.router.start(restored=False)
        time.sleep(scene.rng.uniform(0.5, 2))
    return ""


def pause_gateway(scene: Scene) -> None:
    with scene.stopped(GATEWAY):
        time.sleep(scene.rng.uniform(0.5, 3))


def pause_control(scene: Scene) -> None:
    with scene.stopped(CONTROL):
        time.sleep(scene.rng.uniform(0.5, 3))


def lock_database(scene: Scene) -> None:
    with scene.locked():
        time.sleep(scene.rng.uniform(0.5, 3))


def lock_database_and_kill_control(scene: Scene) -> None:
    with scene.locked():
        time.sleep(0.5)
        scene.kill(CONTROL)
        time.sleep(scene.rng.uniform(0.5, 3))


def move_database_away(scene: Scene) -> None:
    with scene.away():
        time.sleep(scene.rng.uniform(0.5, 3))


def move_database_away_and_kill_control(scene: Scene) -> None:
    with scene.away():
        time.sleep(0.5)
        scene.kill(CONTROL)
        scene.kill(GATEWAY)
        time.sleep(scene.rng.uniform(1, 3))


def make_database_read_only(scene: Scene) -> None:
    with scene.read_only():
        time.sleep(0.3)
        scene.kill(CONTROL)
        time.sleep(scene.rng.uniform(1, 3))


def fill_journal(scene: Scene) -> None:
    """No gateway is killed meanwhile: what it could not record, it alone knows."""
    with scene.full():
        time.sleep(scene.rng.uniform(0.5, 2))
    time.sleep(0.7)  # the gateways tell what they could not record


def fill_disk_of_database(scene: Scene) -> None:
    with scene.disk_full():
        time.sleep(scene.rng.uniform(0.5, 3))


def fill_journal_and_kill_control(scene: Scene) -> None:
    with scene.full():
        scene.kill(CONTROL)
        time.sleep(scene.rng.uniform(0.5, 2))
    time.sleep(0.7)


def make_journal_unwritable(scene: Scene) -> None:
    """A gateway that dies then can start no journal of its own until that is over."""
    with scene.unwritable():
        scene.kill(GATEWAY)
        time.sleep(scene.rng.uniform(0.5, 2))
    time.sleep(0.7)


def damage_journal(scene: Scene) -> None:
    scene.damage()


def edit_endpoint(scene: Scene) -> None:
    scene.edit()


PLAIN = (
    kill_gateway,
    kill_gateway,
    kill_gateway,
    kill_control,
    kill_control_in_a_transaction,
    kill_background,
    kill_all,
    kill_all,
    kill_all_while_the_database_is_away,
    pause_gateway,
    pause_control,
    lock_database,
    lock_database_and_kill_control,
    move_database_away,
    move_database_away_and_kill_control,
    damage_journal,
    edit_endpoint,
)
WITH_MOUNTS = (
    make_database_read_only,
    fill_disk_of_database,
    fill_journal,
    fill_journal_and_kill_control,
    make_journal_unwritable,
)
