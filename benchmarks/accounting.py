"""What accounting costs: CPU time of a record from the journal into the figures, and from there into the database.

    python -m benchmarks.accounting --records 40000 [--database postgres://postgres@127.0.0.1:5432/postgres]

Gateways' own writer journals records a batch at a time, as much as comes in while control writes the one before; then
the folder and the database writer do what they do in control. The database is new, and gone at the end. On PostgreSQL
the server's share is not in the CPU time, hence the records per second beside it.
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
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks.process import clean_environment
from gateway import balancer, record
from gateway.journal import Writer
from gateway.kinds import CHAT, EMBEDDINGS
from gateway.record import Attempt, RequestRecord, uuid7


@dataclass(frozen=True, slots=True)
class Variant:
    """What records have in common, or not."""

    endpoints: int
    models: int
    keys: int
    gap_us: int  # between the ends of two

    def records(self, count: int) -> Iterator[RequestRecord]:
        rng = random.Random(1)
        endpoints, keys = _ids(self.endpoints, rng), _ids(self.keys, rng)
        models = [f"organisation/model-{number}" for number in range(self.models)]
        now = time.time_ns() // 1000
        for number in range(count):
            candidates = rng.sample(endpoints, min(CANDIDATES, len(endpoints)))
            yield _request(rng, now - self.gap_us * (count - number), candidates, rng.choice(models), rng.choice(keys))


CANDIDATES = 4  # endpoints that have a model, where there are as many
VARIANTS = {"narrow": Variant(1, 1, 1, 200), "wide": Variant(20, 10, 5, 6000)}


def _ids(count: int, rng: random.Random) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def _request(rng: random.Random, completed_us: int, candidates: list[str], model: str, key: str) -> RequestRecord:
    """On the first of the candidates. 97 of 100 are answered, half of them in streams; one in a hundred after an
    attempt that failed.
    """
    chance = rng.random()
    outcome = record.OK if chance < 0.97 else record.CANCELLED if chance < 0.98 else record.FAILED
    status = {record.OK: 200, record.CANCELLED: 0, record.FAILED: 502}[outcome]
    duration = int(rng.lognormvariate(14, 1))
    scores = tuple((candidate, rng.randrange(20)) for candidate in candidates)
    why = balancer.LEAST if len(scores) > 1 else balancer.ONLY
    error = "HTTP 500" if outcome == record.FAILED else None
    attempts = [Attempt(candidates[0], outcome, status, duration, error, 90, why, scores)]
    if rng.random() < 0.01:
        attempts.insert(0, Attempt(candidates[-1], record.FAILED, 500, 900, "HTTP 500", 90, why, scores))
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
        error="the endpoint answered 500" if outcome == record.FAILED else None,
    )


@contextmanager
def database(server: str) -> Iterator[str]:
    """The URL of a new database on a PostgreSQL server; of none for "", which stands for SQLite."""
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
    """CPU and wall seconds of what ran on it."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def run(self, work: Callable[[], object]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def measure(name: str, count: int, batch: int) -> None:
    """In a process that has its settings in the environment. Prints one line."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "routerdash.settings"
    django.setup()
    from django.conf import settings
    from django.db import connection

    from metrics import seeding
    from metrics.models import RequestHistory
    from metrics.rows import Where
    from metrics.teller import folder
    from metrics.writer import DatabaseWriter
    from routerdash import prepare

    config = settings.ROUTERDASH
    prepare.data_directory(config)
    prepare.create_database(config)
    prepare.bring_up_to_date(config)
    seeding.seed()
    assert folder.database_id is not None
    journal = Writer(config.journal_dir, folder.database_id)
    place = Where("gpu-a100", "192.0.2.7")
    writer = DatabaseWriter(folder, config.zone, lambda _: place)
    records = list(VARIANTS[name].records(count))
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as control does

    fold, write, figures = Clock(), Clock(), Clock()

    def step() -> None:
        while writer.step().full:
            pass

    for at in range(0, count, batch):
        for entry in records[at : at + batch]:
            journal.append(entry)
        fold.run(folder.catch_up)
        write.run(step)
        figures.run(folder.figures)
    journal.close()
    assert RequestHistory.objects.count() == count, "records are missing"
    each = [clock.cpu / count * 1e6 for clock in (fold, write)]
    print(
        f"{connection.vendor}, {name}: fold {each[0]:.1f} + write {each[1]:.1f} = {sum(each):.1f} µs of CPU a record, "
        f"{count / (fold.wall + write.wall):,.0f} records/s; figures {figures.cpu / (count / batch) * 1e6:.0f} µs",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=2000, help="records that come in between two batches")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server; without, SQLite is measured")
    parser.add_argument("--variant", choices=VARIANTS, help="only this one")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.variant, options.records, options.batch)
        return
    for name in [options.variant] if options.variant else VARIANTS:
        with tempfile.TemporaryDirectory() as directory, database(options.database) as url:
            command = [sys.executable, "-m", "benchmarks.accounting", "--here", "--variant", name]
            sizes = ["--records", str(options.records), "--batch", str(options.batch)]
            places = {"ROUTERDASH_DATA_DIR": str(Path(directory) / "data"), "DATABASE_URL": url}
            subprocess.run([*command, *sizes], env=clean_environment(places), check=True)  # noqa: S603


if __name__ == "__main__":
    main()
