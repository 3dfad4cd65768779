"""What other clients notice while the health of a large fleet changes all the time.

    python -m benchmarks.scale.transitions [--endpoints 1000 --rate 100] [--database postgres://…/postgres]

The health checks are RouterDash's own. In quiet periods all servers are healthy. In the others, which alternate with
them, the servers of all but three endpoints fail in two of three spans, each of which is a little longer than the
interval of the checks, so that almost every check changes a status: online, error, offline, online. The database tells
how many changes there were. Beside them run paced requests, streams, and requests of the overview page. The servers of
these requests have a process of their own, so that they do not wait for responses to health checks. Prints a table and
exits with 1 if a value exceeds its bound.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from statistics import mean

from benchmarks.pages import cpu_ms
from benchmarks.scale import arguments, installation
from benchmarks.scale.connections import answer_of
from benchmarks.scale.installation import STEADY, STREAMING, FleetSize, say
from benchmarks.scale.paced import Client, Samples, paced, streaming
from benchmarks.scale.verdicts import Verdict, over, percentile, table
from tests.router import KEY, PASSWORD, RouterDash

FASTER = 0.8  # interval of the checks, as a part of the time in which each endpoint has to change once
LONGER = 1.15  # span of the servers' health, as a multiple of that interval: checks have jitter
PAGE_SECONDS = 0.5  # between two requests of the overview
RATIO, PAGE_MS = 2.0, 150.0
NOT_FEWER = 0.9  # changes, as a part of the wanted ones


@dataclass(frozen=True)
class Minute:
    """What was measured in one period, or in several."""

    changes: float  # of health, a second
    requests: Samples
    streams: Samples
    pages: list[float]  # ms
    gateway: float  # CPU time a second, as a part of one core
    control: float
    jobs: float  # of the processes for background jobs

    @classmethod
    def of_all(cls, periods: "Sequence[Minute]") -> "Minute":
        """Return what was measured in several periods of the same length."""

        def joined(samples: list[Samples]) -> Samples:
            return Samples([it for one in samples for it in one.times], [it for one in samples for it in one.failures])

        return cls(
            mean(it.changes for it in periods),
            joined([it.requests for it in periods]),
            joined([it.streams for it in periods]),
            [it for one in periods for it in one.pages],
            mean(it.gateway for it in periods),
            mean(it.control for it in periods),
            mean(it.jobs for it in periods),
        )


class Observer:
    """Measures periods of the same length."""

    def __init__(self, router: RouterDash, requests: Client, streams: Client) -> None:
        self._router = router
        self._requests, self._streams = requests, streams
        _, self._browser = router.log_in("admin", PASSWORD)
        self._processes = (installation.gateways(router), [router.pid_of("control")])
        self._steady = {pid for pids in self._processes for pid in pids}

    def measure(self, seconds: float) -> Minute:
        self._requests.take()
        self._streams.take()
        before, cpu, jobs, pages = self._changes(), self._cpu(), self._cpu_of_jobs(), []
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            pages.append(answer_of(self._page)[1] * 1000)
            time.sleep(max(0.0, PAGE_SECONDS - (time.monotonic() - started - passed)))
        gateway, control = ((after - then) / 1000 / passed for after, then in zip(self._cpu(), cpu, strict=True))
        of_jobs = sum(after - jobs.get(pid, 0.0) for pid, after in self._cpu_of_jobs().items()) / 1000 / passed
        changes = (self._changes() - before) / passed
        return Minute(changes, self._requests.take(), self._streams.take(), pages, gateway, control, of_jobs)

    def _page(self) -> None:
        self._browser.open(f"{self._router.url}/", timeout=60).read()

    def _changes(self) -> int:
        ((number,),) = self._router.query(
            "SELECT count(*) FROM endpoint_health_checks WHERE status_before <> status_after"
        )
        return int(number)

    def _cpu(self) -> list[float]:
        return [sum(map(cpu_ms, pids)) for pids in self._processes]

    def _cpu_of_jobs(self) -> dict[int, float]:
        """Return the CPU time of all other processes. Those for jobs come and go."""
        found: dict[int, float] = {}
        for pid in self._router.pids():
            with suppress(OSError):
                found[pid] = cpu_ms(pid)
        return {pid: ms for pid, ms in found.items() if pid not in self._steady}


def verdicts(quiet: Minute, changing: Minute, rate: float) -> list[Verdict]:
    found = [
        Verdict("changes of health a second that are missing", max(0.0, rate * NOT_FEWER - changing.changes), "", 0),
        Verdict("changes of health a second", changing.changes, ""),
    ]
    for name, before, after in (
        ("paced requests", quiet.requests, changing.requests),
        ("gaps of the streams", quiet.streams, changing.streams),
    ):
        p99 = percentile(before.times, 0.99)
        found += [
            Verdict(f"{len(before.times)} {name}, quiet: p99", p99, "ms"),
            Verdict(f"{len(after.times)} {name}, changing: p99", percentile(after.times, 0.99), "ms", RATIO * p99),
            Verdict(f"{name}, changing: largest", max(after.times, default=0.0), "ms"),
            Verdict(f"{name} that failed", len(before.failures) + len(after.failures), "", 0),
        ]
    return [
        *found,
        Verdict(f"{len(quiet.pages)} overviews, quiet: p95", percentile(quiet.pages, 0.95), "ms"),
        Verdict(f"{len(changing.pages)} overviews, changing: p95", percentile(changing.pages, 0.95), "ms", PAGE_MS),
        Verdict("CPU of the gateways, quiet", quiet.gateway, "cores"),
        Verdict("CPU of the gateways, changing", changing.gateway, "cores"),
        Verdict("CPU of control, quiet", quiet.control, "cores"),
        Verdict("CPU of control, changing", changing.control, "cores"),
        Verdict("CPU of background jobs, quiet", quiet.jobs, "cores"),
        Verdict("CPU of background jobs, changing", changing.jobs, "cores"),
    ]


def check_interval(endpoints: int, rate: float) -> int:
    """Return the seconds between two checks of an endpoint with which the fleet changes `rate` times a second."""
    return max(1, round(FASTER * endpoints / rate))


def run(options: argparse.Namespace) -> list[Verdict]:
    size = FleetSize(options.endpoints, options.models, options.keys)
    servers = installation.server_list(size)
    interval = check_interval(options.endpoints, options.rate)
    settings = {"ROUTERDASH_WORKERS": str(options.workers)}
    with ExitStack() as stack:
        stack.enter_context(installation.simulated(servers[: STREAMING + 1]))
        control = stack.enter_context(installation.simulated(servers[STREAMING + 1 :], STREAMING + 1))
        router = stack.enter_context(installation.installed(size, servers, options.database, settings, interval))
        say(f"started in {installation.start(router)[0]:.1f} s; each endpoint is checked every {interval} s")
        requests = stack.enter_context(paced(router.port, KEY, servers[STEADY].models[0]))
        streams = stack.enter_context(streaming(router.port, KEY, servers[STREAMING].models[0], options.streams))
        observer = Observer(router, requests, streams)
        periods: dict[float, list[Minute]] = {0.0: [], LONGER * interval: []}
        for number in range(2 * options.rounds):
            flap = list(periods)[number % 2]
            for server in servers[STREAMING + 1 :] if number else ():
                installation.behave(control, server, flap_secs=flap)
            time.sleep(2 * interval)
            periods[flap].append(observer.measure(options.seconds / options.rounds))
            say(f"round {number // 2 + 1}: {'changing' if flap else 'quiet'} period measured")
        quiet, changing = map(Minute.of_all, periods.values())
        return verdicts(quiet, changing, options.rate)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser(__doc__, endpoints=1000, models=50, keys=1000, workers=2)
    parser.add_argument("--rate", type=float, default=100.0, help="changes of health a second")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="with and without changes")
    parser.add_argument("--rounds", type=int, default=3, help="parts of both, which alternate")
    options = parser.parse_args(given)
    if options.quick:
        options.endpoints, options.models, options.keys, options.streams = 20, 5, 10, 10
        options.rate, options.seconds, options.rounds = 10.0, 4.0, 1
    return options


def main() -> None:
    options = parse()
    installation.measure(options, run, table, over, may_fail=options.quick)


if __name__ == "__main__":
    main()
