"""Cost of accounting: CPU time of a record from the journal to the figures, and from there to the database.

    python -m benchmarks.accounting --records 40000 [--database postgres://postgres@127.0.0.1:5432/postgres]

The gateways' journal writer appends records in batches, as many as arrive while control writes the previous batch.
Then the fold and the database writer process them as in control. The database is new, and is deleted at the end. With
PostgreSQL, the CPU time excludes the server, whose own is printed behind. `--steps` adds the share of each step.
"""

import argparse
import gc
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
from msgspec import structs

from benchmarks.accounting_steps import StepClock
from benchmarks.accounting_steps import steps as accounting_steps
from benchmarks.process import clean_environment
from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.ipc import record
from gateway.ipc.journal import Writer
from gateway.ipc.record import AttemptRecord, RequestRecord, Work, uuid7
from gateway.routing import balancer

if TYPE_CHECKING:
    from metrics.storage.writer import DatabaseWriter


@dataclass(frozen=True, slots=True)
class Variant:
    """The variety of the generated records."""

    endpoints: int
    models: int
    keys: int
    gap_us: int  # between the ends of two
    adaptive: bool = False  # made by adaptive routing, which learns from them

    def records(self, count: int, now: int) -> Iterator[RequestRecord]:
        """Yield records that end before `now`, in µs since 1970 UTC."""
        rng = random.Random(1)
        endpoints, keys = _ids(self.endpoints, rng), _ids(self.keys, rng)
        models = [f"organisation/model-{number}" for number in range(self.models)]
        for number in range(count):
            candidates = rng.sample(endpoints, min(CANDIDATES, len(endpoints)))
            ended = now - self.gap_us * (count - number)
            made = _request(rng, ended, candidates, rng.choice(models), rng.choice(keys))
            yield _with_work(rng, made) if self.adaptive else made


CANDIDATES = 4  # endpoints that have a model, where there are as many
VARIANTS = {
    "narrow": Variant(1, 1, 1, 200),
    "wide": Variant(20, 10, 5, 6000),
    "adaptive-narrow": Variant(1, 1, 1, 200, adaptive=True),
    "adaptive-wide": Variant(20, 10, 5, 6000, adaptive=True),
}


def _ids(count: int, rng: random.Random) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def _request(rng: random.Random, completed_us: int, candidates: list[str], model: str, key: str) -> RequestRecord:
    """Make a record at the first candidate.

    97 of 100 requests succeed, half of them with streams, and one in a hundred after a failed attempt.
    """
    chance = rng.random()
    outcome = record.OK if chance < 0.97 else record.CANCELLED if chance < 0.98 else record.FAILED
    status = {record.OK: 200, record.CANCELLED: 0, record.FAILED: 502}[outcome]
    duration = int(rng.lognormvariate(14, 1))
    scores = tuple((candidate, rng.randrange(20)) for candidate in candidates)
    why = balancer.LEAST if len(scores) > 1 else balancer.ONLY
    error = "HTTP 500" if outcome == record.FAILED else None
    attempts = [AttemptRecord(candidates[0], outcome, status, duration, error, 90, why, scores)]
    if rng.random() < 0.01:
        attempts.insert(0, AttemptRecord(candidates[-1], record.FAILED, 500, 900, "HTTP 500", 90, why, scores))
    streamed = rng.random() < 0.5
    return RequestRecord(
        id=uuid7(completed_us * 1000),
        completed_us=completed_us,
        kind=CHAT if rng.random() < 0.9 else EMBEDDINGS,
        model=model,
        outcome=outcome,
        status=status,
        duration_us=duration,
        first_token_us=duration // 5 if streamed else None,
        attempts=tuple(attempts),
        input_tokens=rng.randrange(10, 4000) if outcome == record.OK else None,
        output_tokens=rng.randrange(1, 900) if outcome == record.OK else None,
        streamed=streamed,
        api_key_id=key,
        client_ip="192.0.2.17",
        error="The endpoint failed: HTTP 500." if outcome == record.FAILED else None,
    )


