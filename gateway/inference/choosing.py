"""The choice of an endpoint for a request, by the balancer of the setting ROUTERDASH_BALANCER."""

import time
from collections.abc import Collection, Mapping

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.needs import needs_in
from gateway.dialects.openai_requests import Request
from gateway.http.key_permissions import external_refusal, may_use_external, model_refusal, use_of
from gateway.inference.attempt import Attempt
from gateway.inference.limiting.admission import admit
from gateway.inference.limiting.budgeting import expected_tokens
from gateway.inference.request import InferenceRequest
from gateway.model_names.chains import Chain
from gateway.model_names.targets import NO_ROUTES, lacking_reason, lacking_refusal
from gateway.registry.key_rules import AllowedUse
from gateway.routing import adaptive
from gateway.routing.balancer import DECLINED, EXCLUDED, FULL, PINNED, Decision, pick
from gateway.routing.bulk import counts_for_bulk, is_full, leaves_better, load_for_bulk, slots_for_bulk
from gateway.routing.expected_time import BULK_DELAY_WEIGHTS, Demand
from gateway.routing.loaded_models import with_reason
from gateway.routing.routes import LearnedRoutes, Route, Routes, has_free

ENDLESS = float("inf")
NOTHING_KEPT: Mapping[str, float] = {}


def find_routes(request: InferenceRequest, body: Body) -> Routes:
    """Return the routes of the model that can serve the request, in any state. Raises Refusal.

    A request with a model name has none: each step of it has its own.
    """
    roster, kind = request.services.roster, request.api.kind
    routes = NO_ROUTES
    if request.chain is None and not (routes := roster.routes(request.parsed.model)):
        request.begin_chain(request.parsed)  # the lookup may have found a new model name
    use = use_of(request.exchange)
    if use is not None:
        _check_use(request, use)
    if request.chain is not None:
        if request.chain.plan.has_lacking(roster):
            request.chain.parsed = _with_needs(request.chain.parsed, kind, body)
        request.chain.start(request.preferred)
        return NO_ROUTES
    if routes.lacking:
        request.parsed = _with_needs(request.parsed, kind, body)
    if not (able := _able_routes(request, routes)):
        raise _refusal(request, routes)
    return _pinned(request.preferred, able)


def _with_needs(parsed: Request, kind: Kind, body: Body) -> Request:
    needs = needs_in(kind, body)
    return msgspec.structs.replace(parsed, needs=needs) if needs else parsed


def _able_routes(request: InferenceRequest, routes: Routes) -> Routes:
    """Return those routes of the model that can serve the request and that its API key may use, in any state."""
    return _permitted(request, routes.capable(request.api.kind.capability)).having(request.parsed.needs)


def _permitted(request: InferenceRequest, routes: Routes) -> Routes:
    exchange = request.exchange
    return routes.permitted(use_of(exchange), external=may_use_external(exchange), through_name=False)


def _refusal(request: InferenceRequest, routes: Routes) -> Refusal:
    """Return the refusal of a request that none of the routes can serve."""
    model, kind = request.parsed.model, request.api.kind
    if not routes:
        message = f"The model {model!r} does not exist; GET /v1/models lists the models."
        return Refusal(404, errors.MODEL_NOT_FOUND, message, param="model")
    capable = routes.capable(kind.capability)
    if not capable:
        return Refusal(
            400,
            errors.MODEL_NOT_CAPABLE,
            f"The model {model!r} cannot be used for {kind.path}, which requires the capability "
            f"{kind.capability}; GET /v1/models lists the capabilities of each.",
            param="model",
        )
    permitted = _permitted(request, capable)
    if not permitted:
        return _permission_refusal(request, capable)
    return lacking_refusal(model, lacking_reason(permitted, request.parsed.needs))


def _permission_refusal(request: InferenceRequest, capable: Routes) -> Refusal:
    """Return the refusal of a request whose API key may not use any of the routes."""
    if may_use_external(request.exchange) or capable.internal:
        return model_refusal(request.model)
    return external_refusal(request.exchange, request.model)


