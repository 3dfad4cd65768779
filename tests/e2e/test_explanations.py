"""Explanations of adaptive routing, through HTTP with real processes: what pages and API say is what gateways did."""

from typing import Any

import pytest

from benchmarks.simulator import Simulator
from tests.conftest import Install
from tests.router import RouterDash, until

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(180)]


@pytest.fixture
def router(begin: Install) -> RouterDash:
    made = begin()
    made.environment["ROUTERDASH_BALANCER"] = "adaptive"
    return made.start()


def reported(router: RouterDash, path: str) -> Any:
    response = router.get(path)
    assert response.status == 200, response
    return response.json()


def last(router: RouterDash) -> Any:
    (row,) = reported(router, "/api/requests?limit=1")["requests"]
    return row


def learned(router: RouterDash, endpoint_id: str) -> Any:
    (row,) = reported(router, f"/api/endpoints/{endpoint_id}/learned") or [None]
    return row


def test_a_request_is_explained_and_its_cost_was_foretold(router: RouterDash, sim: Simulator) -> None:
    fast = router.add(sim.add(models=["tiny"], tokens_per_second=400, tokens=20), name="fast")
    slow = router.add(sim.add(models=["tiny"], tokens_per_second=60, tokens=20), name="slow")
    number = 0

    def is_learned() -> bool:
        """Send one more request: a figure needs five, and before anything is learned, either endpoint may get them."""
        nonlocal number
        assert router.chat(stream=True).status == 200
        number += 1
        return bool((learned(router, fast) or {}).get("tokens_per_second_alone"))

    def samples() -> int:
        return sum((learned(router, endpoint_id) or {"samples": 0})["samples"] for endpoint_id in (fast, slow))

    until(is_learned, 60)
    until(lambda: samples() == number, 30)

    sent = last(router)["attempts"][0]["work"]
    path = f"/api/route?model=tiny&prompt_tokens={sent['prompt_tokens']}&output_tokens="

    def foretold() -> bool:
        """Return True if the preview names the endpoint and the cost of the next request; facts may change between."""
        assert router.chat(stream=True).status == 200
        attempt = last(router)["attempts"][0]
        preview = reported(router, path + str(attempt["work"]["output_tokens"]))
        costs = {endpoint["endpoint_id"]: endpoint["cost_ms"] for endpoint in preview["endpoints"]}
        # The record has whole tokens and milliseconds, and the cost of a token is about a twentieth.
        return attempt["endpoint_id"] in preview["decision"]["endpoint_ids"] and all(
            costs[candidate["endpoint_id"]] == pytest.approx(candidate["cost_ms"], rel=1 / 20, abs=1)
            for candidate in attempt["costs"]
        )

    until(foretold, 30)
    row = last(router)
    assert row["attempts"][0]["work"]["expected_ms"] > 0
    assert row["body_bytes"] > 0
    _, browser = router.log_in("admin", router.environment["ROUTERDASH_ADMIN_PASSWORD"])
    with browser.open(f"http://127.0.0.1:{router.port}/requests/{row['id']}") as response:
        html = response.read().decode()
    assert "Explain this request" in html
    assert "Expected before" in html
