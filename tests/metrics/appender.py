"""Gateways at full speed in their own processes, reduced to their journals; `Board` shows their progress."""

import mmap
import random
import subprocess
import sys
import time
from pathlib import Path

from gateway.ipc import journal
from gateway.ipc.record import uuid7
from tests.metrics.records import request
from tests.router import ROOT

SLOTS = 8
WRITERS = 3
SEGMENT_BYTES = 800
MOST_WAITING = 300  # backlog of the database at which gateways wait, so that all of them race until the end


class Board:
    """Numbers of records in a small shared file: started and acknowledged ones by slot, and committed ones."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(8 * (2 * SLOTS + 1))
            # Aligned words, each copied atomically: no reader sees a partial value.
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def begin(self, slot: int) -> None:
        self._words[slot] += 1

    def acknowledge(self, slot: int) -> None:
        self._words[SLOTS + slot] += 1

    def commit(self, count: int) -> None:
        self._words[2 * SLOTS] += count

    def acknowledged_by(self, slot: int) -> int:
        return self._words[SLOTS + slot]

    @property
    def started(self) -> int:
        return sum(self._words[:SLOTS])

    @property
    def acknowledged(self) -> int:
        return sum(self._words[SLOTS : 2 * SLOTS])

    @property
    def waiting(self) -> int:
        return self.acknowledged - self._words[2 * SLOTS]


def start(root: Path, database_id: str, board: Path, slot: int, count: int) -> subprocess.Popen[bytes]:
    words = (root, database_id, board, slot, count)
    return subprocess.Popen([sys.executable, "-m", "tests.metrics.appender", *map(str, words)], cwd=ROOT)


def main(root: Path, database_id: str, path: Path, slot: int, count: int) -> None:
    board, rng = Board(path), random.Random(slot)
    writers = [journal.Writer(root, database_id, segment_bytes=SEGMENT_BYTES) for _ in range(WRITERS)]
    for _ in range(count):
        while board.waiting > MOST_WAITING:
            time.sleep(0.001)
        writer = rng.choice(writers)
        if rng.random() < 0.02:
            writer.close()  # for its readers the writer is dead; the next record starts another
        board.begin(slot)
        if not writer.append(request(id=uuid7(), completed_us=time.time_ns() // 1000)):
            sys.exit("the journal cannot be written")
        board.acknowledge(slot)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
