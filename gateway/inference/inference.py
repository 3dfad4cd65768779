"""The life of an inference request: choose an endpoint, send, fail over to another one, give up.

A retry uses another endpoint, and takes from the retry budget. Failover is possible until the client has received the
first byte of a response, except after a timeout of a plain request, one that asks for no stream. A client disconnect
cancels the request wherever it waits.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from gateway.base import bounds, causes
from gateway.base.errors import Refusal
from gateway.base.request_kinds import CHAT
from gateway.base.types import Body
from gateway.dialects.openai_requests import SMALL_BYTES
from gateway.dialects.openai_responses import BIG_BYTES
from gateway.http.exchange import Exchange
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.choosing import current_routes, find_routes
from gateway.inference.error_responses import end_without_response, refuse, send_cancelled
from gateway.inference.failures import refused_tools
from gateway.inference.failures.reading import failure_in, failure_of, note_quota
from gateway.inference.limiting.admission import check_background, find_limits, let_go
from gateway.inference.limiting.instead import go_instead
from gateway.inference.recording import fail_attempt, finish, rejected
from gateway.inference.relaying import relay_binary, relay_stream
from gateway.inference.request import Api, InferenceRequest
from gateway.inference.responding import respond, respond_big
from gateway.inference.sending import check_loop
from gateway.inference.services import Services
from gateway.inference.waiting import QueueRefusal, choose_at_once, set_class, wait_in_queue
from gateway.ipc import record
from gateway.limits.replies import LimitRefusal
from gateway.loop.time_slices import Slices, run_unsliced
from gateway.model_names import chains, step_reasons
from gateway.model_names.bodies import adapted
from gateway.providers.errors import LACKING, OF_THE_REQUEST, ErrorCause
from gateway.routing.balancer import FULL, PINNED, Decision
from gateway.routing.retry_budget import SHARE
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, TIMEOUT, EndpointWithdrawn, UpstreamError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # each at another endpoint
MAX_TRIED = 10  # endpoints, with those that lack the model or the kind of the request
MAX_BROKEN = 2  # attempts with a broken connection: a request that crashes servers is not sent to a third one


def run(
    services: Services, api: Api, exchange: Exchange, pinned_endpoint: str | None = None
) -> Coroutine[Any, Any, None]:
    """Parse the body of a request; return the coroutine that serves it. Raises Refusal for a bad request."""
    request = InferenceRequest(services, exchange, api)
    if pinned_endpoint is not None:
        request.preferred = Decision(pinned_endpoint, PINNED, ())
    if b"via" in exchange.head.fields:
        check_loop(request)
    body = exchange.take_body()
    parsing = api.parsing(request, body)
    if len(body) > SMALL_BYTES:
        return _serve_big(request, body, parsing)
    run_unsliced(parsing)
    return _begin(request, body)


async def _serve_big(request: InferenceRequest, body: Body, parsing: Slices[object]) -> None:
    """Parse a big body in time slices, and serve its request."""
    await request.services.time_slices.start_now(parsing)
    await _begin(request, body)


def _begin(request: InferenceRequest, body: Body) -> Coroutine[Any, Any, None]:
    """Return the coroutine that serves a request whose fields are read. Raises Refusal."""
    set_class(request)
    exchange = request.exchange
    if exchange.line.query:
        request.target += request.api.query(request)
    if request.services.stores_bodies:
        request.body = body
    return request.api.serve(request, body)


async def serve(request: InferenceRequest, body: Body) -> None:
    """Serve a request whose model is known: try one endpoint after another, until the client has a response."""
    services = request.services
    services.running.add(request)
    tried: list[str] = []
    failures: list[Failure] = []
    try:
        find_limits(request)
        if request.limited is not None:
            check_background(request, request.limited)
            go_instead(request, request.limited)
        routes = find_routes(request, body)
        services.retries.balance += SHARE
        while True:
            decision = choose_at_once(request, routes, tried)
            if decision is not None and not decision.endpoint_id:
                decision = await wait_in_queue(request, routes, tried)
            if decision is None or decision is FULL:
                if not (services.roster.refresh() or _leave_step(request, decision)):
                    break
                routes = current_routes(request)  # the new version may have another endpoint
                continue
            attempt = request.attempt
            assert attempt is not None
            tried.append(attempt.endpoint.id)
            try:
                failure = await _try(request, attempt, _own_body(request, attempt, body))
            except EndpointWithdrawn:  # nothing was sent: this was no attempt
                _let_go(request)
                tried.pop()
                routes = current_routes(request)
                continue
            if failure is None:
                return
            request.leave_endpoint()
            failures.append(failure)
            if not _may_fail_over(request, attempt, failures):
                break
            routes = current_routes(request)
        end_without_response(request, failures)
    except BaseException as error:  # noqa: BLE001  # raised again there
        end_by_error(request, error)
    finally:
        services.running.discard(request)
        services.roster.row.counts.served += len(request.attempts) > 0
        _let_go(request)


def _let_go(request: InferenceRequest) -> None:
    """Give back the slot and the part of limits that a request still holds."""
    limited = request.limited
    if limited is not None and (limited.charge is not None or limited.held is not None):
        let_go(request, limited)
    if request.attempt is not None and request.attempt.active:
        request.leave_endpoint()


def _own_body(request: InferenceRequest, attempt: Attempt, body: Body) -> Body:
    """Return the body for an attempt, with what the model name and the endpoint change in it. Raises Refusal (400)."""
    if request.chain is not None:
        body, request.parsed = adapted(request.chain, attempt.route, body)
    return refused_tools.without_known(request, attempt, body) if attempt.endpoint.memory.refused_tools else body


def end_by_error(request: InferenceRequest, error: BaseException) -> None:
    """Record a request that ended without a response of an endpoint.

    Raises `error` again, unless RouterDash cancelled the request, or refused it in the queue, because of a limit, or
    after an attempt. Any other CancelledError is a client disconnect, or the end of the process.
    """
    if isinstance(error, Refusal) and request.attempts:  # endpoints have worked for it: it counts as failed
        request.leave_endpoint()  # the next one has been sent nothing
        finish(request, record.FAILED, error.status, error=causes.NOT_TRIED_AGAIN.format(code=error.code))
        error_type = error.error_type if isinstance(error, LimitRefusal) else None
        refuse(request, error.status, error.code, error.message, error.headers, error_type)
        return
    if isinstance(error, LimitRefusal):
        request.recorded = True
        request.services.record(rejected(request.exchange, error))
        refuse(request, error.status, error.code, error.message, error.headers, error.error_type)
        return
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
            before = len(request.attempts)
            try:
                fail_attempt(request, request.attempt, Failure(0, b"", [], None, causes.INTERNAL_ERROR))
            except Exception:
                log.exception("the attempt of request %s is recorded without its details", request.id)
            if len(request.attempts) > before:  # otherwise `finish` records it
                request.leave_endpoint()
        finish(request, record.FAILED, 500, error=causes.INTERNAL_ERROR)
    raise error


def _may_fail_over(request: InferenceRequest, attempt: Attempt, failures: list[Failure]) -> bool:
    """Decide after a failed attempt whether another endpoint may be tried; take a retry from the budget."""
    last, chain = failures[-1], request.chain
    kind = None if last.error is None else last.error.kind
    if kind == TIMEOUT and not request.parsed.stream:  # the endpoint may still work on it, as another one would
        return False
    if not request.api.can_resend() or (last.cause in OF_THE_REQUEST and not _may_be_shorter(request, attempt, last)):
        return False
    if chain is not None:
        chain.note_failure(attempt.route, kind, too_long=last.cause is ErrorCause.TOO_LONG)
    if last.cause in LACKING:  # this costs no endpoint any work
        return len(failures) < MAX_TRIED
    broken = sum(failure.error is not None and failure.error.kind == BROKEN for failure in failures)
    most = MAX_ATTEMPTS if chain is None else chains.MAX_ATTEMPTS
    if sum(failure.cause not in LACKING for failure in failures) >= most or broken >= MAX_BROKEN:
        return False
    return last.cause is ErrorCause.TOO_LONG or request.services.retries.withdraw()


def _may_be_shorter(request: InferenceRequest, attempt: Attempt, failure: Failure) -> bool:
    """Return True if a prompt that is too long for a model may go to another one of its model name."""
    return failure.cause is ErrorCause.TOO_LONG and request.chain is not None and request.chain.has_other(attempt.route)


def _leave_step(request: InferenceRequest, decision: Decision | None) -> bool:
    """Go on to the next step of a model name, if there is one. `decision`: FULL, or None if nothing is left to ask."""
    chain = request.chain
    if chain is None or not chain.leave(step_reasons.FULL if decision is FULL else chain.reason):
        return False
    request.queued_since = None
    return True


# An attempt


async def _try(request: InferenceRequest, attempt: Attempt, body: Body) -> Failure | None:
    """Make one attempt. Return a failure while another endpoint may be tried; None if the client has a response."""
    attempt.started = time.monotonic()
    try:
        connection = await request.api.send(request, attempt, body)
        status = connection.status
        if status >= 300:
            return await _fail(request, attempt, connection, body)
        head = connection.response
        if attempt.endpoint.provider is not None:
            note_quota(request, attempt, head)
        if head.is_stream or (request.api.reads_lines and head.is_lines):
            return await relay_stream(request, attempt, connection)
        if request.api.kind.binary and not head.is_json:
            return await relay_binary(request, attempt, connection)
        whole = connection.whole()
        if whole is None and head.is_huge and _relays_huge(request, attempt):
            request.services.bound_hits.hit(bounds.UPSTREAM_RESPONSE)
            return await relay_binary(request, attempt, connection)
        response = await _read_all(request, attempt, connection) if whole is None else whole
        if (failure := failure_in(request, attempt, head, response)) is not None:
            return fail_attempt(request, attempt, failure)
        if len(response) > BIG_BYTES:
            only = [response]
            response, whole = b"", None
            return await respond_big(request, attempt, connection, only)
        return respond(request, attempt, connection, response)
    except UpstreamError as error:
        attempt.close_connection()
        endpoint_message = None if error.reported is None else attempt.clean(error.reported)
        return fail_attempt(request, attempt, Failure(0, b"", [], error, str(error), endpoint_message))
    except BaseException:
        attempt.close_connection()
        raise


async def _fail(request: InferenceRequest, attempt: Attempt, connection: Connection, body: Body) -> Failure | None:
    """Return the failure that a response is, or the result of another try in a dialect that the server has."""
    failure = await failure_of(request, attempt, connection)
    if _may_have_another(request, attempt, failure):
        with suppress(Refusal):  # the request cannot be translated, so that the first response is the one that counts
            return await _try(request, attempt, body)
    if (edited := refused_tools.without_refused(request, attempt, failure, body)) is not None:
        shorter, types = edited
        if (failure_without := await _try(request, attempt, shorter)) is None:
            refused_tools.learn(request, attempt, types)
        return failure_without
    return fail_attempt(request, attempt, failure)


def _may_have_another(request: InferenceRequest, attempt: Attempt, failure: Failure) -> bool:
    """Return True for a request that a self-hosted server has no path for, but may have another one instead.

    Of a chat completion, that is Messages; of Ollama's own API, chat completions or embeddings.
    """
    if failure.cause is not ErrorCause.PATH_UNKNOWN:
        return False
    translation = attempt.translation
    if request.api.reads_lines and translation is None:
        return True
    is_chat = request.api.kind.name == CHAT if translation is None else translation.kind == CHAT
    return is_chat and attempt.endpoint.memory.chat_as_messages


def _relays_huge(request: InferenceRequest, attempt: Attempt) -> bool:
    return request.api.relays_huge and attempt.translation is None


async def _read_all(request: InferenceRequest, attempt: Attempt, connection: Connection) -> bytes:
    """Return the whole body of a response that has begun. Raises UpstreamError."""
    attempt.prompt_read()
    return await connection.read_all(request.exchange.reserve_response())


def _cancel_reason(request: InferenceRequest) -> str:
    """Return the recorded cause of a CancelledError: a client disconnect, or the end of the process."""
    return causes.STOPPED if request.services.stopping else causes.CLIENT_LEFT
