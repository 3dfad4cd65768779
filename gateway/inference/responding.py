"""A whole response of an endpoint on its way to the client."""

from gateway.dialects.openai_responses import Usage
from gateway.dialects.redact import REDACTED
from gateway.inference.attempt import Attempt
from gateway.inference.error_responses import pass_refusal
from gateway.inference.headers import client_headers, header_lines
from gateway.inference.recording import finish
from gateway.inference.request import InferenceRequest
from gateway.ipc import record
from gateway.upstream.connection import Connection

BIG_RESPONSE_BYTES = 2 << 20  # a larger whole response is read in time slices


async def respond_big(request: InferenceRequest, attempt: Attempt, connection: Connection, whole: list[bytes]) -> None:
    """Send a big whole response, read in time slices. It is taken out of `whole`, to have it in memory only once."""
    slices = request.services.time_slices
    body = whole.pop()
    read: tuple[bytes, Usage | None] = body, None
    await slices.next()
    if connection.status < 400:
        if connection.response.is_json:
            reading, body = request.api.read_slices(request, attempt, body), b""
            read = await slices.start_now(reading)
            del reading
            await slices.next()
        body, usage = read
        if (secret := attempt.secret) is not None and secret in body:
            body = body.replace(secret, REDACTED)
        read = body, usage
        await slices.next()
    respond(request, attempt, connection, body, read)


def respond(
    request: InferenceRequest,
    attempt: Attempt,
    connection: Connection,
    body: bytes,
    read: tuple[bytes, Usage | None] | None = None,
) -> None:
    """Record a request and send its whole response. `read`: the client's body and the usage, if read already."""
    status = connection.status
    if status >= 400:
        pass_refusal(request, attempt, connection, body)
        return
    secret = attempt.endpoint.redactor.in_responses
    usage: Usage | None = None
    if read is not None:
        body, usage = read
    else:
        if connection.response.is_json:
            body, usage = request.api.read(request, attempt, body)
        if secret is not None and secret in body:
            body = body.replace(secret, REDACTED)
    finish(request, record.OK, status, usage=usage, response_body=body)
    exchange = request.exchange
    if exchange.started:
        # The client of a stream that was kept alive by comments receives everything in one event (SSE).
        exchange.end(b"data: %b\n\n%b" % (b"".join(body.splitlines()), request.api.dialect.done))
    elif exchange.cors is not None:
        exchange.reply(status, client_headers(connection.headers, secret), body, request.header_lines())
    else:
        head = connection.response
        lines = head.kept
        if lines is None:
            lines = head.kept = header_lines(client_headers(head.headers, secret))
        exchange.reply(status, (), body, lines + request.header_lines())
