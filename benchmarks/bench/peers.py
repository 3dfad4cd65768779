"""Other routers for language models, from PyPI, each in its own virtual environment below .cache/bench/."""

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.servers import Program, Server, Upstreams
from benchmarks.bench.tools import MODEL, PROXY_CORE, CannotMeasure
from benchmarks.process import ROOT, clean_environment, free_port
from tests.router import KEY

CACHE = ROOT / ".cache" / "bench"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Release:
    package: str
    version: str
    extra: str = ""

    @property
    def directory(self) -> Path:
        return CACHE / f"{self.package}-{self.version}"

    @property
    def requirement(self) -> str:
        return f"{self.package}{self.extra}=={self.version}"


def install(release: Release) -> None:
    """Install the package if it is missing. Raises CannotMeasure."""
    directory, done = release.directory, release.directory / "installed"
    if done.exists():
        return
    print(f"installing {release.requirement}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(directory)],
        [str(directory / "bin" / "pip"), "install", "--quiet", release.requirement],
    ):
        made = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  # pinned, into its own directory
        if made.returncode:
            raise CannotMeasure(f"{release.requirement} cannot be installed: {made.stderr[-2000:]}")
    done.touch()


class Peer(Server, ABC):
    """A router with one process that uses both upstreams and logs warnings."""

    release: Release
    cannot: tuple[str, ...] = ()  # cases that would take too long with this router

    def __init__(self, directory: Path, upstreams: Upstreams) -> None:
        install(self.release)
        self._upstreams = upstreams
        self.port = self.stream_port = free_port()
        self.version = self.release.version
        urls = [f"http://127.0.0.1:{port}" for port in upstreams.ports]
        command = [str(self.release.directory / "bin" / "python"), *self.arguments(directory, urls)]
        self.configuration = self.configuration or "python " + " ".join(command[1:])
        environment = clean_environment({"PYTHONPATH": ""})
        self._program = Program(command, directory / "log", PROXY_CORE, env=environment, cwd=directory)
        self._program.wait_for(self.port, START_SECONDS)

    @abstractmethod
    def arguments(self, directory: Path, urls: list[str]) -> list[str]:
        """Arguments of its Python that start it on `self.port` before these servers."""

    def front(self) -> list[int]:
        return self._program.pids()

    def settle(self) -> None:
        """Wait until it sends no more requests: some routers continue after a client disconnect."""
        before = -1
        while before != (now := self._upstreams.posts()):
            before = now
            time.sleep(0.5)

    def stop(self) -> None:
        self._program.stop()


class VllmRouter(Peer):
    name = "vllm-router"
    policy = "round_robin"
    release = Release("vllm-router", "0.1.17")
    strengths = (
        "A router in Rust for fleets of vLLM: sends requests with the same prefix to the server that has it cached, "
        "splits prefill from decoding, retries, breaks circuits, finds servers in Kubernetes. Needs no database."
    )

    def arguments(self, directory: Path, urls: list[str]) -> list[str]:
        return [
            "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", str(self.port),
            "--worker-urls", *urls, "--policy", self.policy, "--log-level", "warning",
            "--prometheus-port", str(free_port()),
        ]  # fmt: skip


class SglangRouter(Peer):
    name = "sglang-router"
    policy = "round_robin"
    release = Release("sglang-router", "0.3.2")
    strengths = (
        "A router in Rust for fleets of SGLang: routes by a tree of cached prefixes, splits prefill from decoding, "
        "speaks gRPC, tokenizes, parses tool calls and reasoning, keeps conversations, limits rates, traces."
    )

    def arguments(self, directory: Path, urls: list[str]) -> list[str]:
        return [
            "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(self.port),
            "--worker-urls", *urls, "--policy", self.policy, "--log-level", "warn",
            "--prometheus-port", str(free_port()),
        ]  # fmt: skip


class VllmRouterByPrefix(VllmRouter):
    name = "vllm-router-by-prefix"
    policy = "cache_aware"  # its own default: like RouterDash's, it reads prompts and knows the load


class SglangRouterByPrefix(SglangRouter):
    name = "sglang-router-by-prefix"
    policy = "cache_aware"


class Litellm(Peer):
    name = "LiteLLM"
    release = Release("litellm", "1.108.7", "[proxy]")
    strengths = (
        "One API before more than a hundred providers, each translated into OpenAI's; budgets, teams, guardrails, "
        "caches, fallbacks, and callbacks into many systems of observation. It does more to each request than any "
        "other here; cases with more requests a second than it can serve are left out."
    )
    cannot = ("plain128", "streams96", "streams384", "burst512", "rate200")

    def arguments(self, directory: Path, urls: list[str]) -> list[str]:
        models = "".join(
            f"  - model_name: {MODEL}\n    litellm_params:\n"
            f"      {{model: openai/{MODEL}, api_base: {url}/v1, api_key: none}}\n"
            for url in urls
        )
        self.configuration = f"""\
model_list:
{models}router_settings: {{routing_strategy: simple-shuffle}}
litellm_settings: {{telemetry: false, set_verbose: false}}
general_settings: {{master_key: {KEY}}}
"""
        path = directory / "config.yaml"
        path.write_text(self.configuration)
        return [
            str(self.release.directory / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1",
            "--port", str(self.port), "--num_workers", "1",
        ]  # fmt: skip


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (VllmRouter, SglangRouter, Litellm)}
# Beside PEERS, when named: the same programs with policies that do more for each request than taking turns.
PEERS_BY_PREFIX: dict[str, type[Peer]] = {peer.name: peer for peer in (VllmRouterByPrefix, SglangRouterByPrefix)}
ALL_PEERS = PEERS | PEERS_BY_PREFIX
