"""Sustained streaming: many clients stream at once for a while; no error, nothing left in flight, memory flat.

    python -m benchmarks.sustained --clients 200 --seconds 60

RouterDash runs in a new data directory, the simulated servers in a separate process. Prints the results and exits
with 1 if any of them is wrong.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.process import ROOT, clean_environment, free_port, stop

SERVERS = 4
WATCHED = ("gateway", "control")
GROWTH = 1.05  # ratio of the memory of the last third to the second third


@dataclass
class Tally:
    """Observations of the clients."""

    whole: int = 0
    events: int = 0  # events with output; the simulated servers send one for each token
    errors: list[str] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=dict)  # role -> kB, once a second


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(command, env=environment, cwd=ROOT)  # noqa: S603  # our own programs
    try:
        yield process
    finally:
        stop(process, 40)


async def stream(session: aiohttp.ClientSession, tally: Tally, until: float) -> None:
    """One client that requests one stream after the other."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "go on"}], "stream": True}
    while time.monotonic() < until:
        try:
            async with session.post("/v1/chat/completions", json=body) as response:
                text = await response.read()
        except aiohttp.ClientError as error:
            tally.errors.append(repr(error))
            continue
        if response.status != 200 or not text.endswith(b"data: [DONE]\n\n"):
            tally.errors.append(f"{response.status} {text[-200:]!r}")
        else:
            tally.whole += 1
            tally.events += text.count(b"data: ") - 3  # the role, the finish reason and [DONE]


async def measure(url: str, key: str, supervisor: int, clients: int, seconds: float, tally: Tally) -> dict[str, Any]:
    """Run the clients, and return RouterDash's figures afterwards."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}, connector=connector) as session:
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(stream(session, tally, until)) for _ in range(clients)]
        while not all(task.done() for task in tasks):
            for role, kilobytes in memory(supervisor).items():
                tally.memory.setdefault(role, []).append(kilobytes)
            await asyncio.sleep(1)
        await asyncio.gather(*tasks)
        async with session.get("/api/dashboard/stats") as response:
            stats: dict[str, Any] = await response.json()
            return stats


async def add_endpoints(url: str, key: str, ports: list[int]) -> None:
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as session:
        await _until(session, "/ready", lambda status, _: status == 200)
        for port in ports:
            body = {"name": str(port), "base_url": f"http://127.0.0.1:{port}"}
            async with session.post("/api/endpoints", json=body) as response:
                response.raise_for_status()
        await _until(session, "/v1/models", lambda _, text: len(_endpoints(text)) == len(ports))


def _endpoints(text: str) -> list[str]:
    models = json.loads(text)["data"]
    return models[0]["endpoint_ids"] if models else []


async def _until(session: aiohttp.ClientSession, path: str, condition: Any) -> None:
    for _ in range(600):
        try:
            async with session.get(path) as response:
                if condition(response.status, await response.text()):
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit(f"{path} is not as awaited after a minute")


def memory(supervisor: int) -> dict[str, int]:
    """Resident memory in kB of the supervisor's children, by role."""
    sizes: dict[str, int] = {}
    for entry in os.listdir("/proc"):
        try:
            status = Path(f"/proc/{entry}/status").read_text() if entry.isdigit() else ""
            if f"PPid:\t{supervisor}\n" not in status:
                continue
            command = Path(f"/proc/{entry}/cmdline").read_text()
        except OSError:
            continue
        role = next((name for name in ("gateway", "control", "background") if name in command), "other")
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        sizes[role] = sizes.get(role, 0) + int(resident.split()[1])
    return sizes


def growth(samples: list[int]) -> float:
    """Ratio of the median memory of the last third to that of the second; 1.0 with too few samples."""
    third = len(samples) // 3
    if third < 2:
        return 1.0
    return statistics.median(samples[2 * third :]) / statistics.median(samples[third : 2 * third])


def report_memory(samples: dict[str, list[int]], limit: float = GROWTH) -> list[str]:
    """Print the memory of each role. Return a text for each that grew by more than `limit`."""
    wrong = []
    for role, kilobytes in samples.items():
        ratio = growth(kilobytes)
        print(f"{role}: {max(kilobytes) / 1024:.0f} MiB at most, last third / second third {ratio:.3f}")
        if ratio > limit:
            wrong.append(f"memory of {role} grew to {ratio:.3f}")
    return wrong


def run(clients: int, seconds: float, workers: int = 1) -> list[str]:
    """Run the test. Return a text for each wrong result."""
    key = "sk_" + secrets.token_hex(16)
    ports, control, port = [free_port() for _ in range(SERVERS)], free_port(), free_port()
    tally = Tally()
    simulator = [sys.executable, "-m", "benchmarks.simulator", "--control", str(control)]
    for one in ports:
        behaviour = {"port": one, "tokens": 40, "tokens_per_second": 40.0, "ttft": 0.1}
        simulator += ["--endpoint", json.dumps(behaviour)]
    with tempfile.TemporaryDirectory(prefix="routerdash-sustained-") as directory:
        environment = clean_environment(
            {
                "ROUTERDASH_DATA_DIR": directory,
                "ROUTERDASH_PORT": str(port),
                "ROUTERDASH_WORKERS": str(workers),
                "ROUTERDASH_ADMIN_PASSWORD": secrets.token_hex(8),
                "ROUTERDASH_BOOTSTRAP_API_KEY": key,
                "ROUTERDASH_LOG_LEVEL": "warning",
            }
        )
        url = f"http://127.0.0.1:{port}"
        with (
            running(simulator, clean_environment({})),
            running([sys.executable, "manage.py", "serve"], environment) as serve,
        ):
            asyncio.run(add_endpoints(url, key, ports))
            stats = asyncio.run(measure(url, key, serve.pid, clients, seconds, tally))
    return report(tally, stats, seconds)


def report(tally: Tally, stats: dict[str, Any], seconds: float) -> list[str]:
    print(f"{tally.whole} whole streams, {tally.events} events, {tally.whole / seconds:.0f} streams/s")
    grown = report_memory({role: tally.memory[role] for role in WATCHED if role in tally.memory})
    wrong = [f"{len(tally.errors)} errors, the first: {tally.errors[0]}"] if tally.errors else []
    if not tally.whole:
        wrong.append("no stream was received whole")
    wrong += [f"the memory of {role} was not seen" for role in WATCHED if role not in tally.memory]
    if stats["total_active_requests"]:
        wrong.append(f"{stats['total_active_requests']} requests are still counted as in flight")
    if (stats["successful_requests"], stats["failed_requests"]) != (tally.whole, 0):
        wrong.append(f"counted {stats['successful_requests']} and {stats['failed_requests']} failed, not {tally.whole}")
    if stats["total_output_tokens"] != tally.events:
        wrong.append(f"counted {stats['total_output_tokens']} tokens, not {tally.events}")
    return wrong + grown


def main() -> None:
    parser = argparse.ArgumentParser(description="Sustained streaming through RouterDash.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    wrong = run(options.clients, options.seconds, options.workers)
    for text in wrong:
        print(f"WRONG: {text}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
