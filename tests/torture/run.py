"""One run: start, send, cause faults, compare, and repeat until the time and the kills are reached."""

import http.client
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import providers
from benchmarks.process import ROOT, clean_environment, free_port
from benchmarks.simulator import Simulator
from tests.router import RouterDash, until
from tests.routerdash.commands import python
from tests.torture import faults
from tests.torture.audit import Auditor, identical
from tests.torture.costs import CostAudit
from tests.torture.faults import RESTART, Scene
from tests.torture.postgres import Postgres
from tests.torture.prices import NOTICE_SECONDS, Prices, text_of
from tests.torture.tally import Tally
from tests.torture.traffic import BROKEN, OK

# Small file systems that can be filled quickly: for the database, and for the journal.
DATA_MEGABYTES = 256
JOURNAL_MEGABYTES = 96
PAUSE_SECONDS = 90.0
EVENING_MINUTES = 1.0  # minimum duration of a run with an evening
REPRICES_KILLED = 3
NEAR_SECONDS = 20.0  # before a change of prices, in which an audit waits

EVERY_KIND = {"prompt_tokens": 100, "cached_tokens": 40, "cache_write_tokens": 8, "reasoning_tokens": 6}
# One simulated server for each model of traffic.py. `shared` has two, one of which always fails; those of `sized`
# report prompts of two sizes.
SERVERS: dict[str, dict[str, Any]] = {
    "one": {"models": ["whole"], "tokens": 12, "tokens_per_second": 200.0, **EVERY_KIND},
    "two": {"models": ["second"], "tokens": 5, "cached_tokens": 3},
    "sized-short": {"models": ["sized"], "prompt_tokens": 90, "cached_tokens": 33, "reasoning_tokens": 2},
    "sized-long": {"models": ["sized"], "prompt_tokens": 150, "cache_write_tokens": 31, "tokens": 11},
    "ollama": {"models": ["native"], "kind": "ollama", "prompt_tokens": 21, "tokens": 9},
    "flaky": {"models": ["flaky"], "fault": "500", "fault_rate": 0.5},
    "dies": {"models": ["dies"], "fault": "die", "tokens": 6},
    "slow": {"models": ["slow"], "tokens": 100, "tokens_per_second": 25.0},
    "shared-good": {"models": ["shared"]},
    "shared-bad": {"models": ["shared"], "fault": "503"},
    "edited": {"models": ["edited"]},
}
# With `--clouds` these too. The first one allows fewer requests than are sent.
CLOUDS: dict[str, dict[str, Any]] = {
    "openai": {"models": ["throttled"], "requests_limit": 180},
    "anthropic": {"models": ["thinking"]},
    "deepseek": {"models": ["reasoner"], "fault": "overloaded", "fault_rate": 0.2},
}
STEPS = [{"targets": [{"model": "throttled"}]}, {"targets": [{"model": "whole"}]}]


@dataclass(slots=True)
class Result:
    """Result of a run."""

    name: str
    seconds: float = 0.0  # in which requests were sent
    sent: int = 0
    whole: int = 0
    broken: int = 0
    kills: int = 0
    audits: int = 0
    done: dict[str, int] = field(default_factory=dict)  # faults by name
    measurements: list[str] = field(default_factory=list)  # of a trial
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.sent / self.seconds if self.seconds else 0
        return (
            f"{self.name}: {self.kills} kills, {self.sent} requests ({rate:.0f}/s), {self.whole} whole, "
            f"{self.broken} broken off, {self.audits} audits, {len(self.wrong)} differences"
        )


