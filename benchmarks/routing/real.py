"""Adaptive routing beside `least_inflight` before real servers: `python -m benchmarks.routing.real --servers 2`.

The servers run llama.cpp with one small model. They differ in speed: by threads, or because `--slow` stops a server's
process for a part of each 40 ms, so that two cores make a mixed fleet too. Without `--llama-server` and `--model`,
llama.cpp and SmolLM2-135M come from the package index, as in the tests (tests/llamacpp). `--urls` takes servers that
run already.

Clients have conversations with one of a few system prompts. The balancers take turns in rounds with the same
conversations in another wording, so that no prompt is in a cache before its time. A figure is that of all rounds, in
real seconds; the first part of each round is not measured, because routing learns in it.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from benchmarks.process import free_port
from benchmarks.routing.virtual import percentile
from tests import llamacpp
from tests.router import KEY, RouterDash, until

BALANCERS = ("least_inflight", "adaptive")
ALIAS = "real"
SLOTS = 4  # of each server
WARM = 0.3  # share of a round that is not measured
PERIOD_SECONDS = 0.04  # in which a slowed server is stopped once
SYSTEM_PROMPTS, SYSTEM_WORDS = 3, 120
TURNS, WORDS, OUTPUT, THINK_SECONDS = 4, 25, 24, 1.0  # of a conversation; output tokens and pause of each turn
NOUNS = ("river", "mountain", "engine", "letter", "garden", "window", "teacher", "planet", "bridge", "forest", "market")
VERBS = ("sees", "carries", "follows", "builds", "opens", "repairs", "describes", "measures", "paints", "remembers")


class Served(NamedTuple):
    """A response. Times in seconds."""

    arrived: float
    first: float
    ended: float
    output: int  # tokens
    prompt: int
    cached: int
    endpoint: str


def sentence(source: random.Random, words: int) -> str:
    pairs = [f"the {source.choice(NOUNS)} {source.choice(VERBS)}" for _ in range(words // 3 + 1)]
    return " ".join(pairs) + "."


class RealClients:
    """Clients with conversations, one after another. `name` is part of every text."""

    def __init__(self, url: str, name: str, seed: int) -> None:
        self._url, self._name, self._seed = url, name, seed
        self.served: list[Served] = []
        self.errors: list[str] = []

    async def run(self, clients: int, seconds: float) -> None:
        """Run so many clients. No turn begins after `seconds`."""
        timeout = aiohttp.ClientTimeout(total=300)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(self._url, timeout=timeout, headers=headers) as session:
            self._begun = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                for number in range(clients):
                    tasks.create_task(self._client(session, number, seconds))

    async def _client(self, session: aiohttp.ClientSession, number: int, seconds: float) -> None:
        source = random.Random(f"{self._seed} {number}")
        await asyncio.sleep(source.uniform(0.0, THINK_SECONDS))
        conversation = 0
        while self._now() < seconds:
            conversation += 1
            which = source.randrange(SYSTEM_PROMPTS)
            system = f"{self._name} {which}: " + sentence(random.Random(which), SYSTEM_WORDS)
            messages = [{"role": "system", "content": system}]
            for turn in range(TURNS):
                words = f"{self._name} {number} {conversation} {turn}: " + sentence(source, WORDS)
                messages.append({"role": "user", "content": words})
                if self._now() >= seconds:
                    return
                text = await self._request(session, messages)
                if text is None:
                    break
                messages.append({"role": "assistant", "content": text})
                await asyncio.sleep(source.expovariate(1 / THINK_SECONDS))

    async def _request(self, session: aiohttp.ClientSession, messages: list[dict[str, str]]) -> str | None:
        """Send one turn; return the text of the response, None after an error."""
        body = {
            "model": ALIAS, "messages": messages, "max_tokens": OUTPUT, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}, "temperature": 0.0, "cache_prompt": True,
        }  # fmt: skip
        arrived, first, text, usage = self._now(), 0.0, "", dict[str, Any]()
        try:
            async with session.post("/v1/chat/completions", json=body) as response:
                if response.status != 200:
                    raise ValueError(f"{response.status} {(await response.text())[:200]}")
                endpoint = response.headers["x-routerdash-endpoint"]
                async for event in events(response):
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        piece = choice["delta"].get("content")
                        if piece:
                            first, text = first or self._now(), text + piece
        except (aiohttp.ClientError, ValueError, TimeoutError) as error:
            self.errors.append(str(error) or type(error).__name__)
            return None
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        output, prompt = usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
        self.served.append(Served(arrived, first or self._now(), self._now(), output, prompt, cached, endpoint))
        return text

    def _now(self) -> float:
        return time.monotonic() - self._begun


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


@contextmanager
def slowed(process: "subprocess.Popen[Any]", factor: float) -> Iterator[None]:
    """Let a process run for one part of `factor` of the time."""
    if factor <= 1:
        yield
        return
    done = threading.Event()

    def brake() -> None:
        while not done.is_set():
            process.send_signal(signal.SIGSTOP)
            done.wait(PERIOD_SECONDS * (1 - 1 / factor))
            process.send_signal(signal.SIGCONT)
            time.sleep(PERIOD_SECONDS / factor)

    thread = threading.Thread(target=brake, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def servers(options: argparse.Namespace) -> Iterator[list[str]]:
    """Start servers until the end; yield their URLs."""
    if options.urls:
        yield options.urls
        return
    model = options.model or llamacpp.real_model()
    with ExitStack() as ends:
        log = ends.enter_context(tempfile.TemporaryFile())
        urls = []
        for number in range(options.servers):
            port, threads = free_port(), _nth(options.threads, number)
            command = _command(options.llama_server, model, port, threads)
            process = subprocess.Popen(  # noqa: S603  # the program that was named, or our own
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            ends.callback(process.wait)
            ends.callback(process.kill)
            until(lambda process=process, port=port: llamacpp.is_healthy(process, port), 120, 0.1)
            ends.enter_context(slowed(process, _nth(options.slow, number)))
            urls.append(f"http://127.0.0.1:{port}")
        yield urls


def _nth(values: Sequence[Any], number: int) -> Any:
    """Return the value of a server; the last one counts for all further ones."""
    return values[min(number, len(values) - 1)]


def _command(program: Path | None, model: Path, port: int, threads: int) -> list[str]:
    if program is None:
        python = llamacpp.environment("llamacpp", llamacpp.HERE / "requirements.txt")
        given = ["--model", str(model), "--alias", ALIAS, "--port", str(port), "--threads", str(threads)]
        return [str(python), str(llamacpp.HERE / "serve.py"), *given]
    return [
        str(program), "--model", str(model), "--alias", ALIAS, "--host", "127.0.0.1", "--port", str(port),
        "--threads", str(threads), "--threads-batch", str(threads), "--parallel", str(SLOTS),
        "--ctx-size", str(1024 * SLOTS),
    ]  # fmt: skip


def run(balancer: str, name: str, urls: Sequence[str], options: argparse.Namespace) -> RealClients:
    """Run one round of a balancer, in a new installation."""
    with tempfile.TemporaryDirectory(prefix="routerdash-real-") as directory:
        router = RouterDash(Path(directory), ROUTERDASH_BALANCER=balancer, ROUTERDASH_LOG_LEVEL="warning")
        try:
            router.start()
            for number, url in enumerate(urls):
                given = {"name": f"e{number}", "base_url": url, "max_concurrency": SLOTS}
                assert router.post("/api/endpoints", given).status == 201
            until(lambda: _is_everywhere(router, len(urls)), 30)
            clients = RealClients(router.url, name, options.seed)
            asyncio.run(clients.run(options.clients, options.seconds))
        finally:
            router.end()
    return clients


def _is_everywhere(router: RouterDash, endpoints: int) -> bool:
    found = [model for model in router.get("/v1/models").json()["data"] if model["id"] == ALIAS]
    return bool(found) and len(found[0]["endpoint_ids"]) == endpoints


def row(balancer: str, served: Sequence[Served]) -> str:
    """Return the figures of a balancer as a row of a table."""
    firsts = sorted(it.first - it.arrived for it in served)
    tokens = sorted((it.ended - it.arrived) / it.output for it in served if it.output)
    hits = sum(it.cached for it in served) / max(1, sum(it.prompt for it in served))
    count = Counter(it.endpoint for it in served)
    shares = ", ".join(f"{name} {number / len(served):.0%}" for name, number in sorted(count.items()))
    figures = (percentile(firsts, 0.5), percentile(firsts, 0.95), percentile(tokens, 0.5), percentile(tokens, 0.95))
    shown = " | ".join(f"{1000 * figure:,.0f}" for figure in figures)
    return f"| {balancer} | {len(served)} | {shown} | {hits:.2f} | {shares} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--urls", nargs="+", help=f"servers that run already, with a model named {ALIAS!r}")
    parser.add_argument("--llama-server", type=Path, help="program, with the options of llama.cpp's llama-server")
    parser.add_argument("--model", type=Path, help="file in GGUF")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of each server; the last one repeats")
    parser.add_argument("--slow", type=float, nargs="+", default=[1.0, 4.0], help="how much slower each server runs")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=120.0, help="of a round of one balancer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.llama_server is not None and options.model is None:
        parser.error("--llama-server needs --model FILE")
    found = {balancer: list[Served]() for balancer in BALANCERS}
    errors: list[str] = []
    with servers(options) as urls:
        for number in range(options.rounds):
            for at, balancer in enumerate(BALANCERS[:: -1 if number % 2 else 1]):
                clients = run(balancer, f"{number}{at}", urls, options)
                found[balancer] += [it for it in clients.served if it.arrived >= WARM * options.seconds]
                errors += clients.errors
                print(f"round {number + 1}, {balancer}: {len(clients.served)} responses", file=sys.stderr, flush=True)
    print(f"load average of the machine at the end: {os.getloadavg()[0]:.1f}; its cores: {os.cpu_count()}\n")
    print(
        "| balancer | requests | first token: median, ms | p95, ms | per token: median, ms | p95, ms | hits | shares |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|---|")
    for balancer, served in found.items():
        print(row(balancer, served))
    for error in sorted(set(errors)):
        print(f"error, {errors.count(error)} times: {error}", file=sys.stderr)
    if errors or not all(found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
