"""The choice of an endpoint for a request, by the balancer of the setting ROUTERDASH_BALANCER."""

import time
from collections.abc import Collection, Mapping
from math import floor

import msgspec

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.needs import needs_in
from gateway.dialects.openai_requests import Request
from gateway.inference.attempt import Attempt
from gateway.inference.limiting.admission import admit
from gateway.inference.limiting.budgeting import expected_lengths, expected_tokens
from gateway.inference.request import NO_STAY, InferenceRequest
from gateway.inference.steps.chains import Chain
from gateway.inference.steps.named_models import begin_chain
from gateway.inference.steps.targets import (
    NO_ROUTES,
    external_refusal,
    lacking_reason,
    lacking_refusal,
    may_use_external,
    model_refusal,
    use_of,
)
from gateway.registry.key_rules import AllowedUse
from gateway.routing import adaptive
from gateway.routing.adaptive import BULK_HARM, HARM, Demand, Row, among_free
from gateway.routing.balancer import DECLINED, EXCLUDED, FULL, OPEN, PINNED, Decision, pick
from gateway.routing.bulk import counts_for_bulk, is_full, leaves_better, load_for_bulk, slots_for_bulk
from gateway.routing.endpoint import Endpoint
from gateway.routing.loaded_models import with_reason
from gateway.routing.pairs import among_two
from gateway.routing.routes import LearnedRoutes, Route, Routes, has_free

ENDLESS = float("inf")
NOTHING_KEPT: Mapping[str, float] = {}
_new = tuple.__new__


def find_routes(request: InferenceRequest, body: Body) -> Routes:
    """Return the routes of the model that can serve the request, in any state. Raises Refusal.

    A request with a model name has none: each step of it has its own.
    """
    model, kind = request.parsed.model, request.api.kind
    routes = NO_ROUTES
    if request.chain is None and not (routes := request.services.roster.routes(model)):
        begin_chain(request, request.parsed)  # the lookup may have found a new model name
    use = use_of(request.exchange)
    if use is not None:
        _check_use(request, use)
    if request.chain is not None:
        if request.chain.plan.has_lacking(request.services.roster):
            request.chain.parsed = _with_needs(request.chain.parsed, kind, body)
        request.chain.start(request.preferred)
        return NO_ROUTES
    if not routes:
        message = f"The model {model!r} does not exist; GET /v1/models lists the models."
        raise Refusal(404, errors.MODEL_NOT_FOUND, message, param="model")
    capable = routes.capable(kind.capability)
    if not capable:
        raise Refusal(
            400,
            errors.MODEL_NOT_CAPABLE,
            f"The model {model!r} cannot be used for {kind.path}, which requires the capability "
            f"{kind.capability}; GET /v1/models lists the capabilities of each.",
            param="model",
        )
    if capable.has_external or use is not None:
        capable = _permitted(request, capable, use)
    if capable.lacking:
        request.parsed = _with_needs(request.parsed, kind, body)
        if not (able := capable.having(request.parsed.needs)):
            raise lacking_refusal(model, lacking_reason(capable, request.parsed.needs))
        capable = able
    return capable if request.preferred is None else _pinned(request.preferred, capable)


def _with_needs(parsed: Request, kind: Kind, body: Body) -> Request:
    needs = needs_in(kind, body)
    return msgspec.structs.replace(parsed, needs=needs) if needs else parsed


def current_routes(request: InferenceRequest) -> Routes:
    """Return the routes of the current version, which may be none."""
    if request.chain is not None:
        return NO_ROUTES
    capable = request.services.roster.routes(request.parsed.model).capable(request.api.kind.capability)
    if capable.has_external and not may_use_external(request.exchange):
        capable = capable.internal
    if (use := use_of(request.exchange)) is not None:
        capable = capable.allowed(use, through_name=False)
    if request.parsed.needs:
        capable = capable.having(request.parsed.needs)
    return capable if request.preferred is None else _pinned(request.preferred, capable)


def lost_permission(request: InferenceRequest) -> Refusal | None:
    """Return the refusal of a request whose API key may not use any endpoint of the model any more."""
    if request.chain is not None:
        return request.chain.lost_permission()
    capable = request.services.roster.routes(request.parsed.model).capable(request.api.kind.capability)
    try:
        if capable:
            _permitted(request, capable, use_of(request.exchange))
    except Refusal as refusal:
        return refusal
    return None


