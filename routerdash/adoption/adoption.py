"""Adoption of a database of llmlb, in place.

Existing data is not changed. The first migrations describe the existing tables and are only marked as applied; the
later ones add tables of RouterDash and nullable columns. The database is copied first, and restored if anything fails.
"""

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from access.models import MANAGE_KEYS, granted_permissions
from endpoints.fields import iso
from endpoints.models import Endpoint
from gateway.base import files
from gateway.base.config import Config
from gateway.ipc.record import uuid7
from metrics.models import Installation
from metrics.storage import database
from metrics.storage.notices import ADAPTIVE_BY_DEFAULT
from routerdash.adoption import history, llmlb_schema
from routerdash.processes import data_directory, prepare
from routerdash.processes.data_directory import CannotStart

ADOPTED_APPS = ("endpoints", "metrics", "access")
IDLE_INDEXES = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'request_history' "
    "AND name LIKE 'idx@_request@_history@_%' ESCAPE '@' ORDER BY name"
)
TEST_ROWS = 2000

Report = Callable[[str], None]


class CannotAdopt(Exception):
    """A database cannot be adopted. The text gives the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class AdoptableDatabase:
    """Contents of a database file before its adoption."""

    adopted: bool
    rows: dict[str, int]
    plain_keys: int
    managing_keys: list[str]  # names of API keys with `api_keys.manage`, which no route of llmlb asked for
    idle_indexes: dict[str, str]  # unused indexes of the history: name -> SQL that creates it


def inspect(path: Path, *, read_only: bool = False) -> AdoptableDatabase:
    """Inspect a database file. With `read_only` the file is not changed.

    Raises CannotAdopt if the file cannot be adopted.
    """
    if not path.exists():
        raise CannotAdopt(f"there is no file {path}; name the database by DATABASE_URL=sqlite:////absolute/path")
    _refuse_open_file(path)
    if not read_only:
        _refuse_locked_file(path)
    with _reading(path) as reader:
        tables = llmlb_schema.tables(reader)
        if not llmlb_schema.is_reference(tables):
            raise CannotAdopt(f"{path} is not a database of llmlb: its tables are missing")
        if "django_migrations" not in tables and (differences := llmlb_schema.differences(reader)):
            raise CannotAdopt("its tables are not as expected; nothing was changed:\n  " + "\n  ".join(differences))
        damage = reader.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise CannotAdopt(f"{path} is damaged: {damage}")
        rows = {table: reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in llmlb_schema.MAPPED}  # noqa: S608
        plain = reader.execute("SELECT count(*) FROM endpoints WHERE api_key_encrypted IS NOT NULL").fetchone()[0]
        keys_of_llmlb = reader.execute("SELECT name, permissions FROM api_keys")
        managing = sorted(str(name) for name, column in keys_of_llmlb if MANAGE_KEYS in _granted(column))
        idle = dict(reader.execute(IDLE_INDEXES).fetchall())
        adopted = "installation" in tables and bool(
            reader.execute("SELECT count(*) FROM installation WHERE adopted_at IS NOT NULL").fetchone()[0]
        )
    return AdoptableDatabase(adopted, rows, plain, managing, idle)


def _granted(column: object) -> tuple[str, ...]:
    """Return the permissions in llmlb's column of a key, which is JSON."""
    try:
        return granted_permissions(json.loads(column) if isinstance(column, str | bytes) else None)
    except ValueError:
        return ()


def adopt(config: Config, path: Path, report: Report) -> None:
    """Adopt the file. Raises CannotAdopt; the file is then unchanged, unless its copy cannot be restored."""
    copy = _copy(config)
    report(f"copied to {copy}")
    try:
        _mark_as_done()
        call_command("migrate", interactive=False, verbosity=0)
        _set_baselines(config, report)
    except BaseException as error:
        connection.close()
        _put_back(copy, path)
        raise CannotAdopt(
            f"the adoption failed and the database was restored from its copy: {error or type(error).__name__}"
        ) from error
    finally:
        connection.close()


def encrypt_keys(config: Config, report: Report) -> int:
    """Move the keys of endpoints from llmlb's plain-text column to the sealed column, where llmlb cannot read them.

    Return the number of moved keys.
    """
    report(f"copied to {_copy(config)}")
    with transaction.atomic():
        endpoints = list(Endpoint.objects.exclude(api_key_encrypted=None))
        for endpoint in endpoints:
            endpoint.set_api_key(endpoint.api_key_encrypted)
    connection.close()
    return len(endpoints)


