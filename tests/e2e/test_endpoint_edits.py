"""Settings of administrators and values reported by servers reach the gateways: drains, slots, capabilities."""

import threading

import pytest

from benchmarks.simulator import Simulator
from tests.http import Response
from tests.router import RouterDash, until

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(120), pytest.mark.shared]


def embed(router: RouterDash, model: str) -> Response:
    return router.post("/v1/embeddings", {"model": model, "input": "hello"})


def running(router: RouterDash, endpoint: str) -> int:
    active_requests: int = router.get(f"/api/endpoints/{endpoint}").json()["active_requests"]
    return active_requests


def test_a_drain_lets_running_requests_finish(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add(tokens=40, tokens_per_second=40))
    with router.open_stream() as stream:
        drained = router.post(f"/api/endpoints/{endpoint}/drain", {}).json()
        assert (drained["operator_state"], drained["active_requests"]) == ("draining", 1)
        until(lambda: router.chat().status == 503)
        assert b"[DONE]" in stream.read()
    until(lambda: running(router, endpoint) == 0)


def test_a_deadline_ends_running_requests(router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(tokens=10_000, tokens_per_second=10)
    endpoint = router.add(simulated)
    with router.open_stream() as stream:
        router.post(f"/api/endpoints/{endpoint}/drain", {"deadline_secs": 0})
        text = stream.read()
    assert b'"error"' in text
    assert b"[DONE]" not in text
    until(lambda: (running(router, endpoint), simulated.seen.running) == (0, 0))
    assert router.endpoint(endpoint)["operator_state"] == "draining"
    router.post(f"/api/endpoints/{endpoint}/enable")
    simulated.set(tokens=1)
    until(lambda: router.chat().status == 200)


def test_slots_reported_by_a_server_are_respected(router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(kind="llamacpp", slots=1, ttft=0.05)
    endpoint = router.add(simulated)
    until(lambda: router.get(f"/api/endpoints/{endpoint}").json()["learned_slots"] == 1)
    simulated.set(slots=0)  # without the limit, the server would accept all of them
    given: list[int] = []
    threads = [threading.Thread(target=lambda: given.append(router.chat().status)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (given, simulated.seen.peak) == ([200] * 5, 1)


def test_requests_go_only_to_models_with_the_capability(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add(models=["tiny", "bge-m3"]))
    assert embed(router, "bge-m3").status == 200
    assert embed(router, "tiny").json()["error"]["code"] == "model_not_capable"
    assert router.get("/v1/models/bge-m3").json()["capabilities"] == ["embeddings"]
    router.request("PATCH", f"/api/endpoints/{endpoint}", {"capabilities": ["chat_completion", "embeddings"]})
    until(lambda: embed(router, "tiny").status == 200)
    assert router.chat().status == 200


def test_link_local_endpoints_need_a_setting(router: RouterDash) -> None:
    response = router.post("/api/endpoints", {"name": "metadata", "base_url": "http://0xA9FEA9FE/latest"})
    assert response.status == 400
    assert "ROUTERDASH_ALLOW_LINK_LOCAL" in response.json()["error"]
