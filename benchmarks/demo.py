"""`make demo`: RouterDash with four simulated servers of different speeds, two simulated clouds, light traffic and a
week of history, in a temporary data directory.

Two models are at fast and slow servers, so the strategy shows: compare the shares of the endpoints with those under
`ROUTERDASH_BALANCER=least_inflight make demo`.

The model name `assistant` leads to a local server, and while that is full to a cloud with a limit of requests.

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

from benchmarks import past, providers, published
from benchmarks.process import ROOT, clean_environment, stop
from benchmarks.simulator import Simulator
from gateway.base.config import ADAPTIVE, Config, load

PASSWORD = "try-routerdash"  # noqa: S105  # of an installation that lives for minutes, on a loopback address
REQUESTS_PER_SECOND = 3.0
CONVERSATIONS = 12  # about so many at a time
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
CLOUDS: dict[str, dict[str, Any]] = {
    "groq": {"models": ["openai/gpt-oss-20b"], "ttft": 0.2, "tokens_per_second": 150.0, "requests_limit": 20},
    "anthropic": {"models": ["claude-haiku-5-5"], "ttft": 0.5, "tokens_per_second": 70.0, "written_share": 0.1},
}
NAME = "assistant"
STEPS = [
    {"targets": [{"model": "tiny-random"}], "if_full_secs": 0.5},
    {"targets": [{"model": "openai/gpt-oss-20b"}]},
]
MODELS = ("llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct", "qwen3-32b", "gemma3:27b", "tiny-random")
ASKED = (*MODELS, "claude-haiku-5-5", NAME)
BURST = 7  # requests at once, more than the local server of the name has slots


async def run(url: str, key: str, simulator: Simulator, serve: "subprocess.Popen[bytes]", config: Config) -> None:
    """Add the servers and their history, then send requests until cancelled. Raises SystemExit if RouterDash exits."""
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as session:
        await _until_ready(session, serve)
        for name, endpoint in zip([*SERVERS, *CLOUDS], list(simulator.endpoints.values()), strict=True):
            body = {"name": name, "base_url": endpoint.url, "health_check_interval_secs": 5}
            if isinstance(endpoint, providers.Cloud):
                body = {"name": name, "base_url": endpoint.base_url, "cloud_type": name, "api_key": endpoint.key}
            await _post(session, "/api/endpoints", body)
        await _have_past(config)
        await _post(session, "/api/model-names", {"name": NAME, "external": True, "steps": STEPS})
        report(f"\n  The demo runs at {url}/   Log in as admin, password {PASSWORD}.   Ctrl-C ends it.\n")
        tasks: set[asyncio.Task[None]] = set()
        conversations: list[DemoConversation] = []
        while serve.poll() is None:
            sends = [_send_turn(session, conversations) if random.random() < 0.5 else _send_request(session)]
            if random.random() < 0.05:
                sends += [_send_request(session, NAME) for _ in range(BURST)]
            for send in sends:
                task = asyncio.create_task(send)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(random.expovariate(REQUESTS_PER_SECOND))
    raise SystemExit("RouterDash has ended; its messages are above")


async def _post(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    async with session.post(path, json=body) as response:
        if response.status >= 400:
            raise SystemExit(f"{path} was refused: {await response.text()}")


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
    speeds = {name: past.Speed(server["ttft"], server["tokens_per_second"]) for name, server in SERVERS.items()}
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        known = published.read(config.registry_dir)
        if sum(bool(endpoint.models) for endpoint in known.endpoints) == len(SERVERS) + len(CLOUDS):
            past.write(config.journal_dir, known, speeds, time.time())
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the simulated servers did not come up")


async def _send_request(session: aiohttp.ClientSession, model: str = "") -> None:
    """Send one request: usually streamed, sometimes with a client disconnect, rarely for an unknown model."""
    model = model or ("no-such-model" if random.random() < 0.01 else random.choice(ASKED))
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


class DemoConversation:
    """A conversation whose requests begin alike. It has several turns, one at a time."""

    def __init__(self, number: int) -> None:
        self.model = random.choice(MODELS)
        self.turns_left = random.randint(2, 8)
        guide = "You are a patient guide to the museum of calculating machines. Answer in one short paragraph. " * 8
        self.messages = [
            {"role": "system", "content": guide},
            {"role": "user", "content": f"Visitor {number} asks: why?"},
        ]


async def _send_turn(session: aiohttp.ClientSession, waiting: list[DemoConversation]) -> None:
    """Send the next turn of a conversation, or begin another one. `waiting`: those whose turn has been answered."""
    if len(waiting) > random.randint(0, CONVERSATIONS):
        talk = waiting.pop(random.randrange(len(waiting)))
    else:
        talk = DemoConversation(random.getrandbits(32))
    body = {"model": talk.model, "messages": talk.messages, "stream": True, "max_tokens": random.randint(8, 80)}
    with suppress(aiohttp.ClientError):
        async with session.post("/v1/chat/completions", json=body) as response:
            await response.read()
    talk.turns_left -= 1
    talk.messages += [{"role": "assistant", "content": "Because."}, {"role": "user", "content": "And then?"}]
    if talk.turns_left:
        waiting.append(talk)


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
        for name, behaviour in CLOUDS.items():
            providers.add(simulator, name, tokens=60, **behaviour)
        environment = clean_environment(
            {
                "ROUTERDASH_DATA_DIR": directory,
                "ROUTERDASH_PORT": port,
                "ROUTERDASH_ADMIN_PASSWORD": PASSWORD,
                "ROUTERDASH_BOOTSTRAP_API_KEY": key,
                "ROUTERDASH_BOOTSTRAP_EXTERNAL": "true",
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
