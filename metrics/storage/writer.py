"""Database writer: writes records to the database exactly once, one transaction for a batch and its positions.

Exactly once holds even if a process dies at any point. Each step reads the positions from the database, and moves them
by compare-and-set in the transaction of the rows and sums that they cover.

A segment is deleted when its position is committed and the journal follower has read it too.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from django.db import DataError, Error, IntegrityError, connection, transaction

from gateway.ipc import journal, record
from gateway.ipc.journal import START, Position
from gateway.ipc.record import RequestRecord
from metrics import sql
from metrics.costs import hardware_rows
from metrics.costs import rows as cost_rows
from metrics.costs import stored_totals as cost_totals
from metrics.costs.hardware_hours import HardwareHours
from metrics.costs.of_batch import Costs, costs_of
from metrics.counting.fold import Fold
from metrics.counting.totals import DAMAGED, UNRECORDED
from metrics.learning.window_rows import ChangedWindows
from metrics.memory.backlog import Backlog
from metrics.memory.journal_follower import JournalFollower
from metrics.storage import bulk, database, history_rows, rollups, writer_step
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer_step import NoSpending, PositionConflict, Spending, WriterStep

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.15
BUSY_RECORDS = 20  # from this batch size on, a longer pause pays off: the next batch grows
BUSY_PAUSE_SECONDS = 0.5
LOADED_RECORDS = 500  # likewise: a batch costs as much as a hundred records by itself
LOADED_PAUSE_SECONDS = 1.0
IDLE_PAUSE_SECONDS = 1.0  # after a step without records; the first record ends it
MAX_BACKOFF_SECONDS = 2.0
ID_CHUNK = 500  # ids in one query

HISTORY = "request_history"


class DatabaseWriter:
    """Database writer in a thread of control, with the database connection of that thread."""

    def __init__(
        self,
        follower: JournalFollower,
        zone: ZoneInfo,
        endpoint_name: Callable[[str], EndpointName],
        *,
        history: str = "all",
        reseed: Callable[[], None] = lambda: None,
        learned: Callable[[ChangedWindows], None] = lambda changed: None,
        spending: Spending | None = None,
    ) -> None:
        """Create a writer.

        `reseed` reads the figures in memory from the database again, once they differ from it. `learned` is called
        after each commit with samples of learning. `spending` publishes the amounts of budgets.
        """
        self.follower = follower
        self.zone = zone
        self.backlog = Backlog()
        self.hours = HardwareHours(zone, follower.hardware)
        self.read_again = threading.Event()  # set by any thread: figures in the database were changed by a repair
        self._endpoint_name = endpoint_name
        self._history = history
        self._read_figures = reseed
        self._learned = learned
        self._spending: Spending = spending or NoSpending()
        self._cost_rows = cost_rows.CostRows()
        self._wake = threading.Event()
        self._progress = threading.Condition()
        self._committed: dict[str, Position] = {}  # positions that this process has written
        self._stored: dict[str, Position] = {}  # positions in the database when it was read last
        self._waiting: dict[str, tuple[Position, int]] = {}  # position of each writer, and the end of its next record
        self._steps = 0
        self._idle_steps = 0
        self._is_idle = False  # the last step found no record

    # The thread

    def run(self, stop: threading.Event, prepare: Callable[[], bool]) -> None:
        """Write until `stop` is set, then write the rest. `prepare` returns True if the database can be written."""
        database.set_up_writer()
        backoff = PAUSE_SECONDS
        while not stop.is_set():
            written = None
            try:
                written = self.step() if prepare() else None
                has_more = written is not None and (written.full or self.hours.count(time.time()))
            except PositionConflict as error:
                log.warning("a batch is read again from its new position: %s", error)
            except Error as error:
                backoff = self._away(error, backoff)
            except Exception as error:
                log.exception("a step of the database writer failed; it is repeated in %.1f s", MAX_BACKOFF_SECONDS)
                self._record_failure(error)
                backoff = MAX_BACKOFF_SECONDS
            else:
                backoff = PAUSE_SECONDS
                if has_more:
                    continue
            self._wake.wait(self._pause(written, backoff))
            self._is_idle = False
            self._wake.clear()
        self.finish()

    def _pause(self, written: WriterStep | None, backoff: float) -> float:
        """Return the seconds until the next step, after a step or an error."""
        self._is_idle = written is not None and not written.moves
        if self._is_idle:
            return IDLE_PAUSE_SECONDS
        records = 0 if written is None else written.records
        if records >= LOADED_RECORDS:
            return LOADED_PAUSE_SECONDS
        return BUSY_PAUSE_SECONDS if records >= BUSY_RECORDS else backoff

    def finish(self) -> None:
        """Write all waiting records. Stops at the first error, because the database may be away at shutdown too."""
        try:
            while self.follower.database_id is not None and self.step().full:
                pass
        except (Error, PositionConflict) as error:
            log.warning("stopped before all records were written; they stay in the journal: %s", error)
        finally:
            connection.close()

    def wake_if_batch_waits(self) -> None:
        """Start the next step at once if a whole batch waits, while its parts are still cached by the journal reader.

        After a step without records, one record suffices. Called periodically. Does nothing while the database is away,
        because the backoff decides then.
        """
        enough = 1 if self._is_idle else writer_step.BATCH
        if self.follower.waiting >= enough and self.backlog.error is None:
            self._wake.set()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all present records are in the database. Return False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._progress:
            target = self._idle_steps + 2  # the running step may have read the journal before the last record
            while self._idle_steps < target:
                self._wake.set()
                remaining = deadline - time.monotonic()
                if remaining <= 0 or (not self._progress.wait(min(remaining, 0.05)) and deadline <= time.monotonic()):
                    return False
        return True

    def oldest_waiting(self) -> float | None:
        """Return when the oldest record completed that is not in the database, in seconds since 1970, or None.

        Uses the positions that this process has read. Before the first read, all records count as waiting.
        """
        assert self.follower.database_id is not None
        waiting: dict[str, tuple[Position, int]] = {}
        for writer in self.follower.reader.writers(self.follower.database_id):
            position = self._stored.get(writer, START)
            cached = self._waiting.get(writer)
            end = cached[1] if cached and cached[0] == position else self.follower.reader.next_end(writer, position)
            if end is not None:
                waiting[writer] = (position, end)
        self._waiting = waiting
        return min((end / 1e6 for _, end in waiting.values()), default=None)

    def sweep(self) -> None:
        """Finish deletions that a killed process left half done, at the start. Raises django.db.Error."""
        self.follower.reader.sweep(_delete_position)

    # One step

    def _reseed(self) -> None:
        self._spending.forget()
        self._read_figures()

    def step(self) -> WriterStep:
        """Run at most one transaction.

        Raises django.db.Error without a database, PositionConflict if another process writes these journals.
        """
        self.backlog.busy_since = time.time()
        try:
            return self._step()
        finally:
            self.backlog.busy_since = None

    def _step(self) -> WriterStep:
        database.refuse_moved_files()
        positions = self._positions()
        if any(positions.get(writer, START) < position for writer, position in self._committed.items()):
            self._follow_restored_database()
        if self.follower.trackers.clock_went_back:
            log.warning("the clock was set back: figures are read again from the database")
            self._reseed()
        if self.read_again.is_set():
            self._read_again()
        if not self.follower.costs.are_at(positions):  # another process has written
            self._cost_rows.forget()
            cost_totals.read_again(self.follower.costs)
        self._stored = positions
        assert self.follower.database_id is not None
        self._spending.begin(self.follower.database_id, positions)
        step = self._read(positions)
        if step.moves:
            started = time.perf_counter()
            self._commit(step)
            self._committed |= {writer: new for writer, _, new in step.moves}
            database.refuse_moved_files()  # a commit to a moved file must not lead to deletions
            self.backlog.last_batch_ms = (time.perf_counter() - started) * 1000
            self.backlog.last_batch_records = step.records
            self.backlog.last_commit_at = time.time()
            self._stored = positions | {writer: new for writer, _, new in step.moves}
        self._spending.publish(complete=not step.full)
        self._note(step)
        self._clean(step)
        return step

    def _positions(self) -> dict[str, Position]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT writer, segment, position FROM journal_positions")
            return {writer: (int(segment), int(position)) for writer, segment, position in cursor.fetchall()}

    def _follow_restored_database(self) -> None:
        log.error("the database is older than before: a backup was restored; figures are read again from it")
        self._committed.clear()
        self.hours.forget()
        self._reseed()

    def _read_again(self) -> None:
        """Reseed in this thread only: while figures are read, no position may move and no journal may be deleted."""
        log.warning("figures in the database were repaired: they are read again")
        self.read_again.clear()  # before the read, so that a later repair sets it again
        self.hours.forget()
        try:
            self._reseed()
        except Error:
            self.read_again.set()
            raise

    def _read(self, positions: dict[str, Position]) -> WriterStep:
        assert self.follower.database_id is not None
        step = WriterStep()
        for writer in self.follower.reader.writers(self.follower.database_id):
            old = new = positions.get(writer, START)
            end = self.follower.reader.end(writer)
            while new < end and not step.full:
                part = self.follower.reader.part(writer, new, writer_step.BATCH, self.zone)
                if part.batch.position == new:
                    break
                step.parts.append(part)
                step.part_writers.append(writer)
                new = part.batch.position
            if new != old or writer not in positions:
                step.moves.append((writer, old, new))
            else:
                step.finished.append(writer)
            if step.full:
                break
        return step

    def _commit(self, step: WriterStep) -> None:
        folds = [part.fold for part in step.parts]
        try:
            self._write(step, sum(folds[1:], start=folds[0]) if folds else Fold(self.zone))
        except IntegrityError as error:
            # Some ids are stored already, for example after a segment was copied by hand. Their sums are counted too.
            entries = step.entries
            fresh = self._not_stored(entries)
            if len(fresh) == len(entries):
                self._set_aside(step, error)
                return
            log.error("%d records were in the database already and are skipped", len(entries) - len(fresh))
            self._write(step, self._fold(step, fresh))
            self._reseed()
        except (DataError, OverflowError, ValueError) as error:
            self._set_aside(step, error)

    def _set_aside(self, step: WriterStep, error: Exception) -> None:
        """Write a step without the records that the database refuses, so that they do not block all later ones.

        Raises `error` if the database refuses all records, because then the records are not the cause.
        """
        entries = step.entries
        accepted = [entry for entry in entries if self._accepts(entry)]
        if len(entries) > 1 and not accepted:
            raise error
        log.error("%d records cannot be stored and count as unrecorded: %s", len(entries) - len(accepted), error)
        fold = self._fold(step, accepted)
        fold.others[UNRECORDED] += len(entries) - len(accepted)
        self._write(step, fold)
        self._reseed()

    def _fold(self, step: WriterStep, entries: list[record.Entry]) -> Fold:
        """Return the fold of a step of which only these entries are written."""
        fold = Fold(self.zone).add_all(entries)
        fold.others[DAMAGED] += sum(part.batch.damaged for part in step.parts)
        return fold

    def _write(self, step: WriterStep, fold: Fold) -> None:
        assert self.follower.database_id is not None
        costs = self._costs(fold)
        with transaction.atomic(), connection.cursor() as cursor:
            database.require(cursor, self.follower.database_id)
            for writer, old, new in sorted(step.moves):
                cursor.execute(writer_step.MOVE, (writer, *new, *old))
                # Any move succeeds if there is no row. But a row is deleted only after its directory.
                if cursor.rowcount != 1 or not (self.follower.reader.root / writer).exists():
                    raise PositionConflict(f"another process has written the records of {writer} beyond {old}")
            self._insert_history(cursor, fold, costs)
            self._cost_rows.add(cursor, costs.sums)
            first_hour = hardware_rows.write(cursor, fold)
            changed = writer_step.write_sums(cursor, fold)
        self._cost_rows.committed()
        self.hours.note(first_hour)
        self.follower.costs.add(costs.places, fold.endpoint_cells, step.moves)
        self._spending.add(step, fold.counted, costs.by_id)
        if changed:
            self._learned(changed)
        self.follower.count_written(step.records)

    def _costs(self, fold: Fold) -> Costs:
        return costs_of(fold, cost_rows.pricing())

    def _insert_history(self, cursor: Any, fold: Fold, costs: Costs) -> None:
        successes = self._history == "all"
        groups = history_rows.rows(fold.counted, self._endpoint_name, successes=successes, costs=costs.by_id)
        bulk.insert(cursor, HISTORY, history_rows.COLUMNS, groups)

    def _accepts(self, entry: record.Entry) -> bool:
        """Return True if the database accepts the row and the sums of an entry. The attempt is rolled back."""
        fold = Fold(self.zone).add_all([entry])
        costs = self._costs(fold)
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                self._insert_history(cursor, fold, costs)
                cost_rows.CostRows().add(cursor, costs.sums)
                hardware_rows.write(cursor, fold)
                rollups.upsert(cursor, rollups.MINUTES, fold.cells)
                rollups.upsert_key_use(cursor, fold)
                transaction.set_rollback(True)
        except (DataError, IntegrityError, OverflowError, ValueError) as error:
            log.error("record %s is set aside, because the database refuses it: %s", getattr(entry, "id", "?"), error)
            return False
        return True

    def _not_stored(self, entries: list[record.Entry]) -> list[record.Entry]:
        """Return the entries without requests that are in the history, or that occur twice."""
        ids = [entry.id for entry in entries if isinstance(entry, RequestRecord)]
        stored: set[str] = set()
        with connection.cursor() as cursor:
            for start in range(0, len(ids), ID_CHUNK):
                chunk = ids[start : start + ID_CHUNK]
                cursor.execute(sql.select("id", HISTORY, where=f"id IN {sql.placeholders(len(chunk))}"), chunk)
                stored |= {str(request_id) for (request_id,) in cursor.fetchall()}
        fresh: list[record.Entry] = []
        for entry in entries:
            if not isinstance(entry, RequestRecord) or entry.id not in stored:
                fresh.append(entry)
                stored.add(getattr(entry, "id", ""))
        return fresh

    # After a step

    def _note(self, step: WriterStep) -> None:
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
            log.warning("the database is unavailable; records wait in the journal: %s", error)
        self._record_failure(error)
        connection.close()
        return min(MAX_BACKOFF_SECONDS, backoff * 2)

    def _record_failure(self, error: Exception) -> None:
        self.backlog.behind_since = self.backlog.behind_since or time.time()
        self.backlog.errors += 1
        self.backlog.error = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

    def _clean(self, step: WriterStep) -> None:
        """Delete segments that are in the database and in the trackers."""
        for writer, _, new in step.moves:
            self._delete_before(writer, self._spending.deletable(writer, min(new, self.follower.position(writer))))
        for writer in step.finished:
            self._discard_if_dead(writer)

    def _delete_before(self, writer: str, position: Position) -> None:
        directory = self.follower.reader.root / writer
        folded = [segment for segment in journal.segments(directory) if segment < position[0]]
        if folded:
            database.make_durable()
        for segment in folded:
            journal.segment_path(directory, segment).unlink(missing_ok=True)

    def _discard_if_dead(self, writer: str) -> None:
        """Delete a dead writer's directory, in one rename, and then its position.

        In the other order, a kill in between would leave a journal without a position, which is read from its start.
        """
        directory = self.follower.reader.root / writer
        lock = journal.lock(directory)
        if lock is None:
            return  # the writer is alive
        try:
            # The lock prevents further records, so this reads the journal to its end.
            self.follower.catch_up()
            position = self.follower.position(writer)
            with connection.cursor() as cursor:
                cursor.execute("SELECT segment, position FROM journal_positions WHERE writer = %s", (writer,))
                stored = cursor.fetchone()
            if stored is None or (int(stored[0]), int(stored[1])) != position:
                return  # its last records are not written yet: the next step repeats this
            if self._spending.deletable(writer, position) != position:
                return  # they are not included in what is published
            database.make_durable()
            hidden = directory.with_name(f".{writer}")
            os.rename(directory, hidden)
            _delete_position(writer)
            self.follower.remove_writer(writer)
            self._committed.pop(writer, None)
            shutil.rmtree(hidden, ignore_errors=True)
        finally:
            os.close(lock)


def _delete_position(writer: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM journal_positions WHERE writer = %s", (writer,))
