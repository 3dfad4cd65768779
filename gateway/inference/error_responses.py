"""Errors to the client: those of the endpoint, those of RouterDash itself, and the reasons of a cancellation."""

import math
import time
from collections.abc import Sequence

from gateway.base import bounds, causes, errors
from gateway.base.errors import Refusal, error_body
from gateway.dialects import endpoint_errors
from gateway.dialects.endpoint_errors import MAX_SENTENCE, EndpointError
from gateway.http.exchange import JSON
from gateway.http.revocation import Ending
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.choosing import current_routes, lost_permission
from gateway.inference.failures.error_bodies import MAX_ERROR_BYTES
from gateway.inference.headers import IS_JSON, client_headers
from gateway.inference.recording import finish
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import response_timeout
from gateway.ipc import record
from gateway.providers.errors import LACKING, OF_THE_ACCOUNT, ErrorCause
from gateway.routing.endpoint_memory import EndpointMemory
from gateway.upstream.connection import Connection
from gateway.upstream.errors import TIMEOUT, UpstreamError

# Public reasons of causes, instead of the status and the error's own words.
REASONS = {
    ErrorCause.KEY_REFUSED: causes.KEY_REJECTED,
    ErrorCause.NOT_PERMITTED: causes.ACCOUNT_MAY_NOT,
    ErrorCause.MONEY: causes.ACCOUNT_EMPTY,
    ErrorCause.MODEL_UNKNOWN: causes.MODEL_UNKNOWN,
    ErrorCause.PATH_UNKNOWN: causes.PATH_UNKNOWN,
}
_NO_RETRY = (b"x-should-retry", b"false")  # SDKs of OpenAI and Anthropic obey it
OVERLOAD_SECONDS = 5.0  # after which clients may try again, if an overloaded provider does not say it


def refuse(
    request: InferenceRequest,
    status: int,
    code: str,
    message: str,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    error_type: str | None = None,
) -> None:
    """Send an error of RouterDash itself; as the last event if the response is a stream that has begun.

    `error_type`: for OpenAI's clients, in place of that of the status.
    """
    param = "model" if code == errors.NO_CAPABLE_ENDPOINTS else None
    exchange = request.exchange
    if exchange.started:
        exchange.end(request.api.error_event(request, error_body(status, code, message, param, error_type)))
        return
    body = request.api.error_body(request, status, code, message, param, error_type)
    exchange.reply(status, (JSON, *headers), body, request.header_lines())


def end_without_response(request: InferenceRequest, failures: Sequence[Failure]) -> None:
    """Refuse a request for which no endpoint is left, or send the reason of its last failure."""
    if failures:
        # Another endpoint's failure explains more than that the last one lacks the model or the path.
        telling = [failure for failure in failures if failure.cause not in LACKING]
        give_up(request, (telling or failures)[-1])
    else:
        refuse_without_endpoint(request)


def refuse_without_endpoint(request: InferenceRequest) -> None:
    """Refuse a request whose model no endpoint can serve now. Raises Refusal if none ever can."""
    model, kind = request.model, request.api.kind
    if (lost := lost_permission(request)) is not None:
        raise lost
    if request.chain is None:
        endpoints = current_routes(request).endpoints
    else:
        endpoints = [route.endpoint for target in request.chain.targets() for route in target.routes]
    unable = request.services.roster.aside.unable.get(kind.name, {})
    if endpoints and all(unable.get(endpoint.id) for endpoint in endpoints):
        message = f"No provider of the model {model!r} offers {kind.path}."
        raise Refusal(400, errors.MODEL_NOT_CAPABLE, message, param="model")
    paused = [endpoint.memory for endpoint in endpoints if endpoint.memory.paused_until]
    if paused:
        _refuse_while_paused(request, paused)
        return
    message = causes.NO_ENDPOINT.format(model=repr(model))
    finish(request, record.NO_ENDPOINT, 503, error=message)
    if request.chain is not None and request.chain.left:
        message = f"{message[:-1]}: {request.chain.explanation()}."
    refuse(request, 503, errors.NO_CAPABLE_ENDPOINTS, message, ((b"retry-after", b"5"),))


