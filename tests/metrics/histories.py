"""Random histories of an installation: gateways, control, the database and the clock, each failing at random.

A `History` uses the real parts: journal files, follower, database writer. `plain` is the fold in memory of every
journaled record, each counted once. After any sequence of events, the figures must equal it.
"""

import contextlib
import errno
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import time_machine
from django.conf import settings
from django.db import OperationalError

from gateway.ipc import journal, record
from gateway.ipc.record import Entry, RequestRecord, Unrecorded
from metrics import tasks
from metrics.counting.fold import Fold
from metrics.counting.totals import DAMAGED
from metrics.memory import journal_follower as follower_module
from metrics.memory.figures import Figures
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader
from metrics.memory.trackers import Trackers
from metrics.models import JournalPosition, RequestHistory
from metrics.storage import rollups, seeding, writer_step
from metrics.storage.writer import DatabaseWriter
from metrics.storage.writer_step import PositionConflict, WriterStep
from tests.metrics import laws
from tests.metrics.records import NOW, load
from tests.metrics.world import DATABASE, UTC_ZONE, own_database, reported, restored, where

SEGMENT_BYTES = 800  # a head and two or three records
MOST_GATEWAYS = 4
MOST_STEPS = 400  # at the end of any history


class Killed(BaseException):
    """SIGKILL for these parts: no code below it handles the exception."""


# Where a step of the writer can be interrupted: the replaced function, and whether the failure comes after its effect.
CUTS: dict[str, tuple[object, str, bool]] = {
    "before all": (DatabaseWriter, "_positions", False),
    "before the transaction": (DatabaseWriter, "_write", False),
    "in the transaction": (rollups, "upsert", False),
    "at its last statement": (writer_step, "pack_samples", False),
    "behind the commit": (DatabaseWriter, "_write", True),
    "before cleaning": (DatabaseWriter, "_note", False),
    "between segments": (DatabaseWriter, "_delete_before", True),
    "before the directory goes": (os, "rename", False),
    "between directory and row": (os, "rename", True),
    "behind the row": (JournalFollower, "remove_writer", False),
}


@dataclass(slots=True, eq=False)
class Gateway:
    """A running gateway, and the number of bytes at the end of its journal that are not a record."""

    writer: journal.Writer
    damage: int = 0

    @property
    def segment(self) -> Path:
        assert self.writer.name is not None
        return journal.segment_path(self.writer.journal / self.writer.name, self.writer._segment)


