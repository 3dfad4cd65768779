"""Reads of django-q2's tables without Django: is a job queued, or a schedule due?"""

import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import dj_database_url

from gateway.base.config import Config
from routerdash.processes.schedules import CLUSTER, SCHEDULES

# The times are compared in the database, as django-q2 does. %s: the present time.
QUEUED = "SELECT count(*) FROM django_q_ormq WHERE key = %s AND lock < %s"
SCHEDULED = "SELECT name, func, minutes, next_run < %s FROM django_q_schedule"

Rows = list[tuple[Any, ...]]


class Unavailable(Exception):
    """The database cannot be read. The text is its error."""


class Database(Protocol):
    """An open connection."""

    def read(self, sql: str, values: tuple[object, ...]) -> Rows:
        """Raises Unavailable."""

    def is_replaced(self) -> bool:
        """Return True if the connection reads a file that is in use no more."""

    def close(self) -> None: ...


class JobQueue:
    """The queue, over a connection that is opened again after an error."""

    def __init__(self, config: Config) -> None:
        path = config.database_path
        self._connect: Callable[[], Database] = (
            (lambda: _PostgreSQL(config.database_url)) if path is None else (lambda: _SQLite(path))
        )
        self._database: Database | None = None

    def has_work(self) -> bool:
        """Return True if a job is queued or due, or if the schedules are not those of this release.

        Raises Unavailable.
        """
        if self._database is not None and self._database.is_replaced():
            self.close()
        if self._database is None:
            self._database = self._connect()
        try:
            [(queued,)] = self._database.read(QUEUED, (CLUSTER, self._database_time()))
            schedules = self._database.read(SCHEDULED, (self._database_time(),))
        except Unavailable:
            self.close()
            raise
        stored = {name: (function, minutes) for name, function, minutes, _ in schedules}
        return bool(queued or stored != SCHEDULES or any(due for *_, due in schedules))

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _database_time(self) -> object:
        """Return the present time as Django stores it."""
        now = datetime.now(UTC)
        return str(now.replace(tzinfo=None)) if isinstance(self._database, _SQLite) else now


class _SQLite:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Read-write, as a reader has to create the files of the write-ahead log too; but never created.
            self._connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=1)
            self._file = _identity(path)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(str(error)) from None

    def read(self, sql: str, values: tuple[object, ...]) -> Rows:
        try:
            return self._connection.execute(sql.replace("%s", "?"), values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(str(error)) from None

    def is_replaced(self) -> bool:
        try:
            return _identity(self._path) != self._file
        except OSError:
            return True

    def close(self) -> None:
        self._connection.close()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


class _PostgreSQL:
    def __init__(self, url: str) -> None:
        import psycopg  # only where it is needed: it takes several MB of memory

        self._errors = psycopg.Error
        parsed = dj_database_url.parse(url)
        names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
        given: dict[str, Any] = {name: parsed.get(key) or None for name, key in names.items()}
        limits = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
        try:
            self._connection = psycopg.connect(
                **{**limits, **given, **parsed.get("OPTIONS", {})}, autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            raise Unavailable(str(error)) from None

    def read(self, sql: str, values: tuple[object, ...]) -> Rows:
        try:
            return self._connection.execute(sql.encode(), values).fetchall()
        except self._errors as error:
            raise Unavailable(str(error)) from None

    def is_replaced(self) -> bool:
        return False

    def close(self) -> None:
        self._connection.close()
