"""`python -m tests.torture`: kills, or one of the trials."""

import argparse
import logging
import random
import sys
from collections.abc import Callable

from tests.torture import trials
from tests.torture.evade.run import torture_evade
from tests.torture.limits import rules as limit_rules
from tests.torture.limits.run import torture_limits
from tests.torture.postgres import NotInstalled
from tests.torture.registry.broken import RULES
from tests.torture.registry.run import noticed, torture_registry
from tests.torture.run import Result, report, torture

# name, workers, on PostgreSQL
LONG = (
    ("SQLite, 1 worker", 1, False),
    ("SQLite, 2 workers", 2, False),
    ("SQLite, 4 workers", 4, False),
    ("PostgreSQL, 2 workers", 2, True),
)


def kills(options: argparse.Namespace) -> list[Result]:
    database = "PostgreSQL" if options.postgres else "SQLite"
    one = ((f"{database}, workers: {options.workers}", options.workers, options.postgres),)
    seed = options.seed or random.randrange(1, 1_000_000)
    return [
        torture(
            name,
            workers=workers,
            rate=options.rate,
            seed=seed,
            postgres=postgres,
            minutes=options.minutes,
            kills=options.kills,
            clouds=options.clouds,
        )
        for name, workers, postgres in (LONG if options.long else one)
    ]


def registry(options: argparse.Namespace) -> list[Result]:
    seed = options.seed or random.randrange(1, 1_000_000)
    rules = list(RULES) if options.broken == "all" else [options.broken]
    results = [
        torture_registry(seconds=options.seconds, readers=options.readers, seed=seed, rule=rule) for rule in rules
    ]
    return [noticed(result) for result in results] if options.broken else results


def limits(options: argparse.Namespace) -> list[Result]:
    seed = options.seed or random.randrange(1, 1_000_000)
    if options.evade:
        return [torture_evade(requests=options.requests, workers=options.workers, seed=seed)]
    database = "PostgreSQL" if options.postgres else "SQLite"
    rules = list(limit_rules.RULES) if options.broken == "all" else [options.broken]
    results = [
        torture_limits(
            f"limits {rule}".strip() + f", {database}, workers: {options.workers}",
            workers=options.workers,
            seed=seed,
            minutes=options.minutes,
            postgres=options.postgres,
            broken=rule,
        )
        for rule in rules
    ]
    return [noticed(result) for result in results] if options.broken else results


TRIALS: dict[str, Callable[[argparse.Namespace], list[Result]]] = {
    "kills": kills,
    "outage": lambda options: [
        trials.outage(
            seconds=options.minutes * 60, rate=options.rate, workers=options.workers, postgres=options.postgres
        )
    ],
    "drain": lambda options: [trials.drain(rate=options.rate, workers=options.workers)],
    "read-your-write": lambda options: [
        trials.read_your_write(times=options.times, workers=options.workers, postgres=options.postgres)
    ],
    "big-start": lambda options: [trials.big_start(rows=options.rows, backlog=options.records)],
    "registry": registry,
    "limits": limits,
    "backlog": lambda options: [trials.backlog(records=options.records, postgres=options.postgres)],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description="Torture test: faults under load, and a comparison of all figures."
    )
    parser.add_argument("trial", nargs="?", choices=TRIALS, default="kills")
    parser.add_argument("--workers", type=int, default=2, help="gateway processes")
    parser.add_argument("--rate", type=float, default=80.0, help="requests a second")
    parser.add_argument("--postgres", action="store_true", help="a private PostgreSQL instead of SQLite")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="minimum duration with kills, or duration of an outage"
    )
    parser.add_argument("--kills", type=int, default=0, help="minimum number of kills for each configuration")
    parser.add_argument("--long", action="store_true", help="kills over 1, 2 and 4 workers on SQLite, 2 on PostgreSQL")
    parser.add_argument(
        "--clouds", action="store_true", help="kills with throttling clouds, and a model name with steps, too"
    )
    parser.add_argument(
        "--evade", action="store_true", help="limits: clients that ask for more than is left, in 200 forms, instead"
    )
    parser.add_argument("--requests", type=int, default=10_000, help="number of requests of evade")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults, to repeat a run")
    parser.add_argument("--times", type=int, default=10_000, help="number of requests of read-your-write")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of history for a big start")
    parser.add_argument(
        "--records", type=int, default=100_000, help="records in the journal for a big start or a backlog"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="duration with faults of registry")
    parser.add_argument("--readers", type=int, default=6, help="reading processes of registry")
    parser.add_argument(
        "--broken",
        choices=("all", *RULES, *limit_rules.RULES),
        default="",
        help="break a rule of the registry store, or of limits: it must be noticed",
    )
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the simulated servers log every client disconnect
    try:
        sys.exit(report(TRIALS[options.trial](options)))
    except NotInstalled as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
