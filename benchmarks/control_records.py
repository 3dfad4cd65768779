"""Instructions of control for a record of a plain request: `python -m benchmarks.control_records [FOLDER …]`.

Records are those of the case `plain1` of `benchmarks.bench`: one client, two endpoints, adaptive routing. Their journal
is read in four parts, and written to a new SQLite database in batches of 5,600. Prints the instructions in user mode by
callgrind, or with `--rounds` the CPU time, where the folders take turns. A folder comes first in the path of modules:
`control` in a build of packaging/compile_gateway.py, or another checkout. The default is this checkout, in Python.
Needs valgrind with its headers, and gcc; takes a minute each.
"""

import argparse
import ctypes
import gc
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.process import ROOT, build_switch, clean_environment
from gateway.ipc.journal import Writer
from gateway.ipc.record import AttemptRecord, RequestRecord, Work, uuid7

if TYPE_CHECKING:
    from metrics.storage.writer import DatabaseWriter

BATCH, PARTS, WARM_UP, BATCHES = 5600, 4, 2, 3
MEASURE = "import sys; sys.path[:0] = sys.argv[1:]; from benchmarks.control_records import measure; measure()"

# Makes the database without valgrind, under which it would take minutes.
PREPARE = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "routerdash.settings"
import django
django.setup()
from django.conf import settings
from routerdash.processes import data_directory, prepare
data_directory.create(settings.ROUTERDASH)
prepare.create_database(settings.ROUTERDASH)
prepare.migrate(settings.ROUTERDASH)
"""


def records(count: int, now: int) -> Iterator[RequestRecord]:
    """Yield records like those of `plain1` that end before `now`, in µs since 1970 UTC."""
    rng = random.Random(1)
    endpoints = "6f0c2f3e-6f0b-4a52-9d15-0c41d1f1a001", "b1f5a8c4-2f51-4c0e-8a77-5a0f27d9c002"
    key = "0d3c6a1e-9be2-4c37-b0f4-7e2f5d9ab003"
    for number in range(count):
        duration = int(rng.lognormvariate(4.8, 0.2))
        costs = tuple((endpoint, rng.choice((4, 4, 5))) for endpoint in endpoints)
        work = Work(374, 200, 312, 0, 4_054_920, 0, 0, duration // 100 * 100, was_idle=True)
        attempt = AttemptRecord(
            rng.choice(endpoints), "ok", 200, duration, None, rng.randrange(80, 99), "kept_prefix", (), None, costs,
            work, 0,
        )  # fmt: skip
        ended = now - 130 * (count - number)
        yield RequestRecord(
            uuid7(ended * 1000), ended, "chat_completions", "bench-model", "ok", 200, duration + 90, None, (attempt,),
            312, 58, False, False, key, "127.0.0.1", body_bytes=1498, conversation="78ae8831580c2af1",
            finish_reason="stop",
        )  # fmt: skip


def journal_and_writer() -> tuple[Writer, "DatabaseWriter"]:
    """Return a journal and the database writer of this process, in which Django is set up and figures are seeded."""
    from django.conf import settings

    from metrics.memory.runtime import runtime
    from metrics.storage.database import set_up_writer
    from metrics.storage.history_rows import EndpointName
    from metrics.storage.writer import DatabaseWriter

    follower, config = runtime.follower, settings.ROUTERDASH
    assert follower.database_id is not None
    place = EndpointName("gpu-a100", "192.0.2.7")
    writer = DatabaseWriter(follower, config.zone, lambda _: place)
    set_up_writer()
    return Writer(config.journal_dir, follower.database_id), writer


def collect_as_control() -> None:
    """Collect garbage as seldom as control does, once all that a measurement needs is there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@contextmanager
def counted() -> Iterator[None]:
    """Count instructions inside, if this process runs under callgrind."""
    switch = os.environ.get("CALLGRIND_SWITCH")
    library = ctypes.CDLL(switch) if switch else None
    if library is not None:
        library.start()
    yield
    if library is not None:
        library.stop()


def measure() -> None:
    """Measure in a process that has its settings in the environment, and print the CPU time of a record in µs."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "routerdash.settings"
    django.setup()
    from metrics.memory.runtime import runtime
    from metrics.models import RequestHistory
    from metrics.storage import seeding

    seeding.seed()
    journal, writer = journal_and_writer()
    count = (WARM_UP + BATCHES) * BATCH
    made = list(records(count, time.time_ns() // 60_000_000_000 * 60_000_000))
    collect_as_control()
    spent = 0.0
    for number in range(WARM_UP + BATCHES):
        for start in range(number * BATCH, (number + 1) * BATCH, BATCH // PARTS):
            for entry in made[start : start + BATCH // PARTS]:
                journal.put(entry)
            journal.flush()
            spent += run(runtime.follower.catch_up, number)
        spent += run(writer.step, number)
    journal.close()
    assert RequestHistory.objects.count() == count, "records are missing"
    print(spent / BATCHES / BATCH * 1e6)


def run(work: Callable[[], object], batch: int) -> float:
    """Count a part of a batch, but not of the first ones, and return its CPU time in seconds."""
    if batch < WARM_UP:
        work()
        return 0.0
    with counted():
        started = time.process_time()
        work()
        return time.process_time() - started


def measured(folder: Path, before: list[str], extra: dict[str, str]) -> float:
    """Measure in a process with a new database."""
    paths = [str(folder)] if folder != ROOT else []
    with tempfile.TemporaryDirectory() as directory:
        places = {"ROUTERDASH_DATA_DIR": str(Path(directory) / "data"), "PYTHONHASHSEED": "0"}
        environment = clean_environment({**places, **extra})
        subprocess.run([sys.executable, "-c", PREPARE], env=environment, cwd=ROOT, check=True)  # noqa: S603
        done = subprocess.run(  # noqa: S603
            [*before, sys.executable, "-c", MEASURE, *paths],
            env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
    return float(done.stdout)


def instructions(folder: Path, switch: Path, out: Path) -> float:
    """Return the instructions of a record, and keep the profile."""
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    measured(folder, valgrind, {"CALLGRIND_SWITCH": str(switch)})
    (total,) = re.findall(r"^totals: (\d+)", out.read_text(errors="replace"), re.MULTILINE)
    return int(total) / BATCHES / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", default=[ROOT])
    parser.add_argument("--rounds", type=int, default=0, help="rounds of CPU time, instead of instructions")
    parser.add_argument("--out", type=Path, default=Path("callgrind.out"), help="file of the last profile")
    options = parser.parse_args()
    folders = [folder.resolve() for folder in options.folders]
    rounds = [[measured(folder, [], {}) for folder in folders] for _ in range(options.rounds)]
    for folder, times in zip(folders, zip(*rounds, strict=True), strict=False):
        print(f"{folder}: {median(times):.2f} µs of CPU a record ({min(times):.2f} to {max(times):.2f})")
    if not rounds:
        with tempfile.TemporaryDirectory() as directory:
            switch = Path(directory) / "switch.so"
            build_switch(switch)
            for folder in folders:
                print(f"{folder}: {instructions(folder, switch, options.out):,.0f} instructions a record", flush=True)


if __name__ == "__main__":
    main()
