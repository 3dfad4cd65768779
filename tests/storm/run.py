"""One storm from its start to the verdict."""

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.process import clean_environment, free_port
from benchmarks.sustained import memory, report_memory, running
from tests.router import KEY, RouterDash, until
from tests.storm.clients import BROKEN, LEFT, MODELS, REFUSED, WHOLE, Seen, client
from tests.storm.trouble import Fleet

ENDPOINTS = 6
KEYS = 6  # the first is greedy: it has half of the clients
WINDOW_SECONDS = 20.0  # in which each key is served at least once
# Three attempts of 5 s to connect and 5 s to respond, 10 s in the queue before each, and a stream of slow bytes.
LONGEST_SECONDS = 100.0
QUIET_SECONDS = 40.0  # until running requests have ended


@contextmanager
def simulators(ports: list[int], control: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.simulator", "--control", str(control)]
    models = sorted({model for some in MODELS.values() for model in some})
    for number, port in enumerate(ports):
        behaviour = {"port": port, "models": models, "tokens": 12, "tokens_per_second": 60.0, "ttft": 0.05}
        behaviour["messages"] = number % 2 == 0
        command += ["--endpoint", json.dumps(behaviour)]
    with running(command, clean_environment({})):
        yield


def storm(*, seconds: float, clients: int, workers: int = 2, directory: Path | None = None) -> list[str]:
    """Run the storm. Return a text for each violation."""
    with tempfile.TemporaryDirectory(prefix="routerdash-storm-") as made:
        router = RouterDash(
            directory or Path(made),
            ROUTERDASH_WORKERS=str(workers),
            ROUTERDASH_KEEPALIVE_SECS="1",
            ROUTERDASH_QUEUE_TIMEOUT_SECS="10",
            ROUTERDASH_LOG_LEVEL="error",
        )
        ports, control = [free_port() for _ in range(ENDPOINTS)], free_port()
        with simulators(ports, control):
            router.start()
            try:
                seen, samples, fleet = asyncio.run(_run_clients_and_faults(router, ports, control, seconds, clients))
                return _report(seen, fleet) + _judge(router, seen, fleet, seconds) + _report_memory(samples)
            finally:
                router.stop()


async def _run_clients_and_faults(
    router: RouterDash, ports: list[int], control: int, seconds: float, clients: int
) -> tuple[Seen, dict[str, list[int]], Fleet]:
    headers = {"Authorization": f"Bearer {KEY}"}
    seen = Seen()
    samples: dict[str, list[int]] = {}
    async with (
        aiohttp.ClientSession(router.url, headers=headers) as api,
        aiohttp.ClientSession(f"http://127.0.0.1:{control}") as simulator,
        aiohttp.ClientSession(router.url, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        fleet = Fleet(api, simulator)
        for port in ports:
            await fleet.register(port)
        keys = _make_keys(router)
        end = time.monotonic() + seconds
        owners = [keys[0] if number % 2 else keys[1 + number // 2 % (KEYS - 1)] for number in range(clients)]
        tasks = [asyncio.ensure_future(client(session, key, seen, end)) for key in owners]
        tasks.append(asyncio.ensure_future(fleet.trouble(end)))
        while not all(task.done() for task in tasks[:-1]):
            assert router.process is not None
            for role, kilobytes in memory(router.process.pid).items():
                samples.setdefault(role, []).append(kilobytes)
            await _find_overdue_requests(api, seen)
            await asyncio.sleep(1)
            if tasks[-1].done():
                tasks[-1].result()
                await fleet.calm()
        await asyncio.gather(*tasks)
        await fleet.calm()
    return seen, {role: samples[role] for role in ("gateway", "control") if role in samples}, fleet


async def _find_overdue_requests(api: aiohttp.ClientSession, seen: Seen) -> None:
    async with api.get("/api/live") as response:
        live = await response.json()
    for request in (*live["waiting"], *live["running"]):
        if request["age_ms"] > LONGEST_SECONDS * 1000:
            seen.odd.append(f"a request that is open for too long: {request}")


def _make_keys(router: RouterDash) -> list[str]:
    """Create API keys by a command that does the same as the page of keys."""
    made = router.manage("shell", "-c", _KEYS % KEYS)
    assert made.returncode == 0, made.stderr
    keys: list[str] = json.loads(made.stdout.strip().splitlines()[-1])
    until(lambda: all(router.get("/v1/models", key=key).status == 200 for key in keys))
    return keys


_KEYS = """
import json
from access.models import ApiKey, User
user = User.objects.first()
permissions = ["openai.inference", "openai.models.read"]
made = [ApiKey.issue(user, f"storm {number}", permissions) for number in range(%d)]
print(json.dumps([secret for _, secret in made]))
"""


def _report(seen: Seen, fleet: Fleet) -> list[str]:
    ended = Counter(seen.ended.values())
    print(f"{len(seen.ended)} requests: {dict(ended)}; statuses {dict(sorted(seen.statuses.items()))}")
    print(f"befell them: {dict(sorted(fleet.done.items()))}")
    wrong = [f"a client saw {text}" for text in seen.odd[:10]]
    wrong += [f"the API responded {text}" for text in fleet.refused[:10]]
    return wrong if ended[WHOLE] else [*wrong, "no client received a complete response"]


def _report_memory(samples: dict[str, list[int]]) -> list[str]:
    """Return texts on memory that grew. Control may grow more: it keeps figures of deleted endpoints until midnight."""
    gateways = {role: sizes for role, sizes in samples.items() if role == "gateway"}
    others = {role: sizes for role, sizes in samples.items() if role != "gateway"}
    return report_memory(gateways) + report_memory(others, limit=1.1)


def _judge(router: RouterDash, seen: Seen, fleet: Fleet, seconds: float) -> list[str]:
    wrong: list[str] = []
    try:
        until(lambda: not any(_requests_left(router)), QUIET_SECONDS)
    except AssertionError:
        running_, waiting = _requests_left(router)
        wrong.append(f"{running_} requests are in flight and {waiting} wait although no client sends requests")
    until(lambda: router.stats()["records_waiting"] == 0, QUIET_SECONDS)
    wrong += _compare(rows(router), seen.ended)
    wrong += _starved(seen, seconds) + router.in_python()
    done = router.manage("reconcile", timeout=300)
    if done.returncode:
        wrong.append(f"reconcile: {done.stdout[-2000:]}")
    if "Traceback" in router.log_text():
        wrong.append(f"the log has a traceback: {router.log_text()[-3000:]}")
    return wrong


def _requests_left(router: RouterDash) -> tuple[int, int]:
    stats = router.stats()
    return stats["total_active_requests"], stats["queued_requests"]


def rows(router: RouterDash) -> dict[str, list[str]]:
    """Return the outcomes in the history by the client's request id."""
    outcomes: dict[str, list[str]] = {}
    with closing(sqlite3.connect(router.data_dir / "routerdash.sqlite3")) as database:
        for name, outcome in database.execute("SELECT request_id, outcome FROM request_history"):
            outcomes.setdefault(name, []).append(outcome)
    return outcomes


EXPECTED = {
    WHOLE: {"ok"},
    REFUSED: {"refused", "failed", "no_endpoint", "queue"},
    BROKEN: {"truncated", "failed", "refused", "no_endpoint", "queue"},
}


def _compare(stored: dict[str, list[str]], ended: dict[str, str]) -> list[str]:
    """Check that each request has exactly one row with the outcome that its client saw.

    A client that disconnected may have done so before or after the end of its request.
    """
    wrong: Counter[str] = Counter()
    for name, how in ended.items():
        outcomes = stored.get(name, [])
        if len(outcomes) > 1:
            wrong["requests have several rows"] += 1
        elif not outcomes and how != LEFT:
            wrong[f"requests that were {how} have no row"] += 1
        elif outcomes and how != LEFT and outcomes[0] not in EXPECTED[how]:
            wrong[f"requests that were {how} have a row that says {outcomes[0]}"] += 1
    wrong["rows without a request"] = len(stored.keys() - ended.keys())
    return [f"{count} {what}" for what, count in wrong.items() if count]


def _starved(seen: Seen, seconds: float) -> list[str]:
    """Check that each key was served in each period in which any key was served."""
    everybody = sorted(moment for times in seen.served.values() for moment in times)
    if not everybody:
        return []
    wrong = []
    start = everybody[0]
    for number in range(int(seconds // WINDOW_SECONDS)):
        lo, hi = start + number * WINDOW_SECONDS, start + (number + 1) * WINDOW_SECONDS
        if sum(lo <= moment < hi for moment in everybody) < 20 * KEYS:
            continue
        for number_of_key, times in enumerate(seen.served.values()):
            if not any(lo <= moment < hi for moment in times):
                wrong.append(f"key {number_of_key} was not served from second {lo - start:.0f} to {hi - start:.0f}")
    return wrong


def verdict(wrong: list[Any]) -> int:
    for text in wrong:
        print(f"WRONG: {text}")
    return 1 if wrong else 0
