"""Tools whose types a server refuses: they are left out, once it has shown that it takes the request without them."""

import logging
import time

import msgspec

from gateway.base.types import Body
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.tool_types import refused_types, types_beside_functions, without_tools
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import REFUSED_OPTION
from gateway.routing.endpoint_memory import remember

log = logging.getLogger(__name__)


def without_known(request: InferenceRequest, attempt: Attempt, body: Body) -> Body:
    """Return the body without the tools that the endpoint is known to refuse. Called if there are any."""
    known, kind = attempt.endpoint.memory.refused_tools, request.api.kind.name
    if attempt.translation is not None:
        return body
    now = time.monotonic()
    types = [tool_type for tool_type in types_beside_functions(body, kind) if known.get((kind, tool_type), 0.0) > now]
    return _drop(request, attempt, body, types) if types else body


def without_refused(
    request: InferenceRequest, attempt: Attempt, failure: Failure, body: Body
) -> tuple[bytes, list[str]] | None:
    """Return the body without the tools that this failure refuses, and their types; None for any other failure.

    An endpoint is asked at most twice more: after the second refusal only functions are left.
    """
    if failure.status not in REFUSED_OPTION or attempt.translation is not None:
        return None
    if not request.services.config.drop_refused_tools:
        return None
    types = types_beside_functions(body, request.api.kind.name)
    refused = refused_types(failure.body, types)
    if not refused:
        return None
    if attempt.dropped is not None:
        refused = types
    attempt.error_body = None
    return _drop(request, attempt, body, refused), refused


def learn(request: InferenceRequest, attempt: Attempt, types: list[str]) -> None:
    """Remember that the endpoint refuses tools of these types, but takes the request without them."""
    endpoint, kind = attempt.endpoint, request.api.kind.name
    if new := remember(endpoint.memory.refused_tools, kind, types, time.monotonic()):
        log.info("endpoint %s: it refuses tools of the types %r at %s", endpoint.facts.name, new, kind)


def _drop(request: InferenceRequest, attempt: Attempt, body: Body, types: list[str]) -> bytes:
    if attempt.dropped is None:
        attempt.dropped = Dropped()
    for each in types:
        attempt.dropped.add(f"tools.{each}")
    # The places of fields in a large body are others now.
    request.parsed = msgspec.structs.replace(request.parsed, model_at=None, options_at=None)
    return without_tools(body, types)
