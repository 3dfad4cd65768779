"""CPU time that limits cost a plain request, with the kernel's part.

    python -m benchmarks.limit_cost [--rounds 21] [--requests 2000] [--others NUMBER]

One gateway process serves the plain request of `benchmarks.instructions` from two clients, one request after the other:
the API key of one has three limits (concurrency, requests and tokens a minute), that of the other has none. They take
turns in short bursts, so that other load on the machine disturbs both alike. The CPU time is that of the whole process,
user and system, by its clock in ns. A ratio is the median of those of the rounds. The key without limits has the cost
of finding that it has none: some 0.7 % of the instructions, as `benchmarks.instructions --limits` counts. With
`--others`, so many other processes count for the key with limits, as further gateways would: this process claims rows.
"""

import argparse
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.plan import Allowance
from gateway.registry.limits import KEY_LEVEL
from tests.gateway.process import KEY, GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.gateway.test_budget import MODEL, PLAIN, Upstream

OTHER_KEY = "sk_" + "AnotherKey0" * 3
LIMITS: dict[str, Any] = {"concurrency": 100, "requests": 10_000_000, "tokens": 1_000_000_000}
BURST = 50  # requests
WARM_UP = 1000
CPUCLOCK_SCHED = 2  # of clock_getcpuclockid(3): user and system time of all threads of a process


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--requests", type=int, default=2000, help="of each state in a round")
    parser.add_argument("--others", type=int, default=0, help="other processes that count for the same API key")
    options = parser.parse_args()
    with started() as gateway:
        count_elsewhere(gateway, options.others)
        ticks = gateway.ticks()
        rounds = [gateway.measure(options.requests) for _ in range(options.rounds)]
        user, system = (after - before for before, after in zip(ticks, gateway.ticks(), strict=True))
    without, limited = (median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(one / other for other, one in rounds)
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    print(
        f"plain request with three limits of its API key, {options.others} other processes: {limited:.1f} µs of CPU, "
        f"{without:.1f} without: × {median(ratios):.3f} ({low:.3f} to {high:.3f} in half of the {options.rounds} "
        f"rounds, {ratios[0]:.3f} to {ratios[-1]:.3f} in all); {100 * system / (user + system):.0f} % is the kernel's"
    )


class Gateway(GatewayProcess):
    """A gateway process with one endpoint and two API keys, one of which has limits."""

    def __init__(self, directory: Path, upstream: Upstream) -> None:
        super().__init__(directory)
        endpoint = make_endpoint("", MODEL, base_url=upstream.url)
        self.endpoints[endpoint.id] = endpoint
        self.add_key(OTHER_KEY)
        self.start()
        self.limit(**LIMITS)
        self._buffer = bytearray(1 << 16)
        self._clients = [
            (socket.create_connection(("127.0.0.1", self.port), timeout=30), PLAIN.replace(KEY.encode(), key.encode()))
            for key in (OTHER_KEY, KEY)
        ]

    def close(self) -> None:
        for connection, _ in self._clients:
            connection.close()
        self.end()

    def measure(self, requests: int) -> tuple[float, float]:
        """Return the µs of CPU of a request without limits, and with limits: the mean of so many of each."""
        spent = [0.0, 0.0]
        for number in range(2 * -(-requests // BURST)):
            begin = self.cpu_time()
            self.burst(number % 2, BURST)
            spent[number % 2] += self.cpu_time() - begin
        without, limited = (it / (-(-requests // BURST) * BURST) * 1e6 for it in spent)
        return without, limited

    def burst(self, client: int, number: int) -> None:
        """Send so many requests, one after the other."""
        connection, plain = self._clients[client]
        for _ in range(number):
            connection.sendall(plain)
            size, view = 0, memoryview(self._buffer)
            while not self._buffer.endswith(b"}}", 0, size):
                received = connection.recv_into(view[size:])
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
        opened.callback(gateway.close)
        opened.callback(upstream.close)
        gateway.measure(WARM_UP)
        yield gateway


def count_elsewhere(gateway: Gateway, processes: int) -> None:
    """Count a request for the API key in the rows of other processes, so that the gateway loads their counts."""
    for _ in range(processes):
        counters = LimitCounters(gateway.page, gateway.page.claim_row())
        plan = counters.plan((counters.subject(KEY_LEVEL, KEY[3:11]), Allowance(**LIMITS)))
        plan.take(100)  # in flight, so that the place stays
    gateway.measure(WARM_UP)


if __name__ == "__main__":
    main()
