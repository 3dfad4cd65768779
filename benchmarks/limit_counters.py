"""Time what limits over all gateways cost a request: `python -m benchmarks.limit_counters`.

A request is taken from the limits of an API key and settled, while other gateways have counted for the same key. The
keys take turns, as each process can count 65,535 requests of one key in 3 seconds only. The result is the CPU time of
the fastest of several rounds; rounds of all cases alternate.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance, Charge
from gateway.ipc.live_page import LivePage

KEYS = 20
MUCH = 1 << 40
ROWS = (1, 2, 4, 8)
THREE = Allowance(concurrency=MUCH, requests=MUCH, tokens=MUCH)
LEVELS: dict[str, dict[str, Allowance]] = {
    "concurrency": {"key": Allowance(concurrency=MUCH)},
    "concurrency, requests, tokens": {"key": THREE},
    "the same of key, user and everyone": {"key": THREE, "user": THREE, "everyone": THREE},
    "refused by concurrency": {"key": Allowance(concurrency=0)},
}


def prepare(directory: Path, rows: int, levels: dict[str, Allowance]) -> Callable[[int], None]:
    """Return a function that takes and settles so many requests, among gateways in so many rows."""
    page = LivePage(directory / f"{rows}")
    gateways = [LimitCounters(page, page.claim_row()) for _ in range(rows)]
    for gateway in gateways:
        for number in range(KEYS):
            gateway.plan(*[(gateway.subject(level, str(number)), THREE) for level in levels]).take(10)
    own = gateways[0]
    plans = [
        own.plan(*[(own.subject(level, str(number)), allowance) for level, allowance in levels.items()])
        for number in range(KEYS)
    ]

    def run(count: int) -> None:
        for plan in itertools.islice(itertools.cycle(plans), count):
            taken = plan.take(10)
            if isinstance(taken, Charge):
                taken.settle(8)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=10_000, help="of a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = {}
        for place, (name, levels) in enumerate(LEVELS.items()):
            directory = Path(folder) / str(place)
            directory.mkdir()
            for rows in ROWS:
                cases[name, rows] = prepare(directory, rows, levels)
        best = dict.fromkeys(cases, float("inf"))
        for _ in range(options.rounds):
            for case, run in cases.items():
                begin = time.process_time_ns()
                run(options.requests)
                best[case] = min(best[case], (time.process_time_ns() - begin) / options.requests)
    print(f"{'ns to take and settle a request, by gateways':36}" + "".join(f"{rows:8}" for rows in ROWS))
    for name in LEVELS:
        print(f"{name:44}" + "".join(f"{best[name, rows]:8.0f}" for rows in ROWS))


if __name__ == "__main__":
    main()
