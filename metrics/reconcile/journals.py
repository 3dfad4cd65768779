"""The journals' bytes against the positions and the history: each record counted once, none left out."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gateway import journal, record
from gateway.journal import START, Gone, Position, UnknownVersion
from gateway.record import Entry, RequestRecord
from metrics.reconcile import counting
from metrics.reconcile.comparison import Difference, Query
from metrics.reconcile.scope import Scope

BATCH = 5000
CHUNK = 500  # ids in one query
NAMED = 3  # ids in one line


def positions() -> dict[str, Position]:
    rows = Query("SELECT writer, segment, position FROM journal_positions").rows()
    return {writer: (int(segment), int(position)) for writer, segment, position in rows}


def writers(root: Path, database_id: str) -> Iterator[str]:
    """Those whose records belong to this database, without copies of them."""
    for name in journal.writers(root):
        try:
            head = journal.head(root / name)
        except (Gone, UnknownVersion):
            continue
        if head is not None and head.database_id == database_id and head.writer in ("", name):
            yield name


def tail(root: Path, writer: str, position: Position) -> Iterator[list[Entry]]:
    """All behind a position. Raises Gone."""
    while True:
        batch = journal.read(root / writer, position, BATCH)
        if batch.position == position:
            return
        position = batch.position
        yield batch.entries


def differences(scope: Scope, *, patient: bool) -> Iterator[Difference]:
    """Positions lie within their segments; what is before one is in the history, what is behind one is not.

    While it is patient, a segment that is missing raises Gone: RouterDash may have gone on, and deleted it.
    """
    known = positions()
    lost: list[Difference] = []
    for writer in writers(scope.journal, scope.database_id):
        position = known.get(writer, START)
        where = f"journal {writer} at {position[0]}, {position[1]}"
        try:
            yield from _within(scope.journal / writer, position, where)
            lost += _before(scope, writer, position, where)
            yield from _behind(scope, writer, position, where)
        except Gone as error:
            if patient:
                raise
            yield Difference("journal", "the position's segment", where, "to be there", str(error))
        except UnknownVersion:
            continue  # a newer release's: left alone by this one
    # A record that the database refused is counted as such, and in no other figure.
    if sum(int(str(it.found)) for it in lost) > _set_aside():
        yield from lost


def _set_aside() -> int:
    return sum(int(value) for (value,) in Query("SELECT value FROM metric_totals WHERE name = 'unrecorded'").rows())


def _within(directory: Path, position: Position, where: str) -> Iterator[Difference]:
    try:
        size = journal.segment_path(directory, position[0]).stat().st_size
    except FileNotFoundError:
        raise Gone(f"segment {position[0]} is missing") from None
    if position[1] > size:
        yield Difference("journal", "position", where, f"at most {size}", position[1])


def _before(scope: Scope, writer: str, position: Position, where: str) -> list[Difference]:
    missing: list[str] = []
    for entries in _segments_before(scope.journal / writer, position):
        wanted = [entry.id for entry in entries if isinstance(entry, RequestRecord) and _has_row(scope, entry)]
        missing += sorted({*wanted} - _stored(wanted))
    if not missing:
        return []
    return [
        Difference("journal", "records before the position without a row", f"{where}{_named(missing)}", 0, len(missing))
    ]


def _behind(scope: Scope, writer: str, position: Position, where: str) -> Iterator[Difference]:
    early: list[str] = []
    for entries in tail(scope.journal, writer, position):
        early += sorted(
            _stored([entry.id for entry in entries if isinstance(entry, RequestRecord) and counting.counts(entry)])
        )
    if early:
        yield Difference("journal", "records behind the position with a row", f"{where}{_named(early)}", 0, len(early))


def _has_row(scope: Scope, entry: RequestRecord) -> bool:
    return (
        counting.counts(entry)
        and entry.outcome != record.REJECTED
        and (scope.every_row or entry.outcome != record.OK)
        and entry.completed_us >= scope.history_since * 60_000_000
    )


def _segments_before(directory: Path, position: Position) -> Iterator[list[Entry]]:
    """By segment, as far as they are still there."""
    for segment in journal.segments(directory):
        if segment > position[0]:
            return
        try:
            data = journal.segment_path(directory, segment).read_bytes()
        except FileNotFoundError:
            continue
        yield list(_entries(data[: position[1]] if segment == position[0] else data))


def _entries(data: bytes) -> Iterator[Entry]:
    for _, _, payload in journal.frames(data):
        try:
            yield record.decode(payload)
        except msgspec.DecodeError:
            continue  # damage, as its reader has it


def _stored(ids: list[str]) -> set[str]:
    """Those of these requests that are in the history."""
    found: set[str] = set()
    for at in range(0, len(ids), CHUNK):
        some = ids[at : at + CHUNK]
        marks = ", ".join(["%s"] * len(some))
        query = Query(f"SELECT id FROM request_history WHERE id IN ({marks})", tuple(some))  # noqa: S608
        found |= {str(request_id) for (request_id,) in query.rows()}
    return found


def _named(ids: Iterable[str]) -> str:
    ids = list(ids)
    return f" ({', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''})"
