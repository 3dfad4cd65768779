"""Whether a request and a streamed event cost the same in a small installation and in a large one.

    python -m benchmarks.scale.flat [--endpoints 1000 --keys 1000000] [--database postgres://…/postgres]

Three installations run side by side: a small one, one with many endpoints, and one with many API keys. In rounds, each
gets the same plain requests and then the same paced streams, over connections with different keys. Compared is the CPU
time of the gateway by the kernel's clock, within each round, so that another load of the machine affects all alike.
Health checks are rare here: this is about requests, and the other commands about changes. Prints a table and exits with
1 if a ratio exceeds its bound.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks import filled
from benchmarks.pages import cpu_ms
from benchmarks.scale import arguments, installation
from benchmarks.scale.installation import STREAMING, FleetSize, say
from benchmarks.scale.paced import LAST_CHUNK, exchange, request
from benchmarks.scale.verdicts import Verdict, over, table
from tests.router import KEY, RouterDash

CONNECTIONS = 16
INTERVAL_SECONDS = 3600
RATIO = 1.02
STREAMS, EVENTS, EVENTS_PER_SECOND = 50, 60, 40.0
WARM_UP = 2  # rounds that are not counted


@dataclass(frozen=True)
class Side:
    """One of the compared installations."""

    name: str
    router: RouterDash
    gateway: int  # process id
    plain: list[bytes]  # one request for each connection
    streamed: list[bytes]

    def cpu_ms(self, work: Callable[[], int]) -> float:
        """Return the gateway's CPU time for each unit of work, whose number `work` returns."""
        before = cpu_ms(self.gateway)
        units = work()
        return (cpu_ms(self.gateway) - before) / units

    def send_plain(self, number: int) -> int:
        """Send about `number` requests; return how many."""
        asyncio.run(_send(self.router.port, self.plain, number // len(self.plain)))
        return number // len(self.plain) * len(self.plain)

    def stream(self) -> int:
        """Read one stream a connection; return the number of events."""
        return asyncio.run(_stream(self.router.port, self.streamed))


async def _send(port: int, requests: list[bytes], each: int) -> None:
    async def client(data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(each):
            status = await exchange(reader, writer, data)
            assert status == 200, status
        writer.close()

    await asyncio.gather(*map(client, requests))


async def _stream(port: int, requests: list[bytes]) -> int:
    async def client(data: bytes) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        received = await reader.readuntil(LAST_CHUNK)
        writer.close()
        return received.count(b"data: ")

    return sum(await asyncio.gather(*map(client, requests)))


def keys_of(size: FleetSize, number: int) -> list[str]:
    """Return so many keys, spread over all of the installation; with fewer keys, some several times."""
    chosen = random.Random(1)
    return [installation.secret(chosen.randrange(size.keys)) if size.keys else KEY for _ in range(number)]


def side(stack: ExitStack, name: str, size: FleetSize, server: str) -> Side:
    """Start an installation and its simulated servers."""
    servers = installation.server_list(size)
    control = stack.enter_context(installation.simulated(servers))
    router = stack.enter_context(
        installation.installed(size, servers, server, {"ROUTERDASH_WORKERS": "1"}, INTERVAL_SECONDS)
    )
    say(f"{name} started in {installation.start(router)[0]:.1f} s")
    streaming: filled.Server = servers[min(STREAMING, len(servers) - 1)]
    installation.behave(control, streaming, tokens=EVENTS, tokens_per_second=EVENTS_PER_SECOND)
    plain = [request(router.port, key, servers[0].models[0]) for key in keys_of(size, CONNECTIONS)]
    streamed = [request(router.port, key, streaming.models[0], stream=True) for key in keys_of(size, STREAMS)]
    return Side(name, router, installation.gateways(router)[0], plain, streamed)


def compare(sides: list[Side], rounds: int, requests: int) -> dict[str, list[list[float]]]:
    """Return the CPU time in ms of a request and of an event: a row for each round, a column for each side."""
    found: dict[str, list[list[float]]] = {"plain request": [], "streamed event": []}
    for number in range(rounds + WARM_UP):
        order = random.sample(range(len(sides)), len(sides))
        plain = {at: sides[at].cpu_ms(partial(sides[at].send_plain, requests)) for at in order}
        streamed = {at: sides[at].cpu_ms(sides[at].stream) for at in order}
        if number >= WARM_UP:
            found["plain request"].append([plain[at] for at in range(len(sides))])
            found["streamed event"].append([streamed[at] for at in range(len(sides))])
    return found


def verdicts(names: list[str], measured: dict[str, list[list[float]]]) -> list[Verdict]:
    """Return for each side but the first the median of its ratios to the first, within the rounds."""
    found = []
    for what, rows in measured.items():
        base = statistics.median(row[0] for row in rows) * 1000
        found.append(Verdict(f"{what}, {names[0]}: CPU time", base, "µs"))
        for at, name in enumerate(names[1:], 1):
            ratio = statistics.median(row[at] / row[0] for row in rows)
            found.append(Verdict(f"{what}, {name}: ratio", ratio, "", RATIO))
    return found


def run(options: argparse.Namespace) -> list[Verdict]:
    # Two endpoints are the smallest number: one for plain requests and one for streams.
    sizes = {
        "small": FleetSize(2, options.models, 1),
        f"{options.endpoints:,} endpoints": FleetSize(options.endpoints, options.models, 1),
        f"{options.keys:,} keys": FleetSize(2, options.models, options.keys),
    }
    with ExitStack() as stack:
        sides = [side(stack, name, size, options.database) for name, size in sizes.items()]
        time.sleep(2)
        return verdicts(list(sizes), compare(sides, options.rounds, options.requests))


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser(__doc__, endpoints=1000, models=50, keys=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=3200, help="plain requests of a round")
    options = parser.parse_args(given)
    if options.quick:
        options.endpoints, options.models, options.keys = 20, 5, 100
        options.rounds, options.requests = 2, 320
    return options


def main() -> None:
    options = parse()
    installation.measure(options, run, table, over, may_fail=options.quick)


if __name__ == "__main__":
    main()
