"""The routing preview and a gateway agree: endpoint, costs, and what is kept of a prompt; after a SIGKILL too."""

from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.router import RouterDash, published_completions, until

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(180)]

SPEEDS = {"fast": 400.0, "middle": 200.0, "slow": 40.0}  # tokens per second
MEASURED = 5  # requests at each endpoint


@pytest.fixture
def router(begin: Install, sim: Simulator) -> RouterDash:
    """A RouterDash that has learned the speeds of three endpoints."""
    made = begin()
    made.environment["ROUTERDASH_BALANCER"] = "adaptive"
    made.start()
    added = [made.add(sim.add(tokens_per_second=speed), name=name) for name, speed in SPEEDS.items()]
    for endpoint_id in added:
        others = [other for other in added if other != endpoint_id]
        for other in others:
            assert made.post(f"/api/endpoints/{other}/disable", {}).status == 200
        for number in range(MEASURED):
            assert made.chat(max_tokens=20, stream=number % 2 == 0).status == 200
        for other in others:
            assert made.post(f"/api/endpoints/{other}/enable", {}).status == 200
    return made


def turn(number: int, turns: int) -> dict[str, Any]:
    """Return a request of a conversation, whose turns begin alike.

    It names its session, because the servers read prompts at once: without, their prefix caches would not matter.
    """
    messages = [{"role": "user", "content": f"{number} " + "x" * 8_000}]
    for position in range(1, turns):
        messages += [{"role": "assistant", "content": "a" * 200}, {"role": "user", "content": f"{position}"}]
    return {"model": "tiny", "max_tokens": 8, "messages": messages, "prompt_cache_key": f"conversation {number}"}


def asked(router: RouterDash, body: dict[str, Any]) -> Any:
    """Return the preview, once everything that was sent before is learned."""
    served = len(router.get("/api/requests?limit=500").json()["requests"])
    until(lambda: published_completions(router) == served, 20)
    return router.post("/api/route", body).json()


def sent(router: RouterDash, body: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Send a request; return its record and the headers of its response."""
    response = router.post("/v1/chat/completions", body)
    assert response.status == 200
    return router.get(f"/api/requests/{response.headers['x-request-id']}").json(), response.headers


def check(router: RouterDash, body: dict[str, Any]) -> Any:
    """Check that the preview of a request is what a gateway does with it. Return the preview."""
    preview = asked(router, body)
    record, headers = sent(router, body)
    (attempt,) = record["attempts"]
    assert attempt["endpoint_id"] in preview["decision"]["endpoint_ids"]
    assert attempt["reason"] == preview["decision"]["reason"]
    expected = {endpoint["endpoint_id"]: endpoint["cost_ms"] for endpoint in preview["endpoints"]}
    assert {candidate["endpoint_id"]: candidate["cost_ms"] for candidate in attempt["costs"]} == pytest.approx(
        expected, abs=1
    )
    assert (attempt["work"]["prompt_tokens"], attempt["work"]["output_tokens"]) == tuple(preview["demand"].values())
    (kept,) = (
        endpoint["kept_tokens"]
        for endpoint in preview["endpoints"]
        if endpoint["endpoint_id"] == attempt["endpoint_id"]
    )
    shown = headers.get("x-routerdash-affinity", "kept=0")
    assert int(shown.removeprefix("kept=")) == pytest.approx(kept, abs=1)
    return preview


def test_the_preview_of_a_body_is_what_a_gateway_does(router: RouterDash) -> None:
    for number in range(3):
        first, second = (check(router, turn(number, turns)) for turns in (1, 2))
        assert {endpoint["kept_tokens"] for endpoint in first["endpoints"]} == {0}
        assert sum(endpoint["kept_tokens"] > 0 for endpoint in second["endpoints"]) == 1


def test_the_next_request_of_a_conversation_is_expected_where_it_was(router: RouterDash) -> None:
    record, _ = sent(router, turn(1, 1))
    conversations = until(lambda: router.get("/api/conversations").json()["conversations"], 20)
    assert [conversation["conversation"] for conversation in conversations] == [record["conversation"]]
    preview = router.get(f"/api/route?model=tiny&conversation={record['conversation']}").json()
    kept = {
        endpoint["endpoint_id"]: endpoint["kept_tokens"] for endpoint in preview["endpoints"] if endpoint["kept_tokens"]
    }
    assert kept.keys() == {record["endpoint_id"]}
    assert preview["demand"]["prompt_tokens"] == record["input_tokens"] + record["output_tokens"]


def test_a_killed_routerdash_chooses_as_before(router: RouterDash) -> None:
    for number in range(2):
        sent(router, turn(number, 1))
    bodies = [turn(number, turns) for number in range(3) for turns in (1, 2)]
    before = [asked(router, body) for body in bodies]
    assert any(endpoint["kept_tokens"] for preview in before for endpoint in preview["endpoints"])
    router.kill()
    router.start()
    assert [router.post("/api/route", body).json() for body in bodies] == before
