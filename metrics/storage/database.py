"""Connection to the database: its identity, consistent reads, durability, and the test if an error is temporary."""

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import InterfaceError, OperationalError, connection
from django.db.backends.signals import connection_created
from django.db.models import Sum
from django.dispatch import receiver
from django.utils import timezone

from endpoints.fields import MAX_INTEGER
from metrics import sql
from metrics.models import Installation
from metrics.sql import Vendor

WRITER_CACHE_KIB = 20_000


def vendor() -> Vendor:
    """Return the kind of database, for the helpers of metrics.sql."""
    return "postgresql" if connection.vendor == "postgresql" else "sqlite"


@contextmanager
def read_moment() -> Iterator[None]:
    """Let all reads inside see the database as of one moment, without the write lock of `atomic` on SQLite."""
    if connection.in_atomic_block:
        yield
        return
    begin = "BEGIN" if connection.vendor == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    with connection.cursor() as cursor:
        cursor.execute(begin)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")


class SaneSum(Sum):
    """Sum over a column of a table that llmlb writes too: impossible values, or values that are no number, count 0."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = f"SUM({sql.whole_number('%(expressions)s', MAX_INTEGER, 'sqlite')})"
        return self.as_sql(compiler, connection, template=template, **context)


def is_away(error: Exception) -> bool:
    """Return True if the database is locked, unreachable or full, so that a retry may succeed.

    Return False if SQLite cannot run the statement: a table is missing, a sum overflows, a text cannot be decoded.
    """
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return "Could not decode" not in str(error) and (code is None or code & 0xFF != sqlite3.SQLITE_ERROR)


def database_id() -> str:
    """Return the id of this database, which is created at the first call. Raises django.db.Error."""
    installation, _ = Installation.objects.get_or_create(
        id=1, defaults={"database_id": uuid.uuid4().hex, "created_at": timezone.now()}
    )
    return str(installation.database_id)


def require(cursor: Any, expected: str) -> None:
    """Check inside a transaction that the journals belong to this database. Raises OperationalError if not.

    With a query of Django's models, this was a fifth of the time of a small batch.
    """
    cursor.execute(sql.select("database_id", "installation", where="id = 1"))
    if cursor.fetchone() != (expected,):
        raise OperationalError("the journal belongs to another database")


@receiver(connection_created, dispatch_uid="metrics.limit_waits")
def _limit_waits(connection: Any, **kwargs: Any) -> None:
    """Limit the wait for a locked table, as SQLite does by itself."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")


@receiver(connection_created, dispatch_uid="metrics.note_files")
def _note_files(connection: Any, **kwargs: Any) -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA schema_version")  # makes SQLite open the -wal
        connection.opened_path = path(connection)
        connection.opened_files = _files(connection.opened_path)


@receiver(connection_created, dispatch_uid="metrics.set_up_writer")
def _set_up_writer(connection: Any, **kwargs: Any) -> None:
    if getattr(connection, "is_of_writer", False) and connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB:d}")
            # Django lets SQLite parse each JSON text again: an eighth of the time of a row, for a text that was made a
            # moment ago. Each change of this setting makes SQLite compile all statements again.
            cursor.execute("PRAGMA ignore_check_constraints = 1")


def set_up_writer() -> None:
    """Have SQLite keep more pages for this thread, which writes to the same tables again and again, and not check the
    JSON that it writes.
    """
    connection.is_of_writer = True  # type: ignore[attr-defined]
    if connection.connection is not None:
        _set_up_writer(connection)


def refuse_moved_files() -> None:
    """Close the connection to a SQLite file that was moved away. Raises OperationalError.

    Such a file stays open and would accept commits. The same holds for its -wal, which may have been restored after
    the file was opened without it.
    """
    connection.ensure_connection()
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    if _files(connection.opened_path) != connection.opened_files:  # type: ignore[attr-defined]
        connection.close()
        raise OperationalError("the database file was moved away")


def make_durable() -> None:
    """Make all commits survive a power failure, so that the journal segments of these records may be deleted.

    PostgreSQL does so with each commit. SQLite, with our settings, does so only when it copies the -wal into the file.
    """
    if connection.vendor != "sqlite":
        return
    try:
        wal = os.open(f"{path(connection)}-wal", os.O_RDONLY)  # SQLite has no locks on it that closing would release
    except FileNotFoundError:
        return
    try:
        os.fdatasync(wal)
    finally:
        os.close(wal)


def _files(file: str) -> tuple[int | None, int | None]:
    return _inode(file), _inode(f"{file}-wal")


def path(connection: Any) -> str:
    """Return the path of the main database, as SQLite opened it."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA database_list")
        return str(cursor.fetchone()[2])


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
