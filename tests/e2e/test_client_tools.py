"""Real clients call tools through RouterDash, whole and in the fragments of a stream.

Of a simulated server: real ones that are small enough for tests do not call a tool when they are told to.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests import clients, llamacpp
from tests.router import KEY, RouterDash

pytestmark = [pytest.mark.real, pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
CALL = {"name": "get_weather", "arguments": {"city": "quick"}}
TEXT = "the quick brown fox jumps over a lazy "


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="module")
def calling(shared_router: RouterDash) -> Iterator[RouterDash]:
    with Simulator() as simulator:
        shared_router.add(simulator.add())
        yield shared_router


def run(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("script", "path", "times"), [("openai", "/v1", 4), ("langchain", "/v1", 2), ("anthropic", "", 2)]
)
def test_a_python_client(calling: RouterDash, python: Path, script: str, path: str, times: int) -> None:
    told = run([str(python), str(HERE / f"call_{script}.py"), f"{calling.url}{path}", KEY, "tiny"])
    assert (told["calls"], told["answer"]) == ([CALL] * times, TEXT)


def test_ai_sdk(calling: RouterDash) -> None:
    told = run(clients.node("call_ai_sdk.mjs", f"{calling.url}/v1", KEY, "tiny"))
    assert (told["calls"], told["answer"]) == ([CALL] * 2, TEXT)