@contextlib.contextmanager
def prepared(root: Path, seed: int) -> Iterator["History"]:
    """Small batches, no pauses, and journal names that depend only on the seed."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, time_machine.travel(NOW, tick=False) as clock:
        _small(patch, rng)
        yield History(root, seed, clock)


def _small(patch: pytest.MonkeyPatch, rng: random.Random) -> None:
    patch.setattr(follower_module, "BATCH", 5)
    patch.setattr(writer_step, "BATCH", 8)
    patch.setattr(journal, "RETRY_SECONDS", 0.0)
    patch.setattr(os, "getpid", lambda: 1)
    patch.setattr(secrets, "token_hex", lambda count: f"{rng.getrandbits(8 * count):0{2 * count}x}")


class History:
    """One history. `live` continues for a number of events; `end` stops all parts and checks the result."""

    def __init__(self, root: Path, seed: int, clock: Any) -> None:
        self.root = root
        self.clock = clock
        self.rng = random.Random(seed)
        self.gateways: list[Gateway] = []
        self.recorded: list[Entry] = []
        self.plain = Trackers(UTC_ZONE)
        self.pruned_before = 0.0
        self.trail: list[str] = [f"seed {seed}"]
        own_database()
        self.start_control()

    def live(self, events: int) -> None:
        for event in self.rng.choices(list(EVENTS), list(EVENTS.values()), k=events):
            self.trail.append(event.__name__)
            event(self)

    def end(self) -> None:
        """Kill all gateways, start control once more and write all records."""
        self.trail.append("end")
        while self.gateways:
            self.kill_gateway()
        self.read_figures()
        self.restart_control()
        self._write_all()
        self.check_end()

    # Reading figures

    def read_figures(self) -> None:
        self._check("shown", self.follower.figures())

    def restore(self) -> None:
        """Compare the figures that another control process would restore now."""
        other = JournalFollower(JournalReader(self.root), Trackers(UTC_ZONE))
        other.seed(seeding.load(time.time()), DATABASE)
        self._check("restored", other.figures())

    def _check(self, how: str, figures: Figures) -> None:
        wrong = _differences(_all_figures(figures), _all_figures(self.plain.figures()))
        assert not wrong, (how, wrong, self.trail)

    def check_end(self) -> None:
        """All records are in the database exactly once, and no journal is left."""
        left = [path.name for path in self.root.iterdir()]
        assert not left, ("left", left, self.trail)
        left = sorted(row.writer for row in JournalPosition.objects.all())
        assert not left, ("positions left", left, self.trail)
        self.read_figures()
        self.restore()
        self._check("in the database", restored(time.time()))
        at_once = Trackers(UTC_ZONE)
        at_once.add(Fold(UTC_ZONE).add_all(self.recorded))
        at_once.state.totals[DAMAGED] = self.plain.state.totals[DAMAGED]
        self._check("at once", at_once.figures())
        self._prune()
        assert sorted(str(row.id) for row in RequestHistory.objects.all()) == sorted(self._kept()), ("ids", self.trail)
        laws.check_sums()
        laws.check_daily_rows()
        laws.check_totals()
        laws.check_timeline(self.follower.figures())
        if len(self._kept()) == len(self._kept(since=0.0)):
            laws.check_all()

    def _kept(self, since: float | None = None) -> list[str]:
        since = self.pruned_before if since is None else since
        return [
            entry.id
            for entry in self.recorded
            if isinstance(entry, RequestRecord)
            and entry.outcome != record.REJECTED
            and entry.completed_us / 1e6 >= since
        ]

    # Gateways

    def start_gateway(self) -> None:
        if len(self.gateways) < MOST_GATEWAYS:
            self.gateways.append(Gateway(journal.Writer(self.root, DATABASE, segment_bytes=SEGMENT_BYTES)))
            assert self.gateways[-1].writer.open()

    def serve(self) -> None:
        for _ in range(self.rng.randrange(1, 5)):
            self._append(self._any_gateway(), self._request())

    def _any_gateway(self) -> Gateway:
        if not self.gateways:
            self.start_gateway()
        return self.rng.choice(self.gateways)

    def _request(self) -> RequestRecord:
        (made,) = load(self.rng.getrandbits(32), 1)
        ended = time.time() - self.rng.choice((0.0, self.rng.uniform(0, 90)))
        return msgspec.structs.replace(made, completed_us=round(ended * 1e6))

    def _append(self, gateway: Gateway, entry: Entry) -> bool:
        """Append like a gateway, and count the record if it is in the journal."""
        unrecorded, segment = gateway.writer.unrecorded, gateway.segment
        recorded = gateway.writer.append(entry)
        if recorded:
            self._count(*([Unrecorded(unrecorded)] if unrecorded else ()), entry)
        if recorded or gateway.segment != segment:
            self._settle(gateway)
        return recorded

    def _count(self, *entries: Entry) -> None:
        self.recorded += entries
        self.plain.add(Fold(UTC_ZONE).add_all(entries))

    def _settle(self, gateway: Gateway) -> None:
        """A valid record follows: the bytes before it are known to be damage."""
        fold = Fold(UTC_ZONE)
        fold.others[DAMAGED] = gateway.damage
        gateway.damage = 0
        self.plain.add(fold)

    def damage(self) -> None:
        """Another program writes into a journal."""
        gateway = self._any_gateway()
        garbage = self.rng.choice((self.rng.randbytes(40), journal.HEAD.pack(journal.MAGIC, 1, 60_000), b"\xf5", b"{}"))
        self._scrawl(gateway, garbage)
        gateway.damage += len(garbage)

    def _scrawl(self, gateway: Gateway, data: bytes) -> None:
        with gateway.segment.open("ab") as segment:
            segment.write(data)

    def fill_disk(self) -> None:
        """A full disk: writes are short or fail; one of the next two writes succeeds again."""
        gateway = self._any_gateway()
        full = Disk(self.rng)
        for _ in range(self.rng.randrange(1, 4)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "write", full.write)
                self._append(gateway, self._request())

    def spoil_disk(self) -> None:
        """Half a record is written and cannot be removed."""
        gateway = self._any_gateway()
        if gateway.writer._size >= SEGMENT_BYTES:
            return
        entry, unrecorded, size = self._request(), gateway.writer.unrecorded, gateway.segment.stat().st_size
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", Disk(self.rng, short=True).write)
            patch.setattr(os, "ftruncate", _refuse)
            assert not self._append(gateway, entry)
        written = gateway.segment.stat().st_size - size
        lost = len(journal.frame(Unrecorded(unrecorded))) if unrecorded else 0
        if lost and written >= lost:
            self._settle(gateway)
            self._count(Unrecorded(unrecorded))
            written -= lost
        gateway.damage += written

    def kill_gateway(self) -> None:
        """SIGKILL at any point of its work."""
        if not self.gateways:
            return
        gateway = self.gateways.pop(self.rng.randrange(len(self.gateways)))
        self.rng.choice(
            (self._idle, self._half_a_record, self._a_record, self._half_a_head, self._garbage, self._before_a_head)
        )(gateway)
        gateway.writer.close()

    def _idle(self, gateway: Gateway) -> None: ...

    def _half_a_record(self, gateway: Gateway) -> None:
        data = journal.frame(self._request())
        self._scrawl(gateway, data[: self.rng.randrange(1, len(data))])

    def _a_record(self, gateway: Gateway) -> None:
        """The record is written, but the client has not received the last bytes."""
        self._append(gateway, self._request())

    def _garbage(self, gateway: Gateway) -> None:
        self._scrawl(gateway, bytes(50))

    def _half_a_head(self, gateway: Gateway, of: int = 40) -> None:
        """Killed while it starts its next segment."""
        following = journal.segment_path(gateway.segment.parent, gateway.writer._segment + 1)
        following.write_bytes(journal.frame(record.SegmentHead(DATABASE, gateway.writer.name or ""))[:of])
        self._settle(gateway)

    def _before_a_head(self, gateway: Gateway) -> None:
        self._half_a_head(gateway, of=0)

    def kill_gateway_at_start(self) -> None:
        """Its directory is still hidden."""
        (self.root / f".{secrets.token_hex(8)}").mkdir(parents=True)

    # Control

    def start_control(self) -> None:
        """Start as `Control.run` does."""
        self.follower = JournalFollower(JournalReader(self.root), Trackers(UTC_ZONE))
        self._seed()
        self.writer = self._writer()
        self.writer.sweep()
        self.read_figures()

    restart_control = start_control

    def _seed(self) -> None:
        self.follower.seed(seeding.load(time.time()), DATABASE)

    def _writer(self) -> DatabaseWriter:
        return DatabaseWriter(self.follower, UTC_ZONE, where, reseed=self._seed)

    def step(self) -> None:
        self.writer.step()

    def _write_all(self) -> None:
        for _ in range(MOST_STEPS):
            if not self.writer.step().moves:
                return
        raise AssertionError("there is no end of it", self.trail)

    def step_cut_off(self) -> None:
        """Kill control in a step and start it again; or make the database fail in the step and return."""
        self._cut_off(self.rng.choice(list(CUTS)))

    def cut_off_while_taking_away(self) -> None:
        """The same while the journal of a dead gateway is removed."""
        self.kill_gateway()
        cut = self.rng.choice(list(CUTS)[-4:])
        while (step := self._cut_off(cut)) and step.moves:
            pass

    def _cut_off(self, cut: str) -> WriterStep | None:
        """A step that is interrupted there; None, if it did not get that far."""
        owner, name, after = CUTS[cut]
        error = self.rng.choice((Killed, OperationalError))
        try:
            with failing(owner, name, error, after=after):
                return self.writer.step()
        except (Killed, OperationalError):
            self.trail[-1] += f" {cut} by {error.__name__}"
        if error is Killed:
            self.restart_control()
        return None

    def step_while_they_go_on(self) -> None:
        """Gateways record and die between reading and cleaning in a step."""

        def go_on() -> None:
            for event in self.rng.choices((History.serve, History.kill_gateway), (3, 1), k=3):
                event(self)

        with between(DatabaseWriter, "_note", go_on):
            self.writer.step()

    def two_writers(self) -> None:
        """A writer hangs between reading and writing, and another writer replaces it."""
        late, step = self.writer, self.writer._read(self.writer._positions())
        other = self._writer()
        for _ in range(self.rng.randrange(3)):
            other.step()
        if step.moves:
            with contextlib.suppress(PositionConflict):
                late._commit(step)
        self.writer = other

    def copy_segment(self) -> None:
        """Append a copy of a segment whose records are in the database, and let the others continue."""
        gateway = self._any_gateway()
        self._write_all()
        batch = journal.read(gateway.segment.parent, (gateway.writer._segment, 0), 100)
        ids = [entry.id for entry in batch.entries if isinstance(entry, RequestRecord)]
        stored = RequestHistory.objects.filter(id__in=ids).count()
        if gateway.damage or batch.damaged or not 0 < stored == len(batch.entries) - 1:
            return  # records without a row are identified only by their position
        self.gateways.remove(gateway)
        shutil.copy(gateway.segment, journal.segment_path(gateway.segment.parent, gateway.writer._segment + 1))
        gateway.writer.close()
        self.serve()
        self._write_all()

    def read_again(self) -> None:
        """Read all figures again, as after a repair."""
        self.writer.read_again.set()

    def prune(self) -> None:
        self._prune()

    def _prune(self) -> None:
        self.pruned_before = time.time() - settings.ROUTERDASH.history_retention_days * 86_400
        tasks.prune_history()

    # The clock

    def wait_a_little(self) -> None:
        self.clock.shift(self.rng.uniform(0, 100))

    def wait_for_long(self) -> None:
        self.clock.shift(self.rng.choice((3600, 86_400, 3 * 86_400)) * self.rng.random())


def _all_figures(figures: Figures) -> dict[str, Any]:
    return reported(figures) | {"average_today_ms": dict(figures.average_today_ms)}


def _differences(actual: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Return different figures as (actual, right); for figures with names, only the different ones."""
    wrong: dict[str, Any] = {}
    for name in actual:
        if isinstance(actual[name], dict):
            wrong |= {f"{name} {key}": value for key, value in _differences_of(actual[name], right[name]).items()}
        elif actual[name] != right[name]:
            wrong[name] = (actual[name], right[name])
    return wrong


