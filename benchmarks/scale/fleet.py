"""What a start, an edit and a change of a key cost in a large installation.

    python -m benchmarks.scale.fleet [--endpoints 1000 --models 50 --keys 1000000] [--database postgres://…/postgres]

Fills a new database and starts RouterDash on it twice. Then it edits an endpoint, and creates, revokes and expires API
keys, while paced requests run. It measures the time to each response and until each gateway acts by the change, the
longest loop iteration of the gateways, and the private memory of all processes. Needs a C compiler. Prints a table and
exits with 1 if a value exceeds its bound.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import filled
from benchmarks.process import cpu_ms
from benchmarks.scale import arguments, installation
from benchmarks.scale.connections import GatewayConnections, answer_of, seconds_until_everywhere
from benchmarks.scale.installation import EDITED, STEADY, FleetSize, say
from benchmarks.scale.paced import Client, Samples, paced
from benchmarks.scale.verdicts import Verdict, over, percentile, table
from tests.hostile.measured import LoopIterations, compile_library, preloaded
from tests.http import Response
from tests.router import KEY, RouterDash
from tests.withdrawals import OwnKeys

START_SECONDS, GATEWAY_MB, CONTROL_MB = 3.0, 100.0, 256.0
ANSWERED_MS, EVERYWHERE_MS, ITERATION_MS, DELAY_MS = 50.0, 100.0, 5.0, 20.0
PAUSE_SECONDS = 0.25  # between two changes
KIND_SECONDS = 120.0  # for one kind of change, at most
FEWEST = 3
RESPONSE_SECONDS = 60.0
EXPIRES_SECONDS = 1.5  # after the change that sets the expiry


@dataclass
class Cost:
    """Times of one kind of change in ms."""

    name: str
    answered: list[float] = field(default_factory=list)
    everywhere: list[float] = field(default_factory=list)
    iterations: list[float] = field(default_factory=list)  # the longest of any gateway during each change
    control_cpu: list[float] = field(default_factory=list)  # of control during each change
    unconfirmed: int = 0  # responses 202
    failed: int = 0  # changes without a response, or without effect, in time

    def verdicts(self) -> list[Verdict]:
        many = f"{self.name}, {len(self.answered)} times"
        return [
            Verdict(f"{many}: answered, median", percentile(self.answered, 0.5), "ms", ANSWERED_MS),
            Verdict(f"{many}: in effect everywhere, median", percentile(self.everywhere, 0.5), "ms", EVERYWHERE_MS),
            Verdict(f"{many}: CPU time of control, median", percentile(self.control_cpu, 0.5), "ms"),
            Verdict(f"{many}: longest loop iteration, median", percentile(self.iterations, 0.5), "ms"),
            Verdict(f"{many}: longest loop iteration, largest", percentile(self.iterations, 1.0), "ms", ITERATION_MS),
            Verdict(f"{many}: no response or no effect in time", self.failed, "", 0),
            Verdict(f"{many}: answered before it was in effect (202)", self.unconfirmed, "", 0),
        ]


class Changes:
    """Makes changes over the API, and watches their effect at each gateway."""

    def __init__(self, router: RouterDash, servers: list[filled.Server], iterations: list[LoopIterations]) -> None:
        self._router = router
        self._edited, self._steady = servers[EDITED], servers[STEADY]
        self._iterations = iterations
        self._connections = GatewayConnections(router)
        self._keys = OwnKeys(router, RESPONSE_SECONDS)
        self._control = router.pid_of("control")
        self._edits = 0
        self._pool = ThreadPoolExecutor(1)

    def close(self) -> None:
        self._pool.shutdown()
        self._connections.close()

    def repeat(self, name: str, change: Callable[[Cost], None], times: int) -> Cost:
        """Make a change several times, at least FEWEST times and not for longer than KIND_SECONDS."""
        cost = Cost(name)
        until = time.monotonic() + KIND_SECONDS
        while len(cost.answered) < times and (len(cost.answered) < FEWEST or time.monotonic() < until):
            for loop in self._iterations:
                loop.clear()
            before = cpu_ms(self._control)
            try:
                change(cost)
            except OSError as error:  # among them any timeout
                cost.failed += 1
                say(f"{name}: {error!r}")
                if cost.failed == FEWEST:
                    break
            cost.control_cpu.append(cpu_ms(self._control) - before)
            cost.iterations.append(max(loop.longest_ms for loop in self._iterations))
            time.sleep(PAUSE_SECONDS)
        say(f"{name}: {percentile(cost.answered, 0.5):.0f} ms, {percentile(cost.everywhere, 0.5):.0f} ms")
        return cost

    def edit(self, cost: Cost) -> None:
        """Rename an endpoint, whose name is in each response that comes from it."""
        self._edits += 1
        name = f"edited-{self._edits}"

        def send() -> Response:
            return self._router.request("PATCH", f"/api/endpoints/{self._edited.id}", {"name": name})

        def seen(pid: int) -> bool:
            answer = self._connections.chat(pid, self._edited.models[0])
            assert answer.status == 200, answer
            return answer.headers["x-routerdash-endpoint"] == name

        self._during(cost, send, seen, lambda answer: answer.status)

    def create(self, cost: Cost) -> None:
        started, took, (_, secret) = answer_of(self._keys.create)
        cost.answered.append(took * 1000)
        self._watch(cost, lambda pid: self._accepts(pid, secret), started)

    def revoke(self, cost: Cost) -> None:
        key_id, secret = self._used_key()
        self._during(
            cost,
            lambda: self._keys.call("DELETE", f"/{key_id}"),
            lambda pid: not self._accepts(pid, secret),
            lambda answer: 202 if answer[0] == 202 else 200,
        )

    def expire(self, cost: Cost) -> None:
        """Set the expiry of a key to a moment soon. The time until it is in effect counts from that moment."""
        key_id, secret = self._used_key()
        moment = datetime.now(UTC) + timedelta(seconds=EXPIRES_SECONDS)
        body = {"name": f"expiring {key_id}", "expires_at": moment.isoformat()}
        _, took, (status, _) = answer_of(lambda: self._keys.call("PUT", f"/{key_id}", body))
        cost.answered.append(took * 1000)
        cost.unconfirmed += status == 202
        time.sleep(max(0.0, moment.timestamp() - time.time()))
        self._watch(cost, lambda pid: not self._accepts(pid, secret), time.perf_counter())

    def _used_key(self) -> tuple[str, str]:
        key_id, secret = self._keys.create()
        seconds_until_everywhere(self._connections, lambda pid: self._accepts(pid, secret), time.perf_counter())
        for loop in self._iterations:
            loop.clear()
        return key_id, secret

    def _accepts(self, pid: int, secret: str) -> bool:
        status = self._connections.chat(pid, self._steady.models[0], secret).status
        assert status in (200, 401), status
        return status == 200

    def _during(
        self, cost: Cost, send: Callable[[], Any], seen: Callable[[int], bool], status: Callable[[Any], int]
    ) -> None:
        """Send a change, and ask the gateways from this moment on."""
        started = time.perf_counter()
        sent = self._pool.submit(answer_of, send)
        self._watch(cost, seen, started)
        _, took, answer = sent.result()
        cost.answered.append(took * 1000)
        assert status(answer) in (200, 202), answer
        cost.unconfirmed += status(answer) == 202

    def _watch(self, cost: Cost, seen: Callable[[int], bool], started: float) -> None:
        cost.everywhere.append(seconds_until_everywhere(self._connections, seen, started) * 1000)


def measure_changes(
    router: RouterDash, servers: list[filled.Server], directory: Path, times: int, seconds: float
) -> list[Verdict]:
    """Measure the changes beside paced requests, and the same requests without changes."""
    iterations = [LoopIterations(directory, pid) for pid in installation.gateways(router)]
    with ExitStack() as stack:
        client = stack.enter_context(paced(router.port, KEY, servers[STEADY].models[0]))
        changes = Changes(router, servers, iterations)
        stack.callback(changes.close)
        time.sleep(2)
        quiet = _quiet(client, iterations, seconds)
        client.take()
        costs = [
            changes.repeat(name, change, times)
            for name, change in (
                ("edit of an endpoint", changes.edit),
                ("creation of a key", changes.create),
                ("revocation of a key", changes.revoke),
                ("expiry of a key", changes.expire),
            )
        ]
        busy = client.take()
    verdicts = [verdict for cost in costs for verdict in cost.verdicts()]
    return [*verdicts, *quiet.verdicts(), *delays(quiet.samples, busy)]


@dataclass(frozen=True)
class Quiet:
    """The paced requests and the loop iterations without changes."""

    samples: Samples
    iteration_ms: float

    def verdicts(self) -> list[Verdict]:
        return [Verdict("without changes: longest loop iteration", self.iteration_ms, "ms")]


def _quiet(client: Client, iterations: list[LoopIterations], seconds: float) -> Quiet:
    client.take()
    for loop in iterations:
        loop.clear()
    time.sleep(seconds)
    return Quiet(client.take(), max(loop.longest_ms for loop in iterations))


def delays(quiet: Samples, busy: Samples) -> list[Verdict]:
    """Compare the paced requests during changes with those without."""
    before, after = percentile(quiet.times, 0.999), percentile(busy.times, 0.999)
    failures = len(quiet.failures) + len(busy.failures)
    return [
        Verdict(f"{len(quiet.times)} paced requests, without changes: p99.9", before, "ms"),
        Verdict(f"{len(busy.times)} paced requests, during changes: p99.9", after, "ms", before + DELAY_MS),
        Verdict("paced requests that failed", failures, "", 0),
    ]


def memory(router: RouterDash, when: str) -> list[Verdict]:
    bounds = {"gateway": GATEWAY_MB, "control": CONTROL_MB}
    sizes = installation.private_mb(router)
    return [
        Verdict(f"{role}, private memory {when}", max(values), "MiB", bounds.get(role))
        for role, values in sorted(sizes.items())
    ]


def run(options: argparse.Namespace) -> list[Verdict]:
    size = FleetSize(options.endpoints, options.models, options.keys)
    servers = installation.server_list(size)
    with tempfile.TemporaryDirectory(prefix="routerdash-iterations-") as temporary, ExitStack() as stack:
        settings = preloaded(compile_library(Path(temporary)), Path(temporary))
        settings["ROUTERDASH_WORKERS"] = str(options.workers)
        stack.enter_context(installation.simulated(servers))
        router = stack.enter_context(installation.installed(size, servers, options.database, settings))
        verdicts: list[Verdict] = []
        for name, bound in (("first start", None), ("second start", START_SECONDS)):
            if router.process is not None:
                router.stop(120)
            seconds, cpu = installation.start(router)
            say(f"{name}: {seconds:.1f} s")
            verdicts += [Verdict(f"{name}, until ready", seconds, "s", bound), Verdict(f"{name}, CPU time", cpu, "s")]
        time.sleep(options.seconds / 2)
        verdicts += memory(router, "after the start")
        verdicts += measure_changes(router, servers, Path(temporary), options.times, options.seconds)
        return [*verdicts, *memory(router, "at the end")]


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser(__doc__, endpoints=1000, models=50, keys=1_000_000, workers=2)
    parser.add_argument("--times", type=int, default=30, help="number of changes of each kind")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the requests without changes")
    options = parser.parse_args(given)
    if options.quick:
        options.endpoints, options.models, options.keys, options.times, options.seconds = 20, 5, 100, 3, 2.0
    return options


def main() -> None:
    options = parse()
    installation.measure(options, run, table, over, may_fail=options.quick)


if __name__ == "__main__":
    main()
