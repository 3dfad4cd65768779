"""The wait of a request in the queue, for a slot of an endpoint.

With adaptive routing a request may also wait for an endpoint that is full although another is free. It looks again
whenever a request ends, and with each housekeeping. If it has waited for longer than its work would take at the free
endpoint, it goes there (gateway.routing.adaptive.pick).
"""

import time
from collections.abc import Collection

from gateway.base import causes, errors
from gateway.base.bounds import QUEUE, QUEUE_OF_BULK, QUEUE_OF_KEY, Bound
from gateway.base.errors import Refusal
from gateway.base.queue_class import BULK, BULK_SECONDS, INTERACTIVE, read_class
from gateway.http.key_permissions import permits_of
from gateway.inference.choosing import begin_attempt, choose, current_routes, endpoints_avoided
from gateway.inference.limiting.admission import admit, find_limits, must_wait, refusal_of, stop_waiting
from gateway.inference.limiting.budgeting import reserve
from gateway.inference.request import InferenceRequest
from gateway.inference.services import QueuedRequest
from gateway.ipc.live_page import wanted_bit
from gateway.routing.balancer import EXCLUDED, FULL, HELD, LEAST, ONLY, OPEN, OVER, TRIAL, Decision
from gateway.routing.queue import Waiter
from gateway.routing.routes import Route, Routes

_FULL = {
    QUEUE: causes.QUEUE_FULL,
    QUEUE_OF_KEY: causes.QUEUE_OF_KEY_FULL,
    QUEUE_OF_BULK: causes.QUEUE_OF_BULK_FULL,
}


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

    def choose(self, tried: Collection[str], *, gives_way: bool) -> Decision | None:
        request = self.request
        request.gives_way = gives_way
        if request.limited is None:
            try:
                find_limits(request)  # it may have got them while it waited
            except Refusal:
                return FULL
        decision = choose(request, current_routes(request), tried)
        if decision is not HELD and request.limited is not None:
            stop_waiting(request, request.limited)  # it waits for an endpoint now, if at all
        return decision


def set_class(request: InferenceRequest) -> None:
    """Set the class of a request by its headers and its body. Raises Refusal (400)."""
    key = request.exchange.api_key
    default = BULK if key is not None and key.bulk else INTERACTIVE
    if read_class(request.exchange.head.fields, is_flex=request.parsed.is_flex, default=default) == BULK:
        request.queue_class, request.gives_way = BULK, True


def choose_at_once(request: InferenceRequest, routes: Routes, tried: Collection[str]) -> Decision | None:
    """Choose an endpoint as `choose` does. FULL, too, if others wait in the line of the request."""
    queue = request.services.queue
    if queue.length and queue.waits_for(_line(request), request.client, gives_way=request.gives_way):
        return FULL
    return choose(request, routes, tried)


async def wait_in_queue(request: InferenceRequest, routes: Routes, tried: list[str]) -> Decision | None:
    """Wait for a free slot, as none is free at once. Return None if no endpoint is left to wait for.

    The result is FULL only if the request has waited for as long as the step of its model name allows. Raises
    QueueRefusal, and LimitRefusal.
    """
    if not request.api.kind.needs_slot:
        return choose_without_slot(request, routes, tried)
    services = request.services
    queue, gives_way, key = services.queue, request.gives_way, request.client
    longest = _longest_wait(request)
    if longest is not None and longest <= 0.0:
        return _choose_at_last(request, tried)
    place = services.queue_places.take(key, gives_way=gives_way)
    if isinstance(place, Bound):
        decision = _choose_at_last(request, tried) if services.is_adaptive or longest is not None else FULL
        if decision is not FULL or longest is not None:
            return decision
        services.bound_hits.hit(place)
        raise QueueRefusal(429, errors.QUEUE_FULL, _FULL[place])
    now, arrived = time.monotonic(), request.exchange.arrived
    # The timeout of a bulk request begins when it need not give way any more.
    begins = max(now, arrived + BULK_SECONDS) if gives_way else now
    waiter = Waiter[QueuedRequest](
        _Queued(request),
        key,
        _line(request),
        tried,
        arrived,
        begins + services.config.queue_timeout_secs if longest is None else now + longest,
        gives_way=gives_way,
    )
    request.queued_since = now
    queue.add(waiter, _wanted(request, routes))
    if services.is_adaptive or queue.has_held or request.limited is not None:
        # What others have declined, or may not use, may be good for this request; or its limit has room meanwhile.
        services.serve_queue()
    try:
        await waiter.wait()
    finally:
        queue.remove(waiter)
        place.settle()
        if request.limited is not None:
            stop_waiting(request, request.limited)
        request.queued_since = None
        request.queue_us = (request.queue_us or 0) + round((time.monotonic() - now) * 1e6)
    return _decision_after(request, waiter.decision, tried, longest)


