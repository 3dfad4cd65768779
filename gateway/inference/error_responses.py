"""Errors to the client: those of the endpoint, those of RouterDash itself, and the reasons of a cancellation."""

from collections.abc import Sequence

from gateway.base import errors, limits
from gateway.base.errors import error_body
from gateway.dialects import endpoint_errors
from gateway.dialects.endpoint_errors import MAX_SENTENCE, EndpointError
from gateway.http.exchange import JSON
from gateway.http.revocation import Ending
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.headers import IS_JSON, client_headers
from gateway.inference.recording import finish
from gateway.inference.request import InferenceRequest
from gateway.ipc import record
from gateway.upstream.connection import Connection
from gateway.upstream.errors import TIMEOUT, UpstreamError

MAX_ERROR_BYTES = 256 << 10  # of an endpoint's error; of a longer one, the client receives the beginning


def refuse(
    request: InferenceRequest, status: int, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Send an error of RouterDash itself; as the last event if the response is a stream that has begun."""
    param = "model" if code == errors.NO_CAPABLE_ENDPOINTS else None
    exchange = request.exchange
    if exchange.started:
        exchange.end(request.api.dialect.error_event(error_body(status, code, message, param)))
        return
    body = request.api.error_body(request, status, code, message, param)
    exchange.reply(status, (JSON, *headers), body, request.header_lines())


def end_without_response(request: InferenceRequest, failures: Sequence[Failure]) -> None:
    """Refuse a request for which no endpoint is left, or send the reason of its last failure."""
    if failures:
        give_up(request, failures[-1])
    else:
        refuse_without_endpoint(request)


def refuse_without_endpoint(request: InferenceRequest) -> None:
    """Refuse a request whose model no endpoint can serve now."""
    message = f"No endpoint that has the model {request.parsed.model!r} is available now."
    finish(request, record.NO_ENDPOINT, 503, error=message)
    refuse(request, 503, errors.NO_CAPABLE_ENDPOINTS, message, ((b"retry-after", b"5"),))


def give_up(request: InferenceRequest, failure: Failure) -> None:
    """Send the reason of the last failure: there is no failover any more."""
    attempt = request.attempt
    assert attempt is not None  # the one that failed
    if failure.status in (408, 429):
        finish(request, record.FAILED, failure.status, error=failure.reason, response_body=failure.body)
        details = failure.details or EndpointError("")
        send_endpoint_error(request, attempt, failure.status, failure.headers, failure.body, details)
    elif failure.error is not None and failure.error.kind == TIMEOUT:
        message = "The endpoint did not respond in time."
        finish(request, record.FAILED, 504, error=message, response_body=failure.body)
        refuse(request, 504, errors.UPSTREAM_TIMEOUT, message)
    else:
        message = f"The endpoint failed: {failure.reason}."
        finish(request, record.FAILED, 502, error=message, response_body=failure.body)
        reason = failure.reason if failure.details is None else failure.details.sentence or failure.reason
        refuse(request, 502, errors.UPSTREAM_ERROR, f"The endpoint failed: {reason}.")


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
    send_endpoint_error(request, attempt, status, connection.headers, body, details)


def read_error(
    request: InferenceRequest, attempt: Attempt, connection: Connection, body: bytes
) -> tuple[bytes, EndpointError]:
    """Return the body of an endpoint's error, without the endpoint's own API key, and the message in it."""
    if len(body) > MAX_ERROR_BYTES:
        request.services.limit_hits.hit(limits.ENDPOINT_ERROR)
        body = body[:MAX_SENTENCE]  # which is not JSON any more
    if connection.response.header(b"content-encoding").lower() not in (b"", b"identity"):
        body = b""  # compressed, although the request did not allow it
    body = attempt.endpoint.redactor.clean(body)
    return body, endpoint_errors.read(body)


def send_endpoint_error(
    request: InferenceRequest,
    attempt: Attempt,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    details: EndpointError,
) -> None:
    """Send the client the error of an endpoint; as the last event if the response is a stream that has begun."""
    exchange = request.exchange
    if exchange.started:
        exchange.end(
            request.api.dialect.error_event(error_body(status, errors.UPSTREAM_ERROR, sentence_of(details, status)))
        )
        return
    clean = attempt.endpoint.redactor.clean
    passed = [(name, clean(value)) for name, value in client_headers(headers) if name != b"content-encoding"]
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
    request.exchange.end(request.api.dialect.error_event(error_body(code, name, message)))
