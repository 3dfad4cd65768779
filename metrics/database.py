"""What the database is: there, ours, and at one moment."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
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