def _with_work(rng: random.Random, made: RequestRecord) -> RequestRecord:
    """Add what adaptive routing records."""
    prompt, last = made.input_tokens or 100, made.attempts[-1]
    shared = last.duration_us * rng.randint(1, 8)
    work = Work(prompt, 200, prompt // 2, rng.randrange(4), 900_000, 500, 700, shared, was_idle=rng.random() < 0.2)
    last = structs.replace(last, costs=tuple((name, 900 + at) for at, (name, _) in enumerate(last.scores)), work=work)
    return structs.replace(
        made,
        attempts=(*made.attempts[:-1], last),
        cached_tokens=prompt // 3,
        body_bytes=prompt * 4,
        conversation="0" * 16,
    )


@contextmanager
def database(server: str) -> Iterator[str]:
    """Create a database on a PostgreSQL server and return its URL; "" stands for SQLite."""
    if not server:
        yield ""
        return
    name = f"accounting_{secrets.token_hex(4)}"
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class Clock:
    """Measures CPU and wall seconds of blocks."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def run(self, work: Callable[[], object]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


class ServerClock:
    """Measures the CPU seconds of the PostgreSQL process that serves a connection, if it runs on this machine."""

    def __init__(self) -> None:
        from django.db import connection

        self._path = None
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                self._path = Path(f"/proc/{cursor.fetchone()[0]}/stat")

    def read(self) -> float:
        if self._path is None or not self._path.exists():
            return 0.0
        fields = self._path.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def measure(name: str, count: int, batch: int, with_steps: bool) -> None:
    """Measure in a process that has its settings in the environment. Prints one line, and the steps if wanted."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "routerdash.settings"
    django.setup()
    from django.conf import settings
    from django.db import connection

    from metrics.memory.runtime import runtime
    from metrics.models import RequestHistory
    from metrics.storage import seeding
    from routerdash.processes import data_directory, prepare

    config = settings.ROUTERDASH
    data_directory.create(config)
    prepare.create_database(config)
    prepare.migrate(config)
    seeding.seed()
    journal, writer = journal_and_writer()
    records = list(VARIANTS[name].records(count, time.time_ns() // 1000))
    collect_as_control()

    fold, write, figures = Clock(), Clock(), Clock()
    steps, server = StepClock(), ServerClock()
    if with_steps:
        steps.measure(accounting_steps())
    served = server.read()

    def step() -> None:
        while writer.step().full:
            pass

    for at in range(0, count, batch):
        for entry in records[at : at + batch]:
            journal.append(entry)
        fold.run(runtime.follower.catch_up)
        write.run(step)
        figures.run(runtime.follower.figures)
    journal.close()
    assert RequestHistory.objects.count() == count, "records are missing"
    each = [clock.cpu / count * 1e6 for clock in (fold, write)]
    print(
        f"{connection.vendor}, {name}: fold {each[0]:.1f} + write {each[1]:.1f} = {sum(each):.1f} µs of CPU a record, "
        f"{count / (fold.wall + write.wall):,.0f} records/s; figures {figures.cpu / (count / batch) * 1e6:.0f} µs"
        + (f"; server {(server.read() - served) / count * 1e6:.1f} µs a record" if served else ""),
        flush=True,
    )
    if with_steps:
        print(steps.table(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=2000, help="records between two batches")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    parser.add_argument("--variant", choices=VARIANTS, help="measure only this variant")
    parser.add_argument(
        "--steps", action="store_true", help="print the share of each step; measuring it takes time too"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.variant, options.records, options.batch, options.steps)
        return
    for name in [options.variant] if options.variant else VARIANTS:
        with tempfile.TemporaryDirectory() as directory, database(options.database) as url:
            command = [sys.executable, "-m", "benchmarks.accounting", "--here", "--variant", name]
            sizes = ["--records", str(options.records), "--batch", str(options.batch), *["--steps"] * options.steps]
            places = {"ROUTERDASH_DATA_DIR": str(Path(directory) / "data"), "DATABASE_URL": url}
            subprocess.run([*command, *sizes], env=clean_environment(places), check=True)  # noqa: S603


if __name__ == "__main__":
    main()
