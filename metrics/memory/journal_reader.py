"""Journal reader: the journals that belong to one database, read in parts, each with its fold."""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.ipc import journal
from gateway.ipc.journal import START, Batch, Position, SegmentDeleted, UnknownVersion
from gateway.ipc.record import RequestRecord
from metrics.counting.fold import Fold
from metrics.counting.totals import DAMAGED

log = logging.getLogger(__name__)

BATCH_BYTES = 8 << 20  # a batch ends after so many bytes, because records with bodies are long
CACHE_BYTES = 8 << 20  # journal bytes of cached parts; decoded they take several times as much


@dataclass(frozen=True, slots=True)
class Part:
    """A section of one journal and its sums."""

    batch: Batch
    fold: Fold
    records: int  # number of requests

    @classmethod
    def from_batch(cls, batch: Batch, zone: ZoneInfo) -> "Part":
        fold = Fold(zone).add_all(batch.entries)
        if batch.damaged:
            fold.others[DAMAGED] += batch.damaged
        return cls(batch, fold, sum(map(isinstance, batch.entries, repeat(RequestRecord))))


PartKey = tuple[str, Position, ZoneInfo]  # writer, start


class JournalReader:
    """Reader of the directories of all writers below `root`.

    The journal follower and the database writer read every part, each at its own pace. The first reader's part is
    cached for the second one, up to CACHE_BYTES.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._owners: dict[str, str] = {}  # database id by writer, as far as it was read
        self._warned: set[str] = set()
        self._cache: dict[PartKey, Part] = {}  # oldest first
        self._cache_bytes = 0
        self._lock = threading.Lock()

    def writers(self, database_id: str) -> list[str]:
        """Return the writers whose records belong to this database."""
        return [name for name in journal.writers(self.root) if self._owner(name) == database_id]

    def add_writers(self, writers: Iterable[str], database_id: str) -> None:
        """Assign writers to a database that has positions of them.

        Their segment heads need not be readable: a writer may have died before it wrote the head of its last segment.
        """
        for writer in writers:
            self._owners.setdefault(writer, database_id)

    def read(self, writer: str, position: Position, limit: int) -> Batch:
        """Return entries behind a position. A segment that was removed by hand is skipped and logged."""
        directory = self.root / writer
        try:
            return journal.read(directory, position, limit, enough=BATCH_BYTES)
        except SegmentDeleted:
            later = [segment for segment in journal.segments(directory) if segment > position[0]]
            self._warn(f"{writer}: segment {position[0]} is missing; reading continues at {later[:1] or 'its end'}")
            return journal.read(directory, (later[0], 0), limit, enough=BATCH_BYTES) if later else Batch(position)
        except UnknownVersion as error:
            self._warn(f"{writer} was written by a newer release and is not read: {error}")
            return Batch(position)

    def part(self, writer: str, position: Position, limit: int, zone: ZoneInfo) -> Part:
        """Return the next part behind a position, of up to `limit` entries.

        A cache hit returns the part that the other reader has decoded. Otherwise it is read from the journal.
        """
        with self._lock:
            cached = self._take((writer, position, zone))
            if cached is not None:  # both readers have reached this position: earlier parts are not needed
                for earlier in [key for key in self._cache if key[0] == writer and key[1] < position]:
                    self._take(earlier)
        if cached is not None and len(cached.batch.entries) <= limit:
            return cached
        batch = self.read(writer, position, limit)
        with self._lock:
            # End where a cached part begins. Otherwise a reader that fell behind could never use the cache again.
            ahead = [
                start for name, start, in_zone in self._cache if name == writer and in_zone == zone and start > position
            ]
        if ahead and min(ahead) < batch.position and not batch.damaged:
            batch = batch.before(min(ahead))
        part = Part.from_batch(batch, zone)
        if batch.entries:
            self._add_to_cache((writer, position, zone), part)
        return part

    def _take(self, key: PartKey) -> Part | None:
        """Remove a part from the cache and return it."""
        part = self._cache.pop(key, None)
        if part is not None:
            self._cache_bytes -= part.batch.size
        return part

    def _add_to_cache(self, key: PartKey, part: Part) -> None:
        with self._lock:
            self._take(key)
            self._cache[key] = part
            self._cache_bytes += part.batch.size
            while self._cache_bytes > CACHE_BYTES:
                self._take(next(iter(self._cache)))

    def next_end(self, writer: str, position: Position) -> int | None:
        """Return when the first request behind a position ended, in µs since 1970, or None if there is none."""
        with self._lock:
            cached = next((part.batch for key, part in self._cache.items() if key[:2] == (writer, position)), None)
        end = None if cached is None else _first_end(cached)
        return _first_end(self.read(writer, position, 8)) if end is None else end

    def first_segment(self, writer: str) -> int:
        """Return the number of a writer's first segment that is not deleted; 1 if there is none."""
        return next(iter(journal.segments(self.root / writer)), START[0])

    def sweep(self, remove_position: Callable[[str], None]) -> None:
        """Delete hidden directories that a killed process left: of a new writer, or half removed.

        Calls `remove_position` with the writer before its directory is deleted.
        """
        for path in self.root.glob(".*"):
            lock = journal.lock(path) if path.is_dir() else None
            if lock is not None:
                try:
                    remove_position(path.name[1:])
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)

    def end(self, writer: str) -> Position:
        """Return the end of a writer's last segment. Who reads up to it, and no further, has all entries that were
        there; under load there would be new ones after each read.
        """
        return journal.end(self.root / writer)

    def ends(self) -> list[tuple[str, int, int]]:
        """Return each writer's last segment and its size. They differ after each new record."""
        root = str(self.root)
        return [(name, *journal.end(f"{root}/{name}")) for name in journal.writers(root)]

    def size(self) -> int:
        """Return the bytes of all segments."""
        paths = (
            journal.segment_path(self.root / name, segment)
            for name in journal.writers(self.root)
            for segment in journal.segments(self.root / name)
        )
        return sum(path.stat().st_size for path in paths if path.exists())

    def _owner(self, writer: str) -> str | None:
        if writer not in self._owners:
            owner = self._read_owner(writer)
            if owner is None:
                return None
            self._owners[writer] = owner
        return self._owners[writer]

    def _read_owner(self, writer: str) -> str | None:
        """Return the database id in the head of the first existing segment."""
        try:
            head = journal.head(self.root / writer)
        except (SegmentDeleted, UnknownVersion, OSError):
            return None
        if head is None:
            self._warn(f"{writer} is not read: its first segment has no readable head")
        elif head.writer not in ("", writer):
            self._warn(f"{writer} is not read: it is a copy of {head.writer}, which has the same records")
        else:
            return head.database_id
        return None

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.error("journal %s", text)


def _first_end(batch: Batch) -> int | None:
    return next((entry.completed_us for entry in batch.entries if isinstance(entry, RequestRecord)), None)
