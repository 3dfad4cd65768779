"""Real client libraries against real llama.cpp servers through RouterDash; its figures are what clients were told."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import clients, llamacpp
from tests.router import KEY, RouterDash, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
MAX_TOKENS = 8  # as the script asks for; a real model may stop before
REAL, TINY, EMBEDDER = "smollm2-135m-instruct", "tiny-random", "tiny-embed"


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Two that chat, one with real weights, and one that embeds."""
    tiny = llamacpp.tiny_model(llamacpp.environment("llamacpp", llamacpp.HERE / "requirements.txt"))
    with (
        llamacpp.llama_server(llamacpp.real_model(), REAL) as real,
        llamacpp.llama_server(tiny, TINY) as other,
        llamacpp.llama_server(tiny, EMBEDDER, embeddings=True) as embedder,
    ):
        yield {REAL: real, TINY: other, EMBEDDER: embedder}


@pytest.fixture
def ready(router: RouterDash, servers: dict[str, str]) -> RouterDash:
    for name, url in servers.items():
        answer = router.post("/api/endpoints", {"name": name, "base_url": url})
        assert answer.status == 201, answer
        assert answer.json()["endpoint_type"] == "llamacpp"
    until(lambda: {model["id"] for model in router.get("/v1/models").json()["data"]} == servers.keys())
    return router


def run(python: Path, script: str, router: RouterDash, model: str) -> Any:
    command = [str(python), str(HERE / script), f"{router.url}/v1", KEY, model, EMBEDDER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(router: RouterDash) -> tuple[int, int, int]:
    stats = router.stats()
    return stats["successful_requests"], stats["total_input_tokens"], stats["total_output_tokens"]


def test_servers_tell_what_they_were_started_for(ready: RouterDash) -> None:
    found: dict[str, list[str]] = {}
    for endpoint in ready.get("/api/endpoints").json()["endpoints"]:
        detail = ready.get(f"/api/endpoints/{endpoint['id']}").json()
        assert detail["learned_slots"] == 4
        found |= {model["model_id"]: model["capabilities"] for model in detail["models"]}
    assert found == {REAL: ["chat"], TINY: ["chat"], EMBEDDER: ["embeddings"]}


@pytest.mark.parametrize("model", [REAL, TINY])
def test_openai_python(ready: RouterDash, python: Path, model: str) -> None:
    found = run(python, "use_openai.py", ready, model)
    told = found["told"]
    # One stream did not ask for usage: its client was told none, and we count what the server told us.
    ok, made, out = figures(ready)
    hidden_in = told[1]["input"]
    assert ok == len(told) + 1
    assert made == sum(one["input"] for one in told) + hidden_in
    assert 1 <= out - sum(one["output"] for one in told) <= MAX_TOKENS
    assert found["errors"] == ["NotFoundError", "AuthenticationError"]
    assert ready.stats()["rejected_by_reason"] == {"invalid_api_key": 1, "model_not_found": 1}


def test_langchain(ready: RouterDash, python: Path) -> None:
    told = run(python, "use_langchain.py", ready, REAL)["told"]
    ok, made, out = figures(ready)
    embedded = made - sum(one["input"] for one in told)
    assert ok == len(told) + 1
    assert embedded > 0  # langchain does not tell the embedding's usage
    assert out == sum(one["output"] for one in told)


def test_llm(ready: RouterDash, python: Path, tmp_path: Path) -> None:
    model = {"model_id": "routed", "model_name": REAL, "api_base": f"{ready.url}/v1", "api_key_name": "routerdash"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))
    (tmp_path / "keys.json").write_text(json.dumps({"routerdash": KEY}))
    told = [_llm(python, tmp_path, *extra) for extra in ((), ("--no-stream",))]
    ok, made, out = figures(ready)
    assert ok == 2
    assert (made, out) == (sum(one[0] for one in told), sum(one[1] for one in told))


def _llm(python: Path, home: Path, *extra: str) -> tuple[int, int]:
    """Input and output tokens as the program prints them."""
    command = [
        str(python.with_name("llm")),
        "prompt",
        "-m",
        "routed",
        "-u",
        "-o",
        "max_tokens",
        "8",
        *extra,
        "Say hello.",
    ]
    done = subprocess.run(
        command, env={**os.environ, "LLM_USER_PATH": str(home)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) input, (\d+) output", done.stderr)
    assert found, done.stderr
    return int(found[1]), int(found[2])
