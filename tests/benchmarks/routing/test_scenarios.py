"""Situations in which routers went wrong, with the product's policy in virtual time. Each is short and exact."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import pytest

from benchmarks.routing import few_clients
from benchmarks.routing.fleets import BY_NAME, SHAPES, Fleet, Mix
from benchmarks.routing.policies import POLICIES, Adaptive
from benchmarks.routing.simulate import saturation
from benchmarks.routing.virtual import Change, Request, Result, Run, View
from gateway.routing import adaptive
from gateway.routing.balancer import EXCLUDED, FULL
from gateway.routing.expected_time import Demand

EQUAL = Fleet("equal", (SHAPES["a100"],) * 4, Mix(agents=100, hot=1.0, prompts=1), 30.0)


def run(fleet: Fleet, policy: str = "adaptive", load: float = 0.85, requests: int = 1500, **options) -> Result:
    return Run(fleet, POLICIES[policy](1), policy, load, requests, **options).run()


def counts(result: Result) -> list[int]:
    numbers = [0] * len(result.views)
    for request in result.requests:
        assert request.view is not None
        numbers[request.view.number] += 1
    return numbers


def test_a_hot_prefix_is_spread_over_equal_endpoints() -> None:
    fleet = replace(EQUAL, saturation=saturation(EQUAL, 800))
    results = {policy: run(fleet, policy) for policy in ("adaptive", "gie", "oracle", "oracle_social")}
    assert results["adaptive"].busiest() <= 0.32
    assert results["adaptive"].hits() >= 0.95 * max(result.hits() for result in results.values())


def test_a_new_endpoint_is_not_flooded() -> None:
    """Before its first response, it has one request; then two more for each response, while others are measured."""
    fleet = BY_NAME["F4"]
    result = run(fleet, requests=1200, changes=[Change(0.0, 5, rank=EXCLUDED), Change(0.5, 5, slowdown=10.0)])
    assert result.views[5].sent > 0
    assert result.views[5].most <= 1


@pytest.mark.parametrize(("fleet", "requests"), [("F1", 800), ("F3", 1500)])
def test_an_endpoint_that_returns_ten_times_slower_is_not_flooded(fleet: str, requests: int) -> None:
    """An endpoint leaves, and returns with the speeds that were learned of it. In F1, all others are full at times."""
    changes = [Change(0.4, 0, rank=EXCLUDED), Change(0.5, 0, slowdown=10.0)]
    result = run(BY_NAME[fleet], load=0.6, requests=requests, changes=changes)
    back = [
        request
        for request in result.requests
        if request.view is result.views[0] and request.sent > 0.5 * result.seconds
    ]
    assert len(back) > 10
    assert result.views[0].most <= 1


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
    """A router that looks only at requests in flight loads a model for most of them (ollama#10948).

    Four seeds, because where the first copies are decides a run.
    """
    fleet = BY_NAME["F6"]
    ours, first = (
        [Run(fleet, POLICIES[policy](seed), policy, 0.3, 1500, seed).run() for seed in range(1, 5)]
        for policy in ("adaptive", "loaded_first")
    )
    assert geometric_mean([result.p95() for result in ours]) <= geometric_mean([result.p95() for result in first])
    assert sum(result.loads for result in ours) <= 1.5 * sum(result.loads for result in first)
    assert run(fleet, "least_inflight", 0.3).loads > 50 * max(result.loads for result in ours)


def test_two_gateways_do_not_swap_models_in_turn() -> None:
    """Each has its own clients, so that a model which one of them no longer needs may be the other one's."""
    by_policy = {
        policy: [Run(BY_NAME["K3"], POLICIES[policy](seed), policy, 0.6, 2000, seed).run() for seed in (1, 2, 3)]
        for policy in ("loaded_first", "adaptive_2")
    }
    loads = {policy: sum(result.loads for result in results) for policy, results in by_policy.items()}
    assert loads["adaptive_2"] <= 1.5 * loads["loaded_first"]
    p95 = {policy: geometric_mean(result.p95() for result in results) for policy, results in by_policy.items()}
    assert p95["adaptive_2"] < p95["loaded_first"] / 3


def test_a_hung_endpoint_receives_no_more() -> None:
    """Its prompts stay pending, which is all that the policy needs to know."""
    result = run(BY_NAME["F3"], load=0.6, requests=1200, changes=[Change(0.5, 0, slowdown=200.0)])
    late = [request for request in result.requests if request.arrived > 0.7 * result.seconds]
    assert sum(request.view is result.views[0] for request in late) < 0.05 * len(late)


# Traps of other routers


def test_requests_that_arrive_together_do_not_all_go_to_one_endpoint() -> None:
    """Load is counted when a request is sent, not when the response begins (sglang#27547)."""
    result = run(BY_NAME["F3"], requests=40, rate=100_000.0, think=0.0)
    assert max(view.sent for view in result.views) <= 0.35 * sum(view.sent for view in result.views)


def test_equal_endpoints_get_equal_work() -> None:
    """No node starves (dynamo#7836), and the first in the list is not preferred (litellm#37622)."""
    requests = counts(run(BY_NAME["F3"], load=0.6))
    assert min(requests) > 0.18 * sum(requests)
    assert max(requests) < 0.32 * sum(requests)


def test_an_endpoint_with_many_requests_a_second_attracts_no_more() -> None:
    """A rate of requests is no load: the fastest endpoint has the highest (production-stack#1073)."""
    result = run(BY_NAME["F2"], load=0.85)
    requests = counts(result)
    assert requests[0] > requests[1] > requests[3]
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
        speeds, server = policy.learner.speeds[view.id, "m0", "chat_completions"], view.server
        assert speeds.write + 2 * speeds.share == pytest.approx(server.a + 2 * server.b, rel=0.3)
        assert speeds.read == pytest.approx(server.p, rel=0.6)


# Waiting for a better endpoint


class Impatient(Adaptive):
    """It sends each request at once if an endpoint is free."""

    def choose(self, request: Request, views: Sequence[View], waiting: int, now: float) -> View | None:
        arrived, request.arrived = request.arrived, -adaptive.NEVER
        try:
            return super().choose(request, views, waiting, now)
        finally:
            request.arrived = arrived


def test_no_request_waits_longer_than_its_work_takes_at_a_free_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    pick, declined = adaptive.pick, []

    def watched(rows: Any, demand: Demand, counts: Any, tried: Any, waiting: int, draw: Any) -> Any:
        decision = pick(rows, demand, counts, tried, waiting, draw)
        if decision is FULL:
            _, free, _ = adaptive._times(rows, demand, counts, tried, waiting)
            if free:
                declined.append((demand.waited, min(free)[0]))
        return decision

    monkeypatch.setattr(adaptive, "pick", watched)
    run(BY_NAME["F9"], load=0.6, requests=800)
    assert len(declined) > 50
    assert all(waited < at_once for waited, at_once in declined)


def test_waiting_leaves_prefixes_to_clients_that_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """On llama.cpp, whose slots each keep one prefix, a request that waits replaces that of another client."""
    served, _, slowest, cached, _ = few_clients.figures("adaptive", 1)
    monkeypatch.setattr(adaptive, "REPLACED", 0.0)
    served_before, _, slowest_before, cached_before, _ = few_clients.figures("adaptive", 1)
    assert served > 1.05 * served_before
    assert slowest < 1.05 * slowest_before
    assert cached > cached_before + 0.03


@pytest.mark.parametrize("fleet", ["F1", "F9"])
def test_waiting_is_better_than_sending_at_once(fleet: str) -> None:
    """A fast endpoint among slow ones: the slow-server problem (Lin and Kumar, 1984)."""
    patient, at_once = (
        geometric_mean([Run(BY_NAME[fleet], of(seed), "adaptive", 0.6, 800).run().p95() for seed in range(2)])
        for of in (Adaptive, Impatient)
    )
    assert patient < at_once
