"""Starts writer and readers, kills them, damages the file, and has all of them reach one version at the end."""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.store import FILE
from tests.torture.registry.processes import NEVER, READ, WRITE, result_path, run
from tests.torture.run import Result

FORK = multiprocessing.get_context("fork")  # a start takes milliseconds; this process has no thread and no SQLite
LAST_STEPS = 100  # versions at the end, without faults
END_SECONDS = 60.0  # in which these must be reached


class StoreResult(Result):
    """Result without requests."""

    def __str__(self) -> str:
        return f"{self.name}: {self.kills} kills in {self.seconds:.0f} s, {len(self.wrong)} differences"


@dataclass(slots=True)
class Child:
    role: str
    number: int
    process: ForkProcess


@dataclass(slots=True)
class Torture:
    root: Path
    seed: int
    rule: str
    result: Result
    rng: random.Random = field(default_factory=random.Random)
    writer: Child | None = None
    readers: list[Child] = field(default_factory=list)

    def spawn(self, role: str, number: int = 0, last: int = NEVER) -> Child:
        result_path(self.root, role, number).unlink(missing_ok=True)
        process = FORK.Process(target=run, args=(role, self.root, self.seed, last, number, self.rule), daemon=True)
        process.start()
        return Child(role, number, process)

    def start(self, readers: int, last: int = NEVER) -> None:
        self.writer = self.spawn(WRITE, last=last)
        self.readers = [self.spawn(READ, number, last) for number in range(readers)]

    def turn(self) -> None:
        """Replace who has died, and cause one fault."""
        time.sleep(self.rng.uniform(0.05, 0.8))
        assert self.writer is not None
        if not self.writer.process.is_alive():  # it has killed itself, inside a transaction or beside one
            self._count("writer killed at a statement")
            self._replace_writer()
        for reader in list(self.readers):
            if not reader.process.is_alive():
                self._replace_reader(reader)
        roll = self.rng.random()
        if roll < 0.25:
            self._count("writer killed")
            self.writer.process.kill()
            self._replace_writer()
        elif roll < 0.45:
            self._count("reader killed")
            reader = self.rng.choice(self.readers)
            reader.process.kill()
            self._replace_reader(reader)
        elif roll < 0.57:
            self._count("file damaged")
            self._damage()
        elif roll < 0.63:
            self._count("all killed")
            count = len(self.readers)
            self.stop()
            self.start(count)

    def _count(self, fault: str) -> None:
        self.result.done[fault] = self.result.done.get(fault, 0) + 1
        self.result.kills += fault != "file damaged"

    def _replace_writer(self) -> None:
        assert self.writer is not None
        self.finish(self.writer)
        self.writer = self.spawn(WRITE)

    def _replace_reader(self, reader: Child) -> None:
        self.finish(reader)
        self.readers[self.readers.index(reader)] = self.spawn(READ, reader.number)

    def _damage(self) -> None:
        """Cut the file in use, or overwrite all of it or its beginning."""
        try:
            path = folders.folder(self.root / "registry", folders.current(self.root / "registry")) / FILE
            with path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                roll = self.rng.random()
                if roll < 0.3:
                    file.truncate(self.rng.choice((0, size // 2)))
                elif roll < 0.6:
                    file.write(self.rng.randbytes(size))
                else:
                    file.write(bytes(8 * 4096))
        except FileNotFoundError:  # not built yet, or just replaced
            return

    def stop(self) -> None:
        """Kill everybody."""
        assert self.writer is not None
        for child in (self.writer, *self.readers):
            child.process.kill()
        for child in (self.writer, *self.readers):
            self.finish(child)

    def finish(self, child: Child) -> None:
        """Wait for the end of a process, and note what it has found."""
        process = child.process
        process.join(END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            self.result.wrong.append(f"{child.role} {child.number} did not reach the last version")
        path = result_path(self.root, child.role, child.number)
        text = f"{child.role} {child.number}: {path.read_text() if path.exists() else process.exitcode}"
        if process.exitcode not in (0, -signal.SIGKILL):
            self.result.wrong.append(text)
        elif path.exists():
            self.result.measurements.append(text)


def torture_registry(*, seconds: float, readers: int, seed: int, rule: str = "") -> Result:
    """Torture a store. `rule`: the name of a broken rule, which must be noticed (broken.py)."""
    result = StoreResult(f"registry store, {readers} readers, seed {seed}{f', {rule}' if rule else ''}")
    with tempfile.TemporaryDirectory(prefix="routerdash-registry-") as folder:
        page = LivePage(Path(folder) / "live-page")
        torture = Torture(Path(folder), seed, rule, result, random.Random(seed))
        torture.start(readers)
        try:
            began = time.monotonic()
            while time.monotonic() < began + seconds and not result.wrong:
                torture.turn()
        finally:
            torture.stop()
        result.seconds = time.monotonic() - began
        if not result.wrong:  # without faults, everybody must come to the same version
            torture.start(readers, last=page.version + LAST_STEPS)
            assert torture.writer is not None
            for child in (torture.writer, *torture.readers):
                torture.finish(child)
        result.measurements.append(f"{page.version} versions, generation {page.registry_generation}")
    return result


def noticed(result: Result) -> Result:
    """Turn the result of a broken rule around: a difference is right, and none is wrong."""
    result.measurements += result.wrong
    result.wrong = [] if result.wrong else ["nothing was noticed"]
    return result
