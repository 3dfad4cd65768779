"""The life of an inference request: choose an endpoint, send, fail over to another one, give up.

A retry uses another endpoint, and takes from the retry budget. Failover is possible until the client has received the
first byte of a response. A client disconnect cancels the request wherever it waits.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from gateway.base import limits
from gateway.base.errors import Refusal
from gateway.base.types import Body
from gateway.dialects.openai_requests import BIG_BYTES, Fields, parse_large, prompt_of, split_large
from gateway.http.exchange import Exchange
from gateway.inference.api import read_prefix
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.choosing import choose, current_routes, find_routes
from gateway.inference.error_responses import end_without_response, read_error, refuse, send_cancelled
from gateway.inference.recording import fail_attempt, finish
from gateway.inference.relaying import relay_binary, relay_stream
from gateway.inference.request import Api, InferenceRequest
from gateway.inference.responding import BIG_RESPONSE_BYTES, respond, respond_big
from gateway.inference.sending import check_loop
from gateway.inference.services import Services
from gateway.inference.waiting import QueueRefusal, wait_in_queue
from gateway.ipc import record
from gateway.routing.balancer import FULL
from gateway.routing.retry_budget import SHARE
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, EndpointWithdrawn, UpstreamError

MAX_ATTEMPTS = 3  # each at another endpoint
MAX_BROKEN = 2  # attempts with a broken connection: a request that crashes servers is not sent to a third one
INTERNAL_ERROR = "an internal error of RouterDash; see its log"


def run(
    services: Services, api: Api, exchange: Exchange, pinned_endpoint: str | None = None
) -> Coroutine[Any, Any, None]:
    """Parse the body of a request; return the coroutine that serves it. Raises Refusal for a bad request."""
    request = InferenceRequest(services, exchange, api)
    if pinned_endpoint is not None:
        request.preferred, request.pinned = pinned_endpoint, True
    if b"via" in exchange.head.fields:
        check_loop(request)
    body = exchange.take_body()
    if len(body) > BIG_BYTES:
        return _serve_big(request, body)
    request.parsed = api.parse(request, body)
    if exchange.line.query:
        request.target += api.query(request)
    if services.stores_bodies:
        request.body = body
    return serve(request, body)


async def _serve_big(request: InferenceRequest, body: Body) -> None:
    """Parse a big body in time slices, and serve its request."""
    services, api = request.services, request.api
    found = await services.time_slices.start_now(split_large(body))
    request.parsed = parse_large(body, found)
    read_prefix(request, request.parsed, prompt_of(body, found), len(body))
    await api.check_big(request, body, None if isinstance(found, Fields) else found)
    del found  # it may hold the buffer of the body
    if request.exchange.line.query:
        request.target += api.query(request)
    if services.stores_bodies:
        request.body = body
    await serve(request, body)


async def serve(request: InferenceRequest, body: Body) -> None:
    """Serve a request whose model is known: try one endpoint after another, until the client has a response."""
    services = request.services
    services.running.add(request)
    tried: list[str] = []
    failures: list[Failure] = []
    try:
        routes = find_routes(request)
        services.retries.balance += SHARE
        while True:
            decision = FULL if services.queue.length else choose(request, routes, tried)
            if decision is not None and not decision.endpoint_id:
                decision = await wait_in_queue(request, routes, tried)
            if decision is None:
                if not services.roster.refresh():
                    break
                routes = current_routes(request)  # the new version may have another endpoint
                continue
            attempt = request.attempt
            assert attempt is not None
            tried.append(attempt.endpoint.id)
            try:
                failure = await _try(request, attempt, body)
            except EndpointWithdrawn:  # nothing was sent: this was no attempt
                request.leave_endpoint()
                tried.pop()
                routes = current_routes(request)
                continue
            if failure is None:
                return
            request.leave_endpoint()
            failures.append(failure)
            if not _may_fail_over(request, failures):
                break
            routes = current_routes(request)
        end_without_response(request, failures)
    except BaseException as error:  # noqa: BLE001  # raised again there
        end_by_error(request, error)
    finally:
        services.running.discard(request)
        if request.attempt is not None and request.attempt.active:
            request.leave_endpoint()


def end_by_error(request: InferenceRequest, error: BaseException) -> None:
    """Record a request that ended without a response of an endpoint.

    Raises `error` again, unless RouterDash cancelled the request or refused it in the queue. Any other CancelledError
    is a client disconnect, or the end of the process.
    """
    if isinstance(error, QueueRefusal):
        finish(request, record.QUEUE, error.status, error=error.message)
        refuse(request, error.status, error.code, error.message, ((b"retry-after", b"1"),))
        return
    if isinstance(error, asyncio.CancelledError):
        if request.cancelled is not None:
            finish(request, record.CANCELLED, request.cancelled.status, error=request.cancelled.error)
            send_cancelled(request, request.cancelled)
            return
        finish(request, record.CANCELLED, 200 if request.exchange.started else 0, error=_cancel_reason(request))
    elif isinstance(error, Exception) and not isinstance(error, Refusal):
        # The application sends the internal error to the client.
        if request.attempt is not None and request.attempt.active:
            fail_attempt(request, request.attempt, Failure(0, b"", [], None, INTERNAL_ERROR))
            request.leave_endpoint()
        finish(request, record.FAILED, 500, error=INTERNAL_ERROR)
    raise error


def _may_fail_over(request: InferenceRequest, failures: list[Failure]) -> bool:
    """Decide after a failed attempt whether another endpoint may be tried; take a retry from the budget."""
    broken = sum(failure.error is not None and failure.error.kind == BROKEN for failure in failures)
    if len(failures) >= MAX_ATTEMPTS or broken >= MAX_BROKEN or not request.api.can_resend():
        return False
    return request.services.retries.withdraw()


# An attempt


async def _try(request: InferenceRequest, attempt: Attempt, body: Body) -> Failure | None:
    """Make one attempt. Return a failure while another endpoint may be tried; None if the client has a response."""
    attempt.started = time.monotonic()
    try:
        connection = await request.api.send(request, attempt, body)
        status = connection.status
        if status >= 400 and _may_retry(status):
            error_body, details = read_error(request, attempt, connection, await connection.read_all())
            failure = Failure(status, error_body, connection.headers, None, details.summary(status), details)
            return fail_attempt(request, attempt, failure)
        head = connection.response
        if status < 400:
            if head.is_stream:
                return await relay_stream(request, attempt, connection)
            if request.api.kind.binary and not head.is_json:
                return await relay_binary(request, attempt, connection)
        whole = connection.whole() if attempt.error_body is None else attempt.error_body
        if whole is None and status < 400 and request.api.relays_huge and connection.response.is_huge:
            request.services.limit_hits.hit(limits.UPSTREAM_RESPONSE)
            return await relay_binary(request, attempt, connection)
        response = await _read_all(request, attempt, connection) if whole is None else whole
        if status == 200 and response[:1] != b"{" and (reason := _unusable_reason(response, head.content_type)):
            return fail_attempt(request, attempt, Failure(status, b"", [], None, reason))
        if len(response) > BIG_RESPONSE_BYTES:
            only = [response]
            del response, whole
            await respond_big(request, attempt, connection, only)
        else:
            respond(request, attempt, connection, response)
    except UpstreamError as error:
        attempt.close_connection()
        endpoint_message = None if error.reported is None else attempt.clean(error.reported)
        return fail_attempt(request, attempt, Failure(0, b"", [], error, str(error), endpoint_message))
    except BaseException:
        attempt.close_connection()
        raise
    return None


async def _read_all(request: InferenceRequest, attempt: Attempt, connection: Connection) -> bytes:
    """Return the whole body of a response that has begun. Raises UpstreamError."""
    attempt.prompt_read()
    return await connection.read_all(request.exchange.reserve_response())


def _may_retry(status: int) -> bool:
    """Return True if another endpoint may succeed: it is not the client's fault. 401 refuses RouterDash's key."""
    return status in (401, 408, 429) or (status >= 500 and status != 501)


def _unusable_reason(response: bytes, content_type: bytes) -> str | None:
    """Return why a 200 is no response. An endpoint that fails fast in this manner would attract every request."""
    if not response.strip():
        return "an empty response"
    if content_type.startswith(b"text/html"):
        return "a web page instead of a response"
    return None


def _cancel_reason(request: InferenceRequest) -> str:
    """Return the recorded cause of a CancelledError: a client disconnect, or the end of the process."""
    return "RouterDash was stopped" if request.services.stopping else "the client left"
