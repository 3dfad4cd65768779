"""RouterDash's balancers over HTTP on all fleets, loads and numbers of workers: `python -m benchmarks.routing.matrix`.

It takes hours, unattended. Each run is stored in a file at once, so that it continues where it stopped: after Ctrl-C,
after `--minutes`, or after a crash. Runs of another commit, seed or number of requests are made again. The order takes
one cell of each fleet after the other, so that a part of the matrix has a bit of everything.

A run takes a minute and a twentieth of the machine, so that several of these commands, each with its own `--fleets` and
`--results`, may run beside each other. As in `benchmarks.routing.over_http`, simulated time passes at another speed
(`scale`: seconds for a simulated one). If the processes of a run take more than 60 % of the machine, it is made again
at half the speed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import msgspec

from benchmarks.process import ROOT
from benchmarks.routing.fleets import BY_NAME, HELD_BACK, OPEN
from benchmarks.routing.over_http import (
    BALANCERS,
    LOADS,
    MOST_CPU,
    SCALES,
    Cell,
    measure,
    references,
    requests_of,
    scale_of,
)

GROUPS = {"open": OPEN, "held": HELD_BACK}
MOST_MEAN, MOST_WORST = 1.15, 1.5  # of adaptive: geometric mean and worst cell, p95 per token ÷ the best oracle
SLOWER = 3  # attempts, each at half the speed of the one before


class CellResult(msgspec.Struct, frozen=True):
    """A run of one balancer in one cell, as a line of JSON. Times in simulated seconds."""

    commit: str
    seed: int
    wanted: int  # requests
    fleet: str
    load: float
    workers: int
    balancer: str
    ratio: float  # p95 per token ÷ that of the better oracle
    first: float  # p95 of the time to first token
    hits: float
    requests: int  # measured
    scale: float
    cpu: float  # share of the machine
    errors: int

    @property
    def key(self) -> tuple[object, ...]:
        return self.commit, self.seed, self.wanted, self.fleet, self.load, self.workers, self.balancer


def stored(path: Path) -> list[CellResult]:
    """Return the results in a file; the last line may be cut."""
    results: list[CellResult] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            results.append(msgspec.json.decode(line, type=CellResult))
        except msgspec.DecodeError as error:
            print(f"{path}: a line is ignored: {error}", file=sys.stderr)
    return results


def cells(fleets: Sequence[str], loads: Sequence[float], workers: Sequence[int]) -> Iterator[Cell]:
    """Yield the cells, one of each fleet after the other."""
    for load, count in product(loads, workers):
        for fleet in fleets:
            yield Cell(fleet, load, count)


def run(cell: Cell, balancer: str, best: float, commit: str, options: argparse.Namespace) -> CellResult:
    """Run a balancer in a cell, more slowly if it takes too much of the machine."""
    scale, requests = scale_of(cell), requests_of(BY_NAME[cell.fleet], options.requests)
    for attempt in range(SLOWER):
        outcome = measure(cell, balancer, requests, options.seed, scale)
        if outcome.cpu <= MOST_CPU or attempt == SLOWER - 1:
            break
        print(f"  {outcome.cpu:.0%} of the machine: again at half the speed", flush=True)
        scale *= 2
    for error in sorted(set(outcome.errors)):
        print(f"  error, {outcome.errors.count(error)} times: {error}", file=sys.stderr)
    return CellResult(
        commit, options.seed, requests, cell.fleet, cell.load, cell.workers, balancer, outcome.per_token / best,
        outcome.first, outcome.hits, outcome.requests, scale, outcome.cpu, len(outcome.errors),
    )  # fmt: skip


def line(result: CellResult) -> str:
    name, speed = (
        BY_NAME[result.fleet].name,
        f"{1 / result.scale:.3g} × as fast" if result.scale < 1 else f"{result.scale:g} × slower",
    )
    return (
        f"| {name}, {result.load}, {result.workers} | {result.balancer} | {result.ratio:.2f} | {result.first:.2f} "
        f"| {result.hits:.2f} | {speed} | {result.cpu:.0%} |"
    )


def summary(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield lines with the means and the worst cells of each group of fleets and balancer."""
    yield "| fleets | balancer | cells | geometric mean | worst | CPU, at most |"
    yield "|---|---|--:|--:|--:|--:|"
    for (group, fleets), balancer in product(GROUPS.items(), BALANCERS):
        names = {fleet.name.split()[0] for fleet in fleets}
        of_group = [result for result in results if result.fleet in names and result.balancer == balancer]
        if of_group:
            mean, worst = (
                geometric_mean(result.ratio for result in of_group),
                max(of_group, key=lambda result: result.ratio),
            )
            yield (
                f"| {group} | {balancer} | {len(of_group)} | {mean:.2f} | {worst.ratio:.2f} ({worst.fleet}, "
                f"{worst.load}, {worst.workers}) | {max(result.cpu for result in of_group):.0%} |"
            )


