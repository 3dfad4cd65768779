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


@receiver(connection_created, dispatch_uid="metrics.note_file")
def _note_file(connection: Any, **kwargs: Any) -> None:
    if connection.vendor == "sqlite":
        connection.opened_file = _inode(_path(connection))


def refuse_moved_file() -> None:
    """A SQLite file that was moved away stays open, and would go on taking commits. Raises OperationalError."""
    connection.ensure_connection()
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    if _inode(_path(connection)) != connection.opened_file:  # type: ignore[attr-defined]
        connection.close()
        raise OperationalError("the database file was moved away")


def _path(connection: Any) -> str:
    """Of the main database, as SQLite was asked for it."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA database_list")
        return str(cursor.fetchone()[2])


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
