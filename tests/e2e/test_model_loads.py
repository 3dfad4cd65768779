"""Two servers that keep one model in memory, as Ollama: control reads which one, and requests go where it is."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.routing import http_servers
from benchmarks.routing.fleets import SHAPES
from benchmarks.routing.http_servers import BatchingEndpoint
from benchmarks.simulator import Simulator
from gateway.registry.kinds import ENGINES
from gateway.registry.schema import EngineState
from tests.conftest import Install
from tests.router import RouterDash, published_rows, until

pytestmark = pytest.mark.timeout(120)

SCALE = 0.1
LOADS = {"m0": 10.0, "m1": 10.0}  # a second each
SHAPE = replace(SHAPES["rtx4090"], kind="ollama", slots=4, one_model=True)


@pytest.fixture
def router(begin: Install) -> RouterDash:
    made = begin()
    made.environment |= {"ROUTERDASH_BALANCER": "adaptive", "ROUTERDASH_KEEPALIVE_SECS": "0.1"}
    return made.start()


@pytest.fixture
def servers(router: RouterDash, sim: Simulator) -> list[BatchingEndpoint]:
    endpoints = [http_servers.add(sim, SHAPE, list(LOADS), LOADS, SCALE, number) for number in (1, 2)]
    for number, server in enumerate(endpoints):
        router.register(server, f"e{number}")
    until(lambda: {model["id"] for model in router.get("/v1/models").json()["data"]} == LOADS.keys())
    until(lambda: [state.loaded for state in published(router)] == [(), ()], 30)
    endpoint = router.get("/api/endpoints").json()["endpoints"][0]
    notes = {"notes": "Gateways have these, and what was published before."}
    router.request("PUT", f"/api/endpoints/{endpoint['id']}", notes)
    return endpoints


def published(router: RouterDash) -> list[EngineState]:
    return [ENGINES.unpack(row) for row in published_rows(router, ENGINES).values()]


def engines(router: RouterDash) -> list[dict[str, Any]]:
    ids = [endpoint["id"] for endpoint in router.get("/api/endpoints").json()["endpoints"]]
    return [router.get(f"/api/endpoints/{endpoint_id}/engine").json() for endpoint_id in ids]


def ask(router: RouterDash, model: str) -> bytes:
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "words"}]
    body = {"model": model, "messages": messages, "stream": True, "metadata": {"output_tokens": "3"}}
    given = router.post("/v1/chat/completions", body)
    assert given.status == 200
    return given.body


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def loads(servers: list[BatchingEndpoint]) -> list[int]:
    return [server.server.loads for server in servers]


def test_each_model_is_loaded_once(router: RouterDash, servers: list[BatchingEndpoint]) -> None:
    bodies: list[bytes] = []
    ask(router, "m1")
    first = in_thread(lambda: bodies.append(ask(router, "m0")))
    until(lambda: loads(servers) == [1, 1])
    others = [in_thread(lambda: bodies.append(ask(router, "m0"))) for _ in range(3)]  # they wait for that load
    for thread in (first, *others):
        thread.join()
    assert loads(servers) == [1, 1]
    assert all(b": loading m0\n\n" in body for body in bodies)
    for _ in range(4):
        for model in LOADS:
            ask(router, model)
    assert loads(servers) == [1, 1]
    until(lambda: sorted(engine["loaded_models"] for engine in engines(router)) == [["m0"], ["m1"]], 30)
