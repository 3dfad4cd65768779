"""Records into the database: one writer, and one transaction for a batch and its positions.

Exactly once, whatever dies in between: nothing about positions is kept in memory, each step asks the database; a
position moves by compare-and-set in the transaction of the rows and sums that it stands for.

Segments are deleted only when their position is committed and the trackers have read them too.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

from django.db import DataError, Error, IntegrityError, connection, transaction

from gateway import journal, record
from gateway.journal import START, Position
from gateway.record import RequestRecord
from metrics import database, rollups, rows
from metrics.database import storable
from metrics.fold import (
    DAMAGED,
    UNRECORDED,
    Fold,
    Sample,
    SpeedKey,
    learned_speed,
    merge_samples,
    pack_samples,
    unpack_samples,
)
from metrics.folder import Folder
from metrics.journals import BATCH_BYTES, Part
from metrics.rows import Where

log = logging.getLogger(__name__)

BATCH = 5000  # what each costs by itself is, for so many, next to nothing
PAUSE_SECONDS = 0.15
BUSY_RECORDS = 20  # in a batch: under load it pays to let the next one grow
BUSY_PAUSE_SECONDS = 0.5
SLOW_SECONDS = 1.0  # for a batch: the database lets the writer wait
MAX_BACKOFF_SECONDS = 2.0


def _insert(table: str, columns: Iterable[str]) -> str:
    columns = tuple(columns)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"  # noqa: S608


def _upsert(table: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    added = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in sums)
    return f"{_insert(table, keys + sums)} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"


HISTORY = "request_history"
DAILY = _upsert(
    "endpoint_daily_stats",
    ("endpoint_id", "model_id", "date", "api_kind"),
    ("total_requests", "successful_requests", "failed_requests", "total_output_tokens", "total_duration_ms"),
)
TOTALS = _upsert("metric_totals", ("name",), ("value",))
ENDPOINTS = (
    "UPDATE endpoints SET total_requests = total_requests + %s, successful_requests = successful_requests + %s, "
    "failed_requests = failed_requests + %s WHERE id = %s"
)
# Compare-and-set: whoever comes second changes no row, and rolls back.
MOVE = (
    "INSERT INTO journal_positions (writer, segment, position) VALUES (%s, %s, %s) ON CONFLICT (writer) DO UPDATE "
    "SET segment = excluded.segment, position = excluded.position "
    "WHERE journal_positions.segment = %s AND journal_positions.position = %s"
)
AVERAGES = "moving_averages"
_AVERAGE_KEYS = ("endpoint_id", "model", "kind")
WRITE_AVERAGE = (
    f"INSERT INTO {AVERAGES} (endpoint_id, model, kind, value, samples) VALUES (%s, %s, %s, %s, %s) "  # noqa: S608
    "ON CONFLICT (endpoint_id, model, kind) DO UPDATE SET value = excluded.value, samples = excluded.samples"
)


_daily_sums = attrgetter("total", "successful", "failed", "output_tokens", "duration_ms")


class Moved(Exception):
    """Somebody else folded this part first."""


@dataclass(slots=True)
class Backlog:
    """How far the database is behind."""

    behind_since: float | None = None  # in seconds since 1970; None while each batch takes all there is
    busy_since: float | None = None  # with the present batch
    last_commit_at: float | None = None
    last_batch_ms: float | None = None
    last_batch_records: int = 0
    errors: int = 0  # tries that failed since the start
    error: str | None = None

    def late_since(self, now: float) -> float | None:
        """Since when records wait longer than is usual; None while they do not."""
        busy_since = self.busy_since
        hangs = busy_since is not None and now - busy_since > SLOW_SECONDS
        return self.behind_since or (busy_since if hangs else None)


@dataclass(slots=True)
class Step:
    """One batch: what was read, and which positions it moves."""

    moves: list[tuple[str, Position, Position]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)  # writers read to their end

    @property
    def entries(self) -> list[record.Entry]:
        return [entry for part in self.parts for entry in part.batch.entries]

    @property
    def records(self) -> int:
        """How many requests."""
        return sum(part.records for part in self.parts)

    @property
    def full(self) -> bool:
        entries = sum(len(part.batch.entries) for part in self.parts)
        return entries >= BATCH or sum(part.batch.size for part in self.parts) >= BATCH_BYTES


class DatabaseWriter:
    """Runs in a thread of control, on that thread's own connection."""

    def __init__(
        self,
        folder: Folder,
        zone: ZoneInfo,
        where: Callable[[str], Where],
        *,
        history: str = "all",
        reseed: Callable[[], None] = lambda: None,
    ) -> None:
        """`reseed` reads the figures from the database again, when they turn out to hold what that does not."""
        self.folder = folder
        self.zone = zone
        self.backlog = Backlog()
        self.read_again = threading.Event()  # set by anybody: figures in the database were changed by hand
        self._where = where
        self._history = history
        self._reseed = reseed
        self._wake = threading.Event()
        self._progress = threading.Condition()
        self._committed: dict[str, Position] = {}  # how far this process has written
        self._known: dict[str, Position] = {}  # how far the database was when last looked at
        self._waiting: dict[str, tuple[Position, int]] = {}  # where each waits, and when its first record ended
        self._steps = 0
        self._idle_steps = 0

    # The thread

    def run(self, stop: threading.Event, prepare: Callable[[], bool]) -> None:
        """Until `stop`, then once more to the end. `prepare` sees to it that there is a database to write to."""
        backoff = PAUSE_SECONDS
        while not stop.is_set():
            written = None
            try:
                written = self.step() if prepare() else None
            except Moved as error:
                log.warning("%s", error)
            except Error as error:
                backoff = self._away(error, backoff)
            except Exception as error:
                log.exception("the database writer failed; it goes on")
                self._fell_behind(error)
                backoff = MAX_BACKOFF_SECONDS
            else:
                backoff = PAUSE_SECONDS
                if written and written.full:
                    continue
            busy = written is not None and written.records >= BUSY_RECORDS
            self._wake.wait(BUSY_PAUSE_SECONDS if busy else backoff)
            self._wake.clear()
        self.finish()

    def finish(self) -> None:
        """Write what is left, within reason: the database may be away at the stop, too."""
        try:
            while self.folder.database_id is not None and self.step().full:
                pass
        except (Error, Moved) as error:
            log.warning("stopped with records unwritten; they are in the journal: %s", error)
        finally:
            connection.close()

    def hurry(self) -> None:
        """Called now and then: with a whole batch waiting there is nothing to wait for, and while it is new, what the
        folder has read of it is kept (metrics.journals). A database that is away is asked at its own pace.
        """
        if self.folder.waiting >= BATCH and self.backlog.error is None:
            self._wake.set()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until everything in the journals now is in the database. False if that takes longer."""
        deadline = time.monotonic() + timeout
        with self._progress:
            goal = self._idle_steps + 2  # the one under way may have looked before the last record came
            while self._idle_steps < goal:
                self._wake.set()
                left = deadline - time.monotonic()
                if left <= 0 or (not self._progress.wait(min(left, 0.05)) and deadline <= time.monotonic()):
                    return False
        return True

    def oldest_waiting(self) -> float | None:
        """When the first record completed that is not in the database, in seconds since 1970; None where there is none.

        As far as this process has seen the database; without any look at it, every record there is waits.
        """
        assert self.folder.database_id is not None
        waiting: dict[str, tuple[Position, int]] = {}
        for writer in self.folder.journals.writers(self.folder.database_id):
            position = self._known.get(writer, START)
            seen = self._waiting.get(writer)  # asked again and again, it stays the same until more is written
            end = seen[1] if seen and seen[0] == position else self.folder.journals.next_end(writer, position)
            if end is not None:
                waiting[writer] = (position, end)
        self._waiting = waiting
        return min((end / 1e6 for _, end in waiting.values()), default=None)

    def sweep(self) -> None:
        """What a kill left half taken away, at a start. Raises django.db.Error."""
        self.folder.journals.sweep(_delete_position)

    # One step

    def step(self) -> Step:
        """One transaction at most. Raises django.db.Error when the database is away, Moved when it was not alone."""
        self.backlog.busy_since = time.time()
        try:
            return self._step()
        finally:
            self.backlog.busy_since = None

    def _step(self) -> Step:
        database.refuse_moved_files()
        positions = self._positions()
        if any(positions.get(writer, START) < position for writer, position in self._committed.items()):
            self._put_back()
        if self.folder.trackers.clock_went_back:
            log.warning("the clock went back: figures are read again")
            self._reseed()
        if self.read_again.is_set():
            self._read_again()
        self._known = positions
        step = self._read(positions)
        if step.moves:
            started = time.perf_counter()
            self._commit(step)
            self._committed |= {writer: new for writer, _, new in step.moves}
            database.refuse_moved_files()  # before anything is deleted that was committed to nowhere
            self.backlog.last_batch_ms = (time.perf_counter() - started) * 1000
            self.backlog.last_batch_records = step.records
            self.backlog.last_commit_at = time.time()
            self._known = positions | {writer: new for writer, _, new in step.moves}
        self._note(step)
        self._clean(step)
        return step

    def _positions(self) -> dict[str, Position]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT writer, segment, position FROM journal_positions")
            return {writer: (int(segment), int(position)) for writer, segment, position in cursor.fetchall()}

    def _put_back(self) -> None:
        """An older copy of this database stands in its place: its figures are the true ones from now on."""
        log.error("the database is older than a moment ago: a copy was put back; figures are read again from it")
        self._committed.clear()
        self._reseed()

    def _read_again(self) -> None:
        """Here and in no other thread: while figures are read, no position may move and no journal go."""
        log.warning("figures were changed in the database: they are read again from it")
        self.read_again.clear()  # first: what changes in the meantime asks once more
        try:
            self._reseed()
        except Error:
            self.read_again.set()
            raise

    def _read(self, positions: dict[str, Position]) -> Step:
        assert self.folder.database_id is not None
        step = Step()
        for writer in self.folder.journals.writers(self.folder.database_id):
            old = new = positions.get(writer, START)
            while not step.full:
                part = self.folder.journals.part(writer, new, BATCH, self.zone)
                if part.batch.position == new:
                    break
                step.parts.append(part)
                new = part.batch.position
            if new != old or writer not in positions:
                step.moves.append((writer, old, new))
            else:
                step.finished.append(writer)
            if step.full:
                break
        return step

    def _commit(self, step: Step) -> None:
        folds = [part.fold for part in step.parts]
        try:
            self._write(step, sum(folds[1:], start=folds[0]) if folds else Fold(self.zone))
        except IntegrityError as error:
            # A segment copied by hand, say. The id decides, for the row and for every sum.
            entries = step.entries
            fresh = self._unknown(entries)
            if len(fresh) == len(entries):
                self._set_aside(step, error)
                return
            log.error("%d records were in the database already", len(entries) - len(fresh))
            self._write(step, self._fold(step, fresh))
            self._reseed()
        except (DataError, OverflowError, ValueError) as error:
            self._set_aside(step, error)

    def _set_aside(self, step: Step, error: Exception) -> None:
        """One record that the database does not take must not hold up all that follow it. Raises `error` if it takes
        none at all: then it is not the records that are wrong.
        """
        entries = step.entries
        taken = [entry for entry in entries if self._accepts(entry)]
        if len(entries) > 1 and not taken:
            raise error
        log.error("%d records cannot be stored: %s", len(entries) - len(taken), error)
        fold = self._fold(step, taken)
        fold.others[UNRECORDED] += len(entries) - len(taken)
        self._write(step, fold)
        self._reseed()

    def _fold(self, step: Step, entries: list[record.Entry]) -> Fold:
        """Of a step of which only these entries are written."""
        fold = Fold(self.zone).add_all(entries)
        fold.others[DAMAGED] += sum(part.batch.damaged for part in step.parts)
        return fold

    def _write(self, step: Step, fold: Fold) -> None:
        assert self.folder.database_id is not None
        with transaction.atomic(), connection.cursor() as cursor:
            database.require(self.folder.database_id)
            for writer, old, new in sorted(step.moves):
                cursor.execute(MOVE, (writer, *new, *old))
                # Without a row any move succeeds; but a row goes only after its directory.
                if cursor.rowcount != 1 or not (self.folder.journals.root / writer).exists():
                    raise Moved(f"{writer} was folded by another process up to beyond {old}")
            self._insert(cursor, fold)
            _many(cursor, ENDPOINTS, ((it.total, it.successful, it.failed, key)
                                      for key, it in sorted(fold.endpoints.items())))  # fmt: skip
            _many(cursor, DAILY, ((*map(storable, key), *_daily_sums(it)) for key, it in sorted(fold.daily.items())))
            rollups.upsert(cursor, rollups.MINUTES, fold.cells)
            rollups.upsert_days(cursor, fold.days)
            rollups.upsert_clients(cursor, fold.clients)
            _many(cursor, TOTALS, ((storable(name), value) for name, value in sorted(fold.totals.items()) if value))
            _many(cursor, WRITE_AVERAGE, _averages(cursor, fold.samples))
        self.folder.written += step.records

    def _insert(self, cursor: Any, fold: Fold) -> None:
        """The rows of what was counted."""
        groups = rows.rows(fold.counted, self._where, successes=self._history == "all")
        database.insert(cursor, HISTORY, rows.COLUMNS, groups)

    def _accepts(self, entry: record.Entry) -> bool:
        """Does the database take its row and its sums? Tried, and taken back."""
        fold = Fold(self.zone).add_all([entry])
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                self._insert(cursor, fold)
                rollups.upsert(cursor, rollups.MINUTES, fold.cells)
                transaction.set_rollback(True)
        except (DataError, IntegrityError, OverflowError, ValueError) as error:
            log.error("record %s is set aside: %s", getattr(entry, "id", "?"), error)
            return False
        return True

    def _unknown(self, entries: list[record.Entry]) -> list[record.Entry]:
        ids = [entry.id for entry in entries if isinstance(entry, RequestRecord)]
        seen: set[str] = set()
        with connection.cursor() as cursor:
            for at in range(0, len(ids), 500):
                some = ids[at : at + 500]
                marks = ", ".join(["%s"] * len(some))
                cursor.execute(f"SELECT id FROM request_history WHERE id IN ({marks})", some)  # noqa: S608
                seen |= {str(found) for (found,) in cursor.fetchall()}
        fresh: list[record.Entry] = []
        for entry in entries:
            if not isinstance(entry, RequestRecord) or entry.id not in seen:
                fresh.append(entry)
                seen.add(getattr(entry, "id", ""))
        return fresh

    # Afterwards

    def _note(self, step: Step) -> None:
        self.backlog.error = None
        if not step.full:
            self.backlog.behind_since = None
        elif self.backlog.behind_since is None:
            self.backlog.behind_since = time.time()
        with self._progress:
            self._steps += 1
            self._idle_steps += not step.full
            self._progress.notify_all()

    def _away(self, error: Error, backoff: float) -> float:
        if self.backlog.error is None:
            log.warning("the database is away; records wait in the journal: %s", error)
        self._fell_behind(error)
        connection.close()
        return min(MAX_BACKOFF_SECONDS, backoff * 2)

    def _fell_behind(self, error: Exception) -> None:
        self.backlog.behind_since = self.backlog.behind_since or time.time()
        self.backlog.errors += 1
        self.backlog.error = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

    def _clean(self, step: Step) -> None:
        """Delete what is folded, here and in the trackers."""
        for writer, _, new in step.moves:
            self._delete_before(writer, min(new, self.folder.position(writer)))
        for writer in step.finished:
            self._discard_if_dead(writer)

    def _delete_before(self, writer: str, position: Position) -> None:
        directory = self.folder.journals.root / writer
        folded = [segment for segment in journal.segments(directory) if segment < position[0]]
        if folded:
            database.make_durable()
        for segment in folded:
            journal.segment_path(directory, segment).unlink(missing_ok=True)

    def _discard_if_dead(self, writer: str) -> None:
        """First the directory, in one rename, then its position: without one, it would be read from its start."""
        directory = self.folder.journals.root / writer
        held = journal.lock(directory)
        if held is None:
            return  # it lives
        try:
            # Locked, so nothing more can come: now once more to the end.
            self.folder.catch_up()
            position = self.folder.position(writer)
            with connection.cursor() as cursor:
                cursor.execute("SELECT segment, position FROM journal_positions WHERE writer = %s", (writer,))
                stored = cursor.fetchone()
            if stored is None or (int(stored[0]), int(stored[1])) != position:
                return  # its last records came since: next time
            database.make_durable()
            hidden = directory.with_name(f".{writer}")
            os.rename(directory, hidden)
            _delete_position(writer)
            self.folder.forget(writer)
            self._committed.pop(writer, None)
            shutil.rmtree(hidden, ignore_errors=True)
        finally:
            os.close(held)


def _averages(cursor: Any, samples: Mapping[SpeedKey, list[Sample]]) -> Iterator[tuple[Any, ...]]:
    """The rows of moving averages, with these samples."""
    new: dict[tuple[str, ...], list[Sample]] = {}
    for key in sorted(samples):
        new.setdefault(tuple(map(storable, key)), []).extend(samples[key])
    stored = database.find(cursor, AVERAGES, _AVERAGE_KEYS, ("samples",), list(new))
    now = time.time()
    for stored_as, added in new.items():
        kept = unpack_samples(bytes(stored[stored_as][0])) if stored_as in stored else []
        merged = merge_samples(kept, added)
        yield (*stored_as, learned_speed(merged, now), pack_samples(merged))


def _delete_position(writer: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM journal_positions WHERE writer = %s", (writer,))


def _many(cursor: Any, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    rows = list(rows)
    if rows:
        cursor.executemany(sql, rows)
