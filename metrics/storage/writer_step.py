"""One step of the database writer: a batch of journal parts, and the statements that store its sums."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol

from gateway.ipc import record
from gateway.ipc.journal import Position
from gateway.ipc.record import RequestRecord
from gateway.prices.costs import RequestCost
from metrics import sql
from metrics.counting.fold import Fold
from metrics.counting.speeds import Sample, SpeedKey, current_speed, merge_samples, pack_samples, unpack_samples
from metrics.learning import window_rows
from metrics.learning.window_rows import ChangedWindows
from metrics.memory.journal_reader import BATCH_BYTES, Part
from metrics.storage import bulk, rollups
from metrics.storage.bulk import Upsert
from metrics.texts import storable

BATCH = 5000  # the fixed cost of a batch is negligible at this size

DAILY = Upsert(
    "endpoint_daily_stats",
    ["endpoint_id", "model_id", "date", "api_kind"],
    added=["total_requests", "successful_requests", "failed_requests", "total_output_tokens", "total_duration_ms"],
)
TOTALS = Upsert("metric_totals", ["name"], added=["value"])
ENDPOINTS = sql.update(
    "endpoints",
    [f"{name} = {name} + %s" for name in ("total_requests", "successful_requests", "failed_requests")],
    "id = %s",
)
# Compare-and-set: the second of two writers changes no row, and rolls back.
MOVE = sql.upsert(
    "journal_positions",
    ["writer"],
    replaced=["segment", "position"],
    where="journal_positions.segment = %s AND journal_positions.position = %s",
)
AVERAGES = "moving_averages"
_AVERAGE_KEYS = ("endpoint_id", "model", "kind")
WRITE_AVERAGE = Upsert(AVERAGES, _AVERAGE_KEYS, replaced=["value", "samples"])

_endpoint_sums = attrgetter("total", "successful", "failed")
_daily_sums = attrgetter("total", "successful", "failed", "output_tokens", "duration_ms")


class PositionConflict(Exception):
    """Another process has written this part of a journal first."""


@dataclass(slots=True)
class WriterStep:
    """One batch: the parts that were read, and the positions that it moves."""

    moves: list[tuple[str, Position, Position]] = field(default_factory=list)  # writer, old and new position
    parts: list[Part] = field(default_factory=list)
    part_writers: list[str] = field(default_factory=list)  # of each part
    finished: list[str] = field(default_factory=list)  # writers that were read to their end

    @property
    def entries(self) -> list[record.Entry]:
        return [entry for part in self.parts for entry in part.batch.entries]

    @property
    def records(self) -> int:
        """Number of requests."""
        return sum(part.records for part in self.parts)

    @property
    def full(self) -> bool:
        entries = sum(len(part.batch.entries) for part in self.parts)
        return entries >= BATCH or sum(part.batch.size for part in self.parts) >= BATCH_BYTES


class Spending(Protocol):
    """The publisher of budgets (metrics.spending), as the writer's thread calls it. Each method may raise Error."""

    def begin(self, database_id: str, stored_at: Mapping[str, Position]) -> None:
        """Prepare a step, before its journals are read. `stored_at`: the positions of the database."""

    def add(self, step: WriterStep, counted: Collection[RequestRecord], costs: Mapping[str, RequestCost]) -> None:
        """Add the records of a committed batch, and their costs by id."""

    def publish(self, *, complete: bool) -> None:
        """Publish what has changed. `complete`: the step has read all journals to their ends."""

    def deletable(self, writer: str, position: Position) -> Position:
        """Return the position, not after a given one, before which the journal of a writer is not needed."""

    def forget(self) -> None:
        """Read everything again: figures of the database have changed in another way than by `add`."""


class NoSpending:
    """No budgets are published: in tests, and in commands."""

    def begin(self, database_id: str, stored_at: Mapping[str, Position]) -> None:
        pass

    def add(self, step: WriterStep, counted: Collection[RequestRecord], costs: Mapping[str, RequestCost]) -> None:
        pass

    def publish(self, *, complete: bool) -> None:
        pass

    def deletable(self, writer: str, position: Position) -> Position:
        return position

    def forget(self) -> None:
        pass


def write_sums(cursor: Any, fold: Fold) -> ChangedWindows:
    """Add all sums of a fold to counters, daily rows, roll-ups, totals, moving averages and samples of learning.

    Returns the keys of those samples.
    """
    endpoints = ((*_endpoint_sums(counters), key) for key, counters in sorted(fold.endpoints.items()))
    write_many(cursor, ENDPOINTS, endpoints)
    DAILY.write(cursor, ((*map(storable, key), *_daily_sums(daily)) for key, daily in sorted(fold.daily.items())))
    rollups.upsert(cursor, rollups.MINUTES, fold.cells)
    rollups.upsert_days(cursor, fold.days)
    rollups.upsert_served(cursor, fold.served)
    rollups.upsert_clients(cursor, fold.clients)
    rollups.upsert_key_use(cursor, fold)
    TOTALS.write(cursor, ((storable(name), value) for name, value in sorted(fold.totals.items()) if value))
    WRITE_AVERAGE.write(cursor, _averages(cursor, fold.samples))
    return window_rows.write(cursor, fold)


def _averages(cursor: Any, samples: Mapping[SpeedKey, list[Sample]]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of moving averages after these samples are merged with the stored ones."""
    new: dict[tuple[str, ...], list[Sample]] = {}
    for key in sorted(samples):
        new.setdefault(tuple(map(storable, key)), []).extend(samples[key])
    stored = bulk.find(cursor, AVERAGES, _AVERAGE_KEYS, ("samples",), list(new))
    now = time.time()
    for row_key, added in new.items():
        previous = unpack_samples(bytes(stored[row_key][0])) if row_key in stored else []
        merged = merge_samples(previous, added)
        yield (*row_key, current_speed(merged, now), pack_samples(merged))


def write_many(cursor: Any, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Run a statement for each row. Does nothing without rows."""
    rows = list(rows)
    if rows:
        cursor.executemany(statement, rows)
