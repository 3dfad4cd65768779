"""One file of the registry store: SQLite in WAL mode, read without mmap.

A damaged or shortened file raises an error of SQLite; with mmap it would kill the process (SIGBUS).
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from gateway.registry.kinds import CHANGES, KEYS, KINDS, META, STATE, TABLES, Row, Table, version_key
from gateway.registry.schema import Damaged, StoreState

FILE = "data.sqlite3"
LOCK_SECONDS = 0.25  # the longest time that a lock can hold an event loop
WAL_BYTES = 16_000_000
END = b"\xff" * 64  # after all keys with the same beginning
_DAMAGE_CODES = frozenset(
    # SQLITE_ERROR: a table is missing, for the file was emptied.
    (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
)


def is_damage(error: Exception) -> bool:
    """Return True if another store must be built. A full disk, a lock or a missing right pass."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return type(error) is sqlite3.DatabaseError or "decode" in str(error)  # a row of text that is none
        return code & 0xFF in _DAMAGE_CODES
    return isinstance(error, Damaged | FileNotFoundError)


class RegistryStore:
    """An open store. It belongs to one process and must not be used by two threads at once.

    The process must not open and close the file in any other way: that would drop SQLite's locks.
    """

    def __init__(self, folder: Path, *, writable: bool = False, new: bool = False) -> None:
        """Open the store in a folder (see `create`). Raises OSError, sqlite3.Error or Damaged."""
        self.path = folder / FILE
        if not self.path.exists():
            raise FileNotFoundError(self.path)
        mode = "rw" if writable else "ro"
        self._database = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=LOCK_SECONDS if not writable else 10 * LOCK_SECONDS,
            cached_statements=64,
            check_same_thread=False,
        )
        self._execute = self._database.execute
        self._reading = _Reading(self._database)
        try:
            self._configure(writable=writable, new=new)
        except BaseException:
            self._database.close()
            raise

    def _configure(self, *, writable: bool, new: bool) -> None:
        execute = self._execute
        execute("PRAGMA mmap_size=0")
        execute("PRAGMA cache_size=-2000")
        if not writable:
            execute("PRAGMA query_only=1")
            execute("PRAGMA wal_autocheckpoint=0")
            return
        if not new and execute("PRAGMA journal_mode").fetchone() != ("wal",):
            # It was emptied. To set the mode again would wait for all readers.
            raise Damaged("the file is not in WAL mode")
        execute("PRAGMA synchronous=NORMAL")
        execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        if not new:  # the store of an earlier release may lack a table
            for kind in KINDS:
                if not kind.is_original:
                    execute(kind.create)

    @classmethod
    def create(cls, folder: Path, fill: Callable[["RegistryStore"], None]) -> "RegistryStore":
        """Create a store, have `fill` write all its rows, and open it. Raises OSError or sqlite3.Error.

        Nobody reads the file before it is complete and on the disk, so it is filled without a journal.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / FILE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # files beside it get the same mode
        store = cls(folder, writable=True, new=True)
        try:
            store._execute("PRAGMA journal_mode=OFF")
            for table in TABLES:
                store._execute(table.create)
            with store.writing():
                fill(store)
            store._execute("PRAGMA journal_mode=WAL")  # the file keeps this mode
        finally:
            store.close()
        for written in (path, folder):  # only after `close`: the end of any descriptor drops the locks of all
            descriptor = os.open(written, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return cls(folder, writable=True)

    def close(self) -> None:
        self._database.close()

    def reading(self) -> "_Reading":
        """Return a context in which all rows that are read are of one state."""
        return self._reading

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all rows or none. Raises sqlite3.Error."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        finally:
            if self._database.in_transaction:
                self._execute("ROLLBACK")

    # Rows

    def state(self) -> StoreState:
        """Return the state of the store. Raises Damaged if there is none."""
        return META.unpack(self.raw_state())

    def raw_state(self) -> bytes:
        """Return the state, still packed. Raises Damaged if there is none."""
        raw = self.raw(META, STATE)
        if raw is None:
            raise Damaged("the store has no state")
        return raw

    def raw(self, table: Table[Row], key: bytes) -> bytes | None:
        row = self._execute(table.select, (key,)).fetchone()
        return None if row is None else row[0]

    def get(self, table: Table[Row], key: bytes) -> Row | None:
        raw = self.raw(table, key)
        return None if raw is None else table.unpack(raw)

    def get_with_state(self, table: Table[Row], key: bytes) -> tuple[bytes | None, Row | None]:
        """Return the packed state of the store and a row, both of one version."""
        state, raw = self._execute(table.select_with_state, (STATE, key)).fetchone()
        return state, None if raw is None else table.unpack(raw)

    def raw_rows(self, table: Table[Row], prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return the rows whose key begins so and is longer, sorted by it, still packed."""
        return self._execute(table.select_range, (prefix, prefix + END)).fetchall()

    def rows(self, table: Table[Row], prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        """Return the rows whose key begins so and is longer, sorted by it."""
        return [(key, table.unpack(raw)) for key, raw in self.raw_rows(table, prefix)]

    def raw_between(self, table: Table[Row], after: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
        """Return the packed rows after one key, up to and with another, sorted."""
        return self._execute(table.select_range, (after, last)).fetchall()

    def keys_after(self, table: Table[Row], after: bytes, most: int) -> list[bytes]:
        """Return the keys of rows after one, sorted, at most so many."""
        return [key for (key,) in self._execute(table.select_keys, (after, most))]

    def changes(self, after: int, version: int) -> list[list[bytes]] | None:
        """Return what the versions after one, up to and with another, changed; None if the log lacks one of them."""
        rows = self._execute(CHANGES.select_range, (version_key(after), version_key(version))).fetchall()
        return [CHANGES.unpack(raw) for _, raw in rows] if len(rows) == version - after else None

    def has(self, table: Table[Row]) -> bool:
        """Return True if the store has this table. That of an earlier release may not, until control opens it."""
        return self._execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table.name,)).fetchone() is not None

    def is_empty(self, table: Table[Row]) -> bool:
        """Return True if the store has no row of this table."""
        return bool(self._execute(table.count, (1,)).fetchone()[0] == 0)

    def has_one_key(self) -> bool:
        """Return True if there is exactly one API key."""
        return bool(self._execute(KEYS.count, (2,)).fetchone()[0] == 1)

    def put(self, table: Table[Row], key: bytes, raw: bytes) -> None:
        self._execute(table.put, (key, raw))

    def put_all(self, table: Table[Row], rows: Iterator[tuple[bytes, bytes]]) -> None:
        self._database.executemany(table.put, rows)

    def delete(self, table: Table[Row], key: bytes) -> None:
        self._execute(table.delete, (key,))

    def delete_up_to(self, table: Table[Row], key: bytes) -> None:
        self._execute(table.delete_up_to, (key,))


class _Reading:
    """Read transaction. A class, because a generator would take a tenth of the time of a lookup."""

    __slots__ = ("_database", "_execute")

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._execute = database.execute

    def __enter__(self) -> None:
        self._execute("BEGIN")

    def __exit__(self, *error: object) -> None:
        if self._database.in_transaction:
            self._execute("ROLLBACK")
