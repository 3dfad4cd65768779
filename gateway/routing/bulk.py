"""Endpoints as bulk requests see them: without the slots that they leave to interactive requests.

They leave the last free slot of each endpoint, and all of those that an interactive request waits for. Where there is
just one slot, they may use it.
"""

from collections.abc import Callable, Collection, Iterable

from gateway.ipc.live_page import wanted_bit
from gateway.routing.adaptive import NO_LIMIT
from gateway.routing.balancer import Decision
from gateway.routing.endpoint import Endpoint


def slots_for_bulk(endpoint: Endpoint) -> int | None:
    """Return the requests in flight up to which an endpoint takes bulk requests; None is unlimited."""
    slots = endpoint.slots
    return slots if slots is None or slots == 1 else slots - 1


def is_full(endpoint: Endpoint, in_flight: int, wanted: int) -> bool:
    """Return True if an endpoint has no slot for a bulk request. `wanted`: see QueuedRequests.wanted."""
    slots = slots_for_bulk(endpoint)
    return bool(wanted & wanted_bit(endpoint.facts.slot)) or (slots is not None and in_flight >= slots)


def load_for_bulk(load: Callable[[Endpoint], int], wanted: int) -> Callable[[Endpoint], int]:
    """Return the function for the requests in flight. Endpoints without a slot for bulk requests count as full."""

    def seen(endpoint: Endpoint) -> int:
        in_flight = load(endpoint)
        return max(in_flight, endpoint.slots or NO_LIMIT) if is_full(endpoint, in_flight, wanted) else in_flight

    return seen


def counts_for_bulk(
    counts: Callable[[Endpoint], tuple[int, int]], wanted: int
) -> Callable[[Endpoint], tuple[int, int]]:
    """Return the same for the requests in flight and the pending prompt tokens."""

    def seen(endpoint: Endpoint) -> tuple[int, int]:
        in_flight, pending = counts(endpoint)
        if is_full(endpoint, in_flight, wanted):
            return max(in_flight, endpoint.slots or NO_LIMIT), pending
        return in_flight, pending

    return seen


def leaves_better(
    decision: Decision, endpoints: Iterable[Endpoint], load: Callable[[Endpoint], int], tried: Collection[str]
) -> bool:
    """Return True if a bulk request was given an endpoint although one of a better rank has a free slot.

    It left that slot to interactive requests. It can wait for another one, so it need not use a worse tier.
    """
    endpoints = list(endpoints)
    rank = next((endpoint.rank for endpoint in endpoints if endpoint.id == decision.endpoint_id), 0)
    return any(
        endpoint.rank < rank
        and endpoint.slots is not None
        and endpoint.id not in tried
        and load(endpoint) < endpoint.slots
        for endpoint in endpoints
    )
