"""A whole response of an endpoint on its way to the client."""

from gateway.dialects.redact import REDACTED
from gateway.dialects.usage import ERROR, Usage
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.error_responses import pass_refusal
from gateway.inference.failures.reading import failure_at_end
from gateway.inference.headers import OF_LIMITS, client_headers, header_lines
from gateway.inference.recording import fail_attempt, finish, finish_failed
from gateway.inference.request import InferenceRequest
from gateway.ipc import record
from gateway.upstream.connection import Connection
from gateway.upstream.response_head import ResponseHead

BIG_RESPONSE_BYTES = 2 << 20  # a larger whole response is read in time slices


async def respond_big(
    request: InferenceRequest, attempt: Attempt, connection: Connection, whole: list[bytes]
) -> Failure | None:
    """Send a big whole response, read in time slices. It is taken out of `whole`, to have it in memory only once."""
    slices = request.services.time_slices
    await slices.next()
    usage: Usage | None = None
    if connection.status < 400 and connection.response.is_json:
        body, usage = await slices.start_now(request.api.read_slices(request, attempt, whole.pop()))
        await slices.next()
    else:
        body = whole.pop()
    if connection.status < 400:
        if (secret := attempt.secret) is not None and secret in body:
            body = body.replace(secret, REDACTED)
        await slices.next()
    return respond(request, attempt, connection, body, (body, usage))


def respond(
    request: InferenceRequest,
    attempt: Attempt,
    connection: Connection,
    body: bytes,
    read: tuple[bytes, Usage | None] | None = None,
) -> Failure | None:
    """Record a request and send its whole response; return a failure instead of one without output that an error ended.

    `read`: the client's body and the usage, if read already.
    """
    status = connection.status
    if status >= 400:
        pass_refusal(request, attempt, connection, body)
        return None
    secret = attempt.endpoint.redactor.in_responses
    usage: Usage | None = None
    if read is not None:
        body, usage = read
    else:
        if connection.response.is_json:
            body, usage = request.api.read(request, attempt, body)
        if secret is not None and secret in body:
            body = body.replace(secret, REDACTED)
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
    elif exchange.cors is not None:
        headers = client_headers(
            connection.headers, secret, attempt.endpoint.provider, limited=request.limited is not None
        )
        exchange.reply(status, headers, body, request.header_lines())
    else:
        head = connection.response
        lines = head.kept
        if lines is None:
            lines = head.kept = header_lines(client_headers(head.headers, secret, attempt.endpoint.provider))
        own = lines if request.limited is None else head.without_limits or _without_limits(head, lines)
        exchange.reply(status, (), body, own + request.header_lines())
    return None


def _without_limits(head: ResponseHead, lines: bytes) -> bytes:
    """Return header lines without the limits of the endpoint: the client receives those of RouterDash."""
    kept = [line for line in lines.splitlines(keepends=True) if not line.startswith(OF_LIMITS)]
    head.without_limits = b"".join(kept)
    return head.without_limits