def is_good(results: Sequence[CellResult]) -> bool:
    """Return True if adaptive routing is within its bounds in each group, without errors, on a machine with room."""
    for fleets in GROUPS.values():
        names = {fleet.name.split()[0] for fleet in fleets}
        ratios = [result.ratio for result in results if result.fleet in names and result.balancer == "adaptive"]
        if ratios and (geometric_mean(ratios) > MOST_MEAN or max(ratios) > MOST_WORST):
            return False
    return not any(result.errors or result.cpu > MOST_CPU for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", default="open,held", help="open, held, or names of fleets")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--balancers", nargs="+", choices=BALANCERS, default=BALANCERS)
    parser.add_argument("--requests", type=int, default=400, help="of one run; large and fast fleets get more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="no run begins later")
    parser.add_argument("--results", type=Path, default=ROOT / ".cache" / "routing-matrix.jsonl")
    parser.add_argument("--again", action="store_true", help="make all runs again")
    options = parser.parse_args()
    fleets: list[str] = []
    for name in options.fleets.split(","):
        fleets += [fleet.name.split()[0] for fleet in GROUPS[name]] if name in GROUPS else [name]
    if unknown := set(fleets) - SCALES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose among {', '.join(SCALES)}")
    commit = _commit()
    wanted = [
        (cell, balancer) for cell in cells(fleets, options.loads, options.workers) for balancer in options.balancers
    ]
    keys = [
        (commit, options.seed, requests_of(BY_NAME[cell.fleet], options.requests), *cell, balancer)
        for cell, balancer in wanted
    ]
    done = {} if options.again else {stored_result.key: stored_result for stored_result in stored(options.results)}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    started, best = time.monotonic(), dict[tuple[str, float], float]()
    with options.results.open("ab") as file:
        for number, ((cell, balancer), key) in enumerate(zip(wanted, keys, strict=True), 1):
            passed = time.monotonic() - started
            if key in done:
                continue
            if options.minutes is not None and passed > 60 * options.minutes:
                print(f"{options.minutes:g} minutes have passed; the same command continues", flush=True)
                break
            print(f"{number} of {len(wanted)}, after {passed / 60:.0f} min: {cell}, {balancer}", flush=True)
            of = cell.fleet, cell.load
            if of not in best:
                requests = requests_of(BY_NAME[cell.fleet], options.requests)
                best[of] = references(BY_NAME[cell.fleet], cell.load, requests, options.seed)
            result = done[key] = run(cell, balancer, best[of], commit, options)
            file.write(msgspec.json.encode(result) + b"\n")
            file.flush()
            print(f"  {line(result)}", flush=True)
    results = [done[key] for key in keys if key in done]
    print("\n| fleet, load, workers | balancer | ÷ oracle | p95 first token, s | hits | simulated time | CPU |")
    print("|---|---|--:|--:|--:|---|--:|")
    print("\n".join(map(line, results)) + "\n")
    print("\n".join(summary(results)))
    print(f"\n{len(results)} of {len(wanted)} runs are done.")
    if not is_good(results):
        sys.exit(f"adaptive routing exceeds {MOST_MEAN} or {MOST_WORST}, requests failed, or the machine was too busy")


def _commit() -> str:
    given = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


if __name__ == "__main__":
    main()
