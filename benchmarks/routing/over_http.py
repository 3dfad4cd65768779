"""`make bench-routing`: RouterDash's balancers before simulated servers over HTTP, beside oracles in virtual time.

Each cell starts RouterDash in a new data directory, so it learns during the run; the first part of it is not
measured. Time passes at another speed for servers and clients (`scale`), so that the machine is far from saturated.
A figure is the 95th percentile of the time of a request per output token, in simulated time, divided by the best of
the oracles, which know every server and every length, for the same sessions in virtual time.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from benchmarks.bench.proc import cpu_seconds
from benchmarks.routing import http_servers, workloads
from benchmarks.routing.fleets import BY_NAME, Fleet
from benchmarks.routing.http_clients import Answer, Clients
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.virtual import Run, percentile
from benchmarks.scale.installation import hash_of
from benchmarks.simulator import Simulator
from tests.router import RouterDash, until

BALANCERS = ("least_inflight", "adaptive")
ORACLES = ("oracle", "oracle_social")
# Seconds for a simulated one. Slow fleets have few tokens a second, so their time may pass faster than ours.
# Fleets that swap models (F6, K3) run in real time. RouterDash reads what engines have loaded, and expects a load of
# 15 s where it has measured none, in seconds of the clock; ten times as fast, K3 became up to 100 times as slow.
SCALES = {
    "F1": 0.2, "F2": 0.3, "F3": 2.0, "F4": 1.0, "F5": 2.0, "F6": 1.0, "F7": 5.0, "F8": 0.5, "F9": 0.2, "F10": 0.6,
    "K1": 0.2, "K2": 0.6, "K3": 1.0, "K4": 0.5,
}  # fmt: skip
# Cells whose time passes more slowly. Answers of 4 to 15 tokens by a fast server decide the p95 of F9 at 0.3: at 0.2,
# 5 ms in which RouterDash, servers and clients wait for the machine are 25 ms of each, and a fifth of this p95.
SLOW_CELLS = {("F9", 0.3): 0.6}
FLEETS = ("F1", "F2", "F4", "F9")
LOADS = (0.3, 0.6, 0.85)
THINK = 0.2  # of the usual pauses between turns, so that sessions are short beside a run
WARM = 0.3  # share of the run that is not measured: the first samples come in it
EACH = 60  # requests of a run for each server, at least: with fewer, most of it would measure new servers
# Simulated seconds of a run at saturation, at least. What was learned is published every two seconds, so that a run of
# eight would measure new servers too: in virtual time, F4 at 0.85 is 1.2 to 2.7 with 400 requests, and 0.9 with 2,000.
SECONDS = 40.0
MOST_CPU = 0.6  # of the machine


class Cell(NamedTuple):
    fleet: str
    load: float
    workers: int


class Outcome(NamedTuple):
    """One run. Times in simulated seconds."""

    per_token: float  # p95
    first: float  # p95 of the time to first token
    hits: float
    requests: int  # measured
    cpu: float  # share of the machine that RouterDash, servers and clients took
    errors: list[str]


def scale_of(cell: Cell) -> float:
    """Return the seconds for a simulated one."""
    return SLOW_CELLS.get((cell.fleet, cell.load), SCALES[cell.fleet])


def requests_of(fleet: Fleet, requests: int) -> int:
    """Return how many requests a run has: more for a large or a fast fleet."""
    return max(requests, EACH * len(fleet.shapes), round(SECONDS * fleet.saturation))


def references(fleet: Fleet, load: float, requests: int, seed: int) -> float:
    """Return the p95 per token of the better oracle in virtual time."""
    results = [Run(fleet, POLICIES[name](seed), name, load, requests, seed, THINK).run() for name in ORACLES]
    return min(_p95([(request.ended - request.arrived, request.job.output) for request in result.requests
                     if request.arrived >= WARM * result.seconds]) for result in results)  # fmt: skip


def _p95(values: Sequence[tuple[float, int]]) -> float:
    return percentile(sorted(seconds / output for seconds, output in values if output), 0.95)


def measure(cell: Cell, balancer: str, requests: int, seed: int, scale: float) -> Outcome:
    fleet = BY_NAME[cell.fleet]
    sessions = workloads.sessions(fleet, cell.load * fleet.saturation, requests, seed, think=THINK)
    with tempfile.TemporaryDirectory(prefix="routerdash-routing-") as directory, Simulator() as simulator:
        router = RouterDash(
            Path(directory), ROUTERDASH_BALANCER=balancer, ROUTERDASH_WORKERS=str(cell.workers),
            ROUTERDASH_LOG_LEVEL="warning",
        )  # fmt: skip
        try:
            router.start()
            keys = add_fleet(router, simulator, fleet, scale, seed)
            clients = Clients(router.url, keys, scale)
            pids = router.pids()
            begun, cpu = time.monotonic(), cpu_seconds(pids) + time.process_time()
            asyncio.run(clients.run(sessions))
            cpu = cpu_seconds(pids) + time.process_time() - cpu
            share = cpu / (time.monotonic() - begun) / (os.cpu_count() or 1)
        finally:
            router.end()
    return _outcome(clients.answers, sessions[-1].start, share, clients.errors)


def add_fleet(router: RouterDash, simulator: Simulator, fleet: Fleet, scale: float, seed: int) -> dict[str, str]:
    """Start the servers of a fleet and register them. Return API keys by kind of client."""
    loads = {f"m{number}": float(seconds) for number, seconds in enumerate(fleet.loads)}
    for number, shape in enumerate(fleet.shapes):
        server = http_servers.add(simulator, shape, list(loads) or ["m0"], loads, scale, seed + number)
        slots = {"max_concurrency": shape.slots} if shape.tells_slots else {}
        router.register(server, f"e{number}", health_check_interval_secs=600, **slots)
    keys = {kind: add_key(router, kind) for kind in workloads.KINDS}
    _wait_for_models(router, len(fleet.shapes), len(loads) or 1)
    until(lambda: all(router.get("/v1/models", key=key).status == 200 for key in keys.values()))
    return keys


def p95_per_token(answers: Iterable[Answer]) -> float:
    """Return the 95th percentile of simulated seconds per output token."""
    return _p95([(answer.ended - answer.arrived, answer.output) for answer in answers])


def _outcome(answers: Sequence[Answer], length: float, cpu: float, errors: list[str]) -> Outcome:
    measured = [answer for answer in answers if WARM * length <= answer.arrived <= length]
    written = [answer for answer in measured if answer.output]
    return Outcome(
        p95_per_token(written),
        percentile(sorted(answer.first - answer.arrived for answer in written), 0.95),
        sum(answer.cached for answer in measured) / max(1, sum(answer.prompt for answer in measured)),
        len(measured),
        cpu,
        errors,
    )


def add_key(router: RouterDash, name: str) -> str:
    """Create an API key in the database, as another program may."""
    secret = "sk_" + name.ljust(32, "0")
    ((owner, created, permissions),) = router.query("SELECT created_by, created_at, permissions FROM api_keys LIMIT 1")
    router.query(
        "INSERT INTO api_keys (id, key_hash, name, created_by, created_at, permissions) VALUES (?, ?, ?, ?, ?, ?)",
        str(uuid.uuid4()), hash_of(secret), name, owner, created, permissions,
    )  # fmt: skip
    until(lambda: router.get("/v1/models", key=secret).status == 200)
    return secret


def _wait_for_models(router: RouterDash, endpoints: int, models: int) -> None:
    def listed() -> bool:
        served_models = router.get("/v1/models").json()["data"]
        return len(served_models) == models and all(len(one["endpoint_ids"]) == endpoints for one in served_models)

    until(listed, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", default=",".join(FLEETS))
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--balancers", default=",".join(BALANCERS))
    parser.add_argument("--requests", type=int, default=400, help="of one run; large and fast fleets get more")
    parser.add_argument("--scale", type=float, help="seconds for a simulated one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="F2 at 0.6 with one worker and 150 requests, in a minute")
    options = parser.parse_args()
    fleets, balancers = options.fleets.split(","), options.balancers.split(",")
    if unknown := [*(set(fleets) - SCALES.keys()), *(set(balancers) - set(BALANCERS))]:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.quick:
        fleets, options.loads, options.workers, options.requests, options.scale = ["F2"], (0.6,), (1,), 150, 0.25
    started, ratios, failed = time.monotonic(), {name: list[float]() for name in balancers}, False
    print("| fleet, load, workers | best oracle, ms | balancer | ÷ oracle | p95 first token, s | hits | CPU |")
    print("|---|---|---|---|---|---|---|")
    for cell in [
        Cell(fleet, load, workers) for fleet in fleets for load in options.loads for workers in options.workers
    ]:
        requests = requests_of(BY_NAME[cell.fleet], options.requests)
        best = references(BY_NAME[cell.fleet], cell.load, requests, options.seed)
        for balancer in balancers:
            scale = options.scale or scale_of(cell)
            outcome = measure(cell, balancer, requests, options.seed, scale)
            ratios[balancer].append(outcome.per_token / best)
            print(
                f"| {BY_NAME[cell.fleet].name}, {cell.load}, {cell.workers} | {best * 1e3:.1f} | {balancer} | "
                f"{outcome.per_token / best:.2f} | {outcome.first:.2f} | {outcome.hits:.2f} | {outcome.cpu:.0%} |",
                flush=True,
            )
            for error in sorted(set(outcome.errors)):
                print(f"error, {outcome.errors.count(error)} times: {error}", file=sys.stderr)
            failed = failed or bool(outcome.errors) or outcome.cpu > MOST_CPU
    for balancer, values in ratios.items():
        print(f"\n{balancer}: geometric mean {geometric_mean(values):.2f}, worst {max(values):.2f}")
    print(f"\nIt took {time.monotonic() - started:.0f} s.")
    if failed:
        sys.exit(f"requests failed, or more than {MOST_CPU:.0%} of the machine was taken: see above")


if __name__ == "__main__":
    main()
