"""The request to an endpoint: its header block and its body."""

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import CHAT, KINDS, STORED, STORED_RESPONSES
from gateway.base.types import Body, Data
from gateway.dialects.openai_requests import adapt_request, splice, with_usage
from gateway.inference.attempt import Attempt
from gateway.inference.failures.error_bodies import read_error_body
from gateway.inference.headers import endpoint_lines, provider_lines, without
from gateway.inference.request import InferenceRequest
from gateway.providers.bodies import provider_body
from gateway.providers.table import Provider
from gateway.registry.schema import plain_timeout
from gateway.routing.balancer import EXCLUDED
from gateway.routing.endpoint import Endpoint
from gateway.routing.roster import PSEUDONYM
from gateway.routing.routes import Route
from gateway.upstream.connection import Connection

REFUSED_OPTION = (400, 422)  # statuses by which a server refuses a field that it does not know
_KIND_AT = {kind.target: kind.name for kind in KINDS}
_STORED_PATH = STORED_RESPONSES.target


def send(
    request: InferenceRequest,
    attempt: Attempt,
    body: Sequence[Data],
    path: bytes = b"",
    timeout: float | None = None,
) -> Coroutine[Any, Any, Connection]:
    """Send a request; the coroutine returns the connection with the header block of the response.

    It raises UpstreamError or EndpointWithdrawn, and `send` itself EndpointWithdrawn. A request on a stale connection
    is sent again by the pool; that is no attempt of its own.
    """
    endpoint = attempt.endpoint
    if endpoint.rank >= EXCLUDED:
        attempt.check_endpoint()
    header_block = request_header(request, endpoint, path, len(body[0]) if len(body) == 1 else sum(map(len, body)))
    if timeout is None:
        timeout = response_timeout(request, attempt)
    return endpoint.pool.request(header_block, body, timeout, holder=attempt)


def response_timeout(request: InferenceRequest, attempt: Attempt) -> float:
    """Return the seconds within which a stream must begin, or any other response must be complete.

    A plain response comes when all of it is generated, so it may take longer than the first event of a stream. To load
    a model takes longer than to read a prompt.
    """
    seconds = attempt.endpoint.facts.timeout_secs
    if not request.parsed.stream:
        seconds = plain_timeout(seconds, request.services.config.plain_timeout_secs)
    return seconds if attempt.load is None else max(seconds, request.services.config.load_timeout_secs)


async def send_with_usage(
    request: InferenceRequest,
    attempt: Attempt,
    body: Sequence[Data],
    without_usage: Callable[[], Sequence[Data]],
    path: bytes = b"",
) -> Connection:
    """Send a body that asks for usage; send `without_usage()` to a server that refuses the option."""
    connection = await send(request, attempt, body, path)
    if connection.status not in REFUSED_OPTION:
        return connection
    refusal = await read_error_body(request, attempt, connection)
    if b"stream_options" not in refusal and b"include_usage" not in refusal:
        return connection
    # An older server that does not know the option, or one that quotes a bad request in its error: without the
    # option, only the first one succeeds.
    connection = await send(request, attempt, without_usage(), path)
    if 200 <= connection.status < 300:
        attempt.endpoint.memory.refuse_usage(time.monotonic())
    attempt.usage_added, attempt.error_body = False, None
    return connection


def adapted_body(request: InferenceRequest, route: Route, body: Body, *, include_usage: bool) -> Sequence[Data]:
    """Return the body with the endpoint's own name of the model, and with `include_usage` if asked for."""
    parsed = request.parsed
    model = route.model.id if route.model.id != parsed.model else None
    if parsed.model_at is not None and (model is not None or include_usage):
        return splice(body, parsed, model=model, include_usage=include_usage)
    if model is None and include_usage and not parsed.has_options:
        return with_usage(body)
    if model is None and not include_usage:
        return (body,)
    return (adapt_request(body, model=model, include_usage=include_usage),)


def as_endpoint_takes(attempt: Attempt, translated: bytes, kind: str = CHAT) -> bytes:
    """Return a request that was translated to OpenAI's API without what the attempt's endpoint refuses."""
    provider = attempt.endpoint.provider
    if provider is None:
        return translated
    return bytes(provider_body(translated, provider, kind, attempt.route.model.id, has_options=True))


def request_header(request: InferenceRequest, endpoint: Endpoint, path: bytes, length: int | None) -> bytes:
    """Return the header block of a request. `length` of the body in bytes; None: it is sent in chunks."""
    exchange = request.exchange
    target = path or request.target
    if endpoint.provider is None:
        passed = exchange.head.onward
        if endpoint.pool.own_names:
            passed = endpoint_lines(without(exchange.head.headers, endpoint.pool.own_names))
        elif passed is None:
            passed = exchange.head.onward = endpoint_lines(exchange.head.headers)
    else:
        target = provider_target(request, endpoint, endpoint.provider, target)
        translation = None if request.attempt is None else request.attempt.translation
        needed = () if translation is None else translation.headers
        headers = exchange.head.headers
        if endpoint.pool.own_names:
            headers = without(headers, endpoint.pool.own_names)
        passed = provider_lines(headers, endpoint.provider, needed)
    # By Via, a router sees that its own request comes back to it (RFC 9110, section 7.6.3).
    via = b"".join([b"1.1 %b, " % router for router in request.via]) if request.via else b""
    return b"".join((
        exchange.line.method, b" ", endpoint.pool.prefix, target, b" HTTP/1.1\r\n",
        endpoint.fixed_head, passed, b"via: ", via, b"1.1 ", request.services.roster.pseudonym,
        b"\r\nx-request-id: ", request.request_id,
        b"\r\ntransfer-encoding: chunked\r\n\r\n" if length is None else b"\r\ncontent-length: %d\r\n\r\n" % length,
    ))  # fmt: skip


def provider_target(request: InferenceRequest, endpoint: Endpoint, provider: Provider, target: bytes) -> bytes:
    """Return path and query at a cloud provider for a path and a query of OpenAI's or Anthropic's API."""
    path, mark, query = target.partition(b"?")
    kind = _KIND_AT.get(path, STORED)
    model = "" if request.attempt is None else request.attempt.route.model.id
    own = provider.path(kind, model, endpoint.facts.api_version)
    if own is None:  # it gets the request all the same: its 404 shows that it lacks the path
        return target
    if kind == STORED:
        own += path[len(_STORED_PATH) :].decode()
        if provider.dated_paths and endpoint.facts.api_version:
            own += provider.version_query(endpoint.facts.api_version)
    return own.encode() + ((b"&" if "?" in own else mark) + query if query else b"")


def check_loop(request: InferenceRequest) -> None:
    """Refuse a request that an endpoint has sent back to this installation: routers name themselves in Via."""
    headers = request.exchange.head.headers
    entries = [entry.split() for name, via in headers if name == b"via" for entry in via.split(b",")]
    request.via = [words[1] for words in entries if len(words) > 1 and words[1].startswith(PSEUDONYM)]
    if request.services.roster.pseudonym in request.via:
        raise Refusal(508, errors.LOOP_DETECTED, "An endpoint has sent this request back to RouterDash.")
