"""CPU time that limits cost a plain request, with the kernel's part.

    python -m benchmarks.limit_cost [--rounds 21] [--requests 2000] [--others NUMBER]

One gateway process serves the plain request of `benchmarks.instructions` from one client, one after the other, without
limits, with three limits (concurrency, requests and tokens a minute) of another API key, and with three of its own.
These states take turns: each round has a burst of requests in each state, in another order than the round before. The
CPU time is that of the whole process, user and system, by its clock in ns. A ratio is the median of those within the
rounds, so it holds beside other load, too; the times themselves do not. With `--others`, so many other processes count
for the same API key, as further gateways would: this process claims their rows.
"""

import argparse
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance
from gateway.registry.limits import KEY_LEVEL
from tests.gateway.process import KEY, GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.gateway.test_budget import MODEL, PLAIN, Upstream

NONE, OTHER, OWN = "none", "other", "own"  # which API key has limits
STATES = (NONE, OTHER, OWN)
KEY_ID = KEY[3:11]
LIMITS = {"concurrency": 100, "requests": 10_000_000, "tokens": 1_000_000_000}
WARM_UP = 200  # requests after a change of limits
CPUCLOCK_SCHED = 2  # of clock_getcpuclockid(3): user and system time of all threads of a process


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--requests", type=int, default=2000, help="of each state in a round")
    parser.add_argument("--others", type=int, default=0, help="other processes that count for the same API key")
    options = parser.parse_args()
    with started() as gateway:
        count_elsewhere(gateway, options.others)
        gateway.plain(5 * WARM_UP)
        ticks = gateway.ticks()
        rounds = [measure(gateway, number, options.requests) for number in range(options.rounds)]
        user, system = (after - before for before, after in zip(ticks, gateway.ticks(), strict=True))
    print(
        f"µs of CPU a plain request, medians of {options.rounds} rounds of {options.requests:,} requests, "
        f"{options.others} other processes: "
        + ", ".join(f"{state} {median(one[state] for one in rounds):.1f}" for state in STATES)
        + f"; {100 * system / (user + system):.0f} % of it the kernel's"
    )
    for state, what in ((OTHER, "three limits of another API key"), (OWN, "three limits of its API key")):
        ratios = sorted(one[state] / one[NONE] for one in rounds)
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(
            f"plain request with {what}: × {median(ratios):.3f} (half of the rounds: {low:.3f} to {high:.3f}; "
            f"all: {ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


class Gateway(GatewayProcess):
    """A gateway process with one endpoint, and the connection of one client to it."""

    def __init__(self, directory: Path, upstream: Upstream) -> None:
        super().__init__(directory)
        endpoint = make_endpoint("", MODEL, base_url=upstream.url)
        self.endpoints[endpoint.id] = endpoint
        self.start()
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        self._buffer = bytearray(1 << 16)

    def plain(self, number: int) -> None:
        """Send so many requests, one after the other."""
        for _ in range(number):
            self.connection.sendall(PLAIN)
            size, view = 0, memoryview(self._buffer)
            while not self._buffer.endswith(b"}}", 0, size):
                received = self.connection.recv_into(view[size:])
                assert received, bytes(self._buffer[:size])
                size += received
            assert self._buffer.startswith(b"HTTP/1.1 200 "), bytes(self._buffer[:size])

    def cpu_time(self) -> float:
        """Return the CPU time that the process has used, user and system, in seconds."""
        assert self.process is not None
        return time.clock_gettime(~self.process.pid << 3 | CPUCLOCK_SCHED)

    def ticks(self) -> tuple[int, int]:
        """Return its user and its system time, in ticks of the kernel."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]), int(fields[12])


@contextmanager
def started() -> Iterator[Gateway]:
    with ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-limit-cost-"))
        upstream = Upstream()
        gateway = Gateway(Path(directory), upstream)
        opened.callback(gateway.end)
        opened.callback(upstream.close)
        opened.enter_context(gateway.connection)
        yield gateway


def count_elsewhere(gateway: Gateway, processes: int) -> None:
    """Count a request for the API key in the rows of other processes, so that each gateway loads their counts."""
    for _ in range(processes):
        counters = LimitCounters(gateway.page, gateway.page.claim_row())
        plan = counters.plan((counters.subject(KEY_LEVEL, KEY_ID), Allowance(**LIMITS)))  # type: ignore[arg-type]
        plan.take(100)  # in flight, so that the place stays


def measure(gateway: Gateway, number: int, requests: int) -> dict[str, float]:
    """Return the µs of CPU of a request in each state, in one round."""
    found = {}
    for state in STATES[number % 3 :] + STATES[: number % 3]:
        gateway.limit(KEY_LEVEL, KEY_ID, **(LIMITS if state == OWN else {}))
        gateway.limit(KEY_LEVEL, "another", **(LIMITS if state == OTHER else {}))
        gateway.plain(WARM_UP)
        begin = gateway.cpu_time()
        gateway.plain(requests)
        found[state] = (gateway.cpu_time() - begin) / requests * 1e6
    return found


if __name__ == "__main__":
    main()