class Sender:
    """The client process and its tally."""

    def __init__(
        self, router: RouterDash, keys: Iterable[str], rate: float, seed: int, *, clouds: bool = False
    ) -> None:
        self.tally = Tally()
        self.seconds = 0.0
        self._paused = threading.Event()
        self._paused.set()
        self._since = 0.0
        command = [sys.executable, "-m", "tests.torture.traffic", router.url, *keys]
        ollama = f"http://127.0.0.1:{router.environment['ROUTERDASH_OLLAMA_PORT']}"
        options = ["--rate", str(rate), "--seed", str(seed), "--ollama", ollama, *(["--clouds"] if clouds else [])]
        self._process = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env=clean_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def go(self) -> None:
        if self._paused.is_set():
            self._paused.clear()
            self._since = time.monotonic()
            self._command("go")

    def wait_for_requests(self, count: int = 20, seconds: float = 20.0) -> None:
        """Wait until `count` more requests have ended. Fails if that takes too long."""
        before = self.tally.sent
        until(lambda: self.tally.sent >= before + count, seconds)

    def pause(self) -> None:
        """Stop sending, and wait until no request is in flight."""
        if self._paused.is_set():
            return
        self.seconds += time.monotonic() - self._since
        self._command("pause")
        if not self._paused.wait(PAUSE_SECONDS):
            raise TimeoutError("the client has requests open that never end")

    def close(self) -> None:
        self._command("quit")
        self._process.wait(10)
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _command(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            if "paused" in line:
                self._paused.set()
            else:
                self.tally.add(line)


class Run:
    """Torture test of one configuration."""

    def __init__(self, scene: Scene, sender: Sender, result: Result, costs: CostAudit) -> None:
        self.scene = scene
        self.sender = sender
        self.result = result
        self.costs = costs
        self.auditor = Auditor(scene.router, costs)
        self._noon: threading.Thread | None = None

    def round(self, number: int) -> None:
        """Cause some faults, audit, and sometimes restart."""
        choice = [*faults.PLAIN, *(faults.WITH_MOUNTS if self.scene.can_mount else ())]
        for fault in self.scene.rng.choices(choice, k=4):
            self.cause_fault(fault)
        self.audit()
        if number % 4 == 0:
            self.stop_under_load()
        if number % 6 == 0:
            self.restart()
        self.scene.log(f"{self.scene.kills} kills, {self.sender.tally.sent} requests")

    def begin_noon(self, notice: float = NOTICE_SECONDS) -> None:
        """Change prices in `notice` seconds. Their rows are added meanwhile, in a thread, while faults go on."""
        if self._noon is None:
            self.scene.log(f"prices change in {notice:g} s")
            self._noon = threading.Thread(target=self._change_prices, args=(notice,), daemon=True)
            self._noon.start()

    @property
    def is_afternoon(self) -> bool:
        noon = self.costs.prices.noon
        return noon is not None and time.time() > noon + 1

    def _change_prices(self, notice: float) -> None:
        try:
            self.costs.prices.change(self.scene.router, notice)
            self.scene.log("the prices of noon are stored")
        except AssertionError as error:
            self._add([f"prices could not be changed: {error!r}"])

    def cause_fault(self, fault: Any) -> None:
        """Cause one fault under load. Afterwards RouterDash runs, and after each start every figure is audited."""
        self.sender.go()
        time.sleep(self.scene.rng.uniform(0.3, 1.2))
        self.scene.log(fault.__name__.replace("_", " "))
        self.result.done[fault.__name__] = self.result.done.get(fault.__name__, 0) + 1
        process = self.scene.router.process
        if fault(self.scene) == RESTART:
            self.scene.router.start()
        time.sleep(self.scene.rng.uniform(0.2, 0.8))
        if self.scene.router.process is not process:
            self.audit()

    def restart(self) -> None:
        """Stop and start cleanly: exit code 0, and no figure changes although the last records are not yet written."""
        self.sender.go()
        time.sleep(self.scene.rng.uniform(0.1, 0.5))
        self.sender.pause()
        until(self._is_idle, 30)  # a request whose client has left is recorded a moment later
        before = self.scene.router.overview()
        code = self.scene.router.stop()
        if code:
            self.result.wrong.append(f"a clean stop ended with code {code}")
        self.scene.router.start()
        self._add(identical(before, self.scene.router.overview()))
        self.audit()

    def _is_idle(self) -> bool:
        stats = self.scene.router.stats()
        return bool(stats["total_active_requests"] == stats["queued_requests"] == 0)

    def stop_under_load(self) -> None:
        """Send SIGTERM while requests run."""
        self.sender.go()
        time.sleep(self.scene.rng.uniform(0.3, 1.2))
        self.scene.kill_times.append(time.time())
        code = self.scene.router.stop()
        if code:
            self.result.wrong.append(f"a stop under load ended with code {code}")
        self.scene.router.start()
        self.audit()

    def evening(self) -> None:
        """Add prices that come too late, and let `reprice` compute past costs again while requests run.

        It is killed inside its transaction, and control too. Rows and sums must always agree.
        """
        self.audit()
        self.costs.prices.add_late(self.scene.router)
        self.sender.go()
        time.sleep(1)
        for _ in range(REPRICES_KILLED):
            done = faults.kill_reprice(self.scene)
            self._audit_repriced(certain=done)
        done = False
        while not done:
            self.sender.go()
            time.sleep(0.5)
            self.scene.kill(faults.CONTROL)
            done = faults.reprice(self.scene).wait(60) == 0
        self._audit_repriced(certain=True)

    def _audit_repriced(self, *, certain: bool) -> None:
        self.sender.pause()
        until(self._is_idle, 30)
        until(lambda: self.scene.router.stats()["records_waiting"] == 0, 60)
        self._add(self.costs.audit_repriced(self.sender.tally, certain=certain))
        self.audit()

    def check_exports(self) -> None:
        self._add(self.costs.audit_exports())

    def _wait_for_noon(self) -> None:
        """Let requests run at noon, if it is near: a gateway stands still for a moment."""
        noon = self.costs.prices.noon
        if noon is not None and 1 < (left := noon - time.time()) < NEAR_SECONDS:
            self.sender.go()
            time.sleep(left - 0.5)
            with self.scene.stopped(faults.GATEWAY):
                time.sleep(1)

    def audit(self) -> None:
        self._wait_for_noon()
        self.sender.pause()
        self.result.audits += 1
        self._add(self.auditor.audit(self.sender.tally, self.scene.kill_times))

    def _add(self, wrong: list[str]) -> None:
        for text in wrong:
            self.scene.log(f"WRONG: {text}")
        self.result.wrong += wrong

    def finish(self) -> Result:
        tally = self.sender.tally
        self.result.seconds, self.result.sent = self.sender.seconds, tally.sent
        self.result.whole, self.result.broken = tally.total(OK), tally.total(BROKEN)
        self.result.kills = self.scene.kills
        self.result.wrong += self.scene.router.in_python()
        self.result.measurements += self._cost_measurements()
        return self.result

    def _cost_measurements(self) -> list[str]:
        counts = self.costs.counts()
        costs = ", ".join(f"{text_of(cost)} {currency}" for currency, cost in sorted(self.costs.totals.items()))
        requests = ", ".join(f"{count} {name}" for name, count in counts.items())
        return [f"requests: {requests}", f"costs: {costs}"]


@contextmanager
def started(
    name: str,
    *,
    workers: int,
    rate: float,
    seed: int = 1,
    postgres: bool = False,
    database_url: str = "",
    mounts: bool = False,
    quiet: bool = False,
    clouds: bool = False,
) -> Iterator[Run]:
    """Start everything that a run needs, in a new directory.

    On SQLite, on a private PostgreSQL (`postgres`) or on an existing database. With `mounts`, if this user may mount
    file systems, database and journal are on small file systems that can be filled.
    """
    start_time = time.monotonic()

    def log(text: str) -> None:
        if not quiet:
            print(f"{time.monotonic() - start_time:7.1f}  {text}", flush=True)

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-torture-")))
        server = None
        if postgres:
            server = Postgres()
            stack.callback(server.remove)
        router = RouterDash(
            directory,
            server.url if server else database_url,
            ROUTERDASH_WORKERS=str(workers),
            ROUTERDASH_LOG_LEVEL="warning",
            ROUTERDASH_DRAIN_SECS="20",
            ROUTERDASH_BOOTSTRAP_EXTERNAL=str(clouds).lower(),
            ROUTERDASH_OLLAMA_PORT=str(free_port()),
        )
        can_mount = mounts
        for path, megabytes in ((router.data_dir, DATA_MEGABYTES), (router.data_dir / "journal", JOURNAL_MEGABYTES)):
            if can_mount := can_mount and faults.mount(path, megabytes):
                stack.callback(faults.unmount, path)
        if mounts and not can_mount:
            log("this user may not mount file systems: full and read-only file systems are not tested")
        stack.callback(router.kill)
        router.start()
        simulator = stack.enter_context(Simulator())
        ids = {name: router.register(simulator.add(**behaviour), name) for name, behaviour in SERVERS.items()}
        ids |= _add_clouds(router, simulator) if clouds else {}
        until(lambda: all(router.serves(key, models=1) for key in ids.values()), 30)
        scene = Scene(router, random.Random(seed), log, server, can_mount, edited=ids["edited"])
        keys = [router.key, _add_key(router, external=clouds)]
        sender = Sender(router, keys, rate, seed, clouds=clouds)
        stack.callback(sender.close)
        sender.tally.rejected_before = router.stats()["rejected_requests"]
        prices = Prices()
        prices.begin(router, ids)
        yield Run(scene, sender, Result(name), CostAudit(router, prices, _users(router)))


def _add_key(router: RouterDash, *, external: bool) -> str:
    """Create a user with an API key, and return it once gateways accept it."""
    code = (
        "from access.models import INFERENCE, ApiKey, User\n"
        "user = User.objects.create_user('client', password=None)\n"
        f"print(ApiKey.issue(user, 'client', [INFERENCE], external={external})[1])\n"
    )
    done = python(code, **router.environment)
    assert done.code == 0, done.err
    key = done.out.strip()
    until(lambda: router.post("/v1/chat/completions", {"model": "nobody"}, key=key).status == 404, 20)
    return key


def _users(router: RouterDash) -> dict[str, str]:
    """Return the users of API keys by the keys' ids."""
    return {str(key): str(user) for key, user in router.query("SELECT id, created_by FROM api_keys")}


def _add_clouds(router: RouterDash, simulator: Simulator) -> dict[str, str]:
    """Register the simulated clouds, and a model name over one of them. Return the endpoints' IDs by name."""
    ids = {}
    for name, behaviour in CLOUDS.items():
        cloud = providers.add(simulator, name, **behaviour)
        body = {"name": name, "cloud_type": name, "base_url": cloud.base_url, "api_key": cloud.key}
        response = router.post("/api/endpoints", body)
        assert response.status == 201, response
        ids[name] = response.json()["id"]
    response = router.post("/api/model-names", {"name": "chained", "external": True, "steps": STEPS})
    assert response.status == 201, response
    return ids


def torture(
    name: str,
    *,
    workers: int,
    rate: float,
    seed: int,
    minutes: float,
    kills: int,
    postgres: bool = False,
    database_url: str = "",
    clouds: bool = False,
) -> Result:
    """Torture RouterDash until both the minutes and the kills are reached."""
    options: dict[str, Any] = {"postgres": postgres, "database_url": database_url, "clouds": clouds}
    with started(name, workers=workers, rate=rate, seed=seed, mounts=True, **options) as run:
        run.scene.log(f"{name}: {workers} workers, {rate:g} requests a second, seed {seed}")
        end = time.monotonic() + minutes * 60
        try:
            notice = min(NOTICE_SECONDS, minutes * 60)
            begin = min(end - minutes * 30, end - notice)
            for number in itertools.count(1):
                if time.monotonic() >= begin:
                    run.begin_noon(notice)
                run.round(number)
                done = time.monotonic() >= end and run.scene.kills >= kills and run.is_afternoon
                if run.result.wrong or done:
                    break
            if not run.result.wrong and minutes >= EVENING_MINUTES:
                run.evening()
            run.check_exports()
        except (AssertionError, OSError, http.client.HTTPException) as error:
            run.result.wrong.append(f"RouterDash does not respond as required: {error!r}")
        if run.result.wrong:
            print(run.scene.router.log_text()[-6000:], file=sys.stderr)
        return run.finish()


def report(results: Sequence[Result]) -> int:
    """Print the results, and return the exit code."""
    for result in results:
        print(result)
        done = (f"{name.replace('_', ' ')} {count}" for name, count in sorted(result.done.items()))
        for text in filter(None, (", ".join(done), *result.measurements)):
            print(f"    {text}")
        for text in result.wrong:
            print(f"    WRONG: {text}")
    return 1 if any(result.wrong for result in results) else 0