def _permitted(request: InferenceRequest, routes: Routes, use: AllowedUse | None) -> Routes:
    """Return the routes that the API key may use. Raises Refusal (403) if there are none."""
    if routes.has_external and not may_use_external(request.exchange) and not (routes := routes.internal):
        raise external_refusal(request.exchange, request.model)
    if use is not None and not (routes := routes.allowed(use, through_name=False)):
        raise model_refusal(request.model)
    return routes


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


def _pinned(preferred: Decision, routes: Routes) -> Routes:
    if preferred.reason != PINNED:
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
    services = request.services
    unable = services.roster.aside.unable
    if unable and request.api.kind.name in unable:
        return _choose_able(request, routes, tried, patient=patient)
    if not services.is_adaptive:
        return _choose_least(request, routes, tried)
    if patient and not tried and request.stay is NO_STAY and request.prefix is None and request.preferred is None:
        decision = _choose_at_once(request, routes)
        if decision is not None:
            return decision
    return _choose_adaptively(request, routes, tried, patient=patient)


def _choose_in_step(request: InferenceRequest, chain: Chain, *, patient: bool) -> Decision | None:
    """Choose among the endpoints of the current step of a model name: of the drawn target, then of the others.

    A step whose circuit breakers are all open is left, if the request may go on to another one.
    """
    targets = chain.targets()
    is_usual = targets and targets[0].routes.endpoints[0].rank < OPEN and chain.failed is None
    if not is_usual and chain.is_unavailable(targets):
        return None
    found: Decision | None = None
    for leaf, routes in targets:
        if leaf is not chain.leaf:  # what is expected of the request is expected of another model
            chain.leaf, request.demand = leaf, None
            request.prefix = chain.scoped_prefix(leaf.model) if len(routes) > 1 else None
        tried = () if chain.failed is None else chain.endpoints_tried(routes)
        decision = _choose_able(request, routes, tried, patient=patient)
        if decision is not None and decision is not FULL:
            return decision
        found = found or decision
    return found


def _choose_least(
    request: InferenceRequest, routes: Routes, tried: Collection[str], *, patient: bool = True
) -> Decision | None:
    """Choose the endpoint with the fewest requests. `patient` is for the other policy."""
    services = request.services
    decision = None
    if request.preferred is not None:
        decision = _choose_preferred(request, request.preferred, routes, tried)
    if decision is None:
        if request.stay.gives_way:
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
    unable = request.services.roster.aside.unable.get(request.api.kind.name)
    if unable and not routes.by_id.keys().isdisjoint(unable):
        decision = choose_any(request, routes, {*tried, *unable}, patient=patient)
        if decision is not None:
            return decision
        tried = {*tried, *(name for name, by_provider in unable.items() if by_provider)}
    return choose_any(request, routes, tried, patient=patient)


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
    if endpoint.slots is None:
        endpoint.enter()
    elif not _take(request, endpoint):
        return FULL
    limited = request.limited
    if limited is not None and (over := admit(request, limited, route)) is not None:
        endpoint.leave()
        return over
    trial = endpoint.breaker.due is not None
    request.attempt = Attempt(route, decision, trial=trial)
    if trial:
        endpoint.begin_trial()
    return decision


def _take(request: InferenceRequest, endpoint: Endpoint) -> bool:
    """Take a slot of an endpoint that has a limit. Return False if none is free for the request."""
    return request.services.roster.take(endpoint, slots_for_bulk(endpoint) if request.stay.gives_way else None)


def _choose_preferred(
    request: InferenceRequest, preferred: Decision, routes: Routes, tried: Collection[str]
) -> Decision | None:
    """Choose the endpoint that stores the previous response, or the pinned one, if it is available."""
    route = routes.by_id.get(preferred.endpoint_id)
    if route is None or route.endpoint.rank >= EXCLUDED or preferred.endpoint_id in tried:
        return None
    if request.stay.gives_way:
        roster = request.services.roster
        if is_full(route.endpoint, roster.load(route.endpoint), request.services.queued.wanted):
            return FULL
    return preferred


# The adaptive policy


