"""A run with limited API keys: load, kills and edits, then the comparison, and a last look for stuck keys."""

import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT, clean_environment
from benchmarks.simulator import Simulator
from tests.router import RouterDash, until
from tests.routerdash.commands import python
from tests.torture.faults import CONTROL, GATEWAY, Scene
from tests.torture.limits import upstream
from tests.torture.limits.client import BROKEN, LEFT, ODD, OK, REFUSED, UNSENT, request_body
from tests.torture.limits.judge import COUNTED_SECONDS, History, Visit, judge, least_counted
from tests.torture.limits.subjects import (
    CAPACITY,
    EVERYBODY,
    FLAKY,
    KEY,
    KEYS,
    KEYS_OF_A_USER,
    LONG,
    LONG_SECONDS,
    OUTPUT,
    PROMPT,
    QUICK,
    USED,
    USER,
    Limits,
    Subject,
    first_limits,
    kind_of,
    rates,
)
from tests.torture.postgres import Postgres
from tests.torture.run import Result
from tests.upgrades.archives import SteppedClock

EMPTY_SECONDS = COUNTED_SECONDS + 1  # after which no limit a minute counts anything of before
EXCESS = 2  # tokens of a request beyond its reservation: the means that it is made of are rounded down
SERVED_RATE = 0.85  # of its limit that a key can use at least: its tokens are expected to be more at first
CLOCK_STEPS = (0, 40, -40, 3600, -3600, 7200)  # seconds that the wall clock is ahead: a server may be off by so much
SHOWN = 8  # differences
RESTART_SECONDS = 240.0  # on a machine with other load, while clients try to connect
SERVERS: dict[str, dict[str, Any]] = {
    "quick": {"models": [QUICK, FLAKY], "ttft": 0.02},
    "long": {"models": [LONG], "tokens_per_second": OUTPUT / LONG_SECONDS},
    "flaky": {"models": [FLAKY], "fault": "500", "fault_rate": 0.5},
}
REFUSALS = ("rate_limit_exceeded", "queue_full", "queue_timeout", "upstream_error", "no_capable_endpoints")


