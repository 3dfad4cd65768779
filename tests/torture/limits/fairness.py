"""Fairness of a limit over the queues of several gateways, and of its classes.

    python -m tests.torture.limits.fairness [--workers 4] [--seconds 15]

An API key may have one request in flight, and waits. Several clients at each gateway send one request after the other.
All gateways must get a similar share, no request may wait much longer than its turn takes, and the server must not be
idle for long. Then some clients are of the class bulk.
"""

import argparse
import http.client
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.scale.connections import accepting_process
from benchmarks.scale.installation import gateways
from benchmarks.simulator import Simulator
from tests.router import KEY, RouterDash, until
from tests.torture.limits import upstream

MODEL = "fair"
RESPONSE_SECONDS = 0.05
AT_EACH = 3  # clients at each gateway


@dataclass
class Shares:
    """What came of a trial. Times in seconds."""

    served: Counter[str] = field(default_factory=Counter)  # by gateway, or class
    waited: list[float] = field(default_factory=list)
    most: int = 0  # requests at once at the server
    gaps: list[float] = field(default_factory=list)  # between two requests at the server
    idle: float = 0.0  # share of the time without a request at the server

    def __str__(self) -> str:
        total = sum(self.served.values())
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in sorted(self.served.items()))
        waited, gaps = sorted(self.waited), sorted(self.gaps)
        return (
            f"{total} served: {shares}; wait median {waited[len(waited) // 2] * 1000:.0f} ms, longest "
            f"{waited[-1] * 1000:.0f} ms; at most {self.most} at once; idle {self.idle:.0%}, longest gap "
            f"{gaps[-1] * 1000:.0f} ms"
        )


def connections(router: RouterDash, each: int) -> list[tuple[int, http.client.HTTPConnection]]:
    """Return connections, of which each gateway has accepted the same number. The first value is its number."""
    pids, accepted, left = gateways(router), list[tuple[int, http.client.HTTPConnection]](), Counter[int]()
    deadline = time.monotonic() + 60
    while len(accepted) < each * len(pids):
        assert time.monotonic() < deadline, f"connections at each gateway: {left}"
        connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
        connection.request("GET", "/v1/models/none", headers={"Authorization": f"Bearer {KEY}"})
        connection.getresponse().read()
        pid = accepting_process(connection.sock, pids)
        if pid is None or left[pid] == each:
            connection.close()
        else:
            left[pid] += 1
            accepted.append((pids.index(pid), connection))
    return accepted


def trial(
    router: RouterDash, key: str, arrivals: list[upstream.Arrival], seconds: float, classes: Sequence[str]
) -> Shares:
    """Send requests for so long. `classes`: those of the clients at each gateway; without, gateways are compared."""
    shares, stopping, lock = Shares(), threading.Event(), threading.Lock()
    arrivals.clear()

    def send(name: str, connection: http.client.HTTPConnection, of_class: str) -> None:
        body = json.dumps({"model": MODEL, "messages": [], "user": "1"})
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        if of_class:
            headers["x-routerdash-class"] = of_class
        with closing(connection):
            while not stopping.is_set():
                begin = time.monotonic()
                connection.request("POST", "/v1/chat/completions", body, headers)
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    with lock:
                        shares.served[of_class or name] += 1
                        shares.waited.append(time.monotonic() - begin - RESPONSE_SECONDS)

    each = len(classes) or AT_EACH
    used = Counter[int]()
    threads = []
    for number, connection in connections(router, each):
        of_class = classes[used[number]] if classes else ""
        used[number] += 1
        threads.append(threading.Thread(target=send, args=(f"gateway {number}", connection, of_class)))
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    seen = [arrival for arrival in list(arrivals) if arrival.left < float("inf")]
    stopping.set()
    for thread in threads:
        thread.join()
    _watch(shares, sorted(seen, key=lambda arrival: arrival.arrived))
    return shares


def _watch(shares: Shares, seen: list[upstream.Arrival]) -> None:
    events = sorted([(arrival.arrived, 1) for arrival in seen] + [(arrival.left, -1) for arrival in seen])
    running = 0
    for _, change in events:
        running += change
        shares.most = max(shares.most, running)
    shares.gaps = [max(0.0, later.arrived - earlier.left) for earlier, later in pairwise(seen)]
    shares.idle = sum(shares.gaps) / (seen[-1].left - seen[0].arrived)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routerdash-fairness-") as directory, ExitStack() as stack:
        database = os.environ.get("DATABASE_URL", "")
        router = RouterDash(Path(directory), database, ROUTERDASH_WORKERS=str(options.workers))
        stack.callback(router.kill)
        router.start()
        simulator = stack.enter_context(Simulator())
        arrivals: list[upstream.Arrival] = []
        simulated = upstream.add(simulator, arrivals, models=[MODEL], ttft=RESPONSE_SECONDS)
        router.add(simulated, "fair")
        key_id = router.query("SELECT id FROM api_keys")[0][0]
        body = {"concurrency": 1, "waiting": ["concurrency"]}
        until(lambda: router.request("PUT", f"/api/limits/key/{key_id}", body).status == 200)
        print(f"by gateway: {trial(router, KEY, arrivals, options.seconds, [])}")
        classes = ["interactive", "bulk"]
        print(f"by class, two of each at a gateway: {trial(router, KEY, arrivals, options.seconds, classes * 2)}")
        print(f"bulk alone: {trial(router, KEY, arrivals, options.seconds / 3, ['bulk'])}")


if __name__ == "__main__":
    main()