def _choose_at_once(request: InferenceRequest, routes: Routes) -> Decision | None:
    """Choose for a request without prefix, and begin its attempt, if its model has one endpoint or only costs matter.

    Else return None: `_choose_adaptively` decides then. It makes the same choices, but takes more calls for them.
    """
    services = request.services
    learned, kind = services.learned, request.api.kind.name
    known = routes.learned.get(kind)
    if known is None or known.version != services.roster.learned_version:
        known = learned.routes(routes, kind)
    if not known.at_once:
        return None
    exchange, most = request.exchange, request.parsed.max_tokens
    key = exchange.api_key
    output, bytes_per_token = known.lengths.get(None if key is None else key.id) or expected_lengths(request, known)
    if most is not None and most < output:
        output = most + 0.0
    prompt = floor((exchange.length or exchange.body_bytes) / bytes_per_token) or 1  # as `expected_tokens`
    decision = known.only
    if decision is not None:
        if not _is_free(request, known.rows[0].candidate):
            return None
    elif learned.others or not learned.alone:
        return None
    else:
        pair = known.pair
        decision = None if pair is None else among_two(pair, prompt, output)
        if decision is None and (decision := among_free(known.rows, prompt, output, NOTHING_KEPT)) is None:
            return None
    chosen = decision.endpoint_id
    route, row = routes.by_id[chosen], known.by_id[chosen]
    endpoint = route.endpoint
    if endpoint.slots is not None or endpoint.breaker.due is not None or not learned.alone:
        return _begin(request, route, decision, row, prompt, output)
    limited = request.limited
    if limited is not None and (over := admit(request, limited, route, prompt, output)) is not None:
        return over
    work = endpoint.begin_work(row, prompt, output)
    request.attempt = Attempt(route, decision, work, prompt, trial=False)
    return decision


def _begin(
    request: InferenceRequest, route: Route, decision: Decision, row: Row[Endpoint], prompt: int, output: float
) -> Decision:
    """Begin an attempt at an endpoint that may be full or need a trial, or that other processes use. The result is that
    of `_enter`.
    """
    decision = _enter(request, route, decision)
    if decision.endpoint_id:
        assert request.attempt is not None
        request.attempt.begin(request.services.learned, row, prompt, output)
    return decision


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
    elif known.only is not None and not tried and _is_free(request, known.rows[0].candidate):
        decision = known.only
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


def _is_free(request: InferenceRequest, only: Endpoint) -> bool:
    """Return True if the only endpoint of a model can take the request at once, without any comparison."""
    if request.stay.gives_way or only.rank >= OPEN:
        return False
    return only.slots is None or request.services.roster.load(only) < only.slots


def demand_of(request: InferenceRequest, routes: Routes, known: LearnedRoutes) -> Demand:
    """Return what the request is expected to need. It stays the same for all attempts."""
    prompt, output, typical = expected_tokens(request)
    kept = NOTHING_KEPT if request.prefix is None else _kept_tokens(request, routes, known, prompt)
    return _new(Demand, (prompt, output, kept, 0.0, typical, HARM))  # Demand(…) would call a function in between


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
    prompt = int(demand[0])
    if prefix is None or services.affinity is None:
        attempt.begin(services.learned, row, prompt, demand[1])
    else:
        attempt.kept = min(prompt, int(demand[2].get(endpoint.id, 0.0)))
        tokens, age = _prefix_at(request, endpoint.id, prompt)  # not `*`, which makes a list
        attempt.begin(services.learned, row, prompt, demand[1], tokens, age)
        services.affinity.store(prefix, endpoint)


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
    request: InferenceRequest, known: LearnedRoutes, demand: Demand, tried: Collection[str], *, patient: bool
) -> Decision | None:
    services = request.services
    counts = services.learned.counts
    if request.stay is NO_STAY and patient and not known.engines:  # the usual case
        waiting = 0 if counts is None and not services.queue.length else services.queued.interactive
        decision = adaptive.pick(known.rows, demand, counts, tried, waiting, by_id=known.by_id)
        return DECLINED if decision is FULL and has_free(known.rows, counts, tried) else decision
    if request.stay.gives_way:
        counts = counts_for_bulk(counts or services.learned.counts_of_all, services.queued.wanted)
        waiting = services.roster.page.waiting
        demand = demand._replace(harm=BULK_HARM)
    elif not services.queue.length and counts is None:
        waiting = 0
    else:
        waiting = services.queued.interactive
    since = request.stay.since
    if since is not None or not patient:
        waited = (request.stay.us or 0) / 1e6 + (0.0 if since is None else time.monotonic() - since)
        demand = demand._replace(waited=waited if patient else ENDLESS)
        waiting -= since is not None  # it does not wait for itself
    decision = adaptive.pick(known.rows, demand, counts, tried, waiting, by_id=known.by_id)
    if known.engines and decision is not None:
        decision = with_reason(decision, known.by_id)
    if decision is FULL and has_free(known.rows, counts, tried):
        return DECLINED
    if request.stay.gives_way and decision is not None:
        endpoints = [it.candidate for it in known.rows]
        if leaves_better(decision, endpoints, services.roster.load, tried):
            return FULL
    return decision
