"""Whether an acknowledged change is in effect: the rounds of tests/e2e/test_acknowledged.py, a thousand times each.

    python -m benchmarks.scale.acknowledged [--rounds 1000] [--kinds key,delete] [--database postgres://…/postgres]

Each round deletes an API key, or disables, drains or deletes an endpoint, while clients send requests, some of which
wait in the queue; or it changes the target of a model name. After the response to the change, ten requests at once must
all be refused or go elsewhere. Prints how many rounds failed, with the first failures, and exits with 1 if any did, or
if edits of a name take too long. A change that a gateway does not confirm within a second is answered by 202 with the
reason. On a busy machine that can happen; such rounds are counted apart.
"""

import argparse
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks.scale import installation
from benchmarks.scale.installation import FleetSize, say
from benchmarks.scale.verdicts import Verdict, over, table
from benchmarks.simulator import Simulator
from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from tests.router import RouterDash
from tests.withdrawals import EditedName, Late, OwnKeys, Traffic, delete_endpoint, delete_key, withdraw_endpoint

KINDS = ("disable", "drain", "key", "delete", "name")  # "delete" is that of an endpoint
SHOWN = 3  # failures of a kind
EDIT_MS = 100.0  # from an edit of a model name until every gateway has it
TTFT = 0.005  # seconds, so that requests of one slot wait in the queue


def repeat(name: str, rounds: int, seconds: float, play: Callable[[int], None]) -> list[Verdict]:
    """Play rounds, and count those that fail or are late. Stops after `seconds`; fewer rounds than wanted are named."""
    failures, late, played, began = 0, 0, 0, time.monotonic()
    for number in range(rounds):
        if time.monotonic() - began > seconds:
            say(f"{name}: stopped after {seconds:g} s")
            break
        played += 1
        try:
            play(number)
        except Late as reason:
            late += 1
            say(f"{name}, round {number}: 202: {reason}")
        except (AssertionError, TimeoutError) as error:
            failures += 1
            if failures <= SHOWN:
                failed = traceback.extract_tb(error.__traceback__)[-1]
                say(f"{name}, round {number}: {failed.name}: {failed.line} {error}")
    seconds_each = (time.monotonic() - began) / max(1, played)
    say(f"{name}: {failures} of {played} rounds failed, {late} were late, {seconds_each:.2f} s a round")
    return [
        Verdict(f"{name}: rounds that failed, of {played}", failures, "", 0),
        Verdict(f"{name}: rounds that were answered by 202", late, ""),
    ]


def run(options: argparse.Namespace) -> list[Verdict]:
    found: list[Verdict] = []
    settings = {"ROUTERDASH_WORKERS": str(options.workers), "ROUTERDASH_BALANCER": options.balancer}
    with Simulator() as simulator, ExitStack() as stack:
        router = stack.enter_context(installation.installed(FleetSize(0, 0, 0), [], options.database, settings))
        installation.start(router)
        again = partial(repeat, rounds=options.rounds, seconds=options.seconds)
        if ways := [way for way in ("disable", "drain") if way in options.kinds]:
            found += _withdraw(router, simulator, again, ways)
        keys = OwnKeys(router)
        router.add(simulator.add(ttft=TTFT), "kept")
        if "key" in options.kinds:
            found += again("deleted key", play=lambda _: delete_key(router, keys))
        if "delete" in options.kinds:
            found += again(
                "deleted endpoint", play=lambda number: delete_endpoint(router, simulator, f"deleted {number}")
            )
        if "name" in options.kinds:
            found += _edit_names(router, simulator, again, bound=None if options.quick else EDIT_MS)
    return found


def _edit_names(
    router: RouterDash, simulator: Simulator, again: Callable[..., list[Verdict]], bound: float | None
) -> list[Verdict]:
    edited = EditedName(router, simulator)
    verdicts = again("edited model name", play=edited.edit)
    slow = sorted(edited.seconds)[len(edited.seconds) * 95 // 100] * 1000
    return [*verdicts, Verdict("edited model name: in effect everywhere, p95", slow, "ms", bound)]


def _withdraw(
    router: RouterDash, simulator: Simulator, again: Callable[..., list[Verdict]], ways: list[str]
) -> list[Verdict]:
    simulated = simulator.add(ttft=TTFT)
    endpoint_id = router.add(simulated, "withdrawn", max_concurrency=1)
    with Traffic(router.chat):
        found = [
            verdict
            for way in ways
            for verdict in again(
                f"endpoint, {way}", play=lambda _, way=way: withdraw_endpoint(router, simulated, endpoint_id, way)
            )
        ]
    assert router.request("DELETE", f"/api/endpoints/{endpoint_id}").status == 204
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="of each kind")
    parser.add_argument("--seconds", type=float, default=1800.0, help="for each kind, at most")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}, separated by commas")
    parser.add_argument("--workers", type=int, default=4, help="gateway processes")
    parser.add_argument(
        "--balancer",
        choices=(LEAST_INFLIGHT, ADAPTIVE),
        default=LEAST_INFLIGHT,
        help="adaptive sends few requests to an endpoint that was just added, so that its rounds take longer",
    )
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    parser.add_argument("--quick", action="store_true", help="two rounds: checks only that this works")
    options = parser.parse_args(arguments)
    options.kinds = options.kinds.split(",")
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"--kinds has no {', '.join(sorted(unknown))}; it takes {', '.join(KINDS)}")
    if options.quick:
        options.rounds = 2
    return options


def main() -> None:
    installation.measure(parse(), run, table, over)


if __name__ == "__main__":
    main()
