"""What clients notice of a SIGKILL of control and all gateways: `python -m benchmarks.routing.restart`.

RouterDash with adaptive routing serves simulated servers over HTTP. In the middle of the run, control and the gateways
are killed at once; the supervisor starts them again. Clients send again what was lost. The 95th percentile of the time
per output token of the requests that begin in the window after the restart is compared with that of the window before.
Exits 1 if it is more than 1.1 times as long, or if what routing has learned is not the same.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.bench.proc import cpu_seconds
from benchmarks.routing import workloads
from benchmarks.routing.fleets import BY_NAME
from benchmarks.routing.http_clients import Clients
from benchmarks.routing.over_http import SCALES, THINK, add_fleet, p95_per_token
from benchmarks.simulator import Simulator
from gateway.registry import folders
from gateway.registry.schema import LENGTHS, SPEEDS
from gateway.registry.store import RegistryStore
from tests.router import RouterDash, command_of, until

MOST = 1.1  # p95 after ÷ p95 before
WARM = 0.4  # share of the time before the restart in which routing learns, and nothing is measured
PAUSE_SECONDS = 0.1  # of a client until it sends a lost request again


class PersistentClients(Clients):
    """Clients that send a request again if the connection breaks."""

    lost = 0

    async def _request(self, client: aiohttp.ClientSession, kind: str, body: dict[str, Any], output: int) -> None:
        while True:
            try:
                await super()._request(client, kind, body, output)
            except aiohttp.ClientError:
                self.lost += 1
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return


def learned(router: RouterDash) -> dict[bytes, bytes]:
    """Return the rows of the registry store that gateways route by."""
    root = router.data_dir / "registry"
    store = RegistryStore(folders.folder(root, folders.current(root)))
    with closing(store), store.reading():
        return dict([*store.raw_rows(SPEEDS, b""), *store.raw_rows(LENGTHS, b"")])


def kill(router: RouterDash) -> int:
    """Kill control and all gateways at once. Return how many processes were killed."""
    assert router.process is not None
    pids = [pid for pid in router.pids() if pid != router.process.pid]
    roles = [pid for pid in pids if "gateway" in command_of(pid) or "control" in command_of(pid)]
    for pid in roles:
        os.kill(pid, signal.SIGKILL)
    return len(roles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleet", default="F2", choices=sorted(SCALES))
    parser.add_argument("--load", type=float, default=0.6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the windows before and after the restart")
    parser.add_argument("--scale", type=float, default=0.1, help="seconds for a simulated one")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    fleet, scale, window = BY_NAME[options.fleet], options.scale, options.seconds
    rate = options.load * fleet.saturation
    before = window / (1 - WARM)
    requests = int((before + window + 5.0) / scale * rate * 1.1)
    sessions = workloads.sessions(fleet, rate, requests, options.seed, think=THINK)
    with tempfile.TemporaryDirectory(prefix="routerdash-restart-") as directory, Simulator() as simulator:
        router = RouterDash(
            Path(directory), ROUTERDASH_BALANCER="adaptive", ROUTERDASH_WORKERS=str(options.workers),
            ROUTERDASH_LOG_LEVEL="error",
        )  # fmt: skip
        try:
            router.start()
            keys = add_fleet(router, simulator, fleet, scale, options.seed)
            clients = PersistentClients(router.url, keys, scale)
            running = threading.Thread(target=asyncio.run, args=(clients.run(sessions),), daemon=True)
            begun, cpu = time.monotonic(), cpu_seconds(router.pids()) + time.process_time()
            running.start()
            time.sleep(before)
            share = (cpu_seconds(router.pids()) + time.process_time() - cpu) / (time.monotonic() - begun)
            killed_at = time.monotonic()
            count = kill(router)
            until(lambda: _serves(router), 60)
            served_at = time.monotonic()
            print(f"killed {count} processes; served again after {served_at - killed_at:.2f} s", flush=True)
            time.sleep(window)
            after = time.monotonic()
            same = _is_same_at_rest(router, clients, running)
        finally:
            router.end()
    cut = [(moment - begun) / scale for moment in (killed_at - window, killed_at, served_at, after)]
    old = p95_per_token(it for it in clients.answers if cut[0] <= it.arrived and it.ended <= cut[1])
    new = p95_per_token(it for it in clients.answers if cut[2] <= it.arrived <= cut[3])
    counts = [
        sum(start <= it.arrived <= end for it in clients.answers) for start, end in ((cut[0], cut[1]), (cut[2], cut[3]))
    ]
    print(f"{fleet.name}, load {options.load}, {options.workers} workers, 1 simulated second in {scale} s")
    print(f"CPU: {share / (os.cpu_count() or 1):.0%} of the machine; requests sent again: {clients.lost}")
    print(f"p95 per token before: {old * 1e3:.1f} ms ({counts[0]} requests); after: {new * 1e3:.1f} ms ({counts[1]})")
    print(
        f"ratio {new / old:.2f}, at most {MOST}; learned bits after another SIGKILL: {'the same' if same else 'DIFFER'}"
    )
    for error in sorted(set(clients.errors)):
        print(f"error, {clients.errors.count(error)} times: {error}", file=sys.stderr)
    if new > MOST * old or not same or clients.errors:
        sys.exit(1)


def _serves(router: RouterDash) -> bool:
    try:
        return router.get("/v1/models").status == 200
    except OSError:
        return False


def _is_same_at_rest(router: RouterDash, clients: PersistentClients, running: threading.Thread) -> bool:
    """Wait for the last response, kill everything once more, and compare what routing has learned.

    During the run it changes with every response.
    """
    running.join()
    until(lambda: router.stats()["records_waiting"] == 0, 30)
    rows: list[dict[bytes, bytes]] = []

    def is_stable() -> bool:
        rows.append(learned(router))
        return rows[-1:] == rows[-2:-1]

    until(is_stable, 30, 1.0)
    router.kill()
    router.start()
    return learned(router) == rows[-1]


if __name__ == "__main__":
    main()