def current_routes(request: InferenceRequest) -> Routes:
    """Return the routes of the current version, which may be none."""
    if request.chain is not None:
        return NO_ROUTES
    return _pinned(request.preferred, _able_routes(request, request.services.roster.routes(request.parsed.model)))


def lost_permission(request: InferenceRequest) -> Refusal | None:
    """Return the refusal of a request whose API key may not use any endpoint of the model any more."""
    if request.chain is not None:
        return request.chain.lost_permission()
    capable = request.services.roster.routes(request.parsed.model).capable(request.api.kind.capability)
    return _permission_refusal(request, capable) if capable and not _permitted(request, capable) else None


def _check_use(request: InferenceRequest, use: AllowedUse) -> None:
    """Check the kind of a request and the model that it asks for. Raises Refusal (403)."""
    kind, model = request.api.kind, request.parsed.model
    if not request.parsed.models and use.allows_request(kind.name, model):
        return
    if not use.allows_kind(kind.name):
        message = f"This API key may not send requests to {kind.path}."
        raise Refusal(403, errors.KIND_NOT_ALLOWED, message)
    if not (request.parsed.models or use.allows_name(model)):  # of several, those that are not allowed are skipped
        raise model_refusal(model)


def _pinned(preferred: Decision | None, routes: Routes) -> Routes:
    if preferred is None or preferred.reason != PINNED:
        return routes
    return Routes(route for route in routes if route.endpoint.id == preferred.endpoint_id)


def choose(
    request: InferenceRequest, routes: Routes, tried: Collection[str], *, patient: bool = True
) -> Decision | None:
    """Choose an endpoint, take a slot of it, and begin an attempt. FULL and None mean the same as in `pick`; HELD and
    OVER the same as in `admit`.

    The result is DECLINED if the request had better wait for a full endpoint although another one is free. Without
    `patient` it takes the free one.
    """
    if request.chain is not None:
        return _choose_in_step(request, request.chain, patient=patient)
    return _choose_able(request, routes, tried, patient=patient)


def _choose_in_step(request: InferenceRequest, chain: Chain, *, patient: bool) -> Decision | None:
    """Choose among the endpoints of the current step of a model name: of the drawn target, then of the others.

    A step whose circuit breakers are all open is left, if the request may go on to another one.
    """
    targets = chain.targets()
    if chain.is_unavailable(targets):
        return None
    best: Decision | None = None
    for leaf, routes in targets:
        if leaf is not chain.leaf:  # what is expected of the request is expected of another model
            chain.leaf, request.demand = leaf, None
            request.prefix = chain.scoped_prefix(request.services.affinity, leaf.model) if len(routes) > 1 else None
        decision = _choose_able(request, routes, chain.endpoints_tried(routes), patient=patient)
        if decision is not None and decision is not FULL:
            return decision
        best = best or decision
    return best


def _choose_least(
    request: InferenceRequest, routes: Routes, tried: Collection[str], *, patient: bool = True
) -> Decision | None:
    """Choose the endpoint with the fewest requests. `patient` is for the other policy."""
    services = request.services
    decision = None
    if request.preferred is not None:
        decision = _choose_preferred(request, request.preferred, routes, tried)
    if decision is None:
        if request.gives_way:
            decision = _pick_for_bulk(request, routes, tried)
        else:
            decision = pick(routes.endpoints, services.roster.load, tried)
    if decision is None or not decision.endpoint_id:
        return decision
    return _enter(request, routes.by_id[decision.endpoint_id], decision)


def _choose_able(
    request: InferenceRequest, routes: Routes, tried: Collection[str], *, patient: bool
) -> Decision | None:
    """Choose an endpoint that has the kind of the request; only if there is none, one that has lacked it lately."""
    choose_any = _choose_adaptively if request.services.is_adaptive else _choose_least
    for avoided in endpoints_avoided(request, routes, tried):
        decision = choose_any(request, routes, avoided, patient=patient)
        if decision is not None:
            return decision
    return None


