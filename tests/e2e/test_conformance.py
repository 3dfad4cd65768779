"""The public API checker llm-comply finds no more failures through RouterDash than directly at the server.

With the simulator, which follows the specifications, it finds no failure at all.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests import clients, llamacpp
from tests.router import KEY, RouterDash, until

pytestmark = [pytest.mark.real, pytest.mark.one_database, pytest.mark.timeout(600)]

FORMATS = ("openai-chat", "open-responses", "anthropic")
every_format = pytest.mark.parametrize("api", FORMATS)
TINY = "tiny"


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", Path(clients.__file__).parent / "requirements.txt")


@pytest.fixture(scope="module")
def simulated() -> Iterator[str]:
    with Simulator() as simulator:
        yield simulator.add(models=[TINY], kind="vllm").url


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    with llamacpp.llama_server(llamacpp.real_model(), "smollm2") as url:
        yield url


@pytest.fixture(scope="module")
def routed(shared_router: RouterDash, simulated: str, llama: str) -> str:
    for name, url in (("simulated", simulated), ("llama", llama)):
        assert shared_router.post("/api/endpoints", {"name": name, "base_url": url}).status == 201
    until(lambda: len(shared_router.get("/v1/models").json()["data"]) == 2)
    return shared_router.url


def failures(python: Path, api: str, url: str, model: str) -> dict[str, Any]:
    """Return the failures by the name of the check."""
    command = [str(python.with_name("llm-comply")), "--format", api, "--json", "--timeout", "120"]
    header = ["--auth-header", "x-api-key", "--no-bearer"] if api == "anthropic" else []
    done = subprocess.run(
        [*command, *header, "-u", f"{url}/v1", "-k", KEY, "-m", model], capture_output=True, text=True, timeout=500
    )
    results = json.loads(done.stdout)["results"]
    assert len(results) >= 8, done.stderr
    return {one["id"]: one.get("errors") for one in results if one["status"] == "failed"}


@every_format
def test_the_simulator_passes_every_check(python: Path, simulated: str, api: str) -> None:
    assert failures(python, api, simulated, TINY) == {}


@every_format
def test_the_simulator_passes_every_check_through_routerdash(python: Path, routed: str, api: str) -> None:
    assert failures(python, api, routed, TINY) == {}


def test_translated_responses_pass_every_check(
    python: Path, routed: str, shared_router: RouterDash, sim: Simulator
) -> None:
    shared_router.add(sim.add(models=["chat-only"], responses=False))
    assert failures(python, "open-responses", routed, "chat-only") == {}


@every_format
def test_llama_cpp_fails_no_more_through_routerdash_than_directly(
    python: Path, llama: str, routed: str, api: str
) -> None:
    failed = failures(python, api, routed, "smollm2")
    assert not failed or failed.keys() <= failures(python, api, llama, "smollm2").keys()
