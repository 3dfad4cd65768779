"""Random histories detect broken rules: each mutant breaks one rule and must be detected for its own reason."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction

from gateway.ipc import journal, record
from gateway.ipc.journal import Batch, Position
from gateway.ipc.record import Entry
from metrics import sql
from metrics.counting.fold import Fold
from metrics.counting.speeds import Sample
from metrics.memory import state as state_module
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader, Part
from metrics.memory.state import FiguresState
from metrics.storage import bulk, seeding, writer_step
from metrics.storage.bulk import Columns, Group
from metrics.storage.writer import DatabaseWriter
from metrics.storage.writer_step import WriterStep
from tests.metrics.histories import History, prepared
from tests.metrics.records import request
from tests.metrics.world import UTC_ZONE, World, rows, same, where

pytestmark = pytest.mark.django_db

SEEDS = 12
EVENTS = 150
FIGURES = "^.'(shown|restored|in the database)'"  # the checks of histories that compare figures with the plain fold

Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, tuple[Mutant, str]] = {}  # mutants by name, with the expected message


def mutant(reason: str) -> Callable[[Mutant], Mutant]:
    def register(made: Mutant) -> Mutant:
        MUTANTS[made.__name__] = made, reason
        return made

    return register


# Positions


@mutant(FIGURES)
def positions_are_set_without_comparing(patch: pytest.MonkeyPatch) -> None:
    compared = "journal_positions.segment = %s AND journal_positions.position = %s"
    patch.setattr(writer_step, "MOVE", writer_step.MOVE.replace(compared, "%s + %s IS NOT NULL"))


@mutant("another process has written the records")
def positions_are_kept_in_memory(patch: pytest.MonkeyPatch) -> None:
    positions = DatabaseWriter._positions
    patch.setattr(DatabaseWriter, "_positions", lambda self: self._stored if self._steps else positions(self))


@mutant(FIGURES)
def positions_are_committed_before_the_sums(patch: pytest.MonkeyPatch) -> None:
    write = DatabaseWriter._write

    def in_two(self: DatabaseWriter, step: WriterStep, fold: Fold) -> None:
        _move(step)
        write(self, replace(step, moves=[]), fold)

    patch.setattr(DatabaseWriter, "_write", in_two)


@mutant(FIGURES)
def positions_are_committed_after_the_sums(patch: pytest.MonkeyPatch) -> None:
    write = DatabaseWriter._write

    def in_two(self: DatabaseWriter, step: WriterStep, fold: Fold) -> None:
        write(self, replace(step, moves=[]), fold)
        _move(step)

    patch.setattr(DatabaseWriter, "_write", in_two)


def _move(step: WriterStep) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for writer, old, new in sorted(step.moves):
            if rows("SELECT segment, position FROM journal_positions WHERE writer = %s", writer) == [new]:
                continue  # at the first attempt
            cursor.execute(writer_step.MOVE, (writer, *new, *old))
            if cursor.rowcount != 1:
                raise writer_step.PositionConflict(writer)


@mutant(FIGURES)
def tails_are_read_from_their_segments_start(patch: pytest.MonkeyPatch) -> None:
    seed = JournalFollower.seed

    def from_start(self: JournalFollower, state: FiguresState, database_id: str) -> None:
        state.positions = {writer: (segment, 0) for writer, (segment, _) in state.positions.items()}
        seed(self, state, database_id)

    patch.setattr(JournalFollower, "seed", from_start)


# Deletion: what and when


@mutant(FIGURES)
def segments_are_deleted_before_the_trackers_have_read_them(patch: pytest.MonkeyPatch) -> None:
    def clean(self: DatabaseWriter, step: WriterStep) -> None:
        for writer, _, new in step.moves:
            self._delete_before(writer, new)
        for writer in step.finished:
            self._discard_if_dead(writer)

    patch.setattr(DatabaseWriter, "_clean", clean)


@mutant(FIGURES)
def segments_are_deleted_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    commit = DatabaseWriter._commit

    def clean_first(self: DatabaseWriter, step: WriterStep) -> None:
        for writer, _, new in step.moves:
            self._delete_before(writer, min(new, self.follower.position(writer)))
        commit(self, step)

    patch.setattr(DatabaseWriter, "_commit", clean_first)


@mutant(FIGURES)
def the_segment_of_a_position_is_deleted_too(patch: pytest.MonkeyPatch) -> None:
    delete = DatabaseWriter._delete_before
    patch.setattr(
        DatabaseWriter, "_delete_before", lambda self, writer, position: delete(self, writer, (position[0] + 1, 0))
    )


@mutant("No such file")
def a_living_writers_directory_is_deleted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "lock", _open)


def _open(directory: Path) -> int | None:
    return os.open(directory, os.O_RDONLY) if directory.exists() else None


@mutant(FIGURES)
def the_row_is_deleted_before_the_directory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DatabaseWriter, "_discard_if_dead", _row_first)


def _row_first(self: DatabaseWriter, writer: str) -> None:
    directory = self.follower.reader.root / writer
    held = journal.lock(directory)
    if held is None:
        return
    try:
        self.follower.catch_up()
        if self._positions().get(writer) == self.follower.position(writer):
            rows("DELETE FROM journal_positions WHERE writer = %s", writer)
            hidden = directory.with_name(f".{writer}")
            os.rename(directory, hidden)
            self.follower.remove_writer(writer)
            self._committed.pop(writer, None)
            shutil.rmtree(hidden)
    finally:
        os.close(held)


@mutant(FIGURES)
def a_dead_writer_is_not_read_a_last_time(patch: pytest.MonkeyPatch) -> None:
    """The writer may have recorded something between the last read and its death."""
    discard = DatabaseWriter._discard_if_dead

    def at_once(self: DatabaseWriter, writer: str) -> None:
        with pytest.MonkeyPatch.context() as without:
            stored = self._positions().get(writer, journal.START)
            without.setattr(JournalFollower, "catch_up", lambda self: 0)
            without.setattr(JournalFollower, "position", lambda self, name: stored)
            discard(self, writer)

    patch.setattr(DatabaseWriter, "_discard_if_dead", at_once)


# Frames


@mutant(FIGURES)
def an_incomplete_record_is_waited_for_in_any_segment(patch: pytest.MonkeyPatch) -> None:
    read = journal._read_segment

    def waits(directory: Path, batch: journal.Batch, limit: int, enough: int, *, sealed: bool) -> bool:
        more = read(directory, batch, limit, enough, sealed=False)
        return more and batch.position[1] == journal.segment_path(directory, batch.position[0]).stat().st_size

    patch.setattr(journal, "_read_segment", waits)


@mutant(FIGURES)
def reading_stops_at_the_first_damage(patch: pytest.MonkeyPatch) -> None:
    frames = journal.frames

    def up_to_damage(data: bytes) -> Iterator[tuple[int, int, bytes]]:
        position = 0
        for start, end, payload in frames(data):
            if start != position:
                return
            yield start, (position := end), payload

    patch.setattr(journal, "frames", up_to_damage)


@mutant("damaged_bytes")
def a_short_write_is_not_cut_back(patch: pytest.MonkeyPatch) -> None:
    write = journal.Writer._write

    def keep(self: journal.Writer, data: bytes) -> int:
        with pytest.MonkeyPatch.context() as without:
            without.setattr(os, "ftruncate", lambda file, size: None)
            return write(self, data)

    patch.setattr(journal.Writer, "_write", keep)


@mutant(FIGURES)
def a_segment_grows_after_the_next_was_started(patch: pytest.MonkeyPatch) -> None:
    append, rotate = journal.Writer.append, journal.Writer._rotate
    before: dict[journal.Writer, int] = {}

    def remember(self: journal.Writer, directory: Path) -> None:
        old = os.dup(self._file)
        rotate(self, directory)
        before[self] = old

    def late(self: journal.Writer, entry: Entry) -> bool:
        if self not in before:
            return append(self, entry)
        old = before.pop(self)
        try:
            os.write(old, journal.frame(entry))
        except OSError:  # the disk is full
            return append(self, entry)
        finally:
            os.close(old)
        return True

    patch.setattr(journal.Writer, "_rotate", remember)
    patch.setattr(journal.Writer, "append", late)


# State that follower and writer share


@mutant(FIGURES)
def a_kept_part_is_used_wherever_it_starts(patch: pytest.MonkeyPatch) -> None:
    take = JournalReader._take

    def any_of_it(self: JournalReader, key: tuple[str, Position, ZoneInfo]) -> Part | None:
        return take(self, next((cached for cached in self._cache if cached[0] == key[0]), key))

    patch.setattr(JournalReader, "_take", any_of_it)


@mutant(FIGURES)
def cut_parts_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batch, "before", lambda self, position: replace(self, position=position))


# Folds. That a sample merged twice counts once needs no mutant: no history that obeys the positions merges one twice.
# tests/metrics/counting/test_fold.py tests it.


@mutant("speeds")
def samples_are_not_sorted(patch: pytest.MonkeyPatch) -> None:
    def as_they_come(kept: list[Sample], new: list[Sample]) -> list[Sample]:
        return [*kept, *new][-128:]

    for module in (writer_step, state_module):
        patch.setattr(module, "merge_samples", as_they_come)


@mutant(FIGURES)
def a_known_id_is_skipped_only_in_the_history(patch: pytest.MonkeyPatch) -> None:
    def insert(cursor: Any, table: str, columns: Columns, groups: Sequence[Group]) -> None:
        names = (*columns.common, *columns.own, *columns.copies)
        copied = [columns.own.index(name) for name in columns.copies.values()]
        complete_rows = [(*common, *row, *[row[index] for index in copied]) for common, own in groups for row in own]
        statement = sql.insert(table, names) + " ON CONFLICT (id) DO NOTHING"
        writer_step.write_many(cursor, statement, complete_rows)

    patch.setattr(bulk, "insert", insert)


@mutant(FIGURES)
def figures_are_not_reloaded_when_ids_were_known(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(History, "_writer", lambda self: DatabaseWriter(self.follower, UTC_ZONE, where))


@pytest.mark.one_database  # the histories are tested here
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_detected(
    tmp_path: Path, endpoints: object, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    apply, reason = MUTANTS[name]
    apply(monkeypatch)
    with pytest.raises(Exception, match=reason):
        _live(tmp_path)


def _live(root: Path) -> None:
    """Run some histories, each in its own database."""
    for seed in range(SEEDS):
        with transaction.atomic(), prepared(root / str(seed), seed) as history:
            try:
                history.live(EVENTS)
                history.end()
            finally:
                transaction.set_rollback(True)


# Histories have one thread. The following cases need two.


def write_while_figures_are_read(world: World, patch: pytest.MonkeyPatch) -> None:
    """Write all records between positions and sums. Fails if they are counted twice, or not at all."""
    world.gateway(request(), request(record.FAILED))
    right = world.figures()
    read = seeding._counters

    def _counters(state: FiguresState, now: float) -> None:
        other = threading.Thread(target=_write, args=(world,))
        other.start()
        other.join()
        read(state, now)

    patch.setattr(seeding, "_counters", _counters)
    world.reseed()
    assert same(world.figures(), right), "shown"


def _write(world: World) -> None:
    try:
        world.write()
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_positions_and_sums_are_read_in_one_snapshot(
    world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_while_figures_are_read(world, monkeypatch)
    assert rows("SELECT count(*) FROM request_history") == [(2,)]


@pytest.mark.django_db(transaction=True)
def test_sums_of_a_later_snapshot_are_detected(
    world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = seeding._run_step

    def later(*args: Any) -> None:
        rows("COMMIT")
        rows("BEGIN")
        step(*args)

    monkeypatch.setattr(seeding, "_run_step", later)
    with pytest.raises(AssertionError, match="shown"):
        write_while_figures_are_read(world, monkeypatch)
