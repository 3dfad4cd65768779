"""Endpoints as bulk requests see them."""

from collections.abc import Callable

import pytest

from gateway.ipc.live_page import wanted_bit
from gateway.routing.adaptive import NO_LIMIT
from gateway.routing.balancer import FULL, Decision, pick
from gateway.routing.bulk import counts_for_bulk, leaves_better, load_for_bulk
from gateway.routing.roster import Roster
from tests.gateway.samples import make_endpoint

Add = Callable[..., None]


@pytest.fixture
def add(roster: Roster, control) -> Add:
    """Publish endpoints by name, each with the given slots."""

    def publish(**slots: int | None) -> None:
        control.publish(
            *(
                make_endpoint(name, "m", slot=number, max_concurrency=count)
                for number, (name, count) in enumerate(slots.items())
            )
        )
        roster.refresh()

    return publish


def load(roster: Roster, **running: int) -> Callable[..., int]:
    return lambda endpoint: running.get(endpoint.id, 0)


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 1), (4, 3)])
def test_the_last_slot_is_left_to_others_unless_it_is_the_only_one(roster, add, slots, most):
    add(a=slots)
    endpoints = list(roster.endpoints.values())
    free = [pick(endpoints, load_for_bulk(load(roster, a=n), 0)) is not FULL for n in range(slots + 1)]
    assert free == [n < most for n in range(slots + 1)]


def test_an_endpoint_that_interactive_requests_wait_for_is_full(roster, add):
    add(a=4, b=4)
    endpoints = list(roster.endpoints.values())
    wanted = wanted_bit(roster.endpoints["a"].facts.slot)
    decision = pick(endpoints, load_for_bulk(load(roster, b=2), wanted))
    assert decision is not None
    assert decision.endpoint_id == "b"
    both = wanted | wanted_bit(roster.endpoints["b"].facts.slot)
    assert pick(endpoints, load_for_bulk(load(roster), both)) is FULL


def test_without_known_slots_there_is_no_limit_but_the_wishes_of_others(roster, add):
    add(a=None)
    endpoint = roster.endpoints["a"]
    assert load_for_bulk(load(roster, a=500), 0)(endpoint) == 500
    assert load_for_bulk(load(roster), wanted_bit(endpoint.facts.slot))(endpoint) == NO_LIMIT


def test_the_counts_of_adaptive_routing_are_alike(roster, add):
    add(a=2)
    endpoint = roster.endpoints["a"]
    seen = counts_for_bulk(lambda endpoint: (endpoint.in_flight, 70), 0)
    counts = []
    for _ in range(3):
        counts.append(seen(endpoint))
        endpoint.enter()
    assert counts == [(0, 70), (2, 70), (2, 70)]


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        (1, True),  # the slot that is left to others
        (2, False),  # full for all
    ],
)
def test_a_bulk_request_does_not_leave_for_a_worse_tier_because_of_a_slot_for_others(roster, add, running, expected):
    add(own=2, cloud=2)
    own, cloud = roster.endpoints["own"], roster.endpoints["cloud"]
    cloud.rank = own.rank + 1
    decision = pick([own, cloud], load_for_bulk(load(roster, own=running), 0))
    assert decision is not None
    assert decision.endpoint_id == "cloud"
    assert leaves_better(decision, [own, cloud], load(roster, own=running), ()) == expected
    assert not leaves_better(decision, [own, cloud], load(roster, own=running), ("own",))
    assert not leaves_better(Decision("own", "", ()), [own, cloud], load(roster), ())
