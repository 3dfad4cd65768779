"""What other clients notice while the health of a large fleet changes all the time.

    python -m benchmarks.scale.transitions [--endpoints 1000 --rate 100] [--database postgres://…/postgres]

The health checks are RouterDash's own. First all servers are healthy. Then the servers of all but three endpoints fail
in two of three periods, each of which is a little longer than the interval of the checks, so that almost every check
changes a status: online, error, offline, online. The database tells how many changes there were. Beside them run paced
requests, streams, and requests of the overview page. Prints a table and exits with 1 if a value exceeds its bound.
"""

import argparse
import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import filled
from benchmarks.pages import cpu_ms
from benchmarks.scale import arguments, installation
from benchmarks.scale.connections import answer_of
from benchmarks.scale.installation import STEADY, STREAMING, FleetSize, say
from benchmarks.scale.paced import Client, Samples, paced, streaming
from benchmarks.scale.verdicts import Verdict, over, percentile, table
from tests.router import KEY, PASSWORD, RouterDash

FASTER = 0.8  # interval of the checks, as a part of the time in which each endpoint has to change once
LONGER = 1.15  # period of the servers' health, as a multiple of that interval: checks have jitter
PAGE_SECONDS = 0.5  # between two requests of the overview
RATIO, PAGE_MS = 2.0, 150.0
NOT_FEWER = 0.9  # changes, as a part of the wanted ones


@dataclass(frozen=True)
class Minute:
    """What was measured in one period."""

    changes: float  # of health, a second
    requests: Samples
    streams: Samples
    pages: list[float]  # ms
    gateway: float  # CPU time a second, as a part of one core
    control: float


class Observer:
    """Measures periods of the same length."""

    def __init__(self, router: RouterDash, requests: Client, streams: Client) -> None:
        self._router = router
        self._requests, self._streams = requests, streams
        _, self._browser = router.log_in("admin", PASSWORD)
        self._processes = (installation.gateways(router), [router.pid_of("control")])

    def measure(self, seconds: float) -> Minute:
        self._requests.take()
        self._streams.take()
        before, cpu, pages = self._changes(), self._cpu(), []
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            pages.append(answer_of(self._page)[1] * 1000)
            time.sleep(max(0.0, PAGE_SECONDS - (time.monotonic() - started - passed)))
        gateway, control = ((after - then) / 1000 / passed for after, then in zip(self._cpu(), cpu, strict=True))
        changes = (self._changes() - before) / passed
        return Minute(changes, self._requests.take(), self._streams.take(), pages, gateway, control)

    def _page(self) -> None:
        self._browser.open(f"{self._router.url}/", timeout=60).read()

    def _changes(self) -> int:
        ((number,),) = self._router.query(
            "SELECT count(*) FROM endpoint_health_checks WHERE status_before <> status_after"
        )
        return int(number)

    def _cpu(self) -> list[float]:
        return [sum(map(cpu_ms, pids)) for pids in self._processes]


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
        control = stack.enter_context(installation.simulated(servers))
        router = stack.enter_context(installation.installed(size, servers, options.database, settings, interval))
        say(f"started in {installation.start(router)[0]:.1f} s; each endpoint is checked every {interval} s")
        requests = stack.enter_context(paced(router.port, KEY, servers[STEADY].models[0]))
        streams = stack.enter_context(streaming(router.port, KEY, servers[STREAMING].models[0], options.streams))
        observer = Observer(router, requests, streams)
        time.sleep(2 * interval)
        quiet = observer.measure(options.seconds)
        say("quiet period measured")
        _flap(control, servers, interval)
        time.sleep(2 * interval)
        return verdicts(quiet, observer.measure(options.seconds), options.rate)


def _flap(control: int, servers: list[filled.Server], interval: int) -> None:
    for server in servers[STREAMING + 1 :]:
        installation.behave(control, server, flap_secs=LONGER * interval)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser(__doc__, endpoints=1000, models=50, keys=1000, workers=2)
    parser.add_argument("--rate", type=float, default=100.0, help="changes of health a second")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each of the two periods")
    options = parser.parse_args(given)
    if options.quick:
        options.endpoints, options.models, options.keys, options.streams = 20, 5, 10, 10
        options.rate, options.seconds = 10.0, 4.0
    return options


def main() -> None:
    options = parse()
    installation.measure(options, run, table, over, may_fail=options.quick)


if __name__ == "__main__":
    main()
