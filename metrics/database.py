"""What the database is: there, ours, and at one moment."""

import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
from django.db import InterfaceError, OperationalError, connection
from django.db.backends.signals import connection_created
from django.db.models import Sum
from django.dispatch import receiver
from django.utils import timezone

from endpoints.fields import MOST
from metrics.models import Installation

# sqlite3 looks in three places how to adapt a value that is no number or text, and raises where there is nothing: for
# most columns of most rows. In the first of these it finds what is registered.
sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type]  # gives None for None, and is no Python
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


class SaneSum(Sum):
    """A sum over a column of a table that llmlb writes, too: what is no number, or none that can be true, is zero."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        whole = f"typeof(%(expressions)s) = 'integer' AND ABS(%(expressions)s / 2) <= {MOST}"
        template = f"SUM(CASE WHEN {whole} THEN %(expressions)s ELSE 0 END)"
        return self.as_sql(compiler, connection, template=template, **context)


def is_away(error: Exception) -> bool:
    """Is it locked, unreachable or full, so that trying again may help? Not where SQLite has it, but cannot do what it
    was asked: a table is missing, a sum overflows, a text is none.
    """
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return "Could not decode" not in str(error) and (code is None or code & 0xFF != sqlite3.SQLITE_ERROR)


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


@dataclass(frozen=True, slots=True)
class Columns:
    """Those of new rows of which many are alike: what groups of them have in common, what each has of its own, and
    which of these stand in another column once more.
    """

    common: tuple[str, ...]
    own: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)


Group = tuple[tuple[Any, ...], list[tuple[Any, ...]]]  # what is in common, and the rows


def insert(cursor: Any, table: str, columns: Columns, groups: Sequence[Group]) -> None:
    """Many new rows, in the way that costs least. Raises IntegrityError when one is there already."""
    with connection.wrap_database_errors:
        if connection.vendor == "postgresql":
            copied = [slice(at := columns.own.index(name), at + 1) for name in columns.copies.values()]
            names = ", ".join((*columns.common, *columns.own, *columns.copies))
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                # In the order of their first own column, as its index has them.
                every = [(row, common) for common, rows in groups for row in rows]
                for row, common in sorted(every, key=_first_of_row):
                    whole = common + row
                    for one in copied:
                        whole += row[one]
                    copy.write_row(whole)
        else:
            _insert(connection.connection, table, columns, groups)


def _first_of_row(found: tuple[tuple[Any, ...], tuple[Any, ...]]) -> Any:
    return found[0][0]


TOGETHER = (64, 8, 1)  # rows of one statement; each is a multiple of the next


def _insert(database: sqlite3.Connection, table: str, columns: Columns, groups: Sequence[Group]) -> None:
    """Most of what a row costs is to pass its values to SQLite, and to begin and end a statement: so a statement is of
    many rows, and what these have in common is passed once.
    """
    # Django has SQLite parse each JSON text once more: an eighth of the time, for what we have just made.
    database.execute("PRAGMA ignore_check_constraints = 1")
    try:
        larger = 0
        for count in TOGETHER:
            statement = _statement(table, columns.common, columns.own, tuple(columns.copies.items()), count)
            database.executemany(statement, _parameters(groups, count, larger))
            larger = count
    finally:
        database.execute("PRAGMA ignore_check_constraints = 0")


def _parameters(groups: Sequence[Group], count: int, larger: int) -> Iterator[tuple[Any, ...]]:
    """Of statements for `count` rows each, of those that are too few to be written `larger` ones at a time."""
    for common, rows in groups:
        size = len(rows)
        for at in range(size - size % larger if larger else 0, size - size % count, count):
            yield (*common, *chain.from_iterable(rows[at : at + count]))


@lru_cache(maxsize=32)
def _statement(
    table: str, common: tuple[str, ...], own: tuple[str, ...], copies: tuple[tuple[str, str], ...], count: int
) -> str:
    """Inserts `count` rows. FAIL: it need not be taken back by itself, the transaction is."""
    shared = [f"?{number}" for number in range(1, len(common) + 1)]
    values = []
    for row in range(count):
        first = len(common) + row * len(own) + 1
        marks = {name: f"?{first + at}" for at, name in enumerate(own)}
        values.append(", ".join((*shared, *marks.values(), *[marks[of] for _, of in copies])))
    names = ", ".join((*common, *own, *[name for name, _ in copies]))
    return f"INSERT OR FAIL INTO {table} ({names}) VALUES ({'), ('.join(values)})"  # noqa: S608


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