def endpoints_avoided(request: InferenceRequest, routes: Routes, tried: Collection[str]) -> list[Collection[str]]:
    """Return the ids of the endpoints that a request should not go to: in the best case, then if none is left.

    Besides those that were tried, these have lacked the kind of the request lately. Where a provider said so, it stays.
    """
    unable = request.services.roster.aside.unable.get(request.api.kind.name)
    if not unable or routes.by_id.keys().isdisjoint(unable):
        return [tried]
    return [{*tried, *unable}, {*tried, *(name for name, by_provider in unable.items() if by_provider)}]


def _pick_for_bulk(request: InferenceRequest, routes: Routes, tried: Collection[str]) -> Decision | None:
    services = request.services
    load = services.roster.load
    decision = pick(routes.endpoints, load_for_bulk(load, services.queued.wanted), tried)
    return FULL if decision is not None and leaves_better(decision, routes.endpoints, load, tried) else decision


def _enter(request: InferenceRequest, route: Route, decision: Decision) -> Decision:
    """Take a slot of the endpoint, and create an attempt. Return FULL if no slot is free.

    HELD or OVER: the request may not use one now, because of a limit of its API key, its user or everyone.
    """
    endpoint = route.endpoint
    if not request.services.roster.take(endpoint, slots_for_bulk(endpoint) if request.gives_way else None):
        return FULL
    limited = request.limited
    if limited is not None and (over := admit(request, limited, route)) is not None:
        endpoint.leave()
        return over
    begin_attempt(request, route, decision)
    return decision


def begin_attempt(request: InferenceRequest, route: Route, decision: Decision) -> None:
    """Begin an attempt at an endpoint that counts the request already. With an open circuit breaker it is a trial."""
    trial = route.endpoint.breaker.due is not None
    request.attempt = Attempt(route, decision, trial=trial)
    if trial:
        route.endpoint.begin_trial()


def _choose_preferred(
    request: InferenceRequest, preferred: Decision, routes: Routes, tried: Collection[str]
) -> Decision | None:
    """Choose the endpoint that stores the previous response, or the pinned one, if it is available."""
    route = routes.by_id.get(preferred.endpoint_id)
    if route is None or route.endpoint.rank >= EXCLUDED or preferred.endpoint_id in tried:
        return None
    if request.gives_way:
        roster = request.services.roster
        if is_full(route.endpoint, roster.load(route.endpoint), request.services.queued.wanted):
            return FULL
    return preferred


# The adaptive policy


def _choose_adaptively(
    request: InferenceRequest, routes: Routes, tried: Collection[str], *, patient: bool
) -> Decision | None:
    services, kind = request.services, request.api.kind.name
    known = routes.learned.get(kind)
    if known is None or known.version != services.roster.learned_version:
        known = services.learned.routes(routes, kind)
    decision = None
    if request.preferred is not None:
        decision = _choose_preferred(request, request.preferred, routes, tried)
    demand = request.demand
    if demand is None:
        demand = request.demand = demand_of(request, routes, known)
    if decision is None:
        decision = _pick_adaptively(request, known, demand, tried, patient=patient)
    if decision is None or not decision.endpoint_id:
        return decision
    decision = _enter(request, routes.by_id[decision.endpoint_id], decision)
    if decision.endpoint_id:
        attempt = request.attempt
        assert attempt is not None
        _count_work(request, attempt, known, demand, decision)
    return decision


def demand_of(request: InferenceRequest, routes: Routes, known: LearnedRoutes) -> Demand:
    """Return what the request is expected to need. It stays the same for all attempts."""
    prompt, output, typical = expected_tokens(request)
    kept = NOTHING_KEPT if request.prefix is None else _kept_tokens(request, routes, known, prompt)
    return Demand(prompt, output, kept, typical=typical)


