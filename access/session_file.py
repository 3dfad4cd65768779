"""Sessions and people on disk, in a SQLite file of control's own: they outlive a restart while the database is away.

The file is in SQLite's rollback mode, not in WAL mode: once a transaction has returned, everything is in the one file,
so a lost or damaged side file cannot bring a session back that was ended. A damaged file is replaced by an empty one:
everybody logs in again.
"""

import hashlib
import hmac
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VERSION = 1
SIDE_FILES = ("-journal", "-wal", "-shm")


class NotWritten(Exception):
    """The file does not take what was to be written; the text says why."""


@dataclass(slots=True)
class Session:
    """A login of one browser. Times are seconds since 1970."""

    id: str  # SHA-256 of what the cookie holds, in hexadecimal
    user_id: str
    stamp: str  # Django's session hash of the user when this began: another password ends the session
    admin: bool
    created: float
    seen: float  # the last use
    address: str
    agent: str  # the browser, as it names itself


_COLUMNS = tuple(field.name for field in fields(Session))
_PUT = f"INSERT OR REPLACE INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SCHEMA = (
    "BEGIN",
    "CREATE TABLE sessions (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, stamp TEXT NOT NULL, admin INTEGER NOT NULL, "
    "created REAL NOT NULL, seen REAL NOT NULL, address TEXT NOT NULL, agent TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE people (id TEXT PRIMARY KEY, told TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)


def _session(*row: Any) -> Session:
    session = Session(*row)
    session.admin = bool(session.admin)
    return session


class SessionFile:
    """Used by one process, under the lock of who owns it."""

    def __init__(self, path: Path, secret: str) -> None:
        """`secret`: sessions that were written under another one are forgotten."""
        self._path = path
        self._secret = secret
        self._connection: sqlite3.Connection | None = None

    def read(self) -> tuple[list[Session], dict[str, str]]:
        """Sessions, and people by their ids. Neither, where there is no file or none that can be read."""
        if not self._path.exists():
            return [], {}
        try:
            return self._read()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            log.error("%s is damaged (%s) and is begun anew: everybody has to log in again", self._path, error)
            try:
                self.remove()
            except OSError as refused:
                log.error("%s cannot be removed: %s", self._path, refused)
            return [], {}

    def _read(self) -> tuple[list[Session], dict[str, str]]:
        connection = self._opened()
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its pages do not fit together")
        people = dict(connection.execute("SELECT id, told FROM people"))
        if connection.execute("SELECT value FROM about WHERE name = 'secret'").fetchone() != (self._generation(),):
            with connection:
                connection.execute("DELETE FROM sessions")
                self._write_generation(connection)
        rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM sessions")  # noqa: S608
        return [_session(*row) for row in rows], people

    def write(
        self,
        *,
        put: Iterable[Session] = (),
        end: Iterable[str] = (),
        people: Mapping[str, str | None] | None = None,
    ) -> None:
        """Durably, or not at all. People whose text is None are gone. Raises NotWritten."""
        try:
            with self._opened() as transaction:
                transaction.executemany(_PUT, [astuple(session) for session in put])
                transaction.executemany("DELETE FROM sessions WHERE id = ?", [(found,) for found in end])
                self._write_people(transaction, people or {})
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise NotWritten(str(error)) from None

    def replace(self, sessions: Iterable[Session], people: Mapping[str, str], secret: str | None = None) -> None:
        """All of it anew, in one transaction. Raises NotWritten."""
        self._secret = secret or self._secret
        try:
            with self._opened() as transaction:
                transaction.execute("DELETE FROM sessions")
                transaction.execute("DELETE FROM people")
                self._write_generation(transaction)
                transaction.executemany(_PUT, [astuple(session) for session in sessions])
                self._write_people(transaction, people)
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise NotWritten(str(error)) from None

    def _write_people(self, transaction: sqlite3.Connection, people: Mapping[str, str | None]) -> None:
        for user_id, told in people.items():
            if told is None:
                transaction.execute("DELETE FROM people WHERE id = ?", (user_id,))
            else:
                transaction.execute("INSERT OR REPLACE INTO people VALUES (?, ?)", (user_id, told))

    def remove(self) -> None:
        """Also works on a full disk, where nothing can be written. Raises OSError."""
        self._close()
        for path in (self._path, *(self._path.with_name(self._path.name + end) for end in SIDE_FILES)):
            path.unlink(missing_ok=True)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        self._close()

    def _write_generation(self, transaction: sqlite3.Connection) -> None:
        transaction.execute("INSERT OR REPLACE INTO about VALUES ('secret', ?)", (self._generation(),))

    def _generation(self) -> str:
        return hmac.new(self._secret.encode(), b"routerdash.sessions", hashlib.sha256).hexdigest()

    def _opened(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError."""
        if self._connection is None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = TRUNCATE")
                connection.execute("PRAGMA synchronous = FULL")
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, VERSION):
                    raise sqlite3.DatabaseError("it was written by another release")
                if version == 0:
                    with connection:
                        for statement in _SCHEMA:
                            connection.execute(statement)
                        self._write_generation(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
