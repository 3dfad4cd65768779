"""Where a request for a model would go now, by the balancer of the gateways. Needs the running installation."""

import time

from django.conf import settings

from gateway.base.config import ADAPTIVE
from metrics.memory.runtime import runtime
from metrics.queries.routing import routing_preview
from metrics.queries.routing.adaptive_preview import PreviewLoad, adaptive_payload, demand_of
from metrics.queries.routing.routing_preview import RoutePayload


def current_route(
    model: str, kind: str, prompt_tokens: int | None = None, output_tokens: int | None = None
) -> RoutePayload | None:
    """Return the payload of /api/route; None if nothing is published or no endpoint has the model.

    `prompt_tokens`, `output_tokens`: what adaptive routing expects of the request; None: what it would by default.
    """
    state = runtime.installation
    routes = state.routes(model)
    if not routes:
        return None
    candidates = routing_preview.candidates(
        routes, kind, state.in_flight(), state.trials(), time.time(), state.pending()
    )
    if settings.ROUTERDASH.balancer != ADAPTIVE:
        return routing_preview.route_payload(model, kind, candidates)
    learned = {it.id: state.speeds(it.id, it.model.id, kind) for it in candidates}
    load = PreviewLoad({key: speeds for key, speeds in learned.items() if speeds is not None}, state.waiting())
    demand = demand_of(kind, state.lengths(model, None), prompt_tokens, output_tokens)
    return adaptive_payload(model, kind, candidates, load, demand)
