"""The cases of the benchmark. A run of a case on one server gives a sample: numbers by column."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.bench import proc
from benchmarks.bench.bodies import conversation
from benchmarks.bench.servers import Figures, Server, audit
from benchmarks.bench.tools import LOAD_CORE, Load, chat_body

T = TypeVar("T")
Sample = dict[str, float]

# Column -> its heading. Columns in RATIOS are also shown as multiples of nginx's values.
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
    """CPU seconds of a server over a run: of the processes on the path of requests, and of all until it is idle."""

    front: float = 0.0
    everything: float = 0.0


@dataclass
class Context:
    load: Load
    seconds: float
    core: int | None = LOAD_CORE  # of the load
    faults: dict[str, int] = field(default_factory=dict)  # fault -> number of times

    def fault(self, server: Server, text: str) -> None:
        fault = f"{server.name}: {text}"
        self.faults[fault] = self.faults.get(fault, 0) + 1


Run = Callable[[Context, Server], Sample]


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    unit: str
    columns: tuple[str, ...]
    run: Run
    servers: tuple[str, ...] = ()  # empty: the usual ones
    note: str = ""
    base: str = ""  # the server whose rates are the reference
    pinned: bool = True
    fresh: bool = False  # each run on a newly started server; few rounds are enough


def measure(server: Server, work: Callable[[], T]) -> tuple[T, Measured]:
    front, everything = server.front(), server.everything()
    before, all_before = proc.cpu_seconds(front), proc.cpu_seconds(everything)
    outcome = work()
    used = proc.cpu_seconds(front) - before
    server.settle()
    return outcome, Measured(used, proc.cpu_seconds(everything) - all_before)


def compare(context: Context, server: Server, before: Figures | None, responses: int, in_flight: int = 0) -> None:
    """Compare the server's figures with the observations of clients."""
    after = server.counted()
    if before is not None and after is not None and (wrong := audit(before, after, responses, in_flight)):
        context.fault(server, wrong)


def micros(seconds: float, count: int) -> float:
    return seconds * 1e6 / max(1, count)


# Kinds of runs


def plain(connections: int, size: int = 1500, make: Callable[[int], bytes] = chat_body) -> Run:
    """Requests at saturation over a number of connections. `make` returns a body of the given size in bytes."""

    def run(context: Context, server: Server) -> Sample:
        body = context.load.file(f"{make.__name__}{size}", make(size))
        before = server.counted()
        outcome, used = measure(
            server, lambda: context.load.plain(server.port, body, connections, context.seconds, core=context.core)
        )
        if outcome.wrong:
            context.fault(server, f"{outcome.wrong} of {outcome.requests} requests had no response with status 200")
        compare(context, server, before, outcome.requests, connections)
        return {
            "cpu": micros(used.front, outcome.requests),
            "all": micros(used.everything, outcome.requests),
            "rate": outcome.requests / outcome.seconds,
            "p50": outcome.p50_us / 1e3,
            "p99": outcome.p99_us / 1e3,
        }

    return run


def large(connections: int, size: int) -> Run:
    """Requests at saturation, with memory. The server has just started and has served no large request."""

    def run(context: Context, server: Server) -> Sample:
        before = {pid: proc.resident_kib(pid) for pid in server.front()}
        for pid in before:
            proc.forget_peak(pid)
        sample = plain(connections, size)(context, server)
        grown = sum(proc.resident_kib(pid, "VmHWM") - resident for pid, resident in before.items())
        return {**sample, "peak_mib": grown / 1024 / connections}

    return run


def streams(connections: int, events: int, pace_us: int) -> Run:
    """Concurrent streams of `events` events each."""

    def run(context: Context, server: Server) -> Sample:
        options = f"events={events} pace_us={pace_us}"
        body = context.load.body(f"streams{events}x{pace_us}", 1500, stream=True, options=options)
        before = server.counted()
        outcome, used = measure(
            server, lambda: context.load.streams(server.stream_port, body, connections, context.seconds, events)
        )
        if outcome.wrong:
            context.fault(server, f"of {outcome.whole + outcome.wrong} streams, {outcome.errors}")
        compare(context, server, before, outcome.whole)
        return {
            "cpu": micros(used.front, outcome.events),
            "all": micros(used.everything, outcome.events),
            "rate": outcome.events / outcome.seconds,
            "duration": outcome.duration_p50_us / 1e3,
            "first": outcome.first_p50_us / 1e3,
            "gap": outcome.gap_p99_us / 1e3,
        }

    return run