def _differences_of(actual: dict[Any, Any], right: dict[Any, Any]) -> dict[Any, Any]:
    return {key: (actual.get(key), right.get(key)) for key in actual | right if actual.get(key) != right.get(key)}


class Disk:
    """Replaces `os.write`: accepts some writes, then one only in part, or fails."""

    def __init__(self, rng: random.Random, *, short: bool = False) -> None:
        self._write = os.write
        self._rng = rng
        self._short = short or rng.random() < 0.5
        self._room = 0 if short else rng.randrange(3)

    def write(self, file: int, data: bytes) -> int:
        self._room -= 1
        if self._room >= 0:
            return self._write(file, data)
        if not self._short:
            raise OSError(errno.ENOSPC, "no room")
        return self._write(file, data[: self._rng.randrange(1, len(data))])


def _refuse(*_: object) -> None:
    raise OSError(errno.EIO, "refused")


@contextlib.contextmanager
def failing(owner: object, name: str, error: type[BaseException], *, after: bool) -> Iterator[None]:
    """Make a function fail instead of its work, or after it."""
    real = getattr(owner, name)

    def fail(*args: Any, **options: Any) -> None:
        if after:
            real(*args, **options)
        raise error("for this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


@contextlib.contextmanager
def between(owner: object, name: str, then: Callable[[], None]) -> Iterator[None]:
    """Call something before a function runs."""
    real = getattr(owner, name)

    def later(*args: Any, **options: Any) -> Any:
        then()
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, later)
        yield


Event = Callable[[History], None]
EVENTS: dict[Event, int] = {
    History.serve: 12,
    History.start_gateway: 3,
    History.kill_gateway: 3,
    History.kill_gateway_at_start: 1,
    History.damage: 2,
    History.fill_disk: 2,
    History.spoil_disk: 2,
    History.step: 12,
    History.step_cut_off: 8,
    History.cut_off_while_taking_away: 2,
    History.step_while_they_go_on: 3,
    History.two_writers: 3,
    History.restart_control: 2,
    History.copy_segment: 1,
    History.read_again: 1,
    History.prune: 1,
    History.wait_a_little: 3,
    History.wait_for_long: 1,
    History.read_figures: 5,
    History.restore: 2,
}
