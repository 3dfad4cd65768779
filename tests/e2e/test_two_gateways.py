"""Shared state of gateways: slots, circuit breakers, queues, and the figures that show them."""

import threading

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.http import Response
from tests.router import RouterDash, until

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]


def at_once(router: RouterDash, number: int, **fields: object) -> list[Response]:
    """Send so many chat requests concurrently, each on its own connection."""
    given: list[Response] = []
    threads = [threading.Thread(target=lambda: given.append(router.chat(**fields))) for _ in range(number)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


@pytest.fixture
def two(begin: Install) -> RouterDash:
    return begin(ROUTERDASH_WORKERS="2").start()


def test_gateways_together_respect_the_slots_of_an_endpoint(two: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(ttft=0.05)
    two.add(simulated, max_concurrency=2)
    given = at_once(two, 30)
    assert {response.status for response in given} == {200}
    assert simulated.seen.peak <= 2
    assert two.stats()["queued_requests"] == two.stats()["total_active_requests"] == 0
    waits = [row["queue_ms"] for row in two.get("/api/requests?limit=50").json()["requests"]]
    assert sum(wait is not None for wait in waits) >= 20


def test_waiting_and_running_requests_of_both_gateways_are_shown(two: RouterDash, sim: Simulator) -> None:
    simulated = sim.add(ttft=3.0)
    two.add(simulated, max_concurrency=1)
    sender = threading.Thread(target=at_once, args=(two, 6))
    sender.start()
    until(lambda: two.stats()["queued_requests"] == 5)
    live = two.get("/api/live").json()
    assert (live["waiting_total"], live["running_total"], live["workers_told"]) == (5, 1, 2)
    assert {request["model"] for request in (*live["waiting"], *live["running"])} == {"tiny"}
    simulated.set(ttft=0.0)
    sender.join()
    until(lambda: two.get("/api/live").json()["waiting_total"] == 0)


def test_both_gateways_share_a_breaker_that_is_shown_everywhere(two: RouterDash, sim: Simulator) -> None:
    broken, good = sim.add(), sim.add()
    endpoint_id = two.add(broken)
    two.add(good)
    broken.set(fault="500")
    assert [response for response in at_once(two, 40) if response.status != 200] == []
    until(lambda: two.endpoint(endpoint_id)["breaker"] == "open")
    seen = broken.seen.started
    at_once(two, 20)
    assert broken.seen.started <= seen + 2  # one trial each, if its time has come
    preview = two.get("/api/route?model=tiny").json()
    assert {row["breaker"] for row in preview["endpoints"]} >= {"closed"}
    broken.set(fault="")
    until(lambda: bool(at_once(two, 4)) and two.endpoint(endpoint_id)["breaker"] == "closed", 30, 0.3)


def test_a_reset_closes_the_breaker_of_both_at_once(two: RouterDash, sim: Simulator) -> None:
    broken, good = sim.add(), sim.add()
    endpoint_id = two.add(broken)
    two.add(good)
    broken.set(fault="500")
    at_once(two, 40)
    until(lambda: two.endpoint(endpoint_id)["breaker"] == "open")
    broken.set(fault="", ttft=1.0)
    assert two.post(f"/api/endpoints/{endpoint_id}/reset-breaker").status == 200
    assert two.endpoint(endpoint_id)["breaker"] == "closed"  # before any request could be a trial
    until(lambda: workers_sending(two, endpoint_id) == {0, 1}, 60)
    assert two.endpoint(endpoint_id)["breaker"] == "closed"


def workers_sending(router: RouterDash, endpoint_id: str) -> set[int]:
    """Return the gateways that sent some of many requests. The kernel distributes them: one may get none."""
    workers: set[int] = set()
    sender = threading.Thread(target=at_once, args=(router, 40))
    sender.start()
    while sender.is_alive():
        running = router.get("/api/live").json()["running"]
        workers |= {request["worker"] for request in running if request["endpoint_id"] == endpoint_id}
    return workers


def test_a_drain_with_a_deadline_ends_streams_on_both(two: RouterDash, sim: Simulator) -> None:
    endpoint_id = two.add(sim.add(tokens=100_000, tokens_per_second=20.0))
    beginnings: list[bytes] = []
    endings: list[bytes] = []

    def read() -> None:
        with two.open_stream() as response:
            beginnings.append(response.readline())
            endings.append(response.read()[-200:])

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(beginnings) == 6)
    assert two.stats()["total_active_requests"] == 6
    given = two.post(f"/api/endpoints/{endpoint_id}/drain", {"deadline_secs": 1}).json()
    assert (given["operator_state"], given["active_requests"]) == ("draining", 6)
    for thread in threads:
        thread.join(30)
    assert len(endings) == 6
    assert all(b'"error"' in ending for ending in endings)
    assert two.chat().status == 503
    assert two.post(f"/api/endpoints/{endpoint_id}/enable").json()["drain_until"] is None
    rows = two.get("/api/requests?outcome=truncated").json()["requests"]
    assert len(rows) == 6
    assert all(row["output_tokens"] for row in rows)
