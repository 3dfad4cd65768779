"""Real clients call tools through RouterDash, whole and in the fragments of a stream, and tell the result.

Of a real llama.cpp server, whose small model is shown by its template how it is done; and of a simulated server, which
cuts calls into more fragments.
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
    """A RouterDash with a model, the city whose weather that asks for, and what it makes of the result."""

    router: RouterDash
    model: str
    city: str
    answer: str

    def run(self, *command: str, path: str = "/v1") -> tuple[list[dict[str, Any]], str]:
        """The calls and the answer that a script was told."""
        given = [*command, f"{self.router.url}{path}", KEY, self.model]
        done = subprocess.run(given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        return told["calls"], told["answer"]

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
    with llamacpp.llama_server(llamacpp.real_model(), "smollm2", tools=True) as url:
        assert router.post("/api/endpoints", {"name": "real", "base_url": url}).status == 201
        until(lambda: "smollm2" in {model["id"] for model in router.get("/v1/models").json()["data"]})
        yield Calling(router, "smollm2", "Paris", "Sunny.")


@pytest.mark.parametrize(
    ("script", "path", "times"), [("openai", "/v1", 4), ("langchain", "/v1", 2), ("anthropic", "", 2)]
)
def test_a_python_client(calling: Calling, python: Path, script: str, path: str, times: int) -> None:
    calls, answer = calling.run(str(python), str(HERE / f"call_{script}.py"), path=path)
    assert calls == calling.calls(times)
    assert calling.answer in answer


def test_ai_sdk(calling: Calling) -> None:
    calls, answer = calling.run(*clients.node("call_ai_sdk.mjs"))
    assert calls == calling.calls(2)
    assert calling.answer in answer
