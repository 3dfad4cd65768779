"""Whether an acknowledged change is in effect: the rounds of tests/e2e/test_acknowledged.py, a thousand times each.

    python -m benchmarks.scale.acknowledged [--rounds 1000] [--workers 4] [--database postgres://…/postgres]

Each round deletes an API key, or disables, drains or deletes an endpoint, while clients send requests, some of which
wait in the queue. After the response to the change, ten requests at once must all be refused or go elsewhere. Prints
how many rounds failed, with the first failures, and exits with 1 if any did.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks.scale import installation
from benchmarks.scale.installation import FleetSize, say
from benchmarks.scale.verdicts import Verdict, over, table
from benchmarks.simulator import Simulator
from tests.router import RouterDash
from tests.withdrawals import OwnKeys, Traffic, delete_endpoint, delete_key, withdraw_endpoint

SHOWN = 3  # failures of a kind
TTFT = 0.005  # seconds, so that requests of one slot wait in the queue


def repeat(name: str, rounds: int, seconds: float, play: Callable[[int], None]) -> Verdict:
    """Play rounds, and count those that fail. Stops after `seconds`; fewer rounds than wanted are named."""
    failures, played, began = 0, 0, time.monotonic()
    for number in range(rounds):
        if time.monotonic() - began > seconds:
            say(f"{name}: stopped after {seconds:g} s")
            break
        played += 1
        try:
            play(number)
        except (AssertionError, TimeoutError) as error:
            failures += 1
            if failures <= SHOWN:
                say(f"{name}, round {number}: {error or type(error).__name__}")
    say(f"{name}: {failures} of {played} rounds failed, {(time.monotonic() - began) / max(1, played):.2f} s a round")
    return Verdict(f"{name}: rounds that failed, of {played}", failures, "", 0)


def run(options: argparse.Namespace) -> list[Verdict]:
    found: list[Verdict] = []
    settings = {"ROUTERDASH_WORKERS": str(options.workers)}
    with Simulator() as simulator, ExitStack() as stack:
        router = stack.enter_context(installation.installed(FleetSize(0, 0, 0), [], options.database, settings))
        installation.start(router)
        again = partial(repeat, rounds=options.rounds, seconds=options.seconds)
        found += _withdraw(router, simulator, again)
        keys = OwnKeys(router)
        router.add(simulator.add(ttft=TTFT), "kept")
        found.append(again("deleted key", play=lambda _: delete_key(router, keys)))
        found.append(
            again("deleted endpoint", play=lambda number: delete_endpoint(router, simulator, f"deleted {number}"))
        )
    return found


def _withdraw(router: RouterDash, simulator: Simulator, again: Callable[..., Verdict]) -> list[Verdict]:
    simulated = simulator.add(ttft=TTFT)
    endpoint_id = router.add(simulated, "withdrawn", max_concurrency=1)
    with Traffic(router.chat):
        found = [
            again(name, play=lambda _, how=how: withdraw_endpoint(router, simulated, endpoint_id, how))
            for name, how in (("disabled endpoint", "disable"), ("drained endpoint", "drain"))
        ]
    assert router.request("DELETE", f"/api/endpoints/{endpoint_id}").status == 204
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="of each of the four kinds")
    parser.add_argument("--seconds", type=float, default=1800.0, help="for each kind, at most")
    parser.add_argument("--workers", type=int, default=4, help="gateway processes")
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    parser.add_argument("--quick", action="store_true", help="two rounds: checks only that this works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 2
    return options


def main() -> None:
    options = parse()
    installation.clean_up_at_sigterm()
    found = run(options)
    print(table(found))
    sys.exit(over(found))


if __name__ == "__main__":
    main()
