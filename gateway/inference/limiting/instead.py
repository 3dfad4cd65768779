"""Requests of which a budget is spent, and which go to another model name for that."""

from gateway.inference.request import InferenceRequest
from gateway.inference.steps.chains import Chain
from gateway.limits.compiled import LimitedRequest
from gateway.limits.replies import unavailable
from gateway.registry.reader import StoreUnreadable
from gateway.routing.model_names import plan_of_list


def begin_limits(request: InferenceRequest, version: int) -> None:
    """Find the limits and budgets of a request, and the model that it uses by them. Raises Refusal (503).

    `version`: RegistryReader.limits_version. As `find_limits`, with fewer calls.
    """
    limits, key = request.services.limits, request.exchange.api_key
    compiled = None if key is None else limits.compiled.young.get(key.id)
    if compiled is None or compiled.version != version or key is None or compiled.owner_id != key.owner_id:
        try:
            compiled = limits.of(key)
        except StoreUnreadable:
            raise unavailable() from None
    if compiled is not None and (compiled.is_simple or compiled.budgets):
        limited = request.limited = LimitedRequest(compiled, limits.budgets, request.api.kind.anthropic)
        if compiled.with_instead:
            _go_instead(request, limited)


def _go_instead(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Have a request use the other model that a spent budget names. Its record keeps the asked model."""
    for level, subject_id, budget in limited.compiled.with_instead:
        name = budget.instead
        if name is not None and limited.budgets.is_spent(level, subject_id, budget):
            services = request.services
            plan = plan_of_list([name], services.roster.names)
            places = None if request.chain is None else request.chain.places
            request.chain = Chain(services, request.exchange, request.api.kind, request.parsed, plan, places)
            return