def _line(request: InferenceRequest) -> str:
    """Return the name of the requests that wait for the same endpoints: they wait in one line."""
    chain, preferred = request.chain, "" if request.preferred is None else request.preferred.endpoint_id
    model, permits = request.parsed.model if chain is None else chain.line, permits_of(request.exchange)
    return f"{model}\n{request.api.kind.capability}\n{preferred}\n{permits}"


def _longest_wait(request: InferenceRequest) -> float | None:
    """Return the seconds that the step of a model name lets a request wait; None: as long as the queue does.

    Raises LimitRefusal if a limit refuses the request.
    """
    limited = request.limited
    if limited is not None:
        reserve(request, limited)
        if must_wait(request, limited):
            return None  # no other step would help
    return None if request.chain is None else request.chain.seconds_when_full()


def _decision_after(
    request: InferenceRequest, decision: Decision | None, tried: Collection[str], longest: float | None
) -> Decision | None:
    """Return the decision about a request that has waited, as `wait_in_queue` does. `decision`: of its waiter."""
    limited = request.limited
    if decision is OVER and limited is not None:
        raise refusal_of(limited)
    if decision is FULL and (request.services.is_adaptive or longest is not None):
        decision = _choose_at_last(request, tried)
    if decision is FULL and longest is None:
        if limited is not None and must_wait(request, limited):
            raise refusal_of(limited)
        raise QueueRefusal(503, errors.QUEUE_TIMEOUT, causes.QUEUE_TIMEOUT)
    return decision


def choose_without_slot(request: InferenceRequest, routes: Routes, tried: Collection[str]) -> Decision | None:
    """Choose an endpoint, full or not, and begin an attempt. Return None if none is left to ask."""
    chain = request.chain
    if chain is None:
        return _choose_any(request, routes, tried)
    for target in chain.targets():
        chain.leaf = target.leaf
        decision = _choose_any(request, target.routes, chain.endpoints_tried(target.routes))
        if decision is not None:
            return decision
    return None


def _choose_any(request: InferenceRequest, routes: Routes, tried: Collection[str]) -> Decision | None:
    """Choose the endpoint with the fewest requests, full or not, as `choose_without_slot` does."""
    usable: list[Route] = []
    for avoided in endpoints_avoided(request, routes, tried):
        usable = [each for each in routes if each.endpoint.rank < EXCLUDED and each.endpoint.id not in avoided]
        if usable:
            break
    else:
        return None
    load = request.services.roster.load
    loads = {each.endpoint.id: load(each.endpoint) for each in usable}
    route = min(usable, key=lambda each: (each.endpoint.rank, loads[each.endpoint.id]))
    reason = TRIAL if route.endpoint.rank == OPEN else ONLY if len(usable) == 1 else LEAST
    decision = Decision(route.endpoint.id, reason, tuple(loads.items()))
    if request.limited is not None and admit(request, request.limited) is not None:
        raise refusal_of(request.limited)
    route.endpoint.enter()
    begin_attempt(request, route, decision)
    return decision


def _wanted(request: InferenceRequest, routes: Routes) -> int:
    """Return the endpoints that a request waits for, as in QueuedRequests.wanted."""
    wanted = 0
    if request.chain is not None:
        for target in request.chain.targets():
            for endpoint in target.routes.endpoints:
                wanted |= wanted_bit(endpoint.facts.slot)
        return wanted
    preferred = None if request.preferred is None else routes.by_id.get(request.preferred.endpoint_id)
    for endpoint in routes.endpoints if preferred is None else [preferred.endpoint]:
        wanted |= wanted_bit(endpoint.facts.slot)
    return wanted


def _choose_at_last(request: InferenceRequest, tried: Collection[str]) -> Decision | None:
    """Choose an endpoint for a request that cannot wait for a better one any more. FULL if none is free.

    Raises Refusal if a limit forbids it.
    """
    if request.limited is not None:
        request.limited.yields = False
    decision = choose(request, current_routes(request), tried, patient=False)
    if request.limited is not None and decision in (HELD, OVER):
        raise refusal_of(request.limited)
    return decision
