"""Situations in which routers went wrong, with the product's policy in virtual time. Each is short and exact."""

from dataclasses import replace
from statistics import geometric_mean

import pytest

from benchmarks.routing.fleets import BY_NAME, SHAPES, Fleet, Mix
from benchmarks.routing.policies import POLICIES, Adaptive
from benchmarks.routing.simulate import saturation
from benchmarks.routing.virtual import Change, Result, Run
from gateway.routing.balancer import EXCLUDED

EQUAL = Fleet("equal", (SHAPES["a100"],) * 4, Mix(agents=100, hot=1.0, prompts=1), 30.0)


def run(fleet: Fleet, policy: str = "adaptive", load: float = 0.85, requests: int = 1500, **options) -> Result:
    return Run(fleet, POLICIES[policy](1), policy, load, requests, **options).run()


def counts(result: Result) -> list[int]:
    found = [0] * len(result.views)
    for it in result.requests:
        assert it.view is not None
        found[it.view.number] += 1
    return found


def test_a_hot_prefix_is_spread_over_equal_endpoints() -> None:
    fleet = replace(EQUAL, saturation=saturation(EQUAL, 800))
    results = {policy: run(fleet, policy) for policy in ("adaptive", "gie", "oracle", "oracle_social")}
    assert results["adaptive"].busiest() <= 0.32
    assert results["adaptive"].hits() >= 0.95 * max(it.hits() for it in results.values())


def most_beyond(result: Result, number: int) -> int:
    """Return how many requests an endpoint had at most beyond 2 * its completions."""
    return result.views[number].most


def test_a_new_endpoint_is_not_flooded() -> None:
    """Before its first response, it has one request; then two more for each response, while others are measured."""
    fleet = BY_NAME["F4"]
    result = run(fleet, requests=1200, changes=[Change(0.0, 5, rank=EXCLUDED), Change(0.5, 5, slowdown=10.0)])
    assert result.views[5].sent > 0
    assert most_beyond(result, 5) <= 1


def test_slow_endpoints_that_are_added_do_no_harm() -> None:
    """The mean of three draws of the policy, because they alone move p95 by 5 %."""
    busy = BY_NAME["F3"]
    larger = replace(busy, shapes=busy.shapes + (SHAPES["cpu"],) * 5)
    before, after = (
        geometric_mean([Run(fleet, Adaptive(seed), "adaptive", 0.85, 2000).run().p95() for seed in range(3)])
        for fleet in (busy, larger)
    )
    assert after <= 1.10 * before


def test_models_are_not_swapped_to_and_fro() -> None:
    """A router that looks only at requests in flight loads a model for most of them (ollama#10948)."""
    fleet = BY_NAME["F6"]
    ours, first, today = (run(fleet, policy, 0.3) for policy in ("adaptive", "loaded_first", "least_inflight"))
    assert ours.p95() <= first.p95()
    assert ours.loads <= 0.01 * len(ours.requests)
    assert today.loads > 50 * ours.loads


def test_a_hung_endpoint_receives_no_more() -> None:
    """Its prompts stay pending, which is all that the policy needs to know."""
    result = run(BY_NAME["F3"], load=0.6, requests=1200, changes=[Change(0.5, 0, slowdown=200.0)])
    late = [it for it in result.requests if it.arrived > 0.7 * result.seconds]
    assert sum(it.view is result.views[0] for it in late) < 0.05 * len(late)


# Traps of other routers


def test_requests_that_arrive_together_do_not_all_go_to_one_endpoint() -> None:
    """Load is counted when a request is sent, not when the response begins (sglang#27547)."""
    result = run(BY_NAME["F3"], requests=40, rate=100_000.0, think=0.0)
    assert max(view.sent for view in result.views) <= 0.35 * sum(view.sent for view in result.views)


def test_equal_endpoints_get_equal_work() -> None:
    """No node starves (dynamo#7836), and the first in the list is not preferred (litellm#37622)."""
    found = counts(run(BY_NAME["F3"], load=0.6))
    assert min(found) > 0.18 * sum(found)
    assert max(found) < 0.32 * sum(found)


def test_an_endpoint_with_many_requests_a_second_attracts_no_more() -> None:
    """A rate of requests is no load: the fastest endpoint has the highest (production-stack#1073)."""
    result = run(BY_NAME["F2"], load=0.85)
    found = counts(result)
    assert found[0] > found[1] > found[3]
    assert result.p95() < 0.5 * run(BY_NAME["F2"], "least_inflight").p95()


def test_long_responses_do_not_make_a_slow_endpoint_look_fast() -> None:
    """What is learned of a slow endpoint is its time for a token, however many there are (litellm#40202)."""
    policy = Adaptive(1)
    Run(BY_NAME["F2"], policy, "adaptive", 0.85, 1500).run()
    writes = [policy.learner.speeds[f"e{number}", "m0", "chat_completions"].write for number in range(4)]
    assert writes == sorted(writes)


def test_what_is_learned_is_near_the_truth() -> None:
    policy = Adaptive(1)
    result = Run(BY_NAME["F2"], policy, "adaptive", 0.85, 2000).run()
    for view in result.views[:3]:
        found, server = policy.learner.speeds[view.id, "m0", "chat_completions"], view.server
        assert found.write + 2 * found.share == pytest.approx(server.a + 2 * server.b, rel=0.3)
        assert found.read == pytest.approx(server.p, rel=0.6)
