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
    found: list[CellResult] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(msgspec.json.decode(line, type=CellResult))
        except msgspec.DecodeError as error:
            print(f"{path}: a line is ignored: {error}", file=sys.stderr)
    return found


def cells(fleets: Sequence[str], loads: Sequence[float], workers: Sequence[int]) -> Iterator[Cell]:
    """Yield the cells, one of each fleet after the other."""
    for load, count in product(loads, workers):
        for fleet in fleets:
            yield Cell(fleet, load, count)


def run(cell: Cell, balancer: str, best: float, commit: str, options: argparse.Namespace) -> CellResult:
    """Run a balancer in a cell, more slowly if it takes too much of the machine."""
    scale, requests = scale_of(cell), requests_of(BY_NAME[cell.fleet], options.requests)
    for attempt in range(SLOWER):
        found = measure(cell, balancer, requests, options.seed, scale)
        if found.cpu <= MOST_CPU or attempt == SLOWER - 1:
            break
        print(f"  {found.cpu:.0%} of the machine: again at half the speed", flush=True)
        scale *= 2
    for error in sorted(set(found.errors)):
        print(f"  error, {found.errors.count(error)} times: {error}", file=sys.stderr)
    return CellResult(
        commit, options.seed, requests, cell.fleet, cell.load, cell.workers, balancer, found.per_token / best,
        found.first, found.hits, found.requests, scale, found.cpu, len(found.errors),
    )  # fmt: skip


def line(it: CellResult) -> str:
    name, speed = BY_NAME[it.fleet].name, f"{1 / it.scale:.3g} × as fast" if it.scale < 1 else f"{it.scale:g} × slower"
    return (
        f"| {name}, {it.load}, {it.workers} | {it.balancer} | {it.ratio:.2f} | {it.first:.2f} | {it.hits:.2f} "
        f"| {speed} | {it.cpu:.0%} |"
    )


def summary(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield lines with the means and the worst cells of each group of fleets and balancer."""
    yield "| fleets | balancer | cells | geometric mean | worst | CPU, at most |"
    yield "|---|---|--:|--:|--:|--:|"
    for (group, fleets), balancer in product(GROUPS.items(), BALANCERS):
        names = {fleet.name.split()[0] for fleet in fleets}
        found = [it for it in results if it.fleet in names and it.balancer == balancer]
        if found:
            mean, worst = geometric_mean(it.ratio for it in found), max(found, key=lambda it: it.ratio)
            yield (
                f"| {group} | {balancer} | {len(found)} | {mean:.2f} | {worst.ratio:.2f} ({worst.fleet}, {worst.load}, "
                f"{worst.workers}) | {max(it.cpu for it in found):.0%} |"
            )


def is_good(results: Sequence[CellResult]) -> bool:
    """Return True if adaptive routing is within its bounds in each group, without errors, on a machine with room."""
    for fleets in GROUPS.values():
        names = {fleet.name.split()[0] for fleet in fleets}
        ratios = [it.ratio for it in results if it.fleet in names and it.balancer == "adaptive"]
        if ratios and (geometric_mean(ratios) > MOST_MEAN or max(ratios) > MOST_WORST):
            return False
    return not any(it.errors or it.cpu > MOST_CPU for it in results)


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
    done = {} if options.again else {it.key: it for it in stored(options.results)}
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
            found = done[key] = run(cell, balancer, best[of], commit, options)
            file.write(msgspec.json.encode(found) + b"\n")
            file.flush()
            print(f"  {line(found)}", flush=True)
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
