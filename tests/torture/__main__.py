"""`python -m tests.torture`: one configuration, or `--long` for all of them."""

import argparse
import random
import sys

from tests.torture.run import report, torture

LONG = (
    ("SQLite, 1 worker", 1, False),
    ("SQLite, 2 workers", 2, False),
    ("SQLite, 4 workers", 4, False),
    ("PostgreSQL, 2 workers", 2, True),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Kill RouterDash, and count.")
    parser.add_argument("--workers", type=int, default=2, help="gateway processes")
    parser.add_argument("--minutes", type=float, default=5.0, help="at least so long, of each configuration")
    parser.add_argument("--kills", type=int, default=0, help="at least so many, of each configuration")
    parser.add_argument("--rate", type=float, default=80.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=0, help="the same faults again; 0: new ones")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own instead of SQLite")
    parser.add_argument("--long", action="store_true", help="1, 2 and 4 workers on SQLite, 2 on PostgreSQL")
    options = parser.parse_args()
    seed = options.seed or random.randrange(1, 1_000_000)
    one = [
        (
            f"{'PostgreSQL' if options.postgres else 'SQLite'}, workers: {options.workers}",
            options.workers,
            options.postgres,
        )
    ]
    results = []
    for name, workers, postgres in LONG if options.long else one:
        results.append(
            torture(
                name,
                workers=workers,
                rate=options.rate,
                seed=seed,
                postgres=postgres,
                minutes=options.minutes,
                kills=options.kills,
            )
        )
    sys.exit(report(results))


if __name__ == "__main__":
    main()
