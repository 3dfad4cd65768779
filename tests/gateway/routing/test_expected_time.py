"""The parts of an expected time add up to that by which the adaptive policy chooses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.registry.schema import Speeds
from gateway.routing import adaptive
from gateway.routing.balancer import FULL
from gateway.routing.expected_time import (
    BULK_DELAY_WEIGHTS,
    DELAY_WEIGHTS,
    Demand,
    ExpectedTime,
    Parameters,
    expected_time,
    recent_mean,
)
from tests.gateway.routing.candidates import Endpoint

SPEEDS = Speeds(setup=0.1, read=0.001, write=0.02, share=0.005, completions=40)


def parts(
    server: Endpoint, demand: Demand, speeds: Speeds = SPEEDS, load: float = 0.0, waiting: int = 0, weight: float = 1.0
) -> ExpectedTime:
    of = adaptive.row(server, speeds, "vllm", load=load, weight=weight)
    return expected_time(of, demand, server.in_flight, server.pending, waiting)


@given(
    st.builds(Endpoint, st.just("a"), in_flight=st.integers(0, 9), pending=st.integers(0, 5000)),
    st.builds(
        Demand,
        st.floats(1, 9000),
        st.floats(0, 900),
        st.sampled_from(({}, {"a": 0.5}, {"b": 1.0})),
        st.just(0.0),
        delay_weights=st.sampled_from((DELAY_WEIGHTS, BULK_DELAY_WEIGHTS)),
    ),
    st.sampled_from((0, 1, 3, 16)),
    st.sampled_from((0.0, 9.0)),
    st.sampled_from((1.0, 2.5)),
)
def test_the_parts_add_up_to_the_time_of_the_policy(
    server: Endpoint, demand: Demand, completions: int, load: float, weight: float
) -> None:
    speeds = Speeds(0.1, 0.001, 0.02, 0.005, completions)
    of = adaptive.row(server, speeds, "vllm", load=load, weight=weight)
    decision = adaptive.pick([of], demand)
    assert decision is not None
    assert decision is not FULL
    ((seconds, _, _),) = decision.expected_times
    assert parts(server, demand, speeds, load, weight=weight).total == pytest.approx(seconds)


def test_each_part_is_what_it_says() -> None:
    time_parts = parts(Endpoint("a", in_flight=2, pending=50), Demand(1000, 100, {"a": 250}))
    assert (time_parts.own, time_parts.delay) == pytest.approx((0.1 + 0.8 + 3.5, 2 * (0.25 + 0.1875)))
    assert (time_parts.load, time_parts.wait, time_parts.factor, time_parts.weight) == (0.0, 0.0, 1.0, 1.0)


def test_loading_the_model_is_a_part() -> None:
    assert parts(Endpoint("a"), Demand(1, 1), load=12.0).load == 12.0


def test_the_wait_for_a_slot_is_a_part() -> None:
    # Each of the two slots takes 0.1 + 0.02 * 100 + 0.005 * 100 * 2 seconds; one request waits already.
    time_parts = parts(Endpoint("a", slots=2, in_flight=2), Demand(0, 100), waiting=1)
    assert round(time_parts.wait, 6) == round((1 + 1) * 3.1 / 2, 6)
    assert parts(Endpoint("a", slots=2, in_flight=1), Demand(0, 100), waiting=1).wait == 0
    typical = parts(Endpoint("a", slots=2, in_flight=2), Demand(0, 5, typical=100), waiting=1)
    assert typical.wait == time_parts.wait


def test_few_completions_multiply_the_expected_time() -> None:
    probed = Speeds(0.1, 0.001, 0.02, 0.005, completions=1)
    assert parts(Endpoint("a", in_flight=3), Demand(1, 1), probed).factor == 2 * 4 / 3
    assert parts(Endpoint("a", in_flight=2), Demand(1, 1), probed).factor == 1


def test_waiting_for_a_slot_replaces_the_prefix_that_it_keeps() -> None:
    """That of the client which had it, and the request's own, each as long as the last prompts there."""
    demand, full = Demand(600, 100), Endpoint("a", slots=2, in_flight=2, recent_prompt=400.0)
    shared, own = (expected_time(adaptive.row(full, SPEEDS, kind), demand, 2, 0, 0) for kind in ("vllm", "llamacpp"))
    assert own.wait - shared.wait == pytest.approx(2 * 0.001 * 400)
    assert own.total - own.wait == pytest.approx(shared.total - shared.wait)
    unknown = replace(full, recent_prompt=0.0)
    own = expected_time(adaptive.row(unknown, SPEEDS, "llamacpp"), demand, 2, 0, 0)
    assert own.wait - shared.wait == pytest.approx(2 * 0.001 * 600)
    assert expected_time(adaptive.row(full, SPEEDS, "llamacpp"), demand, 1, 0, 0).wait == 0  # a slot is free


def test_the_newest_prompts_count_most() -> None:
    assert recent_mean(0.0, 900) == 900
    assert recent_mean(900.0, 100) == 700


def test_a_duration_is_that_of_the_prompt_and_of_each_token_beside_the_others() -> None:
    of = Parameters(setup=0.1, read=0.001, write=0.02, share=0.005)
    assert of.prefill(300) == pytest.approx(0.1 + 0.3)
    assert of.token(3) == pytest.approx(0.02 + 3 * 0.005)
    assert of.duration(300, 50, 3) == pytest.approx(of.prefill(300) + 50 * of.token(3))
    assert of.lost_to_others(300, 50, 3) == pytest.approx(of.duration(300, 50, 3) - of.duration(0, 50, 0))
