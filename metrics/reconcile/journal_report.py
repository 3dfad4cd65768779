"""Report about the journals for `manage.py journal`. Only reads, and takes no locks of running processes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from gateway.ipc import journal
from gateway.ipc.journal import START, Batch, Position, SegmentDeleted, UnknownVersion
from gateway.ipc.record import Entry, RequestRecord, SegmentHead, Unrecorded
from metrics.models import Installation, JournalPosition
from metrics.storage import database

BATCH = 500  # entries in memory at once, because records with bodies are long

THIS_DATABASE, OTHER_DATABASE, NEWER, UNREADABLE = (
    "this database",
    "another database",
    "a newer release",
    "unreadable head",
)
TYPES = {RequestRecord: "request", Unrecorded: "unrecorded", SegmentHead: "head"}


@dataclass(frozen=True, slots=True)
class StoredPositions:
    """Id of the database, and its journal positions by writer."""

    database_id: str | None
    positions: dict[str, Position]


@dataclass(slots=True)
class WaitingRecords:
    """Contents of journals behind their positions."""

    bytes: int = 0
    records: int = 0
    damaged_bytes: int = 0
    oldest_us: int | None = None

    def add(self, other: "WaitingRecords") -> None:
        self.bytes += other.bytes
        self.records += other.records
        self.damaged_bytes += other.damaged_bytes
        self._note(other.oldest_us)

    def read(self, batch: Batch) -> None:
        self.damaged_bytes += batch.damaged
        for entry in batch.entries:
            if isinstance(entry, RequestRecord):
                self.records += 1
                self._note(entry.completed_us)

    def age(self, now: float) -> float | None:
        """Return the seconds since the oldest of these requests completed, or None without a record."""
        return None if self.oldest_us is None else max(0.0, now - self.oldest_us / 1e6)

    def _note(self, completed_us: int | None) -> None:
        if completed_us is not None:
            self.oldest_us = completed_us if self.oldest_us is None else min(self.oldest_us, completed_us)


@dataclass(frozen=True, slots=True)
class WriterReport:
    """Journal of one writer."""

    writer: str
    alive: bool
    belongs_to: str
    segments: dict[int, int]  # bytes of each
    position: Position | None  # None: the database has none, or could not be read
    waiting: WaitingRecords | None  # None: unknown, or the records belong to another database


def stored_positions() -> StoredPositions:
    """Read the positions without creating an id for the database. Raises django.db.Error."""
    with database.read_moment():
        installation = Installation.objects.filter(id=1).first()
        positions = {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}
    return StoredPositions(installation.database_id if installation else None, positions)


def reports(root: Path, stored: StoredPositions | None) -> Iterator[WriterReport]:
    """Yield a report for each writer. `stored` is None while the database is away."""
    for writer in journal.writers(root):
        directory = root / writer
        if segments := _sizes(directory):
            alive, position = journal.alive(directory), stored.positions.get(writer) if stored else None
            owner, waiting = belongs_to(directory, stored), None
            if owner == THIS_DATABASE:
                try:
                    waiting = _waiting(directory, segments, position or START)
                except UnknownVersion:
                    owner = NEWER
            yield WriterReport(writer, alive, owner, segments, position, waiting)


def belongs_to(directory: Path, stored: StoredPositions | None) -> str:
    """Return the owner of a journal in words; THIS_DATABASE if its records belong to this database."""
    try:
        head = journal.head(directory)
    except UnknownVersion:
        return NEWER
    except SegmentDeleted:
        return UNREADABLE
    if head is None:
        return UNREADABLE
    if head.writer not in ("", directory.name):
        return f"a copy of {head.writer}"
    if stored is None:
        return f"database {head.database_id}"
    return THIS_DATABASE if head.database_id == stored.database_id else OTHER_DATABASE


def batches(directory: Path, position: Position) -> Iterator[Batch]:
    """Yield all batches from a position to the current end. Raises UnknownVersion."""
    while True:
        try:
            batch = journal.read(directory, position, BATCH)
        except SegmentDeleted:  # the segment was written to the database and deleted meanwhile, or removed by hand
            later = [segment for segment in journal.segments(directory) if segment > position[0]]
            if not later:
                return
            position = (later[0], 0)
            continue
        yield batch
        if len(batch.entries) < BATCH:
            return
        position = batch.position


def line(writer: str, position: Position, entry: Entry) -> str:
    """Return an entry and its position as one line of JSON."""
    fields: dict[str, Any] = msgspec.structs.asdict(entry)
    if isinstance(entry, RequestRecord):
        fields["attempts"] = [msgspec.structs.asdict(attempt) for attempt in entry.attempts]
    content = {"writer": writer, "position": place(position), "type": TYPES[type(entry)], "entry": fields}
    return msgspec.json.encode(content).decode()


def place(position: Position) -> str:
    """Return a position as SEGMENT:OFFSET."""
    return f"{position[0]}:{position[1]}"


def _sizes(directory: Path) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for segment in journal.segments(directory):
        try:
            sizes[segment] = journal.segment_path(directory, segment).stat().st_size
        except FileNotFoundError:
            pass  # deleted after it was listed
    return sizes


def _waiting(directory: Path, segments: dict[int, int], position: Position) -> WaitingRecords:
    behind = {segment: size for segment, size in segments.items() if segment >= position[0]}
    waiting = WaitingRecords(sum(behind.values()) - min(position[1], behind.get(position[0], 0)))
    for batch in batches(directory, position):
        waiting.read(batch)
    return waiting


def total(writers: list[WriterReport]) -> WaitingRecords:
    """Return the sum of all waiting records of this database."""
    everything = WaitingRecords()
    for report in writers:
        if report.waiting is not None:
            everything.add(report.waiting)
    return everything


# Output


class WaitingJson(TypedDict):
    records: int
    bytes: int
    damaged_bytes: int
    oldest_secs: float | None


class SegmentJson(TypedDict):
    segment: int
    bytes: int


class WriterJson(TypedDict):
    writer: str
    alive: bool
    belongs_to: str
    segments: list[SegmentJson]
    position: str | None
    waiting: WaitingJson | None


class DatabaseJson(TypedDict):
    reached: bool
    id: str | None


class TotalJson(TypedDict):
    writers: int
    alive: int
    segments: int
    bytes: int
    waiting: WaitingJson | None


class JournalsJson(TypedDict):
    database: DatabaseJson
    writers: list[WriterJson]
    total: TotalJson


def as_json(writers: list[WriterReport], stored: StoredPositions | None) -> JournalsJson:
    now = time.time()
    return {
        "database": {"reached": stored is not None, "id": stored.database_id if stored else None},
        "writers": [
            {
                "writer": report.writer,
                "alive": report.alive,
                "belongs_to": report.belongs_to,
                "segments": [{"segment": segment, "bytes": size} for segment, size in report.segments.items()],
                "position": place(report.position) if report.position else None,
                "waiting": _waiting_as_json(report.waiting, now),
            }
            for report in writers
        ],
        "total": {
            "writers": len(writers),
            "alive": sum(report.alive for report in writers),
            "segments": sum(len(report.segments) for report in writers),
            "bytes": sum(sum(report.segments.values()) for report in writers),
            "waiting": _waiting_as_json(total(writers), now) if stored else None,
        },
    }


def _waiting_as_json(waiting: WaitingRecords | None, now: float) -> WaitingJson | None:
    if waiting is None:
        return None
    return {
        "records": waiting.records,
        "bytes": waiting.bytes,
        "damaged_bytes": waiting.damaged_bytes,
        "oldest_secs": waiting.age(now),
    }


def as_text(writers: list[WriterReport], stored: StoredPositions | None) -> Iterator[str]:
    now = time.time()
    for report in writers:
        yield f"{report.writer}  {'alive' if report.alive else 'ended'}, {report.belongs_to}"
        yield "  segments  " + ", ".join(f"{segment} ({size:,} bytes)" for segment, size in report.segments.items())
        yield f"  position  {_position(report, stored)}"
        if report.waiting is not None:
            yield f"  waiting   {_waiting_as_text(report.waiting, now)}"
    sizes = [size for report in writers for size in report.segments.values()]
    alive = sum(report.alive for report in writers)
    waiting = _waiting_as_text(total(writers), now) if stored else "unknown"
    yield (
        f"total: {_plural(len(writers), 'writer')} ({alive} alive), {_plural(len(sizes), 'segment')}, "
        f"{_plural(sum(sizes), 'byte')}; waiting: {waiting}"
    )


def _position(report: WriterReport, stored: StoredPositions | None) -> str:
    if stored is None:
        return "unknown"
    return place(report.position) if report.position else "none"


def _waiting_as_text(waiting: WaitingRecords, now: float) -> str:
    text = f"{_plural(waiting.records, 'record')}, {_plural(waiting.bytes, 'byte')}"
    if (age := waiting.age(now)) is not None:
        text += f", the oldest for {age:,.1f} s"
    if waiting.damaged_bytes:
        text += f", {_plural(waiting.damaged_bytes, 'damaged byte')}"
    return text


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
