"""Routing decisions, routing preview and queue, through HTTP with real processes."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.router import RouterDash, until

pytestmark = pytest.mark.shared

Add = Callable[..., str]


@pytest.fixture
def slow(router: RouterDash, sim: Simulator) -> Add:
    """Add endpoints that stream until the client disconnects."""
    return lambda name, **fields: router.add(sim.add(tokens=5000, tokens_per_second=50), name=name, **fields)


def reported(router: RouterDash, path: str) -> Any:
    response = router.get(path)
    assert response.status == 200, response
    return response.json()


def route(router: RouterDash) -> Any:
    return reported(router, "/api/route?model=tiny")


def decide(router: RouterDash, endpoints: set[str], reason: str) -> tuple[Any, Any]:
    """Send a request while one of two endpoints is busy, and check that the preview expects what happens.

    Return the busy endpoint in the preview, and the attempt.
    """
    with router.open_stream():
        preview = route(router)
        (busy,) = (row for row in preview["endpoints"] if row["in_flight"])
        (free,) = endpoints - {busy["endpoint_id"]}
        assert preview["decision"] == {"endpoint_ids": [free], "reason": reason}
        assert router.chat(max_tokens=2).status == 200
    (row,) = reported(router, "/api/requests?outcome=ok&limit=1")["requests"]
    (attempt,) = reported(router, f"/api/requests/{row['id']}")["attempts"]
    assert (attempt["endpoint_id"], attempt["reason"]) == (free, reason)
    return busy, attempt


def test_a_request_shows_the_reason_of_its_routing_decision(router: RouterDash, slow: Add) -> None:
    busy, attempt = decide(router, {slow("a"), slow("b")}, "only")
    assert busy["excluded"] == "measuring"  # it has no responses yet
    assert [candidate["endpoint_id"] for candidate in attempt["costs"]] == [attempt["endpoint_id"]]


def test_a_request_shows_the_load_that_decided(begin: Install, sim: Simulator) -> None:
    router = begin()
    router.environment["ROUTERDASH_BALANCER"] = "least_inflight"
    router.start()
    endpoints = {router.add(sim.add(tokens=5000, tokens_per_second=50), name=name) for name in "ab"}
    _, attempt = decide(router, endpoints, "least")
    assert [candidate["in_flight"] for candidate in attempt["scores"]] == [0, 1]


def test_a_request_spills_to_the_next_tier(router: RouterDash, slow: Add) -> None:
    endpoints = {slow("own", max_concurrency=1), slow("cloud", tier=2)}
    busy, _ = decide(router, endpoints, "spilled")
    assert (busy["name"], busy["excluded"]) == ("own", "full")


def test_waiting_and_running_requests_are_shown(router: RouterDash, slow: Add) -> None:
    endpoint = slow("a", max_concurrency=1)
    with ExitStack() as ends:
        ends.enter_context(router.open_stream())
        late = threading.Thread(target=lambda: router.chat(max_tokens=2))
        late.start()
        until(lambda: router.stats()["queued_requests"] == 1)
        assert route(router)["decision"] == {"endpoint_ids": [], "reason": "wait"}
        live = reported(router, "/api/live")
        (running,), (waiting,) = live["running"], live["waiting"]
        assert (running["endpoint_id"], running["endpoint_name"], running["streamed"]) == (endpoint, "a", True)
        assert (waiting["position"], waiting["api_key_name"], waiting["model"]) == (1, "bootstrap", "tiny")
        assert (live["workers"], live["workers_told"], live["waiting_total"], live["running_total"]) == (1, 1, 1, 1)
    late.join()
    (row,) = reported(router, "/api/requests?outcome=ok&limit=1")["requests"]
    assert row["queue_ms"] > 0
    assert router.stats()["queued_requests"] == 0


def test_an_open_breaker_is_shown_everywhere(router: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(fault="500")
    endpoint = router.add(simulated, name="a")
    for _ in range(5):
        router.chat()
    row = router.endpoint(endpoint)
    assert row["breaker"] in ("open", "half_open")
    assert row["breaker_trial_due"] is not None
    simulated.set(fault="")
    until(lambda: router.chat().status == 200)
    until(lambda: router.endpoint(endpoint)["breaker"] == "closed")