def _count_work(
    request: InferenceRequest, attempt: Attempt, known: LearnedRoutes, demand: Demand, decision: Decision
) -> None:
    """Count the prompt of an attempt as sent, and note where it begins to be kept, and which model is loaded."""
    services, prefix, endpoint = request.services, request.prefix, attempt.endpoint
    if known.has_loads:
        services.learned.loaded_models.chose(decision, known.by_id, known.engines)
    if known.engines and (reported := known.engines.get(endpoint.id)) is not None:
        engine, model, seconds = reported
        attempt.load = services.learned.loaded_models.sent(endpoint.id, engine, model, seconds)
    row = known.by_id[endpoint.id]
    prompt = int(demand.prompt)
    if prefix is None or services.affinity is None:
        attempt.begin(services.learned, row, prompt, demand.output)
    else:
        attempt.kept = min(prompt, int(demand.kept.get(endpoint.id, 0.0)))
        attempt.begin(services.learned, row, prompt, demand.output, *_prefix_at(request, endpoint.id, prompt))
        services.affinity.store(prefix, endpoint)


def _kept_tokens(request: InferenceRequest, routes: Routes, known: LearnedRoutes, prompt: float) -> Mapping[str, float]:
    """Return the prompt tokens that each endpoint is expected to have in its prefix cache, by the endpoint's id.

    `prompt`: the tokens of the whole prompt. Of a prefix that an endpoint should have, the share is expected that was
    cached of earlier ones of this age.
    """
    affinity, prefix = request.services.affinity, request.prefix
    if affinity is None or prefix is None:
        return NOTHING_KEPT
    prints = affinity.find(prefix, routes)
    if not prints:
        return NOTHING_KEPT
    by_id = known.kept
    return {
        endpoint_id: _tokens(request, kept.size, prompt) * by_id[endpoint_id][kept.age]
        for endpoint_id, kept in prints.items()
        if endpoint_id in by_id
    }


def _prefix_at(request: InferenceRequest, endpoint_id: str, prompt: float) -> tuple[int, int]:
    """Return the prompt tokens that were sent to an endpoint before, and their age (0 to 3)."""
    kept = None if request.prefix is None else request.prefix.kept.get(endpoint_id)
    if kept is None:
        return 0, 0
    return int(_tokens(request, kept.size, prompt)), kept.age


def _tokens(request: InferenceRequest, size: int, prompt: float) -> float:
    """Return the tokens of the first `size` bytes of a body, whose whole prompt has `prompt` tokens."""
    tokens = size * prompt / (request.exchange.size or 1)
    return tokens if tokens < prompt else prompt


def _pick_adaptively(
    request: InferenceRequest, known: LearnedRoutes, demand: Demand, tried: Collection[str], *, patient: bool
) -> Decision | None:
    services = request.services
    counts = services.learned.counts
    if request.gives_way:
        counts = counts_for_bulk(counts or services.learned.counts_of_all, services.queued.wanted)
        waiting = services.roster.page.waiting
        demand = demand._replace(delay_weights=BULK_DELAY_WEIGHTS)
    elif not services.queue.length and counts is None:
        waiting = 0
    else:
        waiting = services.queued.interactive
    since = request.queued_since
    if since is not None or not patient:
        waited = (request.queue_us or 0) / 1e6 + (0.0 if since is None else time.monotonic() - since)
        demand = demand._replace(waited=waited if patient else ENDLESS)
        waiting -= since is not None  # it does not wait for itself
    decision = adaptive.pick(known.rows, demand, counts, tried, waiting, by_id=known.by_id)
    if known.engines and decision is not None:
        decision = with_reason(decision, known.by_id)
    if decision is FULL and has_free(known.rows, counts, tried):
        return DECLINED
    if request.gives_way and decision is not None:
        endpoints = [row.candidate for row in known.rows]
        if leaves_better(decision, endpoints, services.roster.load, tried):
            return FULL
    return decision
