"""Ollama's own libraries through RouterDash, against a simulated Ollama and a server that is none: its figures equal
the counts that the clients received.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulator import Endpoint, Simulator
from tests import clients, llamacpp
from tests.conftest import drop_database, installed
from tests.router import KEY, RouterDash, free_port, until

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
NATIVE, OTHER = "sim-ollama", "sim-openai"


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, prepared: RouterDash) -> Iterator[RouterDash]:
    """Bodies are stored, so that a key in one of them would show."""
    environment = {"ROUTERDASH_OLLAMA_PORT": str(free_port()), "ROUTERDASH_STORE_BODIES": "all"}
    running = installed(tmp_path_factory.mktemp("ollama"), prepared, **environment)
    try:
        yield running.start()
    finally:
        running.end()
        drop_database(running.database_url)


@pytest.fixture(scope="module")
def servers(router: RouterDash, simulator: Simulator) -> dict[str, Endpoint]:
    """An Ollama and another server, each with a model for chats and one for embeddings."""
    made = {
        name: simulator.add(models=[name, f"{name}-embed"], kind=kind, prompt_tokens=11)
        for name, kind in ((NATIVE, "ollama"), (OTHER, "vllm"))
    }
    for name, server in made.items():
        response = router.post("/api/endpoints", {"name": name, "base_url": server.url})
        assert (response.status, response.json()["endpoint_type"]) == (201, server.behaviour.kind)
    wanted = {model for server in made.values() for model in server.behaviour.models}
    until(lambda: wanted <= {model["id"] for model in router.get("/v1/models").json()["data"]}, 30)
    return made


def hosts(router: RouterDash) -> dict[str, str]:
    own = f"http://127.0.0.1:{router.environment['ROUTERDASH_OLLAMA_PORT']}"
    return {"port": own, "path": f"{router.url}/ollama", "key": f"{own}/{KEY}"}


def used(router: RouterDash, command: list[str]) -> Any:
    """Run a client, and compare its counts with those of the new requests. Return what it printed."""

    def rows() -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = router.get("/api/requests?limit=200").json()["requests"]
        return [row for row in requests if row["kind"] != "ollama_show"]  # it has no tokens

    before = {row["id"] for row in rows()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    until(lambda: len(rows()) >= len(before) + len(printed["reported"]))
    new = [row for row in rows() if row["id"] not in before]
    assert {row["outcome"] for row in new} == {"ok"}
    assert {row["kind"] for row in new} == {"ollama_chat", "ollama_generate", "ollama_embed"}
    counted = sorted((row["input_tokens"], row["output_tokens"] or 0) for row in new)
    assert counted == sorted((one["input"], one["output"]) for one in printed["reported"])
    return printed


@pytest.mark.parametrize(("place", "model"), [("port", NATIVE), ("path", OTHER), ("key", OTHER)])
def test_ollama_python(router: RouterDash, servers: dict[str, Endpoint], place: str, model: str) -> None:
    python = llamacpp.environment("ollama-clients", HERE / "ollama.txt")
    key = "-" if place == "key" else KEY
    printed = used(
        router, [str(python), str(HERE / "use_ollama.py"), hosts(router)[place], key, model, f"{model}-embed"]
    )
    assert [status for status, _ in printed["errors"]] == [404, 404, 403, 403]
    assert "no-such-model" in printed["errors"][0][1]
    if model == NATIVE:
        chats = [body for body in servers[model].seen.bodies if "messages" in body]
        assert chats[0]["options"] == {"num_predict": 4, "temperature": 0, "num_ctx": 1024}
        assert not any("keep_alive" in body for body in chats)


@pytest.mark.parametrize(("place", "model"), [("port", NATIVE), ("path", OTHER)])
def test_ollama_node(router: RouterDash, servers: dict[str, Endpoint], place: str, model: str) -> None:
    printed = used(router, clients.node("use_ollama.mjs", hosts(router)[place], KEY, model, f"{model}-embed"))
    assert [status for status, _ in printed["errors"]] == [404, 403]


def test_the_key_in_the_path_is_nowhere(router: RouterDash, servers: dict[str, Endpoint]) -> None:
    """Its own part is in no log, record or page; the first letters of a key name it everywhere."""
    secret = KEY[12:]
    for row in router.get("/api/requests?limit=200").json()["requests"]:
        assert secret not in router.get(f"/api/requests/{row['id']}").body.decode()
        assert secret not in router.get(f"/api/requests/{row['id']}/bodies").body.decode()
    assert secret not in router.log_text()
    for server in servers.values():
        assert secret not in json.dumps([server.seen.headers, server.seen.bodies, server.seen.paths])
