"""Requests of which a budget is spent, and which go to another model name for that."""

from gateway.inference.request import InferenceRequest
from gateway.limits.compiled import LimitedRequest
from gateway.model_names.plan import plan_of_list


def go_instead(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Have a request use the other model that a spent budget names. Its record keeps the asked model."""
    for level, subject_id, budget in limited.compiled.with_instead:
        name = budget.instead
        if name is not None and limited.budgets.is_spent(level, subject_id, budget):
            roster = request.services.roster
            plan = plan_of_list([name], roster.names, roster)
            places = None if request.chain is None else request.chain.places
            request.go_by(plan, request.parsed, places)
            return
