"""The wait of a request in the queue, for a slot of an endpoint.

With adaptive routing a request may also wait for an endpoint that is full although another is free. It looks again
whenever a request ends, and with each housekeeping. If it has waited for longer than its work would take at the free
endpoint, it goes there (gateway.routing.adaptive.pick).
"""

import time
from collections.abc import Collection

from gateway.base import errors
from gateway.base.limits import QUEUE, Limit
from gateway.inference.choosing import choose, current_routes
from gateway.inference.request import InferenceRequest
from gateway.inference.services import QueuedRequest
from gateway.routing.balancer import FULL, Decision
from gateway.routing.queue import Waiter
from gateway.routing.routes import Routes


class QueueRefusal(Exception):
    """The queue is full, or a request has waited in it for too long."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class _Queued:
    """A request in the queue."""

    def __init__(self, request: InferenceRequest) -> None:
        self.request = request

    def choose(self, tried: Collection[str]) -> Decision | None:
        return choose(self.request, current_routes(self.request), tried)


async def wait_in_queue(request: InferenceRequest, routes: Routes, tried: list[str]) -> Decision | None:
    """Wait for a free slot. Return None if no endpoint is left to wait for. Raises QueueRefusal."""
    services = request.services
    queue = services.queue
    # Requests that can use the same endpoints wait in one line.
    line = f"{request.parsed.model}\n{request.api.kind.capability}\n{request.preferred or ''}"
    if not queue.waits_for(line):
        decision = choose(request, routes, tried)
        if decision is None or decision.endpoint_id:
            return decision
    key = request.key_id or request.exchange.head.peer.ip or ""
    place = services.take_queue_place(key)
    if isinstance(place, Limit):
        if services.is_adaptive and (decision := _choose_at_last(request, tried)) is not FULL:
            return decision
        services.limit_hits.hit(place)
        owner = "" if place is QUEUE else " of this API key"
        raise QueueRefusal(429, errors.QUEUE_FULL, f"Too many requests{owner} wait for an endpoint already.")
    now = time.monotonic()
    until = now + services.config.queue_timeout_secs
    waiter = Waiter[QueuedRequest](_Queued(request), key, line, tried, request.exchange.arrived, until)
    request.queued_at = now
    queue.add(waiter)
    if services.is_adaptive:
        services.serve_queue()  # what others have declined may be good for this request
    try:
        await waiter.wait()
    finally:
        queue.remove(waiter)
        place.settle()
        request.queued_at = None
        request.queue_us = (request.queue_us or 0) + round((time.monotonic() - now) * 1e6)
    decision = waiter.decision
    if decision is FULL and services.is_adaptive:
        decision = _choose_at_last(request, tried)
    if decision is FULL:
        raise QueueRefusal(503, errors.QUEUE_TIMEOUT, "No endpoint became free in time.")
    return decision


def _choose_at_last(request: InferenceRequest, tried: Collection[str]) -> Decision | None:
    """Choose an endpoint for a request that cannot wait for a better one any more. FULL if none is free."""
    return choose(request, current_routes(request), tried, patient=False)