def _refuse_while_paused(request: InferenceRequest, paused: list[EndpointMemory]) -> None:
    """Refuse a request whose model only endpoints could serve that get no requests now."""
    limited = [memory for memory in paused if memory.pause_cause not in OF_THE_ACCOUNT]
    if not limited:
        refuse_by_account(request, paused[0].pause_cause, REASONS[paused[0].pause_cause], outcome=record.NO_ENDPOINT)
        return
    seconds = max(1.0, min(memory.paused_until for memory in limited) - time.time())
    message = f"The rate limit of every provider of the model {request.parsed.model!r} is reached."
    finish(request, record.NO_ENDPOINT, 429, error=message)
    refuse(request, 429, errors.RATE_LIMIT_EXCEEDED, message, tuple(_retry_after(seconds)))


def give_up(request: InferenceRequest, failure: Failure) -> None:
    """Send the reason of the last failure: there is no failover any more."""
    attempt = request.attempt
    assert attempt is not None  # the one that failed
    status = failure.status
    if failure.cause in OF_THE_ACCOUNT:
        refuse_by_account(request, failure.cause, failure.reason, failure.body)
    elif _is_passed_on(attempt, failure):
        details = failure.details or EndpointError("")
        headers, code = failure.headers, errors.UPSTREAM_ERROR
        if attempt.endpoint.provider is not None and failure.cause is ErrorCause.LIMITED:
            status, code = 429, errors.RATE_LIMIT_EXCEEDED  # of some the status is 402 or 498
            headers = [*headers, *_retry_after(failure.wait)]
        elif failure.cause is ErrorCause.INPUT_UNKNOWN:
            status = 400  # after a 500, clients would try again
        finish(
            request,
            failure.outcome,
            status,
            error=failure.reason,
            details=details.sentence,
            response_body=failure.body,
        )
        send_endpoint_error(request, status, headers, failure.body, details, code)
    elif failure.error is not None and failure.error.kind == TIMEOUT:
        message = causes.RESPONSE_TIMEOUT
        if attempt.is_loading:
            seconds = response_timeout(request, attempt)
            message = causes.LOAD_TIMEOUT.format(seconds=f"{seconds:g}")
        finish(request, record.FAILED, 504, error=message, response_body=failure.body)
        refuse(request, 504, errors.UPSTREAM_TIMEOUT, message)
    else:
        status, code, more = _status_of(attempt, failure)
        cause = causes.ENDPOINT_FAILED.format(cause=failure.reason)
        finish(request, record.FAILED, status, error=cause, response_body=failure.body)
        reason = failure.reason if failure.details is None else failure.details.sentence or failure.reason
        refuse(request, status, code, causes.ENDPOINT_FAILED.format(cause=reason), more)


def _is_passed_on(attempt: Attempt, failure: Failure) -> bool:
    """Return True if the client receives the endpoint's own error."""
    if failure.outcome == record.REFUSED or failure.cause is ErrorCause.LIMITED:
        return True
    if failure.cause is ErrorCause.OVERLOADED and attempt.endpoint.provider is not None:
        return False  # also of a provider that calls it a 429
    return failure.status in (408, 429)


def _status_of(attempt: Attempt, failure: Failure) -> tuple[int, str, tuple[tuple[bytes, bytes], ...]]:
    """Return status, code and headers by which a client receives a failure of an endpoint."""
    if attempt.endpoint.provider is not None:
        if failure.cause is ErrorCause.OVERLOADED:
            return 503, errors.UPSTREAM_ERROR, tuple(_retry_after(failure.wait or OVERLOAD_SECONDS))
        if failure.status == 504:
            return 504, errors.UPSTREAM_TIMEOUT, ()
    return 502, errors.UPSTREAM_ERROR, ()


