"""Real clients call tools through RouterDash, in complete and in streamed responses, and send the result.

The servers are a real llama.cpp server, whose template shows the small model how to call a tool, and a simulated
server, which cuts calls into more fragments.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests import clients, llamacpp
from tests.router import KEY, RouterDash, until

pytestmark = [pytest.mark.real, pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent


@dataclass(frozen=True, slots=True)
class Calling:
    """A RouterDash with a model, the city in the model's tool call, and the text that it makes of the result."""

    router: RouterDash
    model: str
    city: str
    response: str

    def run(self, *command: str, path: str = "/v1") -> tuple[list[dict[str, Any]], str]:
        """Return the tool calls and the final response that a script received."""
        printed = self.printed(*command, path=path)
        return printed["calls"], printed["response"]

    def printed(self, *command: str, path: str = "/v1") -> dict[str, Any]:
        given = [*command, f"{self.router.url}{path}", KEY, self.model]
        done = subprocess.run(given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed

    def calls(self, times: int) -> list[dict[str, Any]]:
        return [{"name": "get_weather", "arguments": {"city": self.city}}] * times


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="module", params=["simulated", "llama.cpp"])
def calling(request: pytest.FixtureRequest, shared_router: RouterDash) -> Iterator[Calling]:
    router = shared_router
    if request.param == "simulated":
        with Simulator() as simulator:
            router.add(simulator.add())
            yield Calling(router, "tiny", "quick", "the quick brown fox jumps over a lazy ")
        return
    with llamacpp.llama_server(llamacpp.real_model(), "smollm2", template="tools.jinja") as url:
        assert router.post("/api/endpoints", {"name": "real", "base_url": url}).status == 201
        until(lambda: "smollm2" in {model["id"] for model in router.get("/v1/models").json()["data"]})
        yield Calling(router, "smollm2", "Paris", "Sunny.")


@pytest.mark.parametrize(
    ("script", "path", "times"), [("openai", "/v1", 4), ("langchain", "/v1", 2), ("anthropic", "", 2)]
)
def test_a_python_client(calling: Calling, python: Path, script: str, path: str, times: int) -> None:
    calls, response = calling.run(str(python), str(HERE / f"call_{script}.py"), path=path)
    assert calls == calling.calls(times)
    assert calling.response in response


def test_ai_sdk(calling: Calling) -> None:
    calls, response = calling.run(*clients.node("call_ai_sdk.mjs"))
    assert calls == calling.calls(2)
    assert calling.response in response


@pytest.mark.parametrize("library", ["python", "node"])
def test_ollama(calling: Calling, library: str) -> None:
    """Its API is translated here; the counts that it prints are those of the figures."""
    if library == "python":
        python = llamacpp.environment("ollama-clients", HERE / "ollama.txt")
        command = [str(python), str(HERE / "call_ollama.py")]
    else:
        command = clients.node("call_ollama.mjs")
    before = calling.router.stats()
    printed = calling.printed(*command, path="/ollama")
    assert printed["calls"] == calling.calls(2)
    assert calling.response in printed["response"]
    names = ("total_input_tokens", "total_output_tokens")
    counted = [calling.router.stats()[name] - before[name] for name in names]
    assert counted == list(printed["reported"].values())


def test_openai_python_where_no_server_has_responses(shared_router: RouterDash, sim: Simulator, python: Path) -> None:
    """Its types and its accumulator accept each event of a translated stream."""
    counts = {"prompt_tokens": 9, "cached_tokens": 4, "reasoning_tokens": 2}
    shared_router.add(sim.add(models=["chat-only"], responses=False, **counts))
    calling = Calling(shared_router, "chat-only", "quick", "the quick brown fox jumps over a lazy ")
    command = [str(python), str(HERE / "call_openai.py"), f"{shared_router.url}/v1", KEY, "chat-only"]
    calls, response = calling.run(*command[:2])
    assert (calls, calling.response in response) == (calling.calls(4), True)
    command[1] = str(HERE / "loop_responses.py")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["calls"], printed["response"]) == (calling.calls(1), calling.response)
    assert printed["error"] == "previous_response_not_found"
    assert (printed["usage"]["input_tokens"], printed["usage"]["input_tokens_details"]["cached_tokens"]) == (9, 4)
    assert printed["usage"]["output_tokens_details"]["reasoning_tokens"] == 2
