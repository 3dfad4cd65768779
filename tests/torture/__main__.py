"""`python -m tests.torture`: kills, or one of the trials."""

import argparse
import logging
import random
import sys
from collections.abc import Callable

from tests.torture import trials
from tests.torture.postgres import NotInstalled
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
        )
        for name, workers, postgres in (LONG if options.long else one)
    ]


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
    "backlog": lambda options: [trials.backlog(records=options.records, postgres=options.postgres)],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Hurt RouterDash, and count.")
    parser.add_argument("trial", nargs="?", choices=TRIALS, default="kills")
    parser.add_argument("--workers", type=int, default=2, help="gateway processes")
    parser.add_argument("--rate", type=float, default=80.0, help="requests a second")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own instead of SQLite")
    parser.add_argument("--minutes", type=float, default=5.0, help="of kills: at least so long; of an outage: so long")
    parser.add_argument("--kills", type=int, default=0, help="at least so many, of each configuration")
    parser.add_argument("--long", action="store_true", help="kills over 1, 2 and 4 workers on SQLite, 2 on PostgreSQL")
    parser.add_argument("--seed", type=int, default=0, help="of kills: the same faults again")
    parser.add_argument("--times", type=int, default=10_000, help="of read-your-write")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of history at a big start")
    parser.add_argument("--records", type=int, default=100_000, help="in the journal at a big start, or of a backlog")
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the simulated servers' clients come and go
    try:
        sys.exit(report(TRIALS[options.trial](options)))
    except NotInstalled as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
