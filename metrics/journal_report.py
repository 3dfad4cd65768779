"""What the journals hold, for `manage.py journal`. Only reads, and disturbs nobody who is at work on them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway import journal
from gateway.journal import START, Batch, Gone, Position, UnknownVersion
from gateway.record import Entry, RequestRecord, SegmentHead, Unrecorded
from metrics import database
from metrics.models import Installation, JournalPosition

BATCH = 500  # records with bodies are long: so many are in memory at once

OURS, ANOTHER, NEWER, UNREADABLE = "this database", "another database", "a newer release", "unreadable head"
TYPES = {RequestRecord: "request", Unrecorded: "unrecorded", SegmentHead: "head"}


@dataclass(frozen=True, slots=True)
class Known:
    """What the database says of journals."""

    database_id: str | None
    positions: dict[str, Position]


@dataclass(slots=True)
class Waiting:
    """What stands behind a position."""

    bytes: int = 0
    records: int = 0
    damaged_bytes: int = 0
    oldest_us: int | None = None

    def add(self, other: "Waiting") -> None:
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
        """Seconds since the oldest record's request ended."""
        return None if self.oldest_us is None else max(0.0, now - self.oldest_us / 1e6)

    def _note(self, completed_us: int | None) -> None:
        if completed_us is not None:
            self.oldest_us = completed_us if self.oldest_us is None else min(self.oldest_us, completed_us)


@dataclass(frozen=True, slots=True)
class Report:
    """One writer's journal."""

    writer: str
    alive: bool
    belongs_to: str
    segments: dict[int, int]  # bytes of each
    position: Position | None  # None: the database has none, or was not asked
    waiting: Waiting | None  # None: not known, or not for this database to take


def known() -> Known:
    """Raises django.db.Error. Asks without giving the database an id that it does not have yet."""
    with database.read_moment():
        installation = Installation.objects.filter(id=1).first()
        positions = {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}
    return Known(installation.database_id if installation else None, positions)


def reports(root: Path, said: Known | None) -> Iterator[Report]:
    """Of every writer; `said` is None while the database is away."""
    for writer in journal.writers(root):
        directory = root / writer
        if segments := _sizes(directory):
            alive, position = journal.alive(directory), said.positions.get(writer) if said else None
            owner, waiting = belongs_to(directory, said), None
            if owner == OURS:
                try:
                    waiting = _waiting(directory, segments, position or START)
                except UnknownVersion:
                    owner = NEWER
            yield Report(writer, alive, owner, segments, position, waiting)


def belongs_to(directory: Path, said: Known | None) -> str:
    """In words; OURS for what this database takes."""
    try:
        head = journal.head(directory)
    except UnknownVersion:
        return NEWER
    except Gone:
        return UNREADABLE
    if head is None:
        return UNREADABLE
    if head.writer not in ("", directory.name):
        return f"a copy of {head.writer}"
    if said is None:
        return f"database {head.database_id}"
    return OURS if head.database_id == said.database_id else ANOTHER


def batches(directory: Path, position: Position) -> Iterator[Batch]:
    """From a position to the present end. Raises UnknownVersion."""
    while True:
        try:
            batch = journal.read(directory, position, BATCH)
        except Gone:  # committed meanwhile, and deleted; or taken away by hand
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
    """An entry as one line of JSON, with where it starts."""
    fields: dict[str, Any] = msgspec.structs.asdict(entry)
    if isinstance(entry, RequestRecord):
        fields["attempts"] = [msgspec.structs.asdict(attempt) for attempt in entry.attempts]
    told = {"writer": writer, "position": place(position), "type": TYPES[type(entry)], "entry": fields}
    return msgspec.json.encode(told).decode()


def place(position: Position) -> str:
    return f"{position[0]}:{position[1]}"


def _sizes(directory: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for segment in journal.segments(directory):
        try:
            found[segment] = journal.segment_path(directory, segment).stat().st_size
        except FileNotFoundError:
            pass  # deleted since it was listed
    return found


def _waiting(directory: Path, segments: dict[int, int], position: Position) -> Waiting:
    behind = {segment: size for segment, size in segments.items() if segment >= position[0]}
    waiting = Waiting(sum(behind.values()) - min(position[1], behind.get(position[0], 0)))
    for batch in batches(directory, position):
        waiting.read(batch)
    return waiting


# Told


def as_json(found: list[Report], said: Known | None) -> dict[str, Any]:
    now = time.time()
    return {
        "database": {"reached": said is not None, "id": said.database_id if said else None},
        "writers": [
            {
                "writer": it.writer,
                "alive": it.alive,
                "belongs_to": it.belongs_to,
                "segments": [{"segment": segment, "bytes": size} for segment, size in it.segments.items()],
                "position": place(it.position) if it.position else None,
                "waiting": _waiting_as_json(it.waiting, now),
            }
            for it in found
        ],
        "total": {
            "writers": len(found),
            "alive": sum(it.alive for it in found),
            "segments": sum(len(it.segments) for it in found),
            "bytes": sum(sum(it.segments.values()) for it in found),
            "waiting": _waiting_as_json(total(found), now) if said else None,
        },
    }


def _waiting_as_json(waiting: Waiting | None, now: float) -> dict[str, Any] | None:
    if waiting is None:
        return None
    return {
        "records": waiting.records,
        "bytes": waiting.bytes,
        "damaged_bytes": waiting.damaged_bytes,
        "oldest_secs": waiting.age(now),
    }


def as_text(found: list[Report], said: Known | None) -> Iterator[str]:
    now = time.time()
    for it in found:
        yield f"{it.writer}  {'alive' if it.alive else 'ended'}, {it.belongs_to}"
        yield "  segments  " + ", ".join(f"{segment} ({size:,} bytes)" for segment, size in it.segments.items())
        yield f"  position  {_position(it, said)}"
        if it.waiting is not None:
            yield f"  waiting   {_waiting_as_text(it.waiting, now)}"
    sizes = [size for it in found for size in it.segments.values()]
    alive = sum(it.alive for it in found)
    waiting = _waiting_as_text(total(found), now) if said else "unknown"
    yield (
        f"total: {_many(len(found), 'writer')} ({alive} alive), {_many(len(sizes), 'segment')}, "
        f"{_many(sum(sizes), 'byte')}; waiting: {waiting}"
    )


def _position(report: Report, said: Known | None) -> str:
    if said is None:
        return "unknown"
    return place(report.position) if report.position else "none"


def _waiting_as_text(waiting: Waiting, now: float) -> str:
    text = f"{_many(waiting.records, 'record')}, {_many(waiting.bytes, 'byte')}"
    if (age := waiting.age(now)) is not None:
        text += f", the oldest for {age:,.1f} s"
    if waiting.damaged_bytes:
        text += f", {_many(waiting.damaged_bytes, 'damaged byte')}"
    return text


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def total(found: list[Report]) -> Waiting:
    everything = Waiting()
    for report in found:
        if report.waiting is not None:
            everything.add(report.waiting)
    return everything
