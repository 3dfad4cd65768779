"""The choice of an endpoint for a request, by the balancer of the setting ROUTERDASH_BALANCER."""

import time
from collections.abc import Collection, Mapping

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
from gateway.routing import adaptive
from gateway.routing.adaptive import Demand
from gateway.routing.balancer import CREATOR, DECLINED, EXCLUDED, FULL, PINNED, Decision, pick
from gateway.routing.learned_routes import NOTHING_KEPT
from gateway.routing.routes import LearnedRoutes, Routes

ENDLESS = float("inf")


def find_routes(request: InferenceRequest) -> Routes:
    """Return the routes of the model that have the capability of the API, in any state. Raises Refusal."""
    model, kind = request.parsed.model, request.api.kind
    routes = request.services.roster.routes(model)
    if not routes:
        message = f"The model {model!r} does not exist; GET /v1/models lists the models."
        raise Refusal(404, errors.MODEL_NOT_FOUND, message, param="model")
    capable = routes.capable[kind.capability]
    if not capable:
        raise Refusal(
            400,
            errors.MODEL_NOT_CAPABLE,
            f"The model {model!r} cannot be used for {kind.path}, which requires the capability "
            f"{kind.capability}; GET /v1/models lists the capabilities of each.",
            param="model",
        )
    return _pinned(request, capable) if request.pinned else capable


def current_routes(request: InferenceRequest) -> Routes:
    """Return the routes of the current version, which may be none."""
    capable = request.services.roster.routes(request.parsed.model).capable[request.api.kind.capability]
    return _pinned(request, capable) if request.pinned else capable


def _pinned(request: InferenceRequest, routes: Routes) -> Routes:
    return Routes(route for route in routes if route.endpoint.id == request.preferred)


def choose(
    request: InferenceRequest, routes: Routes, tried: Collection[str], *, patient: bool = True
) -> Decision | None:
    """Choose an endpoint, take a slot of it, and begin an attempt. FULL and None mean the same as in `pick`.

    The result is DECLINED if the request had better wait for a full endpoint although another one is free. Without
    `patient` it takes the free one.
    """
    services = request.services
    roster = services.roster
    decision = known = None
    if services.is_adaptive:
        known = _learned_routes(request, routes)
    if request.preferred is not None:
        decision = _choose_preferred(request, request.preferred, routes, tried)
    if decision is None:
        if known is not None:
            decision = _pick_adaptively(request, known, tried, patient=patient)
        else:
            decision = pick(routes.endpoints, roster.load, tried)
    if decision is None or not decision.endpoint_id:
        return decision
    route = routes.by_id[decision.endpoint_id]
    endpoint = route.endpoint
    if endpoint.slots is None:
        endpoint.enter()
    elif not roster.take(endpoint):
        return FULL
    trial = endpoint.breaker.due is not None
    request.attempt = attempt = Attempt(route, decision, trial=trial)
    if known is not None:
        _count_work(request, attempt, known)
    if trial:
        endpoint.begin_trial()
    return decision


def _choose_preferred(
    request: InferenceRequest, preferred: str, routes: Routes, tried: Collection[str]
) -> Decision | None:
    """Choose the endpoint that stores the previous response, or the pinned one, if it is available."""
    route = routes.by_id.get(preferred)
    if route is None or route.endpoint.rank >= EXCLUDED or preferred in tried:
        return None
    return Decision(preferred, PINNED if request.pinned else CREATOR, ())


# The adaptive policy


def _learned_routes(request: InferenceRequest, routes: Routes) -> LearnedRoutes:
    """Return what was learned about the routes, after the demand of the request is known."""
    services, kind = request.services, request.api.kind.name
    known = routes.learned.get(kind)
    if known is None or known.version != services.roster.learned_version:
        known = services.learned.routes(routes, kind)
    if request.demand is None:
        request.demand = _demand(request, routes, known)
    return known


def _count_work(request: InferenceRequest, attempt: Attempt, known: LearnedRoutes) -> None:
    """Count the prompt of an attempt as sent, and note where it begins to be kept."""
    services, prefix, endpoint, demand = request.services, request.prefix, attempt.endpoint, request.demand
    assert demand is not None
    if prefix is None or services.affinity is None or not prefix.has_marks:
        attempt.begin(services.learned, known, demand)
    else:
        attempt.begin(services.learned, known, demand, *_prefix_at(request, endpoint.id, demand.prompt))
        services.affinity.store(prefix, endpoint)


def _demand(request: InferenceRequest, routes: Routes, known: LearnedRoutes) -> Demand:
    """Return what the request is expected to need. It stays the same for all attempts."""
    parsed, exchange = request.parsed, request.exchange
    key = exchange.api_key
    demand = request.services.learned.demand(
        parsed.model,
        None if key is None else key.id,
        exchange.length or exchange.body_bytes,
        parsed.max_tokens,
        generates=request.api.kind.generates,
    )
    if request.prefix is None or not request.prefix.has_marks:
        return demand
    return demand._replace(kept=_kept_tokens(request, routes, known, demand.prompt))


def _kept_tokens(request: InferenceRequest, routes: Routes, known: LearnedRoutes, prompt: float) -> Mapping[str, float]:
    """Return the prompt tokens that each endpoint is expected to have in its prefix cache, by the endpoint's id.

    `prompt`: the tokens of the whole prompt. Of a prefix that an endpoint should have, the share is expected that was
    cached of earlier ones of this age.
    """
    affinity, prefix = request.services.affinity, request.prefix
    if affinity is None or prefix is None:
        return NOTHING_KEPT
    found = affinity.find(prefix, routes)
    if not found:
        return NOTHING_KEPT
    by_id = known.kept
    return {
        name: _tokens(request, it.size, prompt) * by_id[name][it.age] for name, it in found.items() if name in by_id
    }


def _prefix_at(request: InferenceRequest, endpoint_id: str, prompt: float) -> tuple[int, int]:
    """Return the prompt tokens that were sent to an endpoint before, and their age (0 to 3)."""
    kept = None if request.prefix is None else request.prefix.found.get(endpoint_id)
    if kept is None:
        return 0, 0
    return int(_tokens(request, kept.size, prompt)), kept.age


def _tokens(request: InferenceRequest, size: int, prompt: float) -> float:
    """Return the tokens of the first `size` bytes of a body, whose whole prompt has `prompt` tokens."""
    tokens = size * prompt / (request.exchange.length or request.exchange.body_bytes or 1)
    return tokens if tokens < prompt else prompt


def _pick_adaptively(
    request: InferenceRequest, known: LearnedRoutes, tried: Collection[str], *, patient: bool
) -> Decision | None:
    services, demand = request.services, request.demand
    assert demand is not None
    if services.learned.alone:
        counts, waiting = None, services.queue.length
    else:
        counts, waiting = services.learned.counts_of_all, services.roster.page.waiting
    since = request.queued_at
    if since is not None or not patient:
        waited = (request.queue_us or 0) / 1e6 + (0.0 if since is None else time.monotonic() - since)
        demand = demand._replace(waited=waited if patient else ENDLESS)
        waiting -= since is not None  # it does not wait for itself
    decision = adaptive.pick(known.rows, demand, counts, tried, waiting, by_id=known.by_id)
    if decision is FULL and adaptive.has_free(known.rows, counts, tried):
        return DECLINED
    return decision