def drop_indexes(contents: AdoptableDatabase, report: Report) -> None:
    """Drop the indexes of the history that no page uses. Report the SQL that restores them, and the gain."""
    before = _row_cost()
    with transaction.atomic(), connection.cursor() as cursor:
        for name, sql in contents.idle_indexes.items():
            cursor.execute(f'DROP INDEX "{name}"')
            report(f"dropped an index; to create it again: {sql};")
    after = _row_cost()
    with connection.cursor() as cursor:
        free, size = (cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
    connection.close()
    report(f"writing a request takes {after:.0f} µs instead of {before:.0f} µs")
    report(f"{free * size >> 20} MiB of the file are free for new rows")


def _row_cost() -> float:
    """Return the time to write a row of the history and its indexes, in microseconds. The test rows are rolled back."""
    done = iso(timezone.now())
    columns = (
        "id, timestamp, completed_at, request_type, model, endpoint_id, endpoint_name, endpoint_ip, client_ip, "
        "request_body, duration_ms, status, api_key_id"
    )
    sql = (
        f"INSERT INTO request_history ({columns}) "  # noqa: S608
        "VALUES (%s, %s, %s, 'Chat', %s, %s, 'x', '0.0.0.0', %s, '{}', 1, 'success', %s)"
    )
    rows = [
        (uuid7(), done, done, f"model-{number % 50}", str(uuid.uuid4()), f"192.0.2.{number % 250}", str(uuid.uuid4()))
        for number in range(TEST_ROWS)
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        start = time.perf_counter()
        cursor.executemany(sql, rows)
        elapsed = time.perf_counter() - start
        transaction.set_rollback(True)
    return elapsed / TEST_ROWS * 1e6


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(prepare.uri(path, "ro"), uri=True, timeout=2)) as reader:
            yield reader
    except sqlite3.DatabaseError as error:
        raise CannotAdopt(f"{path} cannot be read: {error}") from None


def _refuse_open_file(path: Path) -> None:
    """Raise CannotAdopt if a process has the file open: llmlb caches data, and must not run during the adoption."""
    users = _processes_with(path)
    if users:
        raise CannotAdopt(f"{path} is in use by process {', '.join(map(str, users))}; stop it first")


def _refuse_locked_file(path: Path) -> None:
    """Raise CannotAdopt if the file cannot be locked or is not a SQLite database.

    Opening it for writing also moves the WAL that a killed process left into the file.
    """
    try:
        with closing(sqlite3.connect(prepare.uri(path, "rw"), uri=True, timeout=1, isolation_level=None)) as locked:
            locked.execute("BEGIN EXCLUSIVE")
            locked.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise CannotAdopt(
            f"{path} cannot be locked ({error}): stop the programs that use it, and make sure that it can be written"
        ) from None
    except sqlite3.DatabaseError as error:
        raise CannotAdopt(f"{path} is not a SQLite database: {error}") from None


def _processes_with(path: Path) -> list[int]:
    """Return the ids of other processes that have the file, its WAL or its shared memory open.

    This works on Linux; elsewhere only the lock detects them.
    """
    paths = {os.path.realpath(f"{path}{end}") for end in ("", "-wal", "-shm", "-journal")}
    processes: list[int] = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self/fd") else ():
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            descriptors = os.listdir(f"/proc/{entry}/fd")
            if any(_link(entry, descriptor) in paths for descriptor in descriptors):
                processes.append(int(entry))
        except OSError:
            continue  # the process ended, or belongs to another user
    return processes


def _link(process: str, descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/fd/{descriptor}")
    except OSError:
        return ""


def _copy(config: Config) -> Path:
    try:
        data_directory.create(config)
        copy = prepare.backup(config, "before-adopt")
    except CannotStart as error:
        raise CannotAdopt(str(error)) from None
    assert copy is not None  # only SQLite databases are adopted
    return copy


def _put_back(copy: Path, path: Path) -> None:
    """Restore the database from its copy. Raises CannotAdopt."""
    try:
        files.create_empty(path)
        with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
            (mode,) = source.execute("PRAGMA journal_mode").fetchone()
            target.execute(f"PRAGMA journal_mode={mode}")
    except (OSError, sqlite3.Error) as error:
        raise CannotAdopt(
            f"the adoption was interrupted and the copy could not be restored ({error}): "
            f"free disk space, then copy {copy} over {path}"
        ) from None


def _mark_as_done() -> None:
    recorder = MigrationRecorder(connection)
    recorder.ensure_schema()
    done = recorder.applied_migrations()
    for app in ADOPTED_APPS:
        if (app, "0001_initial") not in done:
            recorder.record_applied(app, "0001_initial")


def _set_baselines(config: Config, report: Report) -> None:
    """Store the figures of llmlb: totals that outlive endpoints and history, and the figures of its history."""
    database.database_id()
    history.catch_up(config.zone, report, adopting=True)
    Installation.objects.update(adopted_at=timezone.now(), notices=[ADAPTIVE_BY_DEFAULT])
