"""The parts of a cost add up to the cost by which the adaptive policy chooses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.registry.schema import Speeds
from gateway.routing import adaptive
from gateway.routing.adaptive import Demand
from gateway.routing.balancer import FULL
from gateway.routing.cost_parts import CostParts, cost_parts, recent_mean
from tests.gateway.routing.candidates import Endpoint

SPEEDS = Speeds(setup=0.1, read=0.001, write=0.02, share=0.005, completions=40)


def parts(
    server: Endpoint, demand: Demand, speeds: Speeds = SPEEDS, load: float = 0.0, waiting: int = 0, weight: float = 1.0
) -> CostParts:
    of = adaptive.row(server, speeds, "vllm", load=load, weight=weight)
    return cost_parts(of, demand, server.in_flight, server.pending, waiting)


@given(
    st.builds(Endpoint, st.just("a"), in_flight=st.integers(0, 9), pending=st.integers(0, 5000)),
    st.builds(
        Demand,
        st.floats(1, 9000),
        st.floats(0, 900),
        st.sampled_from(({}, {"a": 0.5}, {"b": 1.0})),
        st.just(0.0),
        harm=st.sampled_from((adaptive.HARM, adaptive.BULK_HARM)),
    ),
    st.sampled_from((0, 1, 3, 16)),
    st.sampled_from((0.0, 9.0)),
    st.sampled_from((1.0, 2.5)),
)
def test_the_parts_add_up_to_the_cost_of_the_policy(
    server: Endpoint, demand: Demand, completions: int, load: float, weight: float
) -> None:
    speeds = Speeds(0.1, 0.001, 0.02, 0.005, completions)
    of = adaptive.row(server, speeds, "vllm", load=load, weight=weight)
    decision = adaptive.pick([of], demand)
    assert decision is not None
    assert decision is not FULL
    ((cost, _, _),) = decision.costs
    assert parts(server, demand, speeds, load, weight=weight).total == pytest.approx(cost)


def test_each_part_is_what_it_says() -> None:
    found = parts(Endpoint("a", in_flight=2, pending=50), Demand(1000, 100, {"a": 250}))
    assert [round(it, 6) for it in found] == [0.1 + 0.8 + 3.5, round(2 * (0.25 + 0.1875), 6), 0.0, 0.0, 1.0, 1.0]


def test_loading_the_model_is_a_part() -> None:
    assert parts(Endpoint("a"), Demand(1, 1), load=12.0).cold == 12.0


def test_the_wait_for_a_slot_is_a_part() -> None:
    # Each of the two slots takes 0.1 + 0.02 * 100 + 0.005 * 100 * 2 seconds; one request waits already.
    found = parts(Endpoint("a", slots=2, in_flight=2), Demand(0, 100), waiting=1)
    assert round(found.wait, 6) == round((1 + 1) * 3.1 / 2, 6)
    assert parts(Endpoint("a", slots=2, in_flight=1), Demand(0, 100), waiting=1).wait == 0
    typical = parts(Endpoint("a", slots=2, in_flight=2), Demand(0, 5, typical=100), waiting=1)
    assert typical.wait == found.wait


def test_few_completions_multiply_the_cost() -> None:
    probed = Speeds(0.1, 0.001, 0.02, 0.005, completions=1)
    assert parts(Endpoint("a", in_flight=3), Demand(1, 1), probed).factor == 2 * 4 / 3
    assert parts(Endpoint("a", in_flight=2), Demand(1, 1), probed).factor == 1


def test_waiting_for_a_slot_replaces_the_prefix_that_it_keeps() -> None:
    """That of the client which had it, and the request's own, each as long as the last prompts there."""
    demand, full = Demand(600, 100), Endpoint("a", slots=2, in_flight=2, recent_prompt=400.0)
    shared, own = (cost_parts(adaptive.row(full, SPEEDS, kind), demand, 2, 0, 0) for kind in ("vllm", "llamacpp"))
    assert own.wait - shared.wait == pytest.approx(2 * 0.001 * 400)
    assert own.total - own.wait == pytest.approx(shared.total - shared.wait)
    unknown = replace(full, recent_prompt=0.0)
    own = cost_parts(adaptive.row(unknown, SPEEDS, "llamacpp"), demand, 2, 0, 0)
    assert own.wait - shared.wait == pytest.approx(2 * 0.001 * 600)
    assert cost_parts(adaptive.row(full, SPEEDS, "llamacpp"), demand, 1, 0, 0).wait == 0  # a slot is free


def test_the_newest_prompts_count_most() -> None:
    assert recent_mean(0.0, 900) == 900
    assert recent_mean(900.0, 100) == 700
