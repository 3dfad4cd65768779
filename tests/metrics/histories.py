"""Random lives of an installation: gateways, control, the database and the clock, each failing as it likes.

A `History` has the real parts in its hands: journal files, folder, database writer. Beside them goes `plain`, the fold
of every record that stands in a journal, each once, in memory. Whatever happened, figures are those.
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

from gateway import journal, record
from gateway.record import Entry, RequestRecord, Unrecorded
from metrics import folder as folder_module
from metrics import rollups, seeding, tasks
from metrics import writer as writer_module
from metrics.fold import DAMAGED, Fold
from metrics.folder import Folder
from metrics.journals import Journals
from metrics.models import JournalPosition, RequestHistory
from metrics.trackers import Figures, Trackers
from metrics.writer import DatabaseWriter, Moved, Step
from tests.metrics import laws
from tests.metrics.records import NOW, load
from tests.metrics.world import DATABASE, UTC_ZONE, own_database, restored, told, where

SEGMENT_BYTES = 800  # a head and two or three records
MOST_GATEWAYS = 4
MOST_STEPS = 400  # to the end of any history


class Killed(BaseException):
    """SIGKILL, as far as the parts can tell: nothing below it handles it."""


# Where a step of the writer can be cut off: what is replaced, and does the failure come after it was done?
CUTS: dict[str, tuple[object, str, bool]] = {
    "before all": (DatabaseWriter, "_positions", False),
    "before the transaction": (DatabaseWriter, "_write", False),
    "in the transaction": (rollups, "upsert", False),
    "at its last statement": (writer_module, "pack_samples", False),
    "behind the commit": (DatabaseWriter, "_write", True),
    "before cleaning": (DatabaseWriter, "_note", False),
    "between segments": (DatabaseWriter, "_delete_before", True),
    "before the directory goes": (os, "rename", False),
    "between directory and row": (os, "rename", True),
    "behind the row": (Folder, "forget", False),
}


@dataclass(slots=True, eq=False)
class Gateway:
    """A living one, and the bytes at the end of its journal that are no record."""

    writer: journal.Writer
    damage: int = 0

    @property
    def segment(self) -> Path:
        assert self.writer.name is not None
        return journal.segment_path(self.writer.journal / self.writer.name, self.writer._segment)


@contextlib.contextmanager
def prepared(root: Path, seed: int) -> Iterator["History"]:
    """Small batches, no pauses, and names of journals that the seed alone decides."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, time_machine.travel(NOW, tick=False) as clock:
        _small(patch, rng)
        yield History(root, seed, clock)


def _small(patch: pytest.MonkeyPatch, rng: random.Random) -> None:
    patch.setattr(folder_module, "BATCH", 5)
    patch.setattr(writer_module, "BATCH", 8)
    patch.setattr(journal, "RETRY_SECONDS", 0.0)
    patch.setattr(os, "getpid", lambda: 1)
    patch.setattr(secrets, "token_hex", lambda count: f"{rng.getrandbits(8 * count):0{2 * count}x}")


