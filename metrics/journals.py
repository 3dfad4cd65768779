"""The journals as control reads them: only those that belong to this database, each from where somebody stopped."""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway import journal
from gateway.journal import START, Batch, Gone, Position, UnknownVersion
from gateway.record import RequestRecord
from metrics.fold import DAMAGED, Fold

log = logging.getLogger(__name__)

BATCH_BYTES = 8 << 20  # after so many, whoever reads takes what is there: records with bodies are long
KEPT_BYTES = 8 << 20  # of a journal, which take some times as much decoded


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of one journal, and what it counts."""

    batch: Batch
    fold: Fold
    records: int  # requests

    @classmethod
    def of(cls, batch: Batch, zone: ZoneInfo) -> "Part":
        fold = Fold(zone).add_all(batch.entries)
        if batch.damaged:
            fold.others[DAMAGED] += batch.damaged
        return cls(batch, fold, sum(isinstance(entry, RequestRecord) for entry in batch.entries))


class Journals:
    """Directories of writers below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._owners: dict[str, str] = {}  # writer -> database id, once read
        self._warned: set[str] = set()
        self._kept: dict[tuple[str, Position, ZoneInfo], Part] = {}  # oldest first
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def writers(self, database_id: str) -> list[str]:
        """Writers whose records belong to this database."""
        return [name for name in journal.writers(self.root) if self._owner(name) == database_id]

    def know(self, writers: Iterable[str], database_id: str) -> None:
        """These belong to a database, which has positions of them, whatever is left to be read of their heads: a writer
        may have died before it wrote that of its last segment.
        """
        for writer in writers:
            self._owners.setdefault(writer, database_id)

    def read(self, writer: str, position: Position, limit: int) -> Batch:
        """Entries from a position on. A segment that was taken away by hand is passed over, loudly."""
        directory = self.root / writer
        try:
            return journal.read(directory, position, limit, enough=BATCH_BYTES)
        except Gone:
            later = [segment for segment in journal.segments(directory) if segment > position[0]]
            self._warn(f"{writer}: segment {position[0]} is missing; going on at {later[:1] or 'its end'}")
            return journal.read(directory, (later[0], 0), limit, enough=BATCH_BYTES) if later else Batch(position)
        except UnknownVersion as error:
            self._warn(f"{writer} was written by a newer release ({error}): left alone")
            return Batch(position)

    def part(self, writer: str, position: Position, limit: int, zone: ZoneInfo) -> Part:
        """The next piece from a position on, of up to `limit` entries, with its figures.

        Whatever is read is read twice, by the folder and by the database writer, each at its own pace. So a piece is
        kept for whoever comes second, within bounds; it is the same that would be read again.
        """
        with self._lock:
            kept = self._take((writer, position, zone))
            if kept is not None:  # both are so far: nobody comes for what is kept of before
                for behind in [it for it in self._kept if it[0] == writer and it[1] < position]:
                    self._take(behind)
        if kept is not None and len(kept.batch.entries) <= limit:
            return kept
        batch = self.read(writer, position, limit)
        with self._lock:
            # Not beyond where a kept piece begins: otherwise who fell behind would never come to use one again.
            ahead = [at for name, at, in_zone in self._kept if name == writer and in_zone == zone and at > position]
        if ahead and min(ahead) < batch.position and not batch.damaged:
            batch = batch.cut(min(ahead))
        part = Part.of(batch, zone)
        if batch.entries:
            self._keep((writer, position, zone), part)
        return part

    def _take(self, key: tuple[str, Position, ZoneInfo]) -> Part | None:
        part = self._kept.pop(key, None)
        if part is not None:
            self._kept_bytes -= part.batch.size
        return part

    def _keep(self, key: tuple[str, Position, ZoneInfo], part: Part) -> None:
        with self._lock:
            self._take(key)
            self._kept[key] = part
            self._kept_bytes += part.batch.size
            while self._kept_bytes > KEPT_BYTES:
                self._take(next(iter(self._kept)))

    def next_end(self, writer: str, position: Position) -> int | None:
        """When the first request behind a position ended, in µs since 1970; None where there is none yet."""
        with self._lock:
            kept = next((part.batch for key, part in self._kept.items() if key[:2] == (writer, position)), None)
        found = None if kept is None else _first_end(kept)
        return _first_end(self.read(writer, position, 8)) if found is None else found

    def sweep(self, forget: Callable[[str], None]) -> None:
        """Hidden directories that a kill left between two steps: being made by a dead writer, or half removed. Whoever
        keeps a position of such a writer is told to `forget` it, before the directory goes.
        """
        for path in self.root.glob(".*"):
            held = journal.lock(path) if path.is_dir() else None
            if held is not None:
                try:
                    forget(path.name[1:])
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(held)

    def size(self) -> int:
        """Bytes of all segments."""
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
        """The database id in the head of the first segment that is there."""
        try:
            head = journal.head(self.root / writer)
        except (Gone, UnknownVersion, OSError):
            return None
        if head is None:
            self._warn(f"{writer}: its first segment has no readable head: left alone")
        elif head.writer not in ("", writer):
            self._warn(f"{writer} is a copy of {head.writer}: left alone, its records are counted there")
        else:
            return head.database_id
        return None

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.error("journal %s", text)


def _first_end(batch: Batch) -> int | None:
    return next((entry.completed_us for entry in batch.entries if isinstance(entry, RequestRecord)), None)


__all__ = ["START", "Journals"]
