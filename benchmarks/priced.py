"""What prices cost control for each record: `python -m benchmarks.priced`.

Records go from the journal to the figures and to the database, as in `benchmarks.accounting`, in four states:

- `without`: history and database writer without their parts for prices and own hardware, but for three empty fields
  of a usual attempt in the history. The fields that records have for prices are not in the journal in any state,
  because these records lack them;
- `unpriced`: a price book that has no price for these models;
- `priced`: each model has prices of input, cached input and output tokens;
- `rated`: no prices, but each endpoint has an hourly rate. The CPU time includes that of counting the hours.

Instructions are counted by callgrind, without those of the kernel, and are repeatable. The CPU time is that of the
process with its system calls; the states take turns in rounds, each in a new database. It is the median over the
rounds, and a ratio is the median of those within the rounds. With PostgreSQL, both exclude the server.
Needs valgrind with its headers, and gcc; takes some seven minutes.
"""

import argparse
import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.accounting import VARIANTS, collect_as_control, database, journal_and_writer
from benchmarks.process import ROOT, build_switch, clean_environment
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.prices.book import NANO
from gateway.prices.counts import part_of
from gateway.routing.balancer import ONLY
from metrics.counting.stored_attempt import StoredAttempt
from metrics.counting.token_details import has_details

if TYPE_CHECKING:
    from metrics.storage.hardware_hours import HardwareHours

WITHOUT, UNPRICED, PRICED, RATED = "without", "unpriced", "priced", "rated"
STATES = (WITHOUT, UNPRICED, PRICED, RATED)
HOUR_US = 3_600_000_000
WARM_UP = 10  # batches, so that most rows of sums exist, as some minutes after midnight