def idle(connections: int) -> Run:
    """Open streams that wait for their next event. The server has just started."""

    def run(context: Context, server: Server) -> Sample:
        options = "events=3 pace_us=900000000 first_us=1000"
        body = context.load.body("idle", 1500, stream=True, options=options)
        counted = server.counted()
        before = sum(map(proc.resident_kib, server.front()))
        held = context.load.hold(server.stream_port, context.load.request(server.stream_port, body), connections)
        try:
            after = sum(map(proc.resident_kib, server.front()))
        finally:
            held.stop()
        server.settle()
        compare(context, server, counted, 0, connections)
        return {"stream_kib": (after - before) / connections}

    return run


def rate(per_second: float) -> Run:
    """A fixed rate of requests, independent of responses."""

    def run(context: Context, server: Server) -> Sample:
        body = context.load.body("plain1500", 1500)
        before = server.counted()
        outcome, _ = measure(server, lambda: context.load.rate(server.port, body, per_second, context.seconds))
        if outcome.wrong:
            context.fault(server, f"of {outcome.whole + outcome.wrong} requests, {outcome.errors}")
        compare(context, server, before, outcome.whole)
        return {"p50": outcome.duration_p50_us / 1e3, "p99": outcome.duration_p99_us / 1e3}

    return run


PLAIN = ("cpu", "all", "rate", "p50", "p99")
STREAMS = ("cpu", "all", "rate", "duration", "longer", "first", "gap")

LARGE = ("cpu", "all", "rate", "p50", "peak_mib")

# Servers of a single case, by name.
TWO_NGINX, TWO_OURS = "nginx, 2 workers", "RouterDash, 2 workers"

CASES = (
    Case("plain1", "Plain requests, 1 connection", "request", PLAIN, plain(1)),
    Case("plain32", "Plain requests, 32 connections", "request", PLAIN, plain(32)),
    Case("plain128", "Plain requests, 128 connections", "request", PLAIN, plain(128)),
    Case("streams96", "96 streams of 64 events, 10 ms apart", "event", STREAMS, streams(96, 64, 10_000)),
    Case("streams384", "384 streams of 64 events, 10 ms apart", "event", STREAMS, streams(384, 64, 10_000)),
    Case("burst512", "8 streams of 512 events, all sent at once", "event", STREAMS, streams(8, 512, 0)),
    Case("body200k", "Bodies of 200 KB, 16 connections", "request", PLAIN, plain(16, 200_000, conversation)),
    Case(
        "body5m",
        "Bodies of 5 MB, 4 connections",
        "request",
        LARGE,
        large(4, 5_000_000),
        note="nginx writes bodies of more than 512 KB to a file, so its memory does not grow. The growth is that of "
        "the largest resident size of a server just started, divided by the four requests that are there at a time.",
        fresh=True,
    ),
    Case(
        "rate200",
        "Latency at 200 requests a second",
        "request",
        ("p50", "p99", "added_p50", "added_p99"),
        rate(200),
        note="Open loop: a request is sent when its time has come, on a connection that is idle. `added` is the "
        "difference to direct requests of the same round.",
    ),
    Case(
        "idle5000",
        "5,000 streams that wait for their next event",
        "stream",
        ("stream_kib",),
        idle(5000),
        servers=("nginx", "RouterDash"),
        note="Growth of resident memory from a server just started to one with 5,000 streams that have had one event.",
        fresh=True,
    ),
    Case(
        "workers",
        "One worker and two, 64 connections, nothing pinned",
        "request",
        PLAIN,
        plain(64),
        servers=("nginx", TWO_NGINX, "RouterDash", TWO_OURS),
        base="RouterDash",
        note="Load and upstreams take their part of the same cores: of two cores, a second worker does not double it.",
        pinned=False,
    ),
    Case(
        "accounting",
        "What accounting costs, 32 connections",
        "request",
        PLAIN,
        plain(32),
        servers=("nginx", "RouterDash", "gateway alone", "gateway alone, no records"),
        base="gateway alone",
        note="RouterDash has no setting that turns accounting off. `gateway alone` is one gateway process whose "
        "journal is not read; the last row is the same with `Gateway.record` replaced by nothing.",
    ),
    Case(
        "databases",
        "SQLite, PostgreSQL and an adopted database, 32 connections",
        "request",
        PLAIN,
        plain(32),
        servers=("nginx", "RouterDash", "RouterDash on PostgreSQL", "RouterDash, adopted database"),
        base="RouterDash",
        note="With PostgreSQL, the server's processes for RouterDash's connections count as RouterDash's, "
        "its own background processes do not. The adopted database has the indexes that came with it and 20,000 rows "
        "of history.",
    ),
    Case(
        "dashboards200",
        "200 open dashboards, 32 connections",
        "request",
        PLAIN,
        plain(32),
        servers=("nginx", "RouterDash", "RouterDash, 200 dashboards open"),
        base="RouterDash",
        note="Each page gets the figures as they change, four times a second at most.",
    ),
)
