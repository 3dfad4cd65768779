"""The routing preview of adaptive routing: the gateways' choice, with the expected time of each candidate."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import time_machine
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.registry import schema
from gateway.registry.schema import Lengths, Model, PublishedEndpoint, Speeds
from gateway.routing import adaptive
from gateway.routing.balancer import FULL
from gateway.routing.expected_time import Demand
from metrics.queries.routing import routing_preview
from metrics.queries.routing.adaptive_preview import (
    ASSUMED_PROMPT,
    NOT_MEASURED,
    PreviewLoad,
    adaptive_payload,
    demand_of,
)
from tests.access.people import Api
from tests.metrics.queries.routing.test_routing_preview import NAMES, C, endpoint, routes
from tests.metrics.records import AT, NOW, A, B
from tests.metrics.world import fake_installation

pytestmark = pytest.mark.every_database

FAST = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.001, completions=50)
SLOW = Speeds(setup=0.01, read=0.001, write=0.1, share=0.01, completions=50)
DEMAND = Demand(1000, 100)


def preview(
    *endpoints: PublishedEndpoint,
    speeds: dict[str, Speeds],
    load: dict[str, int] | None = None,
    due: dict[str, int] | None = None,
    pending: dict[str, int] | None = None,
    demand: Demand = DEMAND,
    kind: str = CHAT,
    spill_after: float = 10.0,
) -> Any:
    candidates = routing_preview.candidates(routes(endpoints, "tiny"), kind, load or {}, due or {}, AT, pending)
    return adaptive_payload("tiny", kind, candidates, PreviewLoad(speeds, spill_after=spill_after), demand)


def decided(*endpoints: PublishedEndpoint, **of: Any) -> tuple[str, str] | None:
    decision = preview(*endpoints, **of)["decision"]
    return decision and ("".join(NAMES[endpoint_id] for endpoint_id in decision["endpoint_ids"]), decision["reason"])


def excluded(*endpoints: PublishedEndpoint, **of: Any) -> list[str | None]:
    return [row["excluded"] for row in preview(*endpoints, **of)["endpoints"]]


def test_the_least_expected_time_is_chosen() -> None:
    assert decided(endpoint(A), endpoint(B), speeds={A: SLOW, B: FAST}) == ("b", "fastest")


def test_times_that_are_near_have_the_same_chance() -> None:
    near = Speeds(setup=0.02, read=0.0001, write=0.01, share=0.001, completions=50)
    decision = decided(endpoint(A), endpoint(B), endpoint(C), speeds={A: FAST, B: near, C: SLOW})
    assert decision == ("ab", "fastest")


def test_prompt_tokens_that_are_pending_are_part_of_the_expected_time() -> None:
    speeds = {A: FAST, B: FAST}
    assert decided(endpoint(A), endpoint(B), speeds=speeds, pending={A: 9000}) == ("b", "fastest")


def test_an_unmeasured_endpoint_is_probed() -> None:
    payload = preview(endpoint(A), endpoint(B), speeds={A: SLOW}, load={A: 3})
    assert payload["decision"] == {"endpoint_ids": [B], "reason": "probe"}
    assert [row["is_measured"] for row in payload["endpoints"]] == [True, False]


def test_an_endpoint_that_is_measured_gets_no_more_than_its_share() -> None:
    assert excluded(endpoint(A), endpoint(B), speeds={A: SLOW}, load={B: 1}) == [None, "measuring"]


def test_it_may_be_better_to_wait_for_a_full_endpoint() -> None:
    full = endpoint(A, max_concurrency=1)
    assert decided(full, endpoint(B), speeds={A: FAST, B: SLOW}, load={A: 1}) == ("", "wait_for_faster")
    assert decided(full, speeds={A: FAST}, load={A: 1}) == ("", "wait")


def test_without_candidates_there_is_no_decision() -> None:
    payload = preview(endpoint(A, status=schema.OFFLINE), speeds={})
    assert payload["decision"] is None
    assert "cost_ms" not in payload["endpoints"][0]


def test_an_incapable_endpoint_has_no_expected_time() -> None:
    embeds = endpoint(A, Model("tiny", capabilities=("embeddings",)))
    payload = preview(embeds, endpoint(B), speeds={A: FAST, B: SLOW})
    assert payload["decision"]["endpoint_ids"] == [B]
    assert [(row["excluded"], "cost_ms" in row) for row in payload["endpoints"]] == [("incapable", False), (None, True)]


def test_a_long_expected_wait_spills_to_the_next_tier() -> None:
    own, cloud = endpoint(A), endpoint(B, tier=2)
    known = {A: SLOW, B: FAST}
    assert decided(own, cloud, speeds=known, load={A: 2}) == ("a", "only")
    assert excluded(own, cloud, speeds=known, load={A: 2}) == [None, "worse_tier"]
    assert decided(own, cloud, speeds=known, load={A: 2}, spill_after=1.0) == ("b", "spilled")
    assert excluded(own, cloud, speeds=known, load={A: 2}, spill_after=1.0) == ["spilling", None]


def test_a_cost_weight_makes_an_endpoint_dearer() -> None:
    dear, cheap = preview(endpoint(A, cost_weight=3.0), endpoint(B), speeds={A: FAST, B: FAST})["endpoints"]
    assert dear["cost_ms"] == pytest.approx(3 * cheap["cost_ms"])
    assert dear["cost_parts"] == pytest.approx({**cheap["cost_parts"], "weight": 3.0})


def test_a_candidate_has_its_expected_time_and_the_parts() -> None:
    (row,) = preview(endpoint(A), speeds={A: FAST}, load={A: 2}, pending={A: 500})["endpoints"]
    assert {name: round(value, 6) for name, value in row["cost_parts"].items()} == {
        "own_ms": 1460.0, "harm_ms": 150.0, "cold_ms": 0.0, "wait_ms": 0.0, "factor": 1.0, "weight": 1.0,
    }  # fmt: skip
    assert round(row["cost_ms"], 6) == 1610.0


# What a request is expected to need


def test_tokens_that_are_not_given_are_learned_or_assumed() -> None:
    assert demand_of(CHAT, Lengths(70.0), None, None) == Demand(ASSUMED_PROMPT, 70.0, typical=70.0)
    assert demand_of(CHAT, Lengths(None), None, None).output == adaptive.UNKNOWN_OUTPUT
    assert demand_of(CHAT, Lengths(70.0), 5, 6) == Demand(5, 6, typical=70.0)


def test_a_request_that_generates_nothing_has_no_output() -> None:
    assert demand_of(EMBEDDINGS, Lengths(70.0), 5, 6) == Demand(5, 0, typical=0)


# The same decision as in the gateways

STATES = st.builds(
    endpoint,
    st.sampled_from((A, B, C)),
    status=st.sampled_from(("online", "online", "pending", "error", "offline")),
    operator_state=st.sampled_from(("enabled", "enabled", "enabled", "draining", "disabled")),
    max_concurrency=st.sampled_from((None, 1, 2)),
)
SPEEDS = st.dictionaries(
    st.sampled_from((A, B, C)), st.sampled_from((FAST, SLOW, Speeds(0.1, 0.001, 0.05, 0.0, completions=2)))
)
LOADS = st.dictionaries(st.sampled_from((A, B, C)), st.integers(0, 3))
DUES = st.dictionaries(st.sampled_from((A, B, C)), st.sampled_from((int(AT) - 5, int(AT) + 2, int(AT) + 9)))


@given(st.lists(STATES, max_size=3, unique_by=lambda published: published.id), SPEEDS, LOADS, DUES)
def test_the_decision_is_that_of_a_gateway(
    endpoints: list[PublishedEndpoint], speeds: dict[str, Speeds], load: dict[str, int], due: dict[str, int]
) -> None:
    payload = preview(*endpoints, speeds=speeds, load=load, due=due)
    candidates = routing_preview.candidates(routes(endpoints, "tiny"), CHAT, load, due, AT)
    fleet = [speeds.get(candidate.id, NOT_MEASURED) for candidate in candidates]
    rows = [adaptive.row(candidate, of, "vllm", fleet) for candidate, of in zip(candidates, fleet, strict=True)]
    picked = [adaptive.pick(rows, DEMAND) for _ in range(40)]
    ids = {decision.endpoint_id for decision in picked if decision is not None and decision is not FULL}
    chosen = set(payload["decision"]["endpoint_ids"]) if payload["decision"] else set()
    assert ids == chosen
    for row in payload["endpoints"]:
        assert (row["excluded"] is None) >= (row["endpoint_id"] in chosen)


# As JSON and on the page


@pytest.fixture
def _published(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known, learned = (endpoint(A), endpoint(B)), {A: SLOW, B: FAST}
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, balancer="adaptive"))
    state = fake_installation()
    state.routes = lambda name: routes(known, name)
    state.is_serving = lambda: True
    state.in_flight = lambda: {A: 1, B: 0}
    state.speeds = lambda endpoint_id, model_id, kind: learned[endpoint_id]
    state.lengths = lambda model, key_id: Lengths(50.0)
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
def test_the_api_reports_costs(script: Api) -> None:
    payload = script.call("GET", "/api/route?model=tiny&prompt_tokens=2000").json()
    assert payload["decision"] == {"endpoint_ids": [B], "reason": "fastest"}
    assert payload["demand"] == {"prompt_tokens": 2000, "output_tokens": 50}
    assert [round(row["cost_ms"]) for row in payload["endpoints"]] == [8760, 760]


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize("query", ["prompt_tokens=0", "output_tokens=-1", "prompt_tokens=many"])
def test_impossible_numbers_of_tokens_are_refused(script: Api, query: str) -> None:
    response = script.call("GET", f"/api/route?model=tiny&{query}")
    assert response.status_code == 400
    assert query.split("=")[0] in response.json()["error"]
