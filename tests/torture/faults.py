"""Faults of a running RouterDash. Each fault restores at its end everything that it took away."""

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

from tests.router import RouterDash, clean_environment, command_of, until
from tests.torture.postgres import Postgres

GATEWAY, CONTROL, BACKGROUND = "gateway.main", "manage.py control", "manage.py background"


@dataclass(slots=True)
class Scene:
    """Installation that faults act on, and their traces: the number of kills, and times of killed gateways."""

    router: RouterDash
    rng: random.Random
    log: Callable[[str], None]
    postgres: Postgres | None = None
    can_mount: bool = False
    edited: str = ""  # the endpoint that is edited
    kills: int = 0
    kill_times: list[float] = field(
        default_factory=list
    )  # times of killed gateways: the outcomes of their requests are uncertain

    # Processes

    def kill(self, role: str) -> None:
        """Send SIGKILL to one process of a role."""
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
        """Stop control repeatedly until it is inside a transaction, then kill it."""
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and (pids := self.of(CONTROL)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGSTOP)
                if self._writes(pids[0]):
                    self.log("control is inside a transaction")
                    self._kill(pids[0])
                    return
                os.kill(pids[0], signal.SIGCONT)
            time.sleep(self.rng.uniform(0.001, 0.02))
        self.kill(CONTROL)

    def _writes(self, pid: int) -> bool:
        """True if the process has the write lock (SQLite: byte 120 of -shm) or a transaction on PostgreSQL."""
        if self.router.database_url:
            sql = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock'"
            with closing(psycopg.connect(self.router.database_url, autocommit=True)) as connection:
                row = connection.execute(sql).fetchone()
            return bool(row and row[0])
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(line[3:5] == ["WRITE", str(pid)] and line[6] == "120" for line in locks if len(line) == 8)

    def holds_rows(self, pid: int) -> bool:
        """Return True if a command holds the locks of `reprice`: SQLite's, or PostgreSQL's on the tables of rows."""
        if not self.router.database_url:
            return self._writes(pid)
        sql = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND granted"
        with closing(psycopg.connect(self.router.database_url, autocommit=True)) as connection:
            row = connection.execute(sql).fetchone()
        return bool(row and row[0])

    @contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """Stop one process of a role for a while, as on an overloaded machine."""
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
        """Let another process write in a long transaction."""
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
        """Take the database away: move its file, -wal and -shm, stop the server, or let it refuse connections."""
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
        elsewhere = self.router.data_dir / "elsewhere"  # atomic, since both paths are on one file system
        elsewhere.mkdir(exist_ok=True)
        _move(self.database, elsewhere, ("", "-wal", "-shm"))
        try:
            yield
        finally:  # the file last: without its -wal it would be an older version
            _move(elsewhere / self.database.name, self.database.parent, ("-wal", "-shm", ""))

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Make the database read-only: remount its file system, or let PostgreSQL behave as a standby."""
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
        """Change a PostgreSQL database over a connection to another one, and end the connections to it."""
        url = urlsplit(self.router.database_url)
        name = url.path[1:]
        with closing(psycopg.connect(urlunsplit(url._replace(path="/template1")), autocommit=True)) as connection:
            connection.execute(f'ALTER DATABASE "{name}" {change}')
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """Fill the database's file system (a small one, see `mount`). The journal is on another one."""
        with _without_room(self.router.data_dir):
            yield

    # The journal

    @property
    def journal(self) -> Path:
        return self.router.data_dir / "journal"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fill the journal's file system (a small one, see `mount`)."""
        with _without_room(self.journal):
            yield

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        """Prevent the creation of files in the journal."""
        with _read_only_mount(self.journal):
            yield

    def damage(self) -> None:
        """Append garbage after the last record of a segment. The gateway continues after it."""
        segments = sorted(self.journal.glob("*/*.seg"))
        if segments:
            with self.rng.choice(segments).open("ab", buffering=0) as file:
                file.write(self.rng.randbytes(self.rng.randrange(1, 200)))

    # Edits

    def edit(self) -> None:
        """Edit an endpoint as administrators do. A refusal is no error, since the database may be unavailable."""
        state = self.rng.choice(("enabled", "enabled", "disabled", "draining"))
        changes = {"operator_state": state, "notes": f"edited {self.rng.random()}"}
        with contextlib.suppress(OSError):
            self.router.request("PATCH", f"/api/endpoints/{self.edited}", changes)


def reprice(scene: Scene) -> "subprocess.Popen[bytes]":
    """Start to compute all past costs again."""
    router = scene.router
    return subprocess.Popen(
        [*router.program, "reprice", "--since", "2020-01-01", "--apply"],
        cwd=router.directory,
        env=clean_environment(router.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_reprice(scene: Scene) -> bool:
    """Start to compute past costs again, and kill that inside its transaction. Return True if it was faster."""
    process = reprice(scene)
    scene.log("kill reprice")
    while process.poll() is None:
        if scene.holds_rows(process.pid):
            time.sleep(scene.rng.uniform(0, 0.3))
            process.kill()
            scene.kills += 1
            break
        time.sleep(0.002)
    return process.wait(60) == 0


@contextmanager
def _without_room(directory: Path) -> Iterator[None]:
    """Fill the file system to the last byte."""
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
    """Mount a path read-only. Open files stay writable, and new ones are not, as with a failing disk."""
    until(lambda: _mount_read_only(path), 10, 0)
    try:
        yield
    finally:
        unmount(path)


def _mount_read_only(path: Path) -> bool:
    """Mount the path read-only. Return False if a process opened a file for writing between the two steps."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    remount = ["mount", "-o", "remount,bind,ro", str(path)]
    if subprocess.run(remount, capture_output=True, check=False).returncode:
        unmount(path)
        return False
    return True


def mount(path: Path, megabytes: int) -> bool:
    """Mount a small file system that can be filled. Return False if this user may not mount."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = f"size={megabytes}m,mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], capture_output=True, check=False)
    return done.returncode == 0


def unmount(path: Path) -> None:
    """Unmount the path at once. Processes keep their open files, as after a real remount."""
    subprocess.run(["umount", "--lazy", str(path)], check=True)


# The faults by name. Each leaves RouterDash running, or returns RESTART if it has to be started again.

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
    """Start without a database: requests are served from the snapshot, and their records wait for the database."""
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
    """Fill the journal's disk. No gateway is killed meanwhile, since it alone counts its unrecorded requests."""
    with scene.full():
        time.sleep(scene.rng.uniform(0.5, 2))
    time.sleep(0.7)  # until gateways have published the number of unrecorded requests


def fill_disk_of_database(scene: Scene) -> None:
    with scene.disk_full():
        time.sleep(scene.rng.uniform(0.5, 3))


def fill_journal_and_kill_control(scene: Scene) -> None:
    with scene.full():
        scene.kill(CONTROL)
        time.sleep(scene.rng.uniform(0.5, 2))
    time.sleep(0.7)


def make_journal_unwritable(scene: Scene) -> None:
    """Kill a gateway while its successor cannot create a journal."""
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
