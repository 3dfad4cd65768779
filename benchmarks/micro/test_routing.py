"""The choice of an endpoint: the goals are 3 µs among 10 candidates and 10 µs among 100 (docs/architecture/routing)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.registry.schema import Speeds
from gateway.routing import adaptive, balancer
from gateway.routing.adaptive import Demand

Benchmark = Callable[..., Any]  # pytest-benchmark's fixture


@dataclass(slots=True, eq=False)
class Candidate:
    id: str
    in_flight: int
    pending: int = 0
    recent_prompt: float = 0.0
    rank: int = 0
    tier: int = 1
    slots: int | None = None
    trial_due: float = 0.0


def candidates(number: int) -> list[Candidate]:
    return [Candidate(f"01890a5d-ac96-774b-bcce-b302099a8{at:03d}", at % 7, 100 * (at % 5)) for at in range(number)]


def speeds(at: int) -> Speeds:
    return Speeds(0.01, 0.0002 * (1 + at % 3), 0.01 * (1 + at % 4), 0.001, 256)


@pytest.mark.parametrize("number", [1, 4, 10, 24, 100])
def test_pick_adaptively(benchmark: Benchmark, number: int) -> None:
    found = candidates(number)
    rows = [adaptive.row(one, speeds(at), "vllm") for at, one in enumerate(found)]
    demand = Demand(800, 200.0, {one.id: 300.0 for one in found[:2]})
    assert benchmark(adaptive.pick, rows, demand) is not None


@pytest.mark.parametrize("number", [1, 4, 10, 24, 100])
def test_pick_the_least_in_flight(benchmark: Benchmark, number: int) -> None:
    found = candidates(number)
    assert benchmark(balancer.pick, found, lambda one: one.in_flight) is not None


@pytest.mark.parametrize("number", [2, 10])
def test_costs_for_the_record(benchmark: Benchmark, number: int) -> None:
    """The costs of a decision in the form of the record, for up to eight endpoints."""
    rows = [adaptive.row(one, speeds(at), "vllm") for at, one in enumerate(candidates(number))]
    decision = adaptive.pick(rows, Demand(800, 200.0))
    assert decision is not None
    assert len(benchmark(balancer.recorded_costs, decision)) == min(number, 8)
