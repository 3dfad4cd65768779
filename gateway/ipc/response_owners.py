"""Owners of stored responses: the API key that each belongs to, and the endpoint that stores it.

Each worker writes a file of its own, `responses/<worker>.sqlite3` in the data directory, and reads those of the others.
So there are no locks between workers, each worker finds the responses of all, and a restart loses nothing. A file
contains digests of ids, not the ids, which would be enough for a client to request a response.

A file that cannot be written does not fail a request: new rows stay in memory and are written later.
"""

import hashlib
import logging
import sqlite3
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.base import files
from gateway.ipc.background_responses import BackgroundResponses

log = logging.getLogger(__name__)

MAX_AGE_DAYS = 30  # as long as OpenAI stores a response
MAX_ROWS = 500_000  # of a worker's file, which then has about 100 MB; the oldest are deleted first
MAX_REMEMBERED = 10_000  # ids in memory, and ids that wait for a file that cannot be written
RETRY_SECONDS = 1.0  # between two attempts to write a file that could not be written
ROW_BYTES = 200
TRIMMED_AT_ONCE = 16

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS ids (id BLOB NOT NULL, owner TEXT NOT NULL, endpoint TEXT NOT NULL, made INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS ids_by_id ON ids (id, owner);
"""
_ADD = "INSERT OR REPLACE INTO ids (id, owner, endpoint, made) VALUES (?, ?, ?, ?)"
# The oldest rows are the first: so few of them are read that a write never takes long.
_TRIM = (
    "DELETE FROM ids WHERE rowid < (SELECT min(rowid) FROM ids) + ? "
    "AND (made < ? OR rowid <= (SELECT max(rowid) FROM ids) - ?)"
)
_FIND = "SELECT owner, endpoint FROM ids WHERE id = ? AND made >= ?"

Row = tuple[bytes, str, str, int]


@dataclass(frozen=True, slots=True)
class ResponseOwner:
    """The stored facts about an id. `endpoint_id` is that of the requesting key's response; None: it has no such
    response.
    """

    endpoint_id: str | None
    known: bool  # it has an owner


UNKNOWN = ResponseOwner(None, known=False)


class Owners:
    """The stored responses of all workers.

    Call `record_owner` when an endpoint has stored a response, `flush` before the client receives its id, and `find`
    later.
    """

    def __init__(self, directory: Path, worker: int, wake: Callable[[int], None] = lambda size: None) -> None:
        """Prepare; no file is opened or created before the first use. `wake(bytes)` is called when rows wait to be
        flushed.
        """
        self.background = BackgroundResponses(directory / "background")
        self._directory = directory
        self._path = directory / f"{worker}.sqlite3"
        self._wake = wake
        self._database: sqlite3.Connection | None = None
        self._readers: dict[Path, _Reader] = {}
        self._listed = 0  # st_mtime_ns of the directory when it was listed
        self._recent: OrderedDict[bytes, dict[str, str]] = OrderedDict()  # endpoints by owner
        self.pending: deque[Row] = deque(maxlen=MAX_REMEMBERED)
        self._failing = False
        self._retry_at = 0.0  # time.monotonic()

    def record_owner(self, response_id: str, owner: str, endpoint_id: str) -> None:
        """Store the owner of an id of a response, or of an item of one; the owner is "" if none is needed.

        An id that another key has at the same endpoint keeps that owner: some servers let clients choose ids.
        """
        digest = _digest(response_id)
        known = self._recent.get(digest)
        if known is not None and known.get(owner) == endpoint_id:
            return
        if any(endpoint == endpoint_id and other != owner for other, endpoint in self._owners_of(digest).items()):
            return
        self._remember(digest, owner, endpoint_id)
        self.pending.append((digest, owner, endpoint_id, int(time.time())))
        self._wake(ROW_BYTES)

    def find(self, response_id: str, owner: str) -> ResponseOwner:
        """Return the facts about an id for the key `owner`, by the rows of all workers."""
        digest = _digest(response_id)
        known = self._recent.get(digest)
        if known is None or owner not in known:
            known = self._owners_of(digest)
            if owner in known:
                self._remember(digest, owner, known[owner])
        return ResponseOwner(known.get(owner), known=True) if known else UNKNOWN

    def _remember(self, digest: bytes, owner: str, endpoint_id: str) -> None:
        self._recent.setdefault(digest, {})[owner] = endpoint_id
        self._recent.move_to_end(digest)
        if len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)

    def _owners_of(self, digest: bytes) -> dict[str, str]:
        """Return the endpoint of each owner, by memory and by the files of all workers."""
        stat = dict(self._recent.get(digest, ()))
        oldest = int(time.time()) - MAX_AGE_DAYS * 86400
        self._list_files()
        for reader in self._readers.values():
            for owner, endpoint_id in reader.find(digest, oldest):
                stat.setdefault(owner, endpoint_id)
        return stat

    def _list_files(self) -> None:
        """List the files again if that may have changed."""
        try:
            changed = self._directory.stat().st_mtime_ns
            if changed == self._listed:
                return
            paths = set(self._directory.glob("*.sqlite3"))
        except OSError:
            return
        for path in self._readers.keys() - paths:
            self._readers.pop(path).close()
        for path in paths - self._readers.keys():
            self._readers[path] = _Reader(path)
        self._listed = changed

    # The file of this worker

    def flush(self) -> None:
        """Write the pending rows. Never raises for a file: a later call tries again to write the remaining rows."""
        now = time.monotonic()
        if not self.pending or now < self._retry_at:
            return
        try:
            self._write()
        except sqlite3.OperationalError as error:  # a full disk, a lock, or missing rights
            self._write_failed(now, error)
        except sqlite3.DatabaseError as error:
            log.warning(
                "%s is damaged (%s) and is replaced by a new file: the owners of older responses are lost",
                self._path.name,
                error,
            )
            self._recreate(now)
        except OSError as error:
            self._write_failed(now, error)

    def _write(self) -> None:
        database = self._database
        if database is None:
            database = self._open()
        few = TRIMMED_AT_ONCE + 2 * len(self.pending)
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(_ADD, self.pending)
            database.execute(_TRIM, (few, int(time.time()) - MAX_AGE_DAYS * 86400, MAX_ROWS))
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # some errors end it implicitly
                database.execute("ROLLBACK")
            raise
        self.pending.clear()
        if self._failing:
            self._failing = False
            log.info("%s can be written again", self._path.name)

    def _open(self) -> sqlite3.Connection:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        files.create_empty(self._path)
        database = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        try:
            self._path.chmod(0o600)  # of an earlier release
            database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
        self._database = database
        return database

    def _recreate(self, now: float) -> None:
        self.close()
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._write()
        except (sqlite3.DatabaseError, OSError) as error:
            self._write_failed(now, error)

    def _write_failed(self, now: float, error: Exception) -> None:
        self.close()
        self._retry_at = now + RETRY_SECONDS
        if not self._failing:
            self._failing = True
            log.warning(
                "%s cannot be written (%s): only this process knows the owners of the newest stored responses; "
                "the next attempt follows in %g s",
                self._path.name,
                error,
                RETRY_SECONDS,
            )

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()
        while self._readers:
            self._readers.popitem()[1].close()
        self._listed = 0


class _Reader:
    """A connection to one file, open until another file has its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._warned = False
        self._database: sqlite3.Connection | None = None

    def find(self, digest: bytes, oldest: int) -> list[tuple[str, str]]:
        """Return the owners and endpoints of an id; none if the file cannot be read."""
        try:
            return self._connection().execute(_FIND, (digest, oldest)).fetchall()
        except (sqlite3.DatabaseError, OSError) as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "%s cannot be read (%s): the stored responses in it are treated as unknown", self._path.name, error
                )
            self.close()
            return []

    def _connection(self) -> sqlite3.Connection:
        stat = self._path.stat()
        file = stat.st_dev, stat.st_ino
        if self._database is None or file != self._file:
            self.close()
            # The log of a process that was killed has to be read first, which mode=ro does not do.
            self._database = sqlite3.connect(
                f"{self._path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None
            )
            self._database.execute("PRAGMA query_only = ON")
            if file != self._file:
                self._file, self._warned = file, False
        return self._database

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _digest(response_id: str) -> bytes:
    return hashlib.blake2b(response_id.encode("utf-8", "replace"), digest_size=16).digest()
