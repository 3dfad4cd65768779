"""Responses in the background: their tokens count for the request that first receives the whole response.

The request that creates one ends before there are any. gateway/ipc/background_responses.py has those that are open.
"""

from gateway.dialects.openai_requests import Request
from gateway.dialects.usage import Usage
from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
from gateway.ipc.background_responses import Uncounted
from gateway.registry.schema import Model
from gateway.routing.routes import Route

RUNNING = ("queued", "in_progress")  # statuses of a response that is not complete


def note(request: InferenceRequest, attempt: Attempt, response_id: str) -> None:
    """Note that a response, which the request has created, is to be counted when it is complete."""
    model = attempt.route.model
    facts = Uncounted(request.model, model.id, model.canonical)
    request.services.owners.background.add(attempt.endpoint.id, response_id, facts)


def usage_at_creation(
    request: InferenceRequest, attempt: Attempt, response_id: object, status: object, usage: Usage | None
) -> Usage | None:
    """Return the usage of a response that was created in the background, which usually only begins."""
    if usage is not None and usage.output_tokens is not None and status not in RUNNING:
        return usage
    if isinstance(response_id, str):
        note(request, attempt, response_id)
    return None


def claim(request: InferenceRequest, attempt: Attempt, response_id: str) -> bool:
    """Return True if the request is to count the tokens of this response: the first one that has it complete.

    Its record has the model then that the response was asked from.
    """
    facts = request.services.owners.background.claim(attempt.endpoint.id, response_id)
    if facts is None:
        return False
    if attempt.reads_stored:
        request.parsed = Request(facts.model, False, False)
        attempt.route = Route(attempt.endpoint, Model(facts.served, facts.canonical))
    return True
