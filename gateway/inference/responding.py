"""A whole response of an endpoint on its way to the client."""

from gateway.dialects.redact import REDACTED
from gateway.dialects.usage import ERROR, Usage
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.failures.reading import failure_at_end
from gateway.inference.headers import client_headers, header_lines
from gateway.inference.recording import fail_attempt, finish, finish_failed
from gateway.inference.request import InferenceRequest
from gateway.ipc import record
from gateway.loop.time_slices import run_unsliced
from gateway.upstream.connection import Connection


async def respond_big(
    request: InferenceRequest, attempt: Attempt, connection: Connection, whole: list[bytes]
) -> Failure | None:
    """Do as `respond` does, in time slices. The body is taken out of `whole`, to have it in memory only once."""
    slices = request.services.time_slices
    usage: Usage | None = None
    await slices.next()
    if connection.response.is_json:
        body, usage = await slices.start_now(request.api.reading(request, attempt, whole.pop()))
        await slices.next()
    else:
        body = whole.pop()
    body = _redacted(attempt, body)
    await slices.next()
    return _send(request, attempt, connection, body, usage)


def respond(request: InferenceRequest, attempt: Attempt, connection: Connection, body: bytes) -> Failure | None:
    """Record a request and send its whole response.

    Return a failure instead of one without output that an error ended.
    """
    usage: Usage | None = None
    if connection.response.is_json:
        body, usage = run_unsliced(request.api.reading(request, attempt, body))
    return _send(request, attempt, connection, _redacted(attempt, body), usage)


def _redacted(attempt: Attempt, body: bytes) -> bytes:
    """Return a body without the endpoint's API key."""
    secret = attempt.secret
    return body if secret is None or secret not in body else body.replace(secret, REDACTED)


def _send(
    request: InferenceRequest, attempt: Attempt, connection: Connection, body: bytes, usage: Usage | None
) -> Failure | None:
    """Do what `respond` does with a response that was read. `body`: that of the client."""
    status = connection.status
    if usage is not None and usage.finish_reason == ERROR and not attempt.reads_stored:
        failure, has_output = failure_at_end(request, attempt, body)
        if not has_output:
            return fail_attempt(request, attempt, failure)
        finish_failed(request, attempt, failure, status, usage, body)
    else:
        finish(request, record.OK, status, usage=usage, response_body=body)
    exchange = request.exchange
    if exchange.started:
        # The client of a stream that was kept alive by comments receives everything in one event (SSE).
        exchange.end(b"data: %b\n\n%b" % (b"".join(body.splitlines()), request.api.dialect.done))
    else:
        exchange.reply(status, (), body, _header_lines(request, attempt, connection) + request.header_lines())
    return None


def _header_lines(request: InferenceRequest, attempt: Attempt, connection: Connection) -> bytes:
    """Return the header lines of the endpoint that the client receives. They are kept for equal header blocks."""
    head, limited = connection.response, request.limited is not None
    lines = head.kept.get(limited)
    if lines is None:
        provider = attempt.endpoint.provider
        lines = header_lines(client_headers(head.headers, attempt.secret, provider, limited=limited))
        head.kept[limited] = lines
    return lines
