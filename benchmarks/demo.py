"""`make demo`: RouterDash with four simulated servers of different speeds, light traffic and a week of history, in a
temporary data directory.

Two models are at fast and slow servers, so the strategy shows: compare the shares of the endpoints with those under
`ROUTERDASH_BALANCER=least_inflight make demo`.

No data leaves this machine. ROUTERDASH_PORT sets the port. Ctrl-C stops everything.
"""

import asyncio
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

import aiohttp

from benchmarks import past, published
from benchmarks.process import ROOT, clean_environment, stop
from benchmarks.simulator import Simulator
from gateway.base.config import ADAPTIVE, Config, load

PASSWORD = "try-routerdash"  # noqa: S105  # of an installation that lives for minutes, on a loopback address
REQUESTS_PER_SECOND = 3.0
START_SECONDS = 60.0

SERVERS: dict[str, dict[str, Any]] = {
    "gpu-a100": {
        "kind": "vllm",
        "models": ["meta-llama/Llama-3.3-70B-Instruct", "qwen3-32b"],
        "ttft": 0.15,
        "tokens_per_second": 90.0,
        "tokens": 120,
    },
    "mac-studio": {
        "kind": "ollama",
        "models": ["llama3.3:70b", "gemma3:27b"],
        "ttft": 0.4,
        "tokens_per_second": 28.0,
        "tokens": 90,
        "fault": "500",
        "fault_rate": 0.04,
    },
    "workstation": {
        "kind": "llamacpp",
        "models": ["qwen3-32b", "tiny-random"],
        "ttft": 0.25,
        "tokens_per_second": 45.0,
        "tokens": 60,
        "slots": 4,
        "fault": "die",
        "fault_rate": 0.02,
    },
    "old-laptop": {
        "kind": "ollama",
        "models": ["qwen3-32b", "gemma3:27b"],
        "ttft": 1.5,
        "tokens_per_second": 6.0,
        "tokens": 60,
        "slots": 2,
    },
}
MODELS = ("llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct", "qwen3-32b", "gemma3:27b", "tiny-random")


async def run(url: str, key: str, simulator: Simulator, serve: "subprocess.Popen[bytes]", config: Config) -> None:
    """Add the servers and their history, then send requests until cancelled. Raises SystemExit if RouterDash exits."""
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as session:
        await _until_ready(session, serve)
        for name, endpoint in zip(SERVERS, list(simulator.endpoints.values()), strict=True):
            body = {"name": name, "base_url": endpoint.url, "health_check_interval_secs": 5}
            async with session.post("/api/endpoints", json=body) as response:
                response.raise_for_status()
        await _have_past(config)
        report(f"\n  The demo runs at {url}/   Log in as admin, password {PASSWORD}.   Ctrl-C ends it.\n")
        tasks: set[asyncio.Task[None]] = set()
        while serve.poll() is None:
            task = asyncio.create_task(_send_request(session))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(random.expovariate(REQUESTS_PER_SECOND))
    raise SystemExit("RouterDash has ended; its messages are above")


async def _until_ready(session: aiohttp.ClientSession, serve: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and serve.poll() is None:  # else /ready of another server would be requested
        with suppress(aiohttp.ClientError):
            async with session.get("/ready") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise SystemExit("RouterDash did not come up; its messages are above")


async def _have_past(config: Config) -> None:
    """Wait until gateways know the models of the servers."""
    speeds = {name: past.Speed(it["ttft"], it["tokens_per_second"]) for name, it in SERVERS.items()}
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        known = published.read(config.registry_dir)
        if sum(bool(endpoint.models) for endpoint in known.endpoints) == len(SERVERS):
            past.write(config.journal_dir, known, speeds, time.time())
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the simulated servers did not come up")


async def _send_request(session: aiohttp.ClientSession) -> None:
    """Send one request: usually streamed, sometimes with a client disconnect, rarely for an unknown model."""
    model = "no-such-model" if random.random() < 0.01 else random.choice(MODELS)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me something."}],
        "stream": random.random() < 0.8,
        "max_tokens": random.randint(8, 120),
    }
    leaves = random.random() < 0.03
    with suppress(aiohttp.ClientError):
        async with session.post("/v1/chat/completions", json=body) as response:
            async for _ in response.content.iter_any():
                if leaves:
                    return


def _claim(port: str) -> None:
    """Check that the port is free, before any request is sent to it. Raises SystemExit."""
    try:
        socket.create_server(("127.0.0.1", int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SystemExit(f"port {port} cannot be used ({error}); choose another by ROUTERDASH_PORT") from None


def report(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    port = os.environ.get("ROUTERDASH_PORT", "32768")
    _claim(port)
    key = "sk_" + secrets.token_hex(16)
    # Like Ctrl-C, which the event loop handles between two steps of its tasks.
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="routerdash-demo-") as directory, Simulator() as simulator:
        for behaviour in SERVERS.values():
            simulator.add(**behaviour)
        environment = clean_environment(
            {
                "ROUTERDASH_DATA_DIR": directory,
                "ROUTERDASH_PORT": port,
                "ROUTERDASH_ADMIN_PASSWORD": PASSWORD,
                "ROUTERDASH_BOOTSTRAP_API_KEY": key,
                "ROUTERDASH_BALANCER": os.environ.get("ROUTERDASH_BALANCER", ADAPTIVE),
                "ROUTERDASH_LOG_LEVEL": os.environ.get("ROUTERDASH_LOG_LEVEL", "warning"),
            }
        )
        # In a new session: Ctrl-C reaches only this process, which stops the others in order.
        serve = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, str(ROOT / "manage.py"), "serve"], env=environment, start_new_session=True
        )
        try:
            config = load({"ROUTERDASH_DATA_DIR": directory})
            asyncio.run(run(f"http://127.0.0.1:{port}", key, simulator, serve, config))
        except KeyboardInterrupt:
            report("stopping")
        finally:
            stop(serve, 40)


if __name__ == "__main__":
    main()
