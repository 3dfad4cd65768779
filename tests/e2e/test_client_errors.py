"""Each error reaches each real client as the exception that its users expect, and never as a success."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests import clients, llamacpp
from tests.router import KEY, RouterDash, until

pytestmark = [pytest.mark.real, pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
FAULTS = {"works": "", "refuses": "400", "limits": "429", "fails": "500", "closed": "", "breaks": "die"}
# The status that a client receives, by case; see clients/failing.py.
STATUSES = {"unauthorized": 401, "unknown": 404, "bad": 400, "limited": 429, "failed": 502, "closed": 503}
CLASSES = {
    "unauthorized": "AuthenticationError",
    "unknown": "NotFoundError",
    "bad": "BadRequestError",
    "limited": "RateLimitError",
    "failed": "InternalServerError",
    "closed": "InternalServerError",
}
PRINTED = {"bad": "simulated 400", "unknown": "does not exist", "unauthorized": "API key is not known"}
every_case = pytest.mark.parametrize("case", [name + end for name in STATUSES for end in ("", " streamed")])


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="module")
def failing(shared_router: RouterDash) -> Iterator[RouterDash]:
    """A router of six servers, each with a model that is named after its behaviour."""
    with Simulator() as simulator:
        for model, fault in FAULTS.items():
            endpoint = shared_router.add(simulator.add(models=[model], fault=fault))
            if model == "closed":
                shared_router.request("PATCH", f"/api/endpoints/{endpoint}", {"operator_state": "disabled"})
        until(lambda: shared_router.chat("closed").status == 503)
        yield shared_router


def run(command: list[str], timeout: float = 120) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(reported: Any, case: str, name: str) -> None:
    raised = reported["raised"][case]
    kind = case.partition(" ")[0]
    assert name in raised["classes"], raised
    assert raised["status"] == STATUSES[kind], raised
    assert PRINTED.get(kind, "") in raised["message"]


# openai-python


@pytest.fixture(scope="module")
def openai_errors(failing: RouterDash, python: Path) -> Any:
    return run([str(python), str(HERE / "fail_openai.py"), f"{failing.url}/v1", KEY])


@every_case
def test_openai(openai_errors: Any, case: str) -> None:
    check(openai_errors, case, CLASSES[case.partition(" ")[0]])


def test_openai_and_a_stream_that_breaks(openai_errors: Any) -> None:
    raised = openai_errors["raised"]["broken streamed"]
    assert raised["classes"][0] == "APIError"
    assert "closed the connection in the middle of its response" in raised["message"]


def test_openai_and_a_response_that_breaks(openai_errors: Any) -> None:
    assert openai_errors["last"]["type"] == "response.failed"
    assert "closed the connection in the middle of its response" in openai_errors["last"]["message"]


# anthropic-python


@pytest.fixture(scope="module")
def anthropic_errors(failing: RouterDash, python: Path) -> Any:
    return run([str(python), str(HERE / "fail_anthropic.py"), failing.url, KEY])


@every_case
def test_anthropic(anthropic_errors: Any, case: str) -> None:
    check(anthropic_errors, case, CLASSES[case.partition(" ")[0]])


def test_anthropic_and_a_stream_that_breaks(anthropic_errors: Any) -> None:
    raised = anthropic_errors["raised"]["broken streamed"]
    assert "APIError" in raised["classes"]
    assert "closed the connection in the middle of its response" in raised["message"]


# langchain-openai


@pytest.fixture(scope="module")
def langchain_errors(failing: RouterDash, python: Path) -> Any:
    return run([str(python), str(HERE / "fail_langchain.py"), f"{failing.url}/v1", KEY])


@every_case
def test_langchain(langchain_errors: Any, case: str) -> None:
    check(langchain_errors, case, CLASSES[case.partition(" ")[0]])


def test_langchain_and_a_stream_that_breaks(langchain_errors: Any) -> None:
    raised = langchain_errors["raised"]["broken streamed"]
    assert "APIError" in raised["classes"]
    assert "closed the connection in the middle of its response" in raised["message"]


# AI SDK


@pytest.fixture(scope="module")
def ai_sdk_errors(failing: RouterDash) -> Any:
    return run(clients.node("fail_ai_sdk.mjs", f"{failing.url}/v1", KEY))


@every_case
def test_ai_sdk(ai_sdk_errors: Any, case: str) -> None:
    check(ai_sdk_errors, case, "AI_APICallError")


def test_ai_sdk_and_a_stream_that_breaks(ai_sdk_errors: Any) -> None:
    raised = ai_sdk_errors["raised"]["broken streamed"]
    assert raised["classes"], raised
    assert "closed the connection in the middle of its response" in raised["message"]


# llm


@pytest.fixture(scope="module")
def llm_home(failing: RouterDash, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = {"right": KEY, "wrong": "sk_wrong"}
    home = tmp_path_factory.mktemp("llm")
    return clients.configure_llm(home, f"{failing.url}/v1", keys, [*FAULTS, "no-such-model"])


STREAM: list[str] = []
COMPLETE = ["--no-stream"]


@pytest.mark.parametrize(
    ("model", "key", "extra", "words"),
    [
        ("works", "wrong", STREAM, "API key is not known"),
        ("no-such-model", "right", COMPLETE, "does not exist"),
        ("refuses", "right", STREAM, "simulated 400"),
        ("limits", "right", COMPLETE, "simulated 429"),
        ("fails", "right", STREAM, "simulated 500"),
        ("closed", "right", COMPLETE, "is available now"),
        ("breaks", "right", STREAM, "closed the connection in the middle of its response"),
        ("breaks", "right", COMPLETE, "broke off"),
    ],
)
def test_llm(python: Path, llm_home: Path, model: str, key: str, extra: list[str], words: str) -> None:
    """Each error once: `llm` starts for seconds, and calls openai-python, which is tested above in both ways."""
    command = [str(python.with_name("llm")), "prompt", "-m", f"{model}-{key}", *extra, "Say hello."]
    environment = {**os.environ, "LLM_USER_PATH": str(llm_home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
