"""Compare routing policies on fleets of simulated servers, in virtual time.

A cell is a fleet at a load, which is a share of the requests per second at its saturation. The figure of a policy is
the 95th percentile of the time of a request per output token, divided by that of the best policy in the same cell:
the best reference. Two of them are oracles, which know every server and every length. Exits 1 if the product's policy
misses a bound.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import geometric_mean
from typing import NamedTuple

from benchmarks.routing.fleets import BY_NAME, HELD_BACK, OPEN, Fleet
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.virtual import Run

LOADS = (0.3, 0.6, 0.85)
MEAN_BOUND, WORST_BOUND = 1.15, 1.5
QUICK_FLEETS = ("F1", "F3", "F6", "F9")
OURS = "adaptive"


class Cell(NamedTuple):
    fleet: str
    load: float


class Figures(NamedTuple):
    """Means over the seeds of a cell's runs with one policy: geometric ones of times, in seconds."""

    per_token: float  # p95
    first: float  # p95 of the time to first token
    hits: float  # share of prompt tokens from a prefix cache
    cold_loads: float
    busiest: float  # share of the requests at one endpoint
    unfinished: float


def requests_of(fleet: Fleet, requests: int) -> int:
    """Return how many requests a run has: more for a large fleet, so that it lasts long enough to learn."""
    return max(requests, requests * len(fleet.shapes) // 12)


def measure(fleet: str, load: float, policy: str, requests: int, seeds: Sequence[int]) -> Figures:
    runs = []
    of = BY_NAME[fleet]
    for seed in seeds:
        result = Run(of, POLICIES[policy](seed), policy, load, requests_of(of, requests), seed).run()
        runs.append((
            result.p95(), result.first_p95(), result.hits(), result.loads, result.busiest(), result.unfinished,
        ))  # fmt: skip
    times = [geometric_mean([one[column] for one in runs]) for column in range(2)]
    return Figures(*times, *[sum(one[column] for one in runs) / len(runs) for column in range(2, 6)])


def saturation(fleet: Fleet, requests: int = 2000) -> float:
    """Return the requests per second that end when all arrive at once and no client pauses.

    The better of two policies that learn nothing.
    """
    best = 0.0
    for name in ("weighted_least", "oracle"):
        run = Run(fleet, POLICIES[name](1), name, 1.0, requests_of(fleet, requests), 1, think=0.0, rate=3000.0)
        best = max(best, run.run().throughput())
    return best


def compare(
    fleets: Sequence[str],
    loads: Sequence[float],
    policies: Sequence[str],
    requests: int,
    seeds: Sequence[int],
    jobs: int,
) -> dict[Cell, dict[str, Figures]]:
    """Return the figures of each cell and policy, computed by `jobs` processes."""
    cells = [Cell(fleet, load) for fleet in fleets for load in loads]
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {
            (cell, policy): pool.submit(measure, cell.fleet, cell.load, policy, requests, seeds)
            for cell in cells
            for policy in policies
        }
        return {cell: {policy: waiting[cell, policy].result() for policy in policies} for cell in cells}


def ratios(cells: dict[Cell, dict[str, Figures]], policy: str) -> list[float]:
    """Return a policy's p95 per token in each cell, divided by the best reference's."""
    return [
        by_policy[policy].per_token / min(figures.per_token for figures in by_policy.values())
        for by_policy in cells.values()
    ]


def report(cells: dict[Cell, dict[str, Figures]], policies: Sequence[str]) -> str:
    """Return the tables as Markdown."""
    lines = ["p95 of the time per output token, divided by the best in the cell", ""]
    lines += _table(["fleet, load", "best, ms", *policies], [
        [f"{BY_NAME[cell.fleet].name}, {cell.load}",
         f"{1e3 * min(figures.per_token for figures in by_policy.values()):.1f}",
         *(f"{by_policy[policy].per_token / min(figures.per_token for figures in by_policy.values()):.2f}"
           for policy in policies)]
        for cell, by_policy in cells.items()
    ] + [
        ["geometric mean", "", *(f"{geometric_mean(ratios(cells, policy)):.2f}" for policy in policies)],
        ["worst", "", *(f"{max(ratios(cells, policy)):.2f}" for policy in policies)],
    ])  # fmt: skip
    lines += ["", "p95 of the time to first token (s), prefix hits, busiest share, cold loads", ""]
    lines += _table(["fleet, load", *policies], [
        [f"{BY_NAME[cell.fleet].name}, {cell.load}", *(_others(by_policy[policy]) for policy in policies)]
        for cell, by_policy in cells.items()
    ])  # fmt: skip
    return "\n".join(lines)


def _others(figures: Figures) -> str:
    first, loads = figures.first, figures.cold_loads
    return f"{first:.2f} {figures.hits:.2f} {figures.busiest:.2f}" + (f" {loads:.0f}" if loads else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def misses(cells: dict[Cell, dict[str, Figures]], policy: str = OURS) -> list[str]:
    """Return the bounds that a policy misses, in words."""
    policy_ratios = ratios(cells, policy)
    mean, worst = geometric_mean(policy_ratios), max(policy_ratios)
    texts = []
    if not mean <= MEAN_BOUND:
        texts.append(f"{policy}: geometric mean {mean:.2f}, more than {MEAN_BOUND}")
    if not worst <= WORST_BOUND:
        texts.append(f"{policy}: worst cell {worst:.2f}, more than {WORST_BOUND}")
    if any(math.isnan(value) for value in policy_ratios):
        texts.append(f"{policy}: a cell without a result")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", default=",".join(fleet.name.split()[0] for fleet in OPEN), help="or `held`")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--requests", type=int, default=3000, help="of one run; large fleets get more")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="four fleets, two loads, 1,200 requests, one seed")
    parser.add_argument("--saturation", action="store_true", help="measure only what fleets.py has as `saturation`")
    options = parser.parse_args()
    fleets = options.fleets.split(",")
    if options.fleets == "held":
        fleets = [fleet.name.split()[0] for fleet in HELD_BACK]
    if options.quick:
        fleets, options.loads, options.requests, options.seeds = list(QUICK_FLEETS), (0.3, 0.85), 1200, 1
    policies = options.policies.split(",")
    if unknown := [*(set(fleets) - BY_NAME.keys()), *(set(policies) - POLICIES.keys())]:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.saturation:
        for name in fleets:
            print(f"{BY_NAME[name].name}: {saturation(BY_NAME[name]):.2f}", flush=True)
        return
    cells = compare(fleets, options.loads, policies, options.requests, range(1, options.seeds + 1), options.jobs)
    print(report(cells, policies))
    if OURS in policies and len(policies) > 1 and (missed := misses(cells)):
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
