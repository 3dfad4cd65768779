"""A request that waits for a better endpoint never loses more than the work at the free endpoint takes."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.registry.schema import Speeds
from gateway.routing import adaptive
from gateway.routing.balancer import FULL
from gateway.routing.expected_time import Demand, Row

LOOK = 0.05  # seconds between two looks at the queue


@dataclass
class Endpoint:
    id: str
    slots: int | None
    in_flight: int
    rank: int = 0
    tier: int = 1
    trial_due: float = 0.0
    pending: int = 0
    recent_prompt: float = 0.0


def alone(of: Row[Endpoint], demand: Demand) -> float:
    return of.parameters.duration(demand.prompt, demand.output, 1)


speeds = st.builds(
    Speeds,
    setup=st.floats(0.0, 1.0),
    read=st.floats(0.0, 0.005),
    write=st.floats(0.001, 0.1),
    share=st.floats(0.0, 0.02),
    completions=st.just(256),
)


@given(st.lists(speeds, min_size=1, max_size=4), speeds, st.integers(1, 3), st.floats(10, 4000), st.floats(1, 300))
def test_the_wait_ends_when_it_has_taken_as_long_as_the_free_endpoint(free, full, slots, prompt, output):
    """The worst case: the endpoint that it waits for never becomes free. `free`: speeds of idle endpoints."""
    rows = [adaptive.row(Endpoint(f"free{number}", 1, 0), of, "ollama") for number, of in enumerate(free)]
    rows.append(adaptive.row(Endpoint("full", slots, slots), full, "ollama"))
    demand = Demand(prompt, output)
    at_once = min(alone(of, demand) for of in rows[:-1])
    waited = 0.0
    while adaptive.pick(rows, demand._replace(waited=waited)) is FULL:
        waited += LOOK
        assert waited < at_once + LOOK
    decision = adaptive.pick(rows, demand._replace(waited=waited), draw=lambda: 0.0)
    assert decision is not None
    assert decision.endpoint_id.startswith("free")
    assert waited + at_once <= 2 * at_once + LOOK


@given(st.lists(speeds, min_size=1, max_size=4), speeds, st.integers(1, 3), st.integers(0, 50))
def test_it_only_waits_for_an_earlier_end(free, full, slots, waiting):
    """Its expected end at the full endpoint, with the wait, is before that at the free ones."""
    rows = [adaptive.row(Endpoint(f"free{number}", 1, 0), of, "ollama") for number, of in enumerate(free)]
    last = adaptive.row(Endpoint("full", slots, slots), full, "ollama")
    demand = Demand(1000, 100)
    if adaptive.pick([*rows, last], demand, waiting=waiting) is FULL:
        own = last.parameters.duration(demand.prompt, demand.output, slots)
        assert own < min(alone(of, demand) for of in rows)
