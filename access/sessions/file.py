"""SQLite file of control with sessions and users. They survive a restart while the database is unavailable.

The file is in SQLite's rollback mode, not in WAL mode. A committed transaction is completely in the one file, so a lost
or damaged side file cannot restore a session that was ended. A damaged file is replaced by an empty one: all users
have to log in again.
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
    """Error raised if the file cannot be written; its text is the reason."""


@dataclass(slots=True)
class Session:
    """Session of one browser since its login. Times are in seconds since 1970."""

    id: str  # SHA-256 of the token in the cookie, in hexadecimal
    user_id: str
    stamp: str  # Django's session hash of the user at login: a changed password ends the session
    admin: bool
    created: float
    seen: float  # the last use
    address: str
    agent: str  # User-Agent header of the browser


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
    """File of one process. The owner must hold its lock during each call."""

    def __init__(self, path: Path, secret: str) -> None:
        """Set the path and the `secret`; sessions written under another secret are deleted on read."""
        self._path = path
        self._secret = secret
        self._connection: sqlite3.Connection | None = None

    def read(self) -> tuple[list[Session], dict[str, str]]:
        """Return the sessions, and the users by id. Both are empty if the file is missing or damaged."""
        if not self._path.exists():
            return [], {}
        try:
            return self._read()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            log.error("%s is damaged (%s) and is replaced by a new one: all users must log in again", self._path, error)
            try:
                self.remove()
            except OSError as remove_error:
                log.error("%s cannot be removed: %s", self._path, remove_error)
            return [], {}

    def _read(self) -> tuple[list[Session], dict[str, str]]:
        connection = self._opened()
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its integrity check failed")
        users = dict(connection.execute("SELECT id, told FROM people"))
        if connection.execute("SELECT value FROM about WHERE name = 'secret'").fetchone() != (self._generation(),):
            with connection:
                connection.execute("DELETE FROM sessions")
                self._write_generation(connection)
        rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM sessions")  # noqa: S608
        return [_session(*row) for row in rows], users

    def write(
        self,
        *,
        put: Iterable[Session] = (),
        end: Iterable[str] = (),
        users: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write the changes durably in one transaction. Raises NotWritten; then nothing is written.

        Users whose text is None are deleted.
        """
        try:
            with self._opened() as transaction:
                transaction.executemany(_PUT, [astuple(session) for session in put])
                transaction.executemany("DELETE FROM sessions WHERE id = ?", [(key,) for key in end])
                self._write_users(transaction, users or {})
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise NotWritten(str(error)) from None

    def replace(self, sessions: Iterable[Session], users: Mapping[str, str], secret: str | None = None) -> None:
        """Replace the whole content in one transaction. Raises NotWritten."""
        self._secret = secret or self._secret
        try:
            with self._opened() as transaction:
                transaction.execute("DELETE FROM sessions")
                transaction.execute("DELETE FROM people")
                self._write_generation(transaction)
                transaction.executemany(_PUT, [astuple(session) for session in sessions])
                self._write_users(transaction, users)
        except (sqlite3.Error, OSError) as error:
            self._close()
            raise NotWritten(str(error)) from None

    def _write_users(self, transaction: sqlite3.Connection, users: Mapping[str, str | None]) -> None:
        for user_id, text in users.items():
            if text is None:
                transaction.execute("DELETE FROM people WHERE id = ?", (user_id,))
            else:
                transaction.execute("INSERT OR REPLACE INTO people VALUES (?, ?)", (user_id, text))

    def remove(self) -> None:
        """Delete the file and its side files; this works on a full disk too. Raises OSError."""
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
        """Return the open connection; create the file and its schema if necessary. Raises sqlite3.Error, OSError."""
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