@dataclass(frozen=True, slots=True)
class Load:
    """Records that are measured, and how they arrive."""

    variant: str
    state: str
    batches: int
    size: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["narrow", "wide"])
    parser.add_argument("--batches", type=int, default=4, help="measured batches of each process")
    parser.add_argument("--size", type=int, default=2000, help="records of a batch")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of CPU time; 0: none")
    parser.add_argument("--no-instructions", action="store_true", help="measure the CPU time only")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    parser.add_argument("--here", choices=STATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(Load(options.variants[0], options.here, options.batches, options.size))
        return
    with tempfile.TemporaryDirectory() as directory:
        switch = Path(directory) / "switch.so"
        if not options.no_instructions:
            build_switch(switch)
        for variant in options.variants:
            loads = [Load(variant, state, options.batches, options.size) for state in STATES]
            if not options.no_instructions:
                counted = [instructions(load, options.database, switch) for load in loads]
                show(f"{variant}, instructions a record", counted, "{:,.0f}", [counted])
            if options.rounds:
                rounds = [[cpu_time(load, options.database) for load in loads] for _ in range(options.rounds)]
                times = [median(column) for column in zip(*rounds, strict=True)]
                show(f"{variant}, µs of CPU a record", times, "{:.2f}", rounds)


def show(what: str, values: list[float], shape: str, rounds: list[list[float]]) -> None:
    shown = [f"{state} {shape.format(value)}" for state, value in zip(STATES, values, strict=True)]
    for at in range(1, len(STATES)):
        ratios = sorted(one[at] / one[0] for one in rounds)
        shown[at] += f" (× {median(ratios):.3f})"
        if len(ratios) > 1:
            shown[at] = f"{shown[at][:-1]}, {ratios[0]:.3f} to {ratios[-1]:.3f})"
    print(f"{what}: {', '.join(shown)}", flush=True)


def instructions(load: Load, server: str, switch: Path) -> float:
    """Return the instructions of a record."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        run(load, server, valgrind, {"CALLGRIND_SWITCH": str(switch)})

        (total,) = re.findall(r"^totals: (\d+)", out.read_text(errors="replace"), re.MULTILINE)
    return int(total) / load.batches / load.size


def cpu_time(load: Load, server: str) -> float:
    """Return the CPU time of a record in µs."""
    return float(run(load, server, [], {}))


def run(load: Load, server: str, before: list[str], extra: dict[str, str]) -> str:
    """Measure in a process with a new database, and return its output."""
    program = [sys.executable, "-m", "benchmarks.priced", "--here", load.state, "--variants", load.variant]
    sizes = ["--batches", str(load.batches), "--size", str(load.size)]
    with tempfile.TemporaryDirectory() as directory, database(server) as url:
        places = {"ROUTERDASH_DATA_DIR": str(Path(directory) / "data"), "DATABASE_URL": url, "PYTHONHASHSEED": "0"}
        environment = clean_environment({**places, **extra})
        command = [sys.executable, "-c", PREPARE]
        subprocess.run(command, env=environment, cwd=ROOT, check=True)  # noqa: S603
        done = subprocess.run(  # noqa: S603
            [*before, *program, *sizes], env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
    return done.stdout.decode()


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


def measure(load: Load) -> None:
    """Measure in a process that has its settings in the environment, and print the CPU time of a record in µs."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "routerdash.settings"
    django.setup()
    from metrics.memory.runtime import runtime
    from metrics.models import RequestHistory
    from metrics.storage import seeding

    seeding.seed()
    if load.state == WITHOUT:
        remove_prices()
    elif load.state == PRICED:
        add_prices()
    journal, writer = journal_and_writer()
    count = (WARM_UP + load.batches) * load.size
    now = time.time_ns() // 1000 // HOUR_US * HOUR_US  # so that each process has the same number of records a minute
    records = list(VARIANTS[load.variant].records(count, now))
    if load.state == RATED:
        add_rates(records)
    collect_as_control()

    def account() -> None:
        runtime.follower.catch_up()
        while writer.step().full:
            pass

    spent = 0.0
    for number in range(WARM_UP + load.batches):
        for entry in records[number * load.size :][: load.size]:
            journal.append(entry)
        if number < WARM_UP:
            account()
        else:
            with counted():
                started = time.process_time()
                account()
                spent += time.process_time() - started
    spent += hours_of(writer.hours) * load.batches / (WARM_UP + load.batches)
    journal.close()
    assert RequestHistory.objects.count() == len(records), "records are missing"
    check_costs(load.state, len(records))
    print(spent / load.batches / load.size * 1e6)


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


def hours_of(hours: "HardwareHours") -> float:
    """Count the hours of own hardware as if they were over, and return the CPU time in seconds."""
    started = time.process_time()
    while hours.count(time.time() + 3 * 3600):
        pass
    return time.process_time() - started


def check_costs(state: str, records: int) -> None:
    """Verify that most requests have a cost if there are prices, and none otherwise. The others have failed.

    With rates, own hardware has all requests.
    """
    from django.db.models import Sum

    from metrics.models import CostDayRollUp, HardwareDayRollUp

    at_hardware = HardwareDayRollUp.objects.aggregate(Sum("requests"))["requests__sum"] or 0
    assert at_hardware == (records if state == RATED else 0), f"{at_hardware} requests at own hardware"

    priced = CostDayRollUp.objects.aggregate(Sum("requests"))["requests__sum"] or 0
    assert 0.9 * records < priced <= records if state == PRICED else priced == 0, f"{priced} requests have a cost"


def add_prices() -> None:
    from datetime import UTC, datetime

    from metrics.prices.tables import PriceRow

    since = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(max(variant.models for variant in VARIANTS.values())):
        PriceRow.objects.create(
            pattern=f"organisation/model-{number}", valid_from=since, currency="USD",
            input=NANO // 4 + number * NANO // 100, cached=NANO // 40, output=2 * NANO,
        )  # fmt: skip


def add_rates(records: list[RequestRecord]) -> None:
    from datetime import UTC, datetime

    from metrics.prices.hardware_tables import HardwareRateRow

    since = datetime.fromtimestamp(records[0].completed_us // HOUR_US * 3600 - 3600, UTC)
    for endpoint_id in sorted({attempt.endpoint_id for entry in records for attempt in entry.attempts}):
        HardwareRateRow.objects.create(endpoint_id=endpoint_id, valid_from=since, currency="USD", per_hour=NANO)


def remove_prices() -> None:
    """Remove the parts that records, their rows and the database writer have for prices and own hardware."""
    from metrics.counting.batch_costs import Costs
    from metrics.memory.cost_totals import CostTotals
    from metrics.storage import hardware_rows, history_rows
    from metrics.storage.writer import DatabaseWriter

    no_costs = Costs()
    for owner, name, function in (
        (DatabaseWriter, "_costs", lambda writer, fold: no_costs),
        (CostTotals, "add", lambda totals, *written: None),
        (CostTotals, "are_at", lambda totals, positions: True),
        (hardware_rows, "write", lambda cursor, fold: None),
        (history_rows, "_stored", stored_without_prices),
    ):
        assert hasattr(owner, name), name
        setattr(owner, name, function)


def stored_without_prices(attempt: AttemptRecord, entry: RequestRecord | None, cost: object) -> StoredAttempt:
    """Return an attempt of a history row without the facts for prices."""
    cached_tokens = cache_write_tokens = reasoning_tokens = finish_reason = None
    body_bytes = 0
    left_steps: tuple[tuple[int, str], ...] = ()
    if entry is not None:
        if has_details(entry):
            cached_tokens = part_of(entry.cached_tokens, entry.input_tokens)
            cache_write_tokens = part_of(entry.cache_write_tokens, entry.input_tokens)
            reasoning_tokens = part_of(entry.reasoning_tokens, entry.output_tokens)
        body_bytes, finish_reason, left_steps = entry.body_bytes, entry.finish_reason, entry.left_steps
    return StoredAttempt(
        attempt.endpoint_id, attempt.outcome, attempt.status, attempt.duration_us, attempt.error, attempt.at_us,
        attempt.reason, {} if attempt.reason == ONLY else dict(attempt.scores), attempt.said, dict(attempt.costs),
        attempt.work, attempt.connect_us, cached_tokens, body_bytes, attempt.served, attempt.canonical,
        attempt.step, cache_write_tokens, reasoning_tokens, finish_reason, left_steps,
    )  # fmt: skip


if __name__ == "__main__":
    main()
