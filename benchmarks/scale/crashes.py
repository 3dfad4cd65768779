"""Whether gateways end with the state of the database after many changes, while processes are killed.

    python -m benchmarks.scale.crashes [--changes 10000 --seed 1] [--database postgres://…/postgres]

Endpoints are edited, disabled and synced, and API keys are created and deleted, over the API and by SQL. Meanwhile
control, a gateway, or all of them are killed by SIGKILL at random moments. At the end, each gateway must list the
models, name the endpoints, and accept and refuse the keys that the database says. A deleted key whose deletion was
acknowledged must be refused at once. Then changes are made by SQL while RouterDash is stopped: from the first response
after the start on, a key that was deleted must be refused. Prints a table and exits with 1 if anything differs.
"""

import argparse
import contextlib
import http.client
import random
import threading
import time
from contextlib import ExitStack

from benchmarks.scale import installation
from benchmarks.scale.installation import FleetSize, say
from benchmarks.scale.random_changes import AnyChange, OwnState
from benchmarks.scale.stored_state import differences
from benchmarks.scale.verdicts import Verdict, over, table
from benchmarks.simulator import Simulator
from tests.router import RouterDash, command_of, until

DRIVERS = 3
PAUSES = (1.5, 6.0)  # seconds between two kills, at least and at most
RESTARTED_SHARE = 0.7  # of the kills are followed by the next one only when control responds again
RESTARTED_SECONDS = 60.0
AFTER_SECONDS = 1.0  # for which the deleted key is tried after RouterDash is ready


class Killer:
    """Kills processes at random moments in a thread, until the block ends."""

    def __init__(self, router: RouterDash, seed: int) -> None:
        self._router = router
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0

    def _run(self) -> None:
        while not self._stop.wait(self._random.uniform(*PAUSES)):
            roles = self._random.choice((("control",), ("gateway.main",), ("control", "gateway.main")))
            pids = [pid for pid in self._router.pids() if any(role in command_of(pid) for role in roles)]
            if pids and len(roles) == 1:
                pids = [self._random.choice(pids)]
            for pid in pids:
                installation.kill(pid)
            self.kills += len(pids)
            if self._random.random() < RESTARTED_SHARE:
                self._wait_for_control()

    def _wait_for_control(self) -> None:
        """Wait until control responds, so that changes are made: a busy machine starts it slowly."""
        deadline = time.monotonic() + RESTARTED_SECONDS
        while time.monotonic() < deadline and not self._stop.wait(0.1):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._router.get("/api/version").status == 200:
                    return

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def change(router: RouterDash, state: OwnState, options: argparse.Namespace) -> int:
    """Make the changes in several threads while processes are killed. Return the number of killed processes."""
    until_time = time.monotonic() + options.seconds
    drivers = [AnyChange(router, state, options.seed * 1000 + number) for number in range(DRIVERS)]

    def drive(driver: AnyChange) -> None:
        while state.count() <= options.changes and time.monotonic() < until_time:
            driver.make()

    with Killer(router, options.seed) as killer:
        threads = [threading.Thread(target=drive, args=(driver,)) for driver in drivers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(10)
            say(f"{state.changes} changes, {killer.kills} processes killed")
    return killer.kills


def settle(router: RouterDash, state: OwnState, seconds: float) -> tuple[float, list[str]]:
    """Wait until no gateway differs from the database. Return the seconds it took, and what differs after `seconds`."""
    until(router.is_ready, RESTARTED_SECONDS)
    started = time.monotonic()
    while True:
        found = differences(router, state)
        passed = time.monotonic() - started
        if not found or passed > seconds:
            return passed, found
        time.sleep(0.5)


def changed_while_stopped(router: RouterDash, state: OwnState, *, killed: bool) -> tuple[int, int, float]:
    """Change keys by SQL while RouterDash is stopped.

    Return how many requests of the deleted key were accepted before and after /ready said yes for the first time, and
    the seconds from then until the gateways agreed with the database.
    """
    (deleted,) = state.sample(1)
    if killed:
        router.kill()
    else:
        router.stop(60)
    state.delete_by_sql(deleted)
    state.create_by_sql()
    router.start(wait=False)
    deadline = time.monotonic() + installation.START_SECONDS
    before = 0
    while not _is_ready(router):
        assert time.monotonic() < deadline, router.log_text()
        before += _tries(state, deleted, 1)
        time.sleep(0.005)
    ready_at, after, agreed = time.monotonic(), 0, 0.0
    while not agreed or time.monotonic() < ready_at + AFTER_SECONDS:
        after += _tries(state, deleted, 20)
        found = [] if agreed else differences(router, state)
        assert not found or time.monotonic() < deadline, found
        if not agreed and not found:
            agreed = time.monotonic() - ready_at
    return before, after, agreed


def _is_ready(router: RouterDash) -> bool:
    try:
        return router.is_ready()
    except http.client.HTTPException:
        return False


def _tries(state: OwnState, secret: str, number: int) -> int:
    """Send requests with a key. Return how many were accepted; a broken connection is none."""
    accepted = 0
    for _ in range(number):
        with contextlib.suppress(OSError, http.client.HTTPException):
            accepted += state.accepts(secret)
    return accepted


def run(options: argparse.Namespace) -> list[Verdict]:
    size = FleetSize(options.endpoints, 0, 0)
    settings = {"ROUTERDASH_WORKERS": str(options.workers)}
    with Simulator() as simulator, ExitStack() as stack:
        router = stack.enter_context(installation.installed(size, [], options.database, settings))
        installation.start(router)
        state = OwnState(router, simulator, options.endpoints)
        kills = change(router, state, options)
        took, found = settle(router, state, options.settle)
        for text in found[:10]:
            say(text)
        stopped = [changed_while_stopped(router, state, killed=bool(number % 2)) for number in range(options.stops)]
    return [
        Verdict("changes", state.changes, ""),
        Verdict("changes that failed or were not confirmed", state.failed, ""),
        Verdict("processes killed", kills, ""),
        Verdict("differences between gateways and database at the end", len(found), "", 0),
        Verdict("time until they agreed", took, "s"),
        Verdict("acknowledged deletions whose key was accepted", state.broken_promises, "", 0),
        Verdict(f"{len(stopped)} starts after a deletion by SQL: accepted before ready", _sum(stopped, 0), "", 0),
        Verdict(f"{len(stopped)} starts after a deletion by SQL: accepted after ready", _sum(stopped, 1), "", 0),
        Verdict("longest time from ready until gateways and database agreed", max(it[2] for it in stopped), "s"),
    ]


def _sum(rows: list[tuple[int, int, float]], at: int) -> float:
    return sum(row[at] for row in rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2, help="gateway processes")
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1800.0, help="for the changes, at most")
    parser.add_argument("--settle", type=float, default=120.0, help="seconds until the gateways must agree")
    parser.add_argument("--stops", type=int, default=6, help="stops with changes by SQL before the next start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", default="", help="URL of a PostgreSQL server (default: SQLite)")
    parser.add_argument("--quick", action="store_true", help="few changes: checks only that this works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.endpoints, options.changes, options.stops = 6, 100, 1
    return options


def main() -> None:
    installation.measure(parse(), run, table, over)


if __name__ == "__main__":
    main()
