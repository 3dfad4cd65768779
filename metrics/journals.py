"""The journals as control reads them: only those that belong to this database, each from where somebody stopped."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from gateway import journal
from gateway.journal import START, Batch, Gone, Position, UnknownVersion
from gateway.record import RequestRecord

log = logging.getLogger(__name__)


class Journals:
    """Directories of writers below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._owners: dict[str, str] = {}  # writer -> database id, once read
        self._warned: set[str] = set()

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
            return journal.read(directory, position, limit)
        except Gone:
            later = [segment for segment in journal.segments(directory) if segment > position[0]]
            self._warn(f"{writer}: segment {position[0]} is missing; going on at {later[:1] or 'its end'}")
            return journal.read(directory, (later[0], 0), limit) if later else Batch(position)
        except UnknownVersion as error:
            self._warn(f"{writer} was written by a newer release ({error}): left alone")
            return Batch(position)

    def next_record(self, writer: str, position: Position) -> RequestRecord | None:
        """The first one behind a position."""
        entries = self.read(writer, position, 8).entries
        return next((entry for entry in entries if isinstance(entry, RequestRecord)), None)

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


__all__ = ["START", "Journals"]