class Keys:
    """The users and their API keys, by number."""

    def __init__(self, router: RouterDash) -> None:
        limits = [
            {"level": level, "subject_id": subject_id, **_fields(given)}
            for (level, subject_id), given in first_limits(
                [f"k{number}" for number in range(KEYS)], [f"u{number}" for number in range(KEYS // KEYS_OF_A_USER)]
            )
        ]
        code = (
            "import json\n"
            "from access.limits.tables import LimitRow\n"
            "from access.models import INFERENCE, ApiKey, User\n"
            "keys, names, users = [], {'': ''}, []\n"
            f"for number in range({KEYS}):\n"
            f"    if number % {KEYS_OF_A_USER} == 0:\n"
            "        users.append(User.objects.create_user(f'limited-{number}', password=None))\n"
            "        names[f'u{len(users) - 1}'] = str(users[-1].pk)\n"
            "    row, secret = ApiKey.issue(users[-1], f'limited {number}', [INFERENCE])\n"
            "    names[f'k{number}'] = str(row.pk)\n"
            "    keys.append((str(row.pk), secret, str(users[-1].pk)))\n"
            f"for row in json.loads({json.dumps(json.dumps(limits))}):\n"
            "    LimitRow.objects.create(**{**row, 'subject_id': names[row['subject_id']]})\n"
            "print(json.dumps(keys))\n"
        )
        done = python(code, **router.environment)
        assert done.code == 0, done.err
        self.ids, self.secrets, self.users = zip(*json.loads(done.out.splitlines()[-1]), strict=True)

    def subjects_of(self, number: int) -> tuple[Subject, ...]:
        """Return the subjects for which a request of a key counts."""
        return ((KEY, self.ids[number]), (USER, self.users[number]), EVERYBODY)


def _fields(limits: Limits) -> dict[str, Any]:
    return {
        "concurrency": limits.concurrency,
        "requests": limits.requests,
        "tokens": limits.tokens,
        "waiting": list(limits.waiting),
    }


class Sender:
    """The client process, and the lines that it has written."""

    def __init__(self, router: RouterDash, keys: Keys, seed: int) -> None:
        self.lines: list[dict[str, Any]] = []
        self._paused = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.limits.client", router.url, "--seed", str(seed)],
            cwd=ROOT,
            env=clean_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        given = [(secret, kind_of(number).model, rates()[number]) for number, secret in enumerate(keys.secrets)]
        self._command(json.dumps(given))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def go(self) -> None:
        self._paused.clear()
        self._command("go")

    def pause(self) -> None:
        """Stop sending, and wait until no request is in flight."""
        self._command("pause")
        if not self._paused.wait(120):
            raise TimeoutError("the client has requests open that never end")

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._command("quit")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
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
                self.lines.append(line)


class LimitsRun:
    """The test of one installation."""

    def __init__(
        self, scene: Scene, keys: Keys, sender: Sender, arrivals: list[upstream.Arrival], clock: SteppedClock
    ) -> None:
        self.scene = scene
        self.keys = keys
        self.sender = sender
        self.arrivals = arrivals
        self.clock = clock
        self.history = History()
        self.kills: list[float] = []  # of gateways, by time.monotonic()
        self.done: Counter[str] = Counter()
        self.edit_seconds: list[float] = []
        self.wrong: list[str] = []
        self.seconds = 0.0
        self._limits = dict(first_limits(list(keys.ids), sorted(set(keys.users))))
        self._edited = [
            subject for subject in self._limits if subject[0] != KEY or kind_of(keys.ids.index(subject[1])).edited
        ]
        for subject, limits in self._limits.items():
            self.history.begin(subject, limits, time.monotonic() - EMPTY_SECONDS)

    # Load

    def load(self, seconds: float) -> None:
        """Send requests, and cause faults meanwhile."""
        begin = time.monotonic()
        shown = restarted = begin
        self.sender.go()
        while (now := time.monotonic()) < begin + seconds:
            time.sleep(self.scene.rng.uniform(0.1, 0.6))
            chance = self.scene.rng.random()
            if chance < 0.08:
                self._kill(GATEWAY)
            elif chance < 0.10:
                self._kill(CONTROL)
            elif chance < 0.16:
                with self.scene.stopped(GATEWAY):
                    time.sleep(0.3)
                self.done["stopped gateways"] += 1
            elif chance < 0.19:
                self.clock.set(self.scene.rng.choice(CLOCK_STEPS))
                self.done["steps of the clock"] += 1
            elif now - restarted > 150:
                self._restart()
                restarted = now
            else:
                self._edit()
            if now - shown > 30:
                self.scene.log(f"{len(self.sender.lines)} responses, {dict(self.done)}")
                shown = now
        self.clock.set(0)
        self.sender.pause()
        self.seconds = time.monotonic() - begin

    def _kill(self, role: str) -> None:
        if role == GATEWAY:
            self.kills.append(time.monotonic())
        self.scene.kill(role)
        self.done[f"killed: {role}"] += 1

    def _restart(self) -> None:
        """Kill all processes, and start again. What the dead ones have counted still counts."""
        self.kills.append(time.monotonic())
        self.scene.kill_all()
        self.scene.router.start(wait=False)
        until(self.scene.router.is_ready, RESTART_SECONDS)
        self.done["killed: all processes"] += 1

    def _edit(self) -> None:
        subject = self.scene.rng.choice(self._edited)
        factor = self.scene.rng.choice((0.34, 0.6, 1, 1, 1.5))
        self.set_limits(subject, self._limits[subject].scaled(factor))

    def set_limits(self, subject: Subject, limits: Limits) -> bool:
        """Store limits over the API. Return False if this was not confirmed: they may be in effect or not."""
        begin = time.monotonic()
        self.history.begin(subject, limits, begin)
        try:
            response = self.scene.router.request(
                "PUT", f"/api/limits/{'/'.join(filter(None, subject))}", _fields(limits)
            )
        except (OSError, http.client.HTTPException):
            response = None
        if response is None or response.status == 202 or response.status >= 500:  # 202: stored, and not confirmed
            self.done["edits not confirmed"] += 1
            return False
        if response.status != 200:
            self.wrong.append(f"an edit of limits was refused: {response}")
            return False
        self.history.end(subject, time.monotonic())
        self.edit_seconds.append(time.monotonic() - begin)
        self.done["edits"] += 1
        return True

    # Afterwards

    def visits(self) -> Iterator[Visit]:
        """Yield the requests that reached a server: with several attempts, from the first to the last of them."""
        lines = {line["number"]: line for line in self.sender.lines}
        by_number: dict[int, list[upstream.Arrival]] = {}
        for arrival in list(self.arrivals):
            by_number.setdefault(arrival.number, []).append(arrival)
        for number, attempts in by_number.items():
            if (line := lines.get(number)) is None:
                continue
            left = max(self._left(attempt, line) for attempt in attempts)
            tokens = line["tokens"] if line["end"] == OK else 0
            arrived, subjects = min(attempt.arrived for attempt in attempts), self.keys.subjects_of(line["key"])
            yield Visit(line["key"], arrived, left, tokens, subjects, line["sent"], line["bulk"])

    def _left(self, arrival: upstream.Arrival, line: dict[str, Any]) -> float:
        """Return when a request gave back its place at the earliest.

        A server notices late that a gateway was killed, or that it has cut off the request of a client that has left.
        """
        if not arrival.cut_off:
            return arrival.left
        killed = [moment for moment in self.kills if arrival.arrived < moment <= arrival.left]
        return max(arrival.arrived, min([arrival.left, float(line["ended"]), *killed[-1:]]))

    def compare(self) -> list[str]:
        """Compare everything; return measurements."""
        router = self.scene.router
        until(lambda: router.stats()["total_active_requests"] == 0, 30)
        until(lambda: router.stats()["records_waiting"] == 0, 60)
        visits = list(self.visits())
        verdict = judge(visits, self.history, excess=EXCESS)
        self.wrong += verdict.wrong
        self.wrong += self._tally_differences()
        self.wrong += self._refused_with_room(visits)
        if not self.done["edits"]:
            self.wrong.append("no edit of limits was accepted")
        done = router.manage("reconcile", timeout=300)
        if done.returncode:
            self.wrong += [f"reconcile: {line}" for line in without_averages(done.stdout + done.stderr)]
        return self._measurements(visits, verdict.full)

    def _measurements(self, visits: Sequence[Visit], full: dict[str, int]) -> list[str]:
        refused = Counter(line["by"] or line["code"] for line in self.sender.lines if line["end"] == REFUSED)
        shown = [f"{name} {count}" for name, count in refused.most_common()]
        at_limit = [f"{name} {count}" for name, count in sorted(full.items())]
        took = sorted(self.edit_seconds)
        edits = f"median {took[len(took) // 2] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms" if took else "none"
        return [
            f"{len(visits)} requests reached a server; refused: {', '.join(shown)}",
            f"arrivals with which a limit was full: {', '.join(at_limit)}",
            f"edits in effect everywhere: {edits}",
        ]

    def _tally_differences(self) -> Iterator[str]:
        """Compare the client's counts with the history, by key, and with the rejected requests by reason."""
        ends, tokens, codes = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        for line in self.sender.lines:
            key_id = self.keys.ids[line["key"]]
            ends[key_id, line["end"]] += 1
            tokens[key_id] += line["tokens"]
            codes[line["code"]] += line["end"] == REFUSED
            if line["end"] == ODD or (line["end"] == REFUSED and line["code"] not in REFUSALS):
                yield f"the client got something odd: {line}"
            has_headers = line["status"] == 200 or (line["by"] and line["retry_after"])
            if line["code"] == "rate_limit_exceeded" and not has_headers:
                yield f"a refusal does not say by which limit, or when to try again: {line}"
        sql = (
            "SELECT api_key_id, COUNT(*), SUM(input_tokens + output_tokens) FROM request_history "
            "WHERE outcome = 'ok' GROUP BY 1"
        )
        stored = {str(key): (int(count), int(total)) for key, count, total in self.scene.router.query(sql)}
        stats = self.scene.router.stats()
        unrecorded = stats["records_unrecorded"]
        for key_id in self.keys.ids:
            uncertain = ends[key_id, BROKEN] + ends[key_id, LEFT]
            count, total = stored.get(key_id, (0, 0))
            low, high = ends[key_id, OK] - unrecorded, ends[key_id, OK] + uncertain
            if not low <= count <= high:
                yield f"requests of key {key_id}: {count} in the history, {low} to {high} by the client"
            low, high = tokens[key_id] - unrecorded * USED, tokens[key_id] + uncertain * USED
            if not low <= total <= high:
                yield f"tokens of key {key_id}: {total} in the history, {low} to {high} by the client"
        refused, broken = codes["rate_limit_exceeded"], sum(ends[key_id, BROKEN] for key_id in self.keys.ids)
        counted = stats["rejected_by_reason"].get("rate_limit_exceeded", 0)
        if not refused - unrecorded <= counted <= refused + broken:
            yield f"refused because of limits: {counted} counted, {refused} to {refused + broken} by the client"

    def _refused_with_room(self, visits: Sequence[Visit]) -> Iterator[str]:
        """Find keys whose refused requests consume of their limits: they are refused below them."""
        for number in range(KEYS):
            kind = kind_of(number)
            if kind.edited:
                continue
            lines = [line for line in self.sender.lines if line["key"] == number]
            refused = [
                (line["sent"], line["ended"])
                for line in lines
                if line["by"].partition(";")[0] == KEY and not line["bulk"]
            ]
            broken = [(line["sent"], line["ended"]) for line in lines if line["end"] in (BROKEN, LEFT)]
            allowed = kind.limits.requests or (kind.limits.tokens or 0) // (USED + EXCESS)
            least = least_counted(refused, [visit for visit in visits if visit.key == number], broken)
            if least < SERVED_RATE * allowed:
                yield f"key {number} ({kind.name}): refused after {least} requests, {allowed} are allowed a minute"

    def look_for_stuck_keys(self) -> None:
        """Wait until no minute counts anything; each key must be served, then as often at once as it is allowed."""
        for subject, limits in self._limits.items():
            until(lambda subject=subject, limits=limits: self.set_limits(subject, limits), 60)
        time.sleep(EMPTY_SECONDS)
        # One after the other: those of a user or of everyone must not refuse each other.
        stuck = [number for number in range(KEYS) if self._statuses([number]) != [200]]
        self.wrong += [f"key {number} ({kind_of(number).name}) is stuck" for number in stuck]
        room = Limits(concurrency=CAPACITY)
        places = [((KEY, key_id), room) for key_id in self.keys.ids]
        places += [((USER, user), Limits(concurrency=CAPACITY * KEYS_OF_A_USER)) for user in set(self.keys.users)]
        for subject, limits in (*places, (EVERYBODY, Limits(concurrency=CAPACITY * KEYS_OF_A_USER))):
            until(lambda subject=subject, limits=limits: self.set_limits(subject, limits), 60)
        for first in range(0, KEYS, KEYS_OF_A_USER):
            numbers = [first + index for index in range(KEYS_OF_A_USER)] * CAPACITY
            statuses = self._statuses(numbers, LONG)
            if lost := [number for number, status in zip(numbers, statuses, strict=True) if status != 200]:
                self.wrong.append(
                    f"places lost: {len(lost)} of {len(numbers)} requests at once refused, of keys {lost}"
                )

    def _statuses(self, numbers: Sequence[int], model: str = QUICK) -> list[int]:
        """Send a request of each of these keys, all at once; return their statuses."""

        def send(number: int) -> int:
            body = request_body(0, model, streamed=model == LONG)
            status = self.scene.router.post("/v1/chat/completions", body, key=self.keys.secrets[number]).status
            return int(status)

        with ThreadPoolExecutor(len(numbers)) as pool:
            return list(pool.map(send, numbers))


def without_averages(output: str) -> list[str]:
    """Return the lines of `reconcile`, without moving averages: after steps of the clock these may lack samples."""
    lines = [line for line in output.splitlines() if not line.startswith("averages: ")]
    return [] if len(lines) == 1 and lines[0].endswith((" differences", " difference")) else lines


@contextmanager
def started(*, workers: int, seed: int, postgres: bool, broken: str = "") -> Iterator[LimitsRun]:
    """Start everything that a run needs, in a new directory."""
    begin = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - begin:7.1f}  {text}", flush=True)

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-torture-")))
        server = Postgres() if postgres else None
        if server is not None:
            stack.callback(server.remove)
        router = RouterDash(
            directory,
            server.url if server else "",
            ROUTERDASH_WORKERS=str(workers),
            ROUTERDASH_LOG_LEVEL="warning",
            ROUTERDASH_QUEUE_MAX="600",
            ROUTERDASH_QUEUE_TIMEOUT_SECS="10",
        )
        if broken:  # sitecustomize of this directory breaks the rule in all processes
            router.environment |= {
                "PYTHONPATH": f"{Path(__file__).parent / 'broken'}{os.pathsep}{ROOT}",
                "BROKEN": broken,
            }
        clock = SteppedClock(directory)
        router.environment |= clock.environment
        stack.callback(router.kill)
        router.start()
        simulator = stack.enter_context(Simulator())
        arrivals: list[upstream.Arrival] = []
        ids = []
        for name, behaviour in SERVERS.items():
            simulated = upstream.add(simulator, arrivals, tokens=OUTPUT, prompt_tokens=PROMPT, **behaviour)
            ids.append((router.register(simulated, name), len(behaviour["models"])))
        until(lambda: all(router.serves(key, models) for key, models in ids), 30)
        keys = Keys(router)
        scene = Scene(router, random.Random(seed), log, server)
        sender = Sender(router, keys, seed)
        stack.callback(sender.close)
        run = LimitsRun(scene, keys, sender, arrivals, clock)
        # The last key is known and has limits of its user, so those of all others are in effect too.
        body = request_body(0, "nobody", streamed=False)
        until(lambda: router.post("/v1/chat/completions", body, key=keys.secrets[-1]).status == 404, 20)
        yield run


def torture_limits(
    name: str, *, workers: int, seed: int, minutes: float, postgres: bool = False, broken: str = ""
) -> Result:
    """Torture limits for so many minutes, and judge."""
    result = Result(name)
    with started(workers=workers, seed=seed, postgres=postgres, broken=broken) as run:
        run.scene.log(f"{name}: {KEYS} limited keys, {sum(rates()):.0f} requests a second, seed {seed}")
        try:
            run.load(minutes * 60)
            result.measurements += run.compare()
            if not (broken and run.wrong):  # a broken rule has been noticed already
                run.look_for_stuck_keys()
        except (AssertionError, OSError, http.client.HTTPException) as error:
            run.wrong.append(f"RouterDash does not respond as required: {error!r}")
        lines = run.sender.lines
        ends = Counter(line["end"] for line in lines)
        result.seconds, result.sent = run.seconds, len(lines) - ends[UNSENT]
        result.whole, result.broken, result.kills = ends[OK], ends[BROKEN], run.scene.kills
        result.audits = 1
        result.done = dict(run.done)
        run.wrong += run.scene.router.in_python()
        different = list(dict.fromkeys(run.wrong))
        more = len(different) - SHOWN
        result.wrong = [*different[:SHOWN], *([f"{more} more differences"] if more > 0 else [])]
        if run.wrong and not broken:
            print(run.scene.router.log_text()[-4000:], file=sys.stderr)
        return result
