"""Tools whose types a server refuses: they are left out, once it has shown that it takes the request without them.

A client could have an error quote words of its request. What is learned that way holds for ten minutes, and only if the
server refused the request with the tools and accepted it without them.
"""

import logging
import time

import msgspec

from gateway.base.types import Body
from gateway.dialects.anthropic.dropped import Dropped
from gateway.dialects.tool_types import refused_types, types_beside_functions, without_tools
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import REFUSED_OPTION

log = logging.getLogger(__name__)

LEARNED_SECONDS = 600.0
MAX_LEARNED = 100  # types of an endpoint


def without_known(request: InferenceRequest, attempt: Attempt, body: Body) -> Body:
    """Return the body without the tools that the endpoint is known to refuse. Called if there are any."""
    known, kind = attempt.endpoint.memory.refused_tools, request.api.kind.name
    if attempt.translation is not None:
        return body
    now = time.monotonic()
    types = [it for it in types_beside_functions(body, kind) if known.get((kind, it), 0.0) > now]
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


def remember(known: dict[tuple[str, str], float], kind: str, types: list[str], now: float) -> list[str]:
    """Add types to `known`, without those whose time has ended. Return the types that have found a place."""
    for old in [it for it, until in known.items() if until <= now]:
        del known[old]
    new = types[: MAX_LEARNED - len(known)]
    known.update({(kind, it): now + LEARNED_SECONDS for it in new})
    return new


def _drop(request: InferenceRequest, attempt: Attempt, body: Body, types: list[str]) -> bytes:
    if attempt.dropped is None:
        attempt.dropped = Dropped()
    for each in types:
        attempt.dropped.add(f"tools.{each}")
    # The places of fields in a large body are others now.
    request.parsed = msgspec.structs.replace(request.parsed, model_at=None, options_at=None)
    return without_tools(body, types)
