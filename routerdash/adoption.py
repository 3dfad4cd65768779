"""Taking over a database of the reference system, in place.

Nothing that is there is changed: our first migrations describe the existing tables and are only marked as done; the
later ones add tables of ours and nullable columns. A copy is made first, and put back if anything fails.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from endpoints.models import Endpoint
from gateway.config import Config
from metrics import database
from metrics.fold import ADOPTED, INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS_FAILED, REQUESTS_OK
from metrics.models import Baseline, Installation, Total
from routerdash import prepare, reference

FAKED = ("endpoints", "metrics", "access")

Say = Callable[[str], None]


class CannotAdopt(Exception):
    """The text says what is in the way, and what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds, before anything is done to it."""

    adopted: bool
    rows: dict[str, int]
    plain_keys: int


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
        adopted = "installation" in tables and bool(
            found.execute("SELECT count(*) FROM installation WHERE adopted_at IS NOT NULL").fetchone()[0]
        )
    return Found(adopted, rows, keys)


def adopt(config: Config, path: Path, say: Say) -> None:
    """Take the file over. Raises CannotAdopt, with the file as it was."""
    copy = _copy(config)
    say(f"copied to {copy}")
    try:
        _mark_as_done()
        call_command("migrate", interactive=False, verbosity=0)
        _set_baselines()
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


def _set_baselines() -> None:
    """What was counted before us: each endpoint's counters, and totals that outlive endpoints and history."""
    with transaction.atomic():
        database.database_id()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, total_requests, successful_requests, failed_requests, "
                "COALESCE(SUM(total), 0), COALESCE(SUM(ok), 0), COALESCE(SUM(failed), 0) FROM endpoints LEFT JOIN "
                "(SELECT endpoint_id, total_requests AS total, successful_requests AS ok, failed_requests AS failed "
                "FROM endpoint_daily_stats) AS days ON days.endpoint_id = endpoints.id GROUP BY endpoints.id"
            )
            rows = cursor.fetchall()
            cursor.execute(
                "SELECT COALESCE(SUM(successful_requests), 0), COALESCE(SUM(failed_requests), 0) "
                "FROM endpoint_daily_stats WHERE endpoint_id NOT IN (SELECT id FROM endpoints)"
            )
            gone_ok, gone_failed = cursor.fetchone()
            cursor.execute(
                "SELECT COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0) FROM request_history"
            )
            tokens_in, tokens_out = cursor.fetchone()
        Baseline.objects.all().delete()  # of an adoption that was killed before its end
        Baseline.objects.bulk_create([Baseline(*row) for row in rows])
        totals = {
            REQUESTS_OK: sum(row[2] for row in rows) + gone_ok,
            REQUESTS_FAILED: sum(row[3] for row in rows) + gone_failed,
            INPUT_TOKENS: tokens_in,
            OUTPUT_TOKENS: tokens_out,
        }
        for name, value in totals.items():
            for told_as in (name, ADOPTED + name):
                Total.objects.update_or_create(name=told_as, defaults={"value": value})
        Installation.objects.update(adopted_at=timezone.now())
