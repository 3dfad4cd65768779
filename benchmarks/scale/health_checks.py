"""The cost of health checks of a large fleet, and what pages and figures notice of them.

    python -m benchmarks.scale.health_checks [--endpoints 1000 --interval 10] [--database postgres://…/postgres]

All servers are healthy. Beside the checks run paced requests, and requests of the overview page. A check should start
between 0.9 and 1.1 intervals after the one before. Prints a table and exits with 1 if a value exceeds its bound.
"""

import argparse
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import pairwise

from benchmarks.pages import cpu_ms
from benchmarks.scale import arguments, installation
from benchmarks.scale.connections import answer_of
from benchmarks.scale.installation import STEADY, FleetSize, say
from benchmarks.scale.paced import paced
from benchmarks.scale.verdicts import Verdict, over, percentile, table
from tests.router import KEY, PASSWORD, RouterDash

JITTER = 0.1  # of the intervals, as in endpoints.health, which needs Django
PAGE_SECONDS = 0.5  # between two requests of the overview
POLL_SECONDS = 0.002
LATE_MS, PAGE_MS, STORED_MS = 500.0, 150.0, 2000.0  # the largest p99 or p95
PEAK_SECONDS = 0.25


class Commits:
    """Counts the commits of other connections: exactly on PostgreSQL, at most one in POLL_SECONDS on SQLite."""

    def __init__(self, router: RouterDash) -> None:
        self._router = router
        self._path = None if router.database_url else str(router.data_dir / "routerdash.sqlite3")
        self._stop = threading.Event()
        self._changes = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        thread = threading.Thread(target=self._poll)
        if self._path:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            if self._path:
                thread.join()

    def read(self) -> int:
        if self._path:
            return self._changes
        statement = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return int(self._router.query(statement)[0][0])

    def _poll(self) -> None:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        last = None
        while not self._stop.wait(POLL_SECONDS):
            ((version,),) = connection.execute("PRAGMA data_version")
            self._changes += version != last
            last = version
        connection.close()


def moment(stored: object) -> float:
    """Return a stored moment in seconds since 1970."""
    at = stored if isinstance(stored, datetime) else datetime.fromisoformat(str(stored))
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()


def lateness(starts: dict[str, list[float]], interval: float) -> list[float]:
    """Return by how many milliseconds each check started too late."""
    longest = interval * (1 + JITTER)
    gaps = [after - before for times in starts.values() for before, after in pairwise(sorted(times))]
    return [max(0.0, gap - longest) * 1000 for gap in gaps]


def peak(starts: dict[str, list[float]]) -> float:
    """Return the largest number of checks that started within PEAK_SECONDS, as a multiple of the mean."""
    times = [at for each in starts.values() for at in each]
    if not times:
        return 0.0
    counts = Counter(int(at / PEAK_SECONDS) for at in times)
    return max(counts.values()) / (len(times) / ((max(times) - min(times)) / PEAK_SECONDS + 1))


class Observer:
    """Measures one period."""

    def __init__(self, router: RouterDash) -> None:
        self._router = router
        _, self._browser = router.log_in("admin", PASSWORD)
        gateways, control = installation.gateways(router), router.pid_of("control")
        self._processes = {"gateways": gateways, "control": [control]}

    def measure(self, seconds: float, interval: int) -> list[Verdict]:
        pages: list[float] = []
        ages: list[float] = []
        commits = Commits(self._router)
        with commits.counted():
            since, started, cpu, first = time.time(), time.monotonic(), self._cpu(), commits.read()
            while (passed := time.monotonic() - started) < seconds:
                pages.append(answer_of(self._page)[1] * 1000)
                ages.append(self._age_ms())
                time.sleep(max(0.0, PAGE_SECONDS - (time.monotonic() - started - passed)))
            used = {name: after - cpu[name] for name, after in self._cpu().items()}
            committed = commits.read() - first
        starts = self._starts(since)
        checks = sum(map(len, starts.values()))
        late = lateness(starts, interval)
        return [
            Verdict("health checks a second", checks / passed, ""),
            Verdict("endpoints that were not checked", self._endpoints() - len(starts), "", 0),
            Verdict("checks that failed", self._failed(since), "", 0),
            Verdict("checks later than allowed: p50", percentile(late, 0.5), "ms"),
            Verdict("checks later than allowed: p99", percentile(late, 0.99), "ms", LATE_MS),
            Verdict(f"most checks in {PEAK_SECONDS} s, × mean", peak(starts), ""),
            Verdict(f"{len(pages)} overviews: p95", percentile(pages, 0.95), "ms", PAGE_MS),
            Verdict("age of the last stored request: p95", percentile(ages, 0.95), "ms", STORED_MS),
            Verdict("commits a second", committed / passed, ""),
            *(Verdict(f"CPU of {name}", ms / 1000 / passed, "cores") for name, ms in used.items()),
        ]

    def _page(self) -> None:
        self._browser.open(f"{self._router.url}/", timeout=60).read()

    def _age_ms(self) -> float:
        ((last,),) = self._router.query("SELECT max(completed_at) FROM request_history")
        return (time.time() - moment(last)) * 1000 if last else 0.0

    def _starts(self, since: float) -> dict[str, list[float]]:
        starts: dict[str, list[float]] = {}
        for endpoint, at in self._router.query("SELECT endpoint_id, checked_at FROM endpoint_health_checks"):
            if (started := moment(at)) >= since:
                starts.setdefault(str(endpoint), []).append(started)
        return starts

    def _failed(self, since: float) -> int:
        found = self._router.query("SELECT checked_at, success FROM endpoint_health_checks")
        return sum(not success for at, success in found if moment(at) >= since)

    def _endpoints(self) -> int:
        return int(self._router.query("SELECT count(*) FROM endpoints")[0][0])

    def _cpu(self) -> dict[str, float]:
        return {name: sum(map(cpu_ms, pids)) for name, pids in self._processes.items()}


def run(options: argparse.Namespace) -> list[Verdict]:
    size = FleetSize(options.endpoints, options.models, options.keys)
    servers = installation.server_list(size)
    with ExitStack() as stack:
        stack.enter_context(installation.simulated(servers))
        router = stack.enter_context(installation.installed(size, servers, options.database, {}, options.interval))
        say(f"started in {installation.start(router)[0]:.1f} s")
        stack.enter_context(paced(router.port, KEY, servers[STEADY].models[0]))
        observer = Observer(router)
        time.sleep(2 * options.interval)
        say(f"measuring for {options.seconds:.0f} s")
        return observer.measure(options.seconds, options.interval)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser(__doc__, endpoints=1000, models=5, keys=100)
    parser.add_argument("--interval", type=int, default=10, help="seconds between two checks of an endpoint")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(given)
    if options.quick:
        options.endpoints, options.models, options.keys, options.interval, options.seconds = 5, 1, 1, 1, 3.0
    return options


def main() -> None:
    options = parse()
    found = run(options)
    print(table(found))
    sys.exit(over(found) and not options.quick)


if __name__ == "__main__":
    main()