class History:
    """One life. `live` goes on by so many events; `end` stops everything and checks what is left."""

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
        """All gateways die, control starts once more and writes what there is."""
        self.trail.append("end")
        while self.gateways:
            self.kill_gateway()
        self.tell()
        self.restart_control()
        self._write_all()
        self.check_end()

    # What is told

    def tell(self) -> None:
        self._check("told", self.folder.figures())

    def restore(self) -> None:
        """What another control would tell if it started now."""
        other = Folder(Journals(self.root), Trackers(UTC_ZONE))
        other.seed(seeding.load(time.time()), DATABASE)
        self._check("restored", other.figures())

    def _check(self, how: str, figures: Figures) -> None:
        wrong = _differences(_told(figures), _told(self.plain.figures()))
        assert not wrong, (how, wrong, self.trail)

    def check_end(self) -> None:
        """Everything is in the database, once, and nothing else is left."""
        left = [path.name for path in self.root.iterdir()]
        assert not left, ("left", left, self.trail)
        left = sorted(row.writer for row in JournalPosition.objects.all())
        assert not left, ("positions left", left, self.trail)
        self.tell()
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
        laws.check_timeline(self.folder.figures())
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
        """As a gateway does, and count what stands in the journal by it."""
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
        """Something good stands behind it: what is no record is known to be damage."""
        fold = Fold(UTC_ZONE)
        fold.others[DAMAGED] = gateway.damage
        gateway.damage = 0
        self.plain.add(fold)

    def damage(self) -> None:
        """Somebody else writes into a journal."""
        gateway = self._any_gateway()
        garbage = self.rng.choice((self.rng.randbytes(40), journal.HEAD.pack(journal.MAGIC, 1, 60_000), b"\xf5", b"{}"))
        self._scrawl(gateway, garbage)
        gateway.damage += len(garbage)

    def _scrawl(self, gateway: Gateway, data: bytes) -> None:
        with gateway.segment.open("ab") as segment:
            segment.write(data)

    def fill_disk(self) -> None:
        """A disk without room: writes are short or fail; a later one, or the next but one, is taken again."""
        gateway = self._any_gateway()
        full = Disk(self.rng)
        for _ in range(self.rng.randrange(1, 4)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "write", full.write)
                self._append(gateway, self._request())

    def spoil_disk(self) -> None:
        """Half a record is written and cannot be taken back."""
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
        """SIGKILL, at any moment of its work."""
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
        """It is on record; its client never had its last bytes."""
        self._append(gateway, self._request())

    def _garbage(self, gateway: Gateway) -> None:
        self._scrawl(gateway, bytes(50))

    def _half_a_head(self, gateway: Gateway, of: int = 40) -> None:
        """While it begins its next segment."""
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
        """As `Control.run` begins."""
        self.folder = Folder(Journals(self.root), Trackers(UTC_ZONE))
        self._seed()
        self.writer = self._writer()
        self.writer.sweep()
        self.tell()

    restart_control = start_control

    def _seed(self) -> None:
        self.folder.seed(seeding.load(time.time()), DATABASE)

    def _writer(self) -> DatabaseWriter:
        return DatabaseWriter(self.folder, UTC_ZONE, where, reseed=self._seed)

    def step(self) -> None:
        self.writer.step()

    def _write_all(self) -> None:
        for _ in range(MOST_STEPS):
            if not self.writer.step().moves:
                return
        raise AssertionError("there is no end of it", self.trail)

    def step_cut_off(self) -> None:
        """Control is killed in a step, and started again; or the database goes away in it, and comes back."""
        self._cut_off(self.rng.choice(list(CUTS)))

    def cut_off_while_taking_away(self) -> None:
        """The same while a dead gateway's journal goes."""
        self.kill_gateway()
        cut = self.rng.choice(list(CUTS)[-4:])
        while (step := self._cut_off(cut)) and step.moves:
            pass

    def _cut_off(self, cut: str) -> Step | None:
        """A step that ends there; None, if it came that far."""
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
        """Gateways record, and die, between a step's reading and its cleaning."""

        def go_on() -> None:
            for event in self.rng.choices((History.serve, History.kill_gateway), (3, 1), k=3):
                event(self)

        with between(DatabaseWriter, "_note", go_on):
            self.writer.step()

    def two_writers(self) -> None:
        """One that hung between reading and writing, and one that took its place meanwhile."""
        late, step = self.writer, self.writer._read(self.writer._positions())
        other = self._writer()
        for _ in range(self.rng.randrange(3)):
            other.step()
        if step.moves:
            with contextlib.suppress(Moved):
                late._commit(step)
        self.writer = other

    def copy_segment(self) -> None:
        """Somebody copies a segment whose records are in the database behind itself, and others go on."""
        gateway = self._any_gateway()
        self._write_all()
        batch = journal.read(gateway.segment.parent, (gateway.writer._segment, 0), 100)
        ids = [entry.id for entry in batch.entries if isinstance(entry, RequestRecord)]
        stored = RequestHistory.objects.filter(id__in=ids).count()
        if gateway.damage or batch.damaged or not 0 < stored == len(batch.entries) - 1:
            return  # what has no row is told apart by nothing but its position
        self.gateways.remove(gateway)
        shutil.copy(gateway.segment, journal.segment_path(gateway.segment.parent, gateway.writer._segment + 1))
        gateway.writer.close()
        self.serve()
        self._write_all()

    def read_again(self) -> None:
        """As after a repair."""
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


def _told(figures: Figures) -> dict[str, Any]:
    return told(figures) | {"average_today_ms": dict(figures.average_today_ms)}


def _differences(found: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Figures that are not the same, as (found, right); of those with names of their own, these alone."""
    wrong: dict[str, Any] = {}
    for name in found:
        if isinstance(found[name], dict):
            wrong |= {f"{name} {key}": value for key, value in _differences_of(found[name], right[name]).items()}
        elif found[name] != right[name]:
            wrong[name] = (found[name], right[name])
    return wrong


def _differences_of(found: dict[Any, Any], right: dict[Any, Any]) -> dict[Any, Any]:
    return {key: (found.get(key), right.get(key)) for key in found | right if found.get(key) != right.get(key)}


class Disk:
    """In place of `os.write`: takes some writes, then one only in part, or not at all."""

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
    """A function fails: in place of what it does, or behind it."""
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
    """Something else happens before a function does what it does."""
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
    History.tell: 5,
    History.restore: 2,
}
