"""What is measured, case by case. A run of a case on one server gives a sample: numbers by column."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.bench import proc
from benchmarks.bench.servers import Server
from benchmarks.bench.tools import LOAD_CORE, Load

T = TypeVar("T")
Sample = dict[str, float]

# Column -> its heading. Those in RATIOS are told in multiples of nginx's, too.
HEADINGS = {
    "cpu": "CPU µs/{unit}",
    "all": "all processes, µs/{unit}",
    "rate": "{unit}s/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "duration": "median stream ms",
    "added_p50": "added p50 ms",
    "added_p99": "added p99 ms",
    "longer": "longer than direct ms",
    "first": "first event p50 ms",
    "gap": "longest gap p99 ms",
    "peak_mib": "growth of memory, MiB a request",
    "stream_kib": "memory, KiB a stream",
}
RATIOS = ("cpu", "all", "p99", "added_p50")


@dataclass
class Measured:
    """CPU seconds of a server over a run: of what clients' bytes go through, and of everything once it has settled."""

    front: float = 0.0
    everything: float = 0.0


@dataclass
class Context:
    load: Load
    seconds: float
    wrong: list[str] = field(default_factory=list)  # what is not as it must be: the bench fails

    def fault(self, server: Server, text: str) -> None:
        self.wrong.append(f"{server.name}: {text}")


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    unit: str
    columns: tuple[str, ...]
    run: Callable[[Context, Server], Sample]
    servers: tuple[str, ...] = ()  # empty: the usual ones
    note: str = ""


def measure(server: Server, work: Callable[[], T]) -> tuple[T, Measured]:
    front, everything = server.front(), server.everything()
    before, all_before = proc.cpu_seconds(front), proc.cpu_seconds(everything)
    found = work()
    used = proc.cpu_seconds(front) - before
    server.settle()
    return found, Measured(used, proc.cpu_seconds(everything) - all_before)


def micros(seconds: float, count: int) -> float:
    return seconds * 1e6 / max(1, count)


# Kinds of runs


def plain(connections: int, size: int = 1500, *, core: int | None = LOAD_CORE) -> Callable[[Context, Server], Sample]:
    """As many requests as it answers, over so many connections."""

    def run(context: Context, server: Server) -> Sample:
        body = context.load.body(f"plain{size}", size)
        before = server.counted()
        found, used = measure(
            server, lambda: context.load.plain(server.port, body, connections, context.seconds, core=core)
        )
        if found.wrong:
            context.fault(server, f"{found.wrong} of {found.requests} requests were not answered with 200")
        server.audit(before, found.requests, connections, context.wrong)
        return {
            "cpu": micros(used.front, found.requests),
            "all": micros(used.everything, found.requests),
            "rate": found.requests / found.seconds,
            "p50": found.p50_us / 1e3,
            "p99": found.p99_us / 1e3,
        }

    return run


def streams(connections: int, events: int, pace_us: int) -> Callable[[Context, Server], Sample]:
    """So many streams at a time, each of `events` events."""

    def run(context: Context, server: Server) -> Sample:
        words = f"events={events} pace_us={pace_us}"
        body = context.load.body(f"streams{events}x{pace_us}", 1500, stream=True, words=words)
        found, used = measure(
            server, lambda: context.load.streams(server.stream_port, body, connections, context.seconds, events)
        )
        if found.wrong:
            context.fault(server, f"of {found.whole + found.wrong} streams, {found.told}")
        return {
            "cpu": micros(used.front, found.events),
            "all": micros(used.everything, found.events),
            "rate": found.events / found.seconds,
            "duration": found.duration_p50_us / 1e3,
            "first": found.first_p50_us / 1e3,
            "gap": found.gap_p99_us / 1e3,
        }

    return run


PLAIN = ("cpu", "all", "rate", "p50", "p99")
STREAMS = ("cpu", "all", "rate", "duration", "longer", "first", "gap")

CASES = (
    Case("plain1", "Plain requests, 1 connection", "request", PLAIN, plain(1)),
    Case("plain32", "Plain requests, 32 connections", "request", PLAIN, plain(32)),
    Case("plain128", "Plain requests, 128 connections", "request", PLAIN, plain(128)),
    Case("streams96", "96 streams of 64 events, 10 ms apart", "event", STREAMS, streams(96, 64, 10_000)),
    Case("streams384", "384 streams of 64 events, 10 ms apart", "event", STREAMS, streams(384, 64, 10_000)),
    Case("burst512", "Bursts: 8 streams of 512 events at once", "event", STREAMS, streams(8, 512, 0)),
    Case("body200k", "Bodies of 200 KB, 16 connections", "request", PLAIN, plain(16, 200_000)),
)
