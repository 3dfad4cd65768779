"""Journal bytes compared with positions and history: each record is counted exactly once.

L10: every request that ended after an attempt at an endpoint has a record. Gateways count these requests in shared
memory, apart from their records. The count goes on over restarts; a boot of the machine begins it anew.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.ipc import journal, record
from gateway.ipc.journal import START, Position, SegmentDeleted, UnknownVersion
from gateway.ipc.record import Entry, RequestRecord
from gateway.ipc.request_counts import read_ended
from metrics import sql
from metrics.reconcile import counting
from metrics.reconcile.comparison import FigureDifference, Query
from metrics.reconcile.scope import Scope

BATCH = 5000
CHUNK = 500  # ids in one query
NAMED = 3  # ids in one line


def without_record(live_page: Path) -> Iterator[FigureDifference]:
    """Check L10 for each row of the live page. A process that was killed may have recorded more."""
    for row, (served, recorded) in enumerate(read_ended(live_page)):
        if served > recorded:
            where = f"row {row} of the live page, since the boot"
            yield FigureDifference("L10", "served requests with a record", where, served, recorded)


def positions() -> dict[str, Position]:
    rows = Query("SELECT writer, segment, position FROM journal_positions").rows()
    return {writer: (int(segment), int(position)) for writer, segment, position in rows}


def writers(root: Path, database_id: str) -> Iterator[str]:
    """Yield the writers whose records belong to this database, without copies of their directories."""
    for name in journal.writers(root):
        try:
            head = journal.head(root / name)
        except (SegmentDeleted, UnknownVersion):
            continue
        if head is not None and head.database_id == database_id and head.writer in ("", name):
            yield name


def tail(root: Path, writer: str, position: Position) -> Iterator[list[Entry]]:
    """Yield all entries behind a position. Raises SegmentDeleted if its segment is missing."""
    while True:
        batch = journal.read(root / writer, position, BATCH)
        if batch.position == position:
            return
        position = batch.position
        yield batch.entries


def differences(scope: Scope, *, will_retry: bool) -> Iterator[FigureDifference]:
    """Check that positions lie within segments, records before them are in the history, and records behind are not.

    With `will_retry`, a missing segment raises SegmentDeleted: RouterDash may have written and deleted it meanwhile.
    """
    stored = positions()
    lost: list[FigureDifference] = []
    for writer in writers(scope.journal, scope.database_id):
        position = stored.get(writer, START)
        where = f"journal {writer} at {position[0]}, {position[1]}"
        try:
            yield from _within(scope.journal / writer, position, where)
            lost += _before(scope, writer, position, where)
            yield from _behind(scope, writer, position, where)
        except SegmentDeleted as error:
            if will_retry:
                raise
            yield FigureDifference("journal", "the position's segment", where, "to be there", str(error))
        except UnknownVersion:
            continue  # written by a newer release, which this one does not read
    # A record that the database refused counts as unrecorded only.
    if sum(int(str(difference.found)) for difference in lost) > _set_aside():
        yield from lost


def _set_aside() -> int:
    return sum(int(value) for (value,) in Query("SELECT value FROM metric_totals WHERE name = 'unrecorded'").rows())


def _within(directory: Path, position: Position, where: str) -> Iterator[FigureDifference]:
    try:
        size = journal.segment_path(directory, position[0]).stat().st_size
    except FileNotFoundError:
        raise SegmentDeleted(f"segment {position[0]} is missing") from None
    if position[1] > size:
        yield FigureDifference("journal", "position", where, f"at most {size}", position[1])


def _before(scope: Scope, writer: str, position: Position, where: str) -> list[FigureDifference]:
    missing: list[str] = []
    for entries in _segments_before(scope.journal / writer, position):
        expected = [entry.id for entry in entries if isinstance(entry, RequestRecord) and _has_row(scope, entry)]
        missing += sorted({*expected} - _stored(expected))
    if not missing:
        return []
    return [
        FigureDifference(
            "journal", "records before the position without a row", where + _named(missing), 0, len(missing)
        )
    ]


def _behind(scope: Scope, writer: str, position: Position, where: str) -> Iterator[FigureDifference]:
    early: list[str] = []
    for entries in tail(scope.journal, writer, position):
        early += sorted(
            _stored([entry.id for entry in entries if isinstance(entry, RequestRecord) and counting.counts(entry)])
        )
    if early:
        yield FigureDifference(
            "journal", "records behind the position with a row", where + _named(early), 0, len(early)
        )


def _has_row(scope: Scope, entry: RequestRecord) -> bool:
    return (
        counting.counts(entry)
        and entry.outcome != record.REJECTED
        and (scope.every_row or entry.outcome != record.OK)
        and entry.completed_us >= scope.history_since * 60_000_000
    )


def _segments_before(directory: Path, position: Position) -> Iterator[list[Entry]]:
    """Yield the entries of each existing segment up to a position."""
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
            continue  # the journal reader treats this as damage


def _stored(ids: list[str]) -> set[str]:
    """Return the ids that are in the history."""
    stored: set[str] = set()
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        query = Query(sql.select("id", "request_history", where=f"id IN {sql.placeholders(len(chunk))}"), tuple(chunk))
        stored |= {str(request_id) for (request_id,) in query.rows()}
    return stored


def _named(ids: Iterable[str]) -> str:
    ids = list(ids)
    return f" ({', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''})"
