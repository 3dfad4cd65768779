"""What the database is: there, ours, and at one moment."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connection
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.utils import timezone

from metrics.models import Installation


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
