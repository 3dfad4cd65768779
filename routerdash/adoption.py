"""Taking over a database of the reference system, in place.

Nothing that is there is changed: our first migrations describe the existing tables and are only marked as done; the
later ones add tables of ours and nullable columns. A copy is made first, and put back if anything fails.
"""

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

from endpoints.fields import iso
from endpoints.models import Endpoint
from gateway.config import Config
from gateway.record import uuid7
from metrics import adopted, database
from metrics.models import Installation
from routerdash import prepare, reference

FAKED = ("endpoints", "metrics", "access")
IDLE_INDEXES = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'request_history' "
    "AND name LIKE 'idx@_request@_history@_%' ESCAPE '@' ORDER BY name"
)
TRIED_ROWS = 2000

Say = Callable[[str], None]


class CannotAdopt(Exception):
    """The text says what is in the way, and what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds, before anything is done to it."""

    adopted: bool
    rows: dict[str, int]
    plain_keys: int
    idle_indexes: dict[str, str]  # of the history, that no page of ours uses: name -> how it is made


def look(path: Path, *, only_look: bool = False) -> Found:
    """Is this a database we can take over? With `only_look` not a byte of it changes. Raises CannotAdopt."""
    if not path.exists():
        raise CannotAdopt(f"there is no file {path}; name the database by DATABASE_URL=sqlite:////absolute/path")
    _refuse_open_file(path)
    if not only_look:
        _refuse_locked_file(path)
    with _reading(path) as found:
        tables = reference.tables(found)
        if not reference.is_reference(tables):
            raise CannotAdopt(f"{path} is no database of llmlb: its tables are not there")
        if "django_migrations" not in tables and (wrong := reference.differences(found)):
            raise CannotAdopt("its tables are not as expected, nothing was changed:\n  " + "\n  ".join(wrong))
        damage = found.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise CannotAdopt(f"{path} is damaged: {damage}")
        rows = {table: found.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in reference.MAPPED}  # noqa: S608
        keys = found.execute("SELECT count(*) FROM endpoints WHERE api_key_encrypted IS NOT NULL").fetchone()[0]
        idle = dict(found.execute(IDLE_INDEXES).fetchall())
        adopted = "installation" in tables and bool(
            found.execute("SELECT count(*) FROM installation WHERE adopted_at IS NOT NULL").fetchone()[0]
        )
    return Found(adopted, rows, keys, idle)


def adopt(config: Config, path: Path, say: Say) -> None:
    """Take the file over. Raises CannotAdopt, with the file as it was."""
    copy = _copy(config)
    say(f"copied to {copy}")
    try:
        _mark_as_done()
        call_command("migrate", interactive=False, verbosity=0)
        _set_baselines(config, say)
    except BaseException as error:
        connection.close()
        _put_back(copy, path)
        raise CannotAdopt(f"nothing was changed, the copy was put back: {error or type(error).__name__}") from error
    finally:
        connection.close()


def encrypt_keys(config: Config, say: Say) -> int:
    """Move upstream keys from the plain-text column into our sealed one; the number moved. The reference loses them."""
    say(f"copied to {_copy(config)}")
    with transaction.atomic():
        endpoints = list(Endpoint.objects.exclude(api_key_encrypted=None))
        for endpoint in endpoints:
            endpoint.set_api_key(endpoint.api_key_encrypted)
    connection.close()
    return len(endpoints)


def drop_indexes(found: Found, say: Say) -> None:
    """Drop the history's indexes that no page of ours uses; `say` how they are made again, and what that has gained."""
    before = _row_cost()
    with transaction.atomic(), connection.cursor() as cursor:
        for name, sql in found.idle_indexes.items():
            cursor.execute(f'DROP INDEX "{name}"')
            say(f"dropped; to make it again: {sql};")
    after = _row_cost()
    with connection.cursor() as cursor:
        free, size = (cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
    connection.close()
    say(f"a written request costs {after:.0f} µs instead of {before:.0f} µs")
    say(f"{free * size >> 20} MiB of the file are free for new rows")


def _row_cost() -> float:
    """Microseconds that a row of the history takes, its indexes included. What is tried is taken back."""
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
        for number in range(TRIED_ROWS)
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        begun = time.perf_counter()
        cursor.executemany(sql, rows)
        took = time.perf_counter() - begun
        transaction.set_rollback(True)
    return took / TRIED_ROWS * 1e6


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(prepare.uri(path, "ro"), uri=True, timeout=2)) as found:
            yield found
    except sqlite3.DatabaseError as error:
        raise CannotAdopt(f"{path} cannot be read: {error}") from None


def _refuse_open_file(path: Path) -> None:
    """The reference caches what it read: it must not run on while we write."""
    users = _processes_with(path)
    if users:
        raise CannotAdopt(f"{path} is in use by process {', '.join(map(str, users))}; stop it first")


def _refuse_locked_file(path: Path) -> None:
    """Opening it for writing also moves what a killed process left in the WAL into the file."""
    try:
        with closing(sqlite3.connect(prepare.uri(path, "rw"), uri=True, timeout=1, isolation_level=None)) as held:
            held.execute("BEGIN EXCLUSIVE")
            held.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise CannotAdopt(
            f"{path} cannot be locked ({error}): stop what uses it, and see that it can be written"
        ) from None
    except sqlite3.DatabaseError as error:
        raise CannotAdopt(f"{path} is no SQLite database: {error}") from None


def _processes_with(path: Path) -> list[int]:
    """Other processes that have the file, its WAL or its shared memory open (Linux; elsewhere only the lock tells)."""
    wanted = {os.path.realpath(f"{path}{end}") for end in ("", "-wal", "-shm", "-journal")}
    found: list[int] = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self/fd") else ():
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            descriptors = os.listdir(f"/proc/{entry}/fd")
            if any(_link(entry, descriptor) in wanted for descriptor in descriptors):
                found.append(int(entry))
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def _link(process: str, descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/{process}/fd/{descriptor}")
    except OSError:
        return ""


def _copy(config: Config) -> Path:
    try:
        prepare.data_directory(config)
        copy = prepare.backup(config, "before-adopt")
    except prepare.CannotStart as error:
        raise CannotAdopt(str(error)) from None
    assert copy is not None  # only SQLite comes here
    return copy


def _put_back(copy: Path, path: Path) -> None:
    """Raises CannotAdopt."""
    try:
        with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
            (mode,) = source.execute("PRAGMA journal_mode").fetchone()
            target.execute(f"PRAGMA journal_mode={mode}")
    except sqlite3.Error as error:
        raise CannotAdopt(
            f"it was cut off and the copy could not be put back ({error}): make room, then copy {copy} over {path}"
        ) from None


def _mark_as_done() -> None:
    recorder = MigrationRecorder(connection)
    recorder.ensure_schema()
    done = recorder.applied_migrations()
    for app in FAKED:
        if (app, "0001_initial") not in done:
            recorder.record_applied(app, "0001_initial")


def _set_baselines(config: Config, say: Say) -> None:
    """What was counted before us: totals that outlive endpoints and history, and all that its history tells."""
    database.database_id()
    adopted.catch_up(config.zone, say, adopting=True)
    Installation.objects.update(adopted_at=timezone.now())
