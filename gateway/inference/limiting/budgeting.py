"""The use that a request reserves from budgets when it gets an endpoint, and its cost at its end."""

import time

from gateway.base.request_kinds import CAN_DRAW
from gateway.inference.request import InferenceRequest
from gateway.ipc.record import RequestRecord
from gateway.limits.budgets import Reserve
from gateway.limits.compiled import LimitedRequest
from gateway.registry.reader import StoreUnreadable
from gateway.routing.routes import Route

MOST_OUTPUT = 131_072  # tokens, if neither the request nor the model limits them


def reserve_budgets(request: InferenceRequest, limited: LimitedRequest, route: Route) -> None:
    """Set the use that a request reserves at an endpoint. Its tokens are expected already."""
    compiled = limited.compiled
    prompt, output = most_tokens(request, route) if compiled.has_hard else (0, 0)
    limited.most = prompt + output
    if compiled.has_money:
        limited.cost = _cost(request, limited, route, prompt, output)


def most_tokens(request: InferenceRequest, route: Route) -> tuple[int, int]:
    """Return the tokens of prompt and output that a request can use at most: no token has less than one byte."""
    exchange, model = request.exchange, route.model
    prompt, output = exchange.length or exchange.body_bytes, 0
    if request.api.kind.generates:
        output = request.parsed.max_tokens or model.max_output_tokens or model.max_tokens or MOST_OUTPUT
        output *= request.parsed.choices
    return prompt, output


def _cost(request: InferenceRequest, limited: LimitedRequest, route: Route, prompt: int, output: int) -> Reserve | None:
    """Return what a request may cost at an endpoint; None: it has no price there, or its currency no rate.

    The images of a request that has a form are not known: it reserves one. The duration of audio is not known either.
    """
    prices, now = request.services.limits.prices, time.time()
    try:
        rows = prices.rows_for(route.model.id or request.model, route.model.canonical, route.endpoint.id)
        output_expected = (limited.reserved or 0) - limited.prompt
        images = request.parsed.choices if request.api.kind.capability == CAN_DRAW else 0
        expected = prices.expected_cost(rows, now, limited.prompt, output_expected, images=images)
        if expected is None:
            return None
        most = prices.most_cost(rows, now, prompt, output, images) if limited.compiled.has_hard else None
    except StoreUnreadable:
        return None
    return Reserve(expected, max(expected, most or 0))


def cost_of(request: InferenceRequest, limited: LimitedRequest, made: RequestRecord) -> int:
    """Return the cost of a finished request, as control computes it from its record; 0: nothing counts it."""
    if not limited.compiled.has_money:
        return 0
    try:
        return request.services.limits.prices.cost_of(made) or 0
    except StoreUnreadable:
        return 0  # control counts it when it folds the record
