"""What the database is: there, ours, and at one moment."""

import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from django.db import OperationalError, connection
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.utils import timezone

from metrics.models import Installation

# sqlite3 looks in three places how to adapt a value that is no number or text, and raises where there is nothing: for
# most columns of most rows. In the first of these it finds what is registered.
sqlite3.register_adapter(type(None), lambda none: none)
sqlite3.register_adapter(bool, int)


@contextmanager
def read_moment() -> Iterator[None]:
    """All reads inside see the database as of one moment, without the write lock that `atomic` takes on SQLite."""
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


def database_id() -> str:
    """This database's id, given to it the first time it is asked. Raises django.db.Error."""
    found, _ = Installation.objects.get_or_create(
        id=1, defaults={"database_id": uuid.uuid4().hex, "created_at": timezone.now()}
    )
    return str(found.database_id)


def storable(text: str) -> str:
    """Without what PostgreSQL's text cannot hold: NUL, and halves of surrogate pairs."""
    if "\0" in text or not text.isprintable():
        text = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text


def find(
    cursor: Any, table: str, keys: Sequence[str], columns: Sequence[str], wanted: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """These columns of the rows with the wanted keys, by key, where there are any: one query for all of them."""
    if not wanted:
        return {}
    if connection.vendor == "postgresql":  # the types of the keys are those of the table's columns
        listed = "jsonb_array_elements(%s) WITH ORDINALITY AS listed (value, number)"
        listed += f" CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, listed.value) AS wanted"
        number, same = "number - 1", " AND ".join(f"found.{key} = wanted.{key}" for key in keys)
    else:
        listed, number = "json_each(%s) AS listed", "listed.key"
        same = " AND ".join(f"found.{key} = listed.value ->> '{key}'" for key in keys)
    told = ", ".join(f"found.{column}" for column in columns)
    # CROSS: SQLite begins with what stands first, and looks for each key in the table's own.
    sql = f"SELECT {number}, {told} FROM {listed} CROSS JOIN {table} AS found WHERE {same}"  # noqa: S608
    cursor.execute(sql, [msgspec.json.encode([dict(zip(keys, key, strict=True)) for key in wanted]).decode()])
    return {wanted[number]: tuple(row) for number, *row in cursor.fetchall()}


def insert(cursor: Any, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Many new rows, in the way that costs least. Raises IntegrityError when one is there already."""
    names = ", ".join(columns)
    with connection.wrap_database_errors:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:  # Django's cursor would keep all rows until the last is written
            marks = ", ".join("?" * len(columns))
            # Django has SQLite parse each JSON text once more: an eighth of the time, for what we have just made.
            connection.connection.execute("PRAGMA ignore_check_constraints = 1")
            try:
                connection.connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608
            finally:
                connection.connection.execute("PRAGMA ignore_check_constraints = 0")


def require(expected: str) -> None:
    """Inside a transaction: is this still the database that the journals belong to? Raises OperationalError if not."""
    found = Installation.objects.filter(id=1).values_list("database_id", flat=True).first()
    if found != expected:
        raise OperationalError("another database stands in the place of the one that the journal belongs to")


@receiver(connection_created, dispatch_uid="metrics.limit_waits")
def _limit_waits(connection: Any, **kwargs: Any) -> None:
    """A table that somebody has locked is an error after a while, as it is with SQLite."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")


@receiver(connection_created, dispatch_uid="metrics.note_files")
def _note_files(connection: Any, **kwargs: Any) -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA schema_version")  # has SQLite open the -wal
        connection.opened_files = _files(connection)


def refuse_moved_files() -> None:
    """A SQLite file that was moved away stays open, and would go on taking commits; so does its -wal, which may have
    been put back after we had opened the file without it. Raises OperationalError.
    """
    connection.ensure_connection()
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    if _files(connection) != connection.opened_files:  # type: ignore[attr-defined]
        connection.close()
        raise OperationalError("the database file was moved away")


def make_durable() -> None:
    """All that was committed survives a power cut from here on: what it was made of may be deleted. PostgreSQL sees to
    that with each commit; SQLite, as we have set it, only when it copies the -wal into the file.
    """
    if connection.vendor != "sqlite":
        return
    try:
        wal = os.open(f"{path(connection)}-wal", os.O_RDONLY)  # SQLite has no locks on it that closing would drop
    except FileNotFoundError:
        return
    try:
        os.fdatasync(wal)
    finally:
        os.close(wal)


def _files(connection: Any) -> tuple[int | None, int | None]:
    file = path(connection)
    return _inode(file), _inode(f"{file}-wal")


def path(connection: Any) -> str:
    """Of the main database, as SQLite was asked for it."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA database_list")
        return str(cursor.fetchone()[2])


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
