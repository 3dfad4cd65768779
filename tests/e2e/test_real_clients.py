"""Real client libraries against real llama.cpp servers through RouterDash: its figures equal the usage that clients
received.
"""

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import clients, llamacpp
from tests.router import KEY, RouterDash, until

pytestmark = [pytest.mark.real, pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
MAX_TOKENS = 8  # the maximum that the script requests; a real model may stop earlier
REAL, TINY, EMBEDDER = "smollm2-135m-instruct", "tiny-random", "tiny-embed"


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Two chat models, one with real weights, and one embedding model."""
    tiny = llamacpp.tiny_model(llamacpp.environment("llamacpp", llamacpp.HERE / "requirements.txt"))
    with (
        llamacpp.llama_server(llamacpp.real_model(), REAL) as real,
        llamacpp.llama_server(tiny, TINY) as other,
        llamacpp.llama_server(tiny, EMBEDDER, embeddings=True) as embedder,
    ):
        yield {REAL: real, TINY: other, EMBEDDER: embedder}


@pytest.fixture(scope="module")
def ready(shared_router: RouterDash, servers: dict[str, str]) -> RouterDash:
    for name, url in servers.items():
        response = shared_router.post("/api/endpoints", {"name": name, "base_url": url})
        assert response.status == 201, response
        assert response.json()["endpoint_type"] == "llamacpp"
    until(lambda: {model["id"] for model in shared_router.get("/v1/models").json()["data"]} == servers.keys())
    return shared_router


Figures = Callable[[], tuple[int, int, int]]


@pytest.fixture
def figures(ready: RouterDash) -> Figures:
    """Return complete responses, input tokens and output tokens counted since the test began."""

    def counted() -> tuple[int, int, int]:
        stats = ready.stats()
        return stats["successful_requests"], stats["total_input_tokens"], stats["total_output_tokens"]

    before = counted()

    def since() -> tuple[int, int, int]:
        ok, made, out = (now - then for now, then in zip(counted(), before, strict=True))
        return ok, made, out

    return since


def run(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def script(python: Path, name: str) -> list[str]:
    return [str(python), str(HERE / name)]


def test_servers_report_the_tasks_of_their_models(ready: RouterDash) -> None:
    tasks: dict[str, list[str]] = {}
    for endpoint in ready.get("/api/endpoints").json()["endpoints"]:
        detail = ready.get(f"/api/endpoints/{endpoint['id']}").json()
        assert detail["learned_slots"] == 4
        tasks |= {model["model_id"]: model["capabilities"] for model in detail["models"]}
    assert tasks == {REAL: ["chat"], TINY: ["chat"], EMBEDDER: ["embeddings"]}


def sums(reported: list[dict[str, int]]) -> tuple[int, int]:
    return sum(one["input"] for one in reported), sum(one["output"] for one in reported)


@pytest.mark.parametrize("model", [REAL, TINY])
def test_openai_python(ready: RouterDash, figures: Figures, python: Path, model: str) -> None:
    refused = Counter(ready.stats()["rejected_by_reason"])
    printed = run([*script(python, "use_openai.py"), f"{ready.url}/v1", KEY, model, EMBEDDER])
    reported = printed["reported"]
    # One stream did not request usage: its client received none, and the server's usage is counted.
    ok, made, out = figures()
    hidden_in = reported[1]["input"]
    assert ok == len(reported) + 1
    assert made == sums(reported)[0] + hidden_in
    assert 1 <= out - sums(reported)[1] <= MAX_TOKENS
    assert printed["errors"] == ["NotFoundError", "AuthenticationError"]
    refused.update(("invalid_api_key", "model_not_found"))
    assert ready.stats()["rejected_by_reason"] == refused


@pytest.mark.parametrize("model", [REAL, TINY])
def test_anthropic_python(ready: RouterDash, python: Path, model: str) -> None:
    before = datetime.now(UTC).isoformat()
    printed = run([*script(python, "use_anthropic.py"), ready.url, KEY, model])
    assert printed["counted"] == printed["reported"][0]["input"]
    rows = ready.get(f"/api/requests?since={quote(before)}").json()["requests"]
    responses = [row for row in rows if row["kind"] == "messages"]
    assert {row["outcome"] for row in rows} == {"ok"}
    assert sorted((row["input_tokens"], row["output_tokens"]) for row in responses) == sorted(
        (one["input"], one["output"]) for one in printed["reported"]
    )


def test_langchain(ready: RouterDash, figures: Figures, python: Path) -> None:
    reported = run([*script(python, "use_langchain.py"), f"{ready.url}/v1", KEY, REAL, EMBEDDER])["reported"]
    ok, made, out = figures()
    embedded = made - sums(reported)[0]
    assert ok == len(reported) + 1
    assert embedded > 0  # langchain does not return the usage of embeddings
    assert out == sums(reported)[1]


@pytest.mark.parametrize("model", [REAL, TINY])
def test_ai_sdk(ready: RouterDash, figures: Figures, model: str) -> None:
    reported = run(clients.node("use_ai_sdk.mjs", f"{ready.url}/v1", KEY, model, EMBEDDER))["reported"]
    assert figures() == (len(reported), *sums(reported))


def test_llm(ready: RouterDash, figures: Figures, python: Path, tmp_path: Path) -> None:
    home = clients.configure_llm(tmp_path, f"{ready.url}/v1", {"key": KEY}, [REAL])
    reported = [_llm(python, home, *extra) for extra in ((), ("--no-stream",))]
    ok, made, out = figures()
    assert ok == 2
    assert (made, out) == (sum(one[0] for one in reported), sum(one[1] for one in reported))


def _llm(python: Path, home: Path, *extra: str) -> tuple[int, int]:
    """Return input and output tokens as the program prints them."""
    options = ["-m", f"{REAL}-key", "-u", "-o", "max_tokens", "8"]
    command = [str(python.with_name("llm")), "prompt", *options, *extra, "Say hello."]
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    match = re.search(r"(\d+) input, (\d+) output", done.stderr)
    assert match, done.stderr
    return int(match[1]), int(match[2])