def refuse_by_account(
    request: InferenceRequest, cause: ErrorCause, reason: str, body: bytes = b"", outcome: str = record.FAILED
) -> None:
    """Refuse a request because of RouterDash's account with a provider. Clients had better not try again."""
    if cause is ErrorCause.MONEY:
        status, code = 429, errors.INSUFFICIENT_QUOTA
        message = "The provider of this model grants RouterDash no more requests, as no credit is left."
    else:
        status, code = 502, errors.UPSTREAM_AUTH
        message = causes.ENDPOINT_FAILED.format(cause=reason)
    finish(request, outcome, status, error=causes.ENDPOINT_FAILED.format(cause=reason), response_body=body)
    refuse(request, status, code, f"{message} An administrator has to settle that.", (_NO_RETRY,))


def _retry_after(seconds: float | None) -> list[tuple[bytes, bytes]]:
    return [] if seconds is None else [(b"retry-after", b"%d" % math.ceil(seconds))]


def pass_refusal(request: InferenceRequest, attempt: Attempt, connection: Connection, body: bytes) -> None:
    """Pass an error on that is the client's own fault, with the endpoint's message."""
    status = connection.status
    body, details = read_error(request, attempt, connection, body)
    finish(
        request,
        record.REFUSED,
        status,
        error=details.summary(status),
        details=details.sentence,
        response_body=body,
    )
    send_endpoint_error(request, status, error_headers(request, attempt, connection.headers), body, details)


def error_headers(
    request: InferenceRequest, attempt: Attempt, headers: list[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Return the headers of an endpoint's error that the client receives."""
    clean = attempt.endpoint.redactor.clean
    known = client_headers(headers, provider=attempt.endpoint.provider, limited=request.limited is not None)
    return [(name, clean(value)) for name, value in known if name != b"content-encoding"]


def read_error(
    request: InferenceRequest, attempt: Attempt, connection: Connection, body: bytes
) -> tuple[bytes, EndpointError]:
    """Return the body of an endpoint's error, without the endpoint's own API key, and the message in it."""
    if len(body) > MAX_ERROR_BYTES:
        request.services.bound_hits.hit(bounds.ENDPOINT_ERROR)
        body = body[:MAX_SENTENCE]  # which is not JSON any more
    if connection.response.header(b"content-encoding").lower() not in (b"", b"identity"):
        body = b""  # compressed, although the request did not allow it
    body = attempt.endpoint.redactor.clean(body)
    details = endpoint_errors.read(body)
    return body, details if attempt.endpoint.provider is None else attempt.clean(details)


def send_endpoint_error(
    request: InferenceRequest,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    details: EndpointError,
    code: str = errors.UPSTREAM_ERROR,
) -> None:
    """Send the client the error of an endpoint; as the last event if the response is a stream that has begun.

    `code`: of that event.
    """
    exchange = request.exchange
    if exchange.started:
        exchange.end(request.api.error_event(request, error_body(status, code, sentence_of(details, status))))
        return
    passed = headers
    sent = request.api.endpoint_error(status, body, details)
    if sent is not body or not any(name == b"content-type" and IS_JSON(value) for name, value in passed):
        passed = [JSON, *(header for header in passed if header[0] != b"content-type")]
    exchange.reply(status, passed, sent, request.header_lines())


def sentence_of(details: EndpointError, status: int) -> str:
    """Return the endpoint's error message, or a sentence with its status."""
    return details.sentence or f"The endpoint returned status {status}."


def send_cancelled(request: InferenceRequest, ending: Ending) -> None:
    """Send the reason why RouterDash ended a request."""
    exchange = request.exchange
    streamed = request.attempt is not None and request.attempt.relay is not None
    if exchange.started and request.api.kind.binary and not streamed:
        exchange.abort()  # in half of an audio file there is no place for an error
    else:
        refuse(request, ending.status, ending.code, ending.message)


def end_truncated(request: InferenceRequest, status: int, error: UpstreamError) -> None:
    """End a stream whose endpoint failed after the first byte: there is no failover any more."""
    if error.kind == TIMEOUT:
        code, name = 504, errors.UPSTREAM_TIMEOUT
        message = "The endpoint stopped sending in the middle of its response."
    else:
        code, name = 502, errors.UPSTREAM_ERROR
        message = "The endpoint closed the connection in the middle of its response."
    finish(request, record.TRUNCATED, status, error=str(error))
    request.exchange.end(request.api.error_event(request, error_body(code, name, message)))
