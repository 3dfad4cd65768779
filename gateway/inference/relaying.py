"""A streamed response (SSE), or a binary one, on its way to the client, with back-pressure from a slow client."""

import time

from gateway.base import causes
from gateway.base.bounds import UPSTREAM_EVENT
from gateway.dialects.openai_responses import MAX_END_BYTES, usage_in_end
from gateway.dialects.sse_relay import EventTooLong, StreamRelay
from gateway.fast.chunk_taker import ChunkTaker
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.error_responses import end_truncated
from gateway.inference.failures.reading import failure_of_stream
from gateway.inference.headers import client_headers
from gateway.inference.recording import fail_attempt, finish, finish_failed
from gateway.inference.request import InferenceRequest
from gateway.ipc import record
from gateway.upstream.connection import NEVER, Connection
from gateway.upstream.errors import BROKEN, UpstreamError

GRACE_SECONDS = 0.5  # for an endpoint to end its body, once the response in it is complete


async def relay_stream(request: InferenceRequest, attempt: Attempt, connection: Connection) -> Failure | None:
    """Relay a stream of events. Return a failure while the client has received none of them."""
    relay = attempt.relay = request.api.new_relay(request, attempt)
    relay.redact = attempt.endpoint.clean_event  # a method of the attempt would be a reference cycle
    failed: UpstreamError | None = None
    try:
        await _pump(request, attempt, connection, relay)
    except (UpstreamError, EventTooLong) as error:
        connection.abort()
        failed = error if isinstance(error, UpstreamError) else _too_long(request)
        failed.__traceback__ = None  # it refers to this frame, which refers to it
    if not attempt.sent and not relay.whole:
        attempt.relay = None
        reason = causes.STREAM_EMPTY if failed is None else str(failed)
        return fail_attempt(request, attempt, _no_stream(request, attempt, relay, reason, failed))
    status = connection.status
    if relay.error is None and not relay.finished:
        end_truncated(request, status, failed or UpstreamError(BROKEN, causes.STREAM_CUT))
        return None
    if relay.error is None:
        finish(request, record.OK, status)
    else:
        failure = failure_of_stream(request, attempt, relay.error)
        finish_failed(request, attempt, failure, status)
    start_stream(request, attempt, connection)
    request.exchange.end(relay.held)
    return None


async def relay_binary(request: InferenceRequest, attempt: Attempt, connection: Connection) -> Failure | None:
    """Relay a response that is neither JSON nor a stream of events, such as audio, or too long to be read.

    Raises UpstreamError.
    """
    exchange, status, end = request.exchange, connection.status, b""
    has_usage = request.api.kind.reads_text
    try:
        while data := await connection.read():
            if has_usage:
                end = (end + data)[-MAX_END_BYTES:]
            if not exchange.started:
                attempt.prompt_read()
                headers = _headers(request, attempt, connection)
                exchange.start(status, headers, request.header_lines())
            exchange.write(data)
            connection.wait_at_most(None)  # while a slow client keeps the endpoint waiting
            await exchange.drain()
            connection.wait_at_most(attempt.idle_seconds)
    except UpstreamError as error:
        if not exchange.started:
            raise
        # Such a response has no place for an error: the client sees that its connection breaks off.
        finish(request, record.TRUNCATED, status, error=str(error))
        exchange.abort()
        return None
    if not exchange.started:
        return fail_attempt(request, attempt, Failure(status, b"", [], None, causes.RESPONSE_EMPTY))
    finish(request, record.OK, status, usage=usage_in_end(end) if has_usage else None)
    exchange.end()
    return None


def start_stream(request: InferenceRequest, attempt: Attempt, connection: Connection) -> None:
    """Send the header block of a stream, unless a keep-alive comment has done so."""
    exchange = request.exchange
    if not exchange.started:
        headers = _headers(request, attempt, connection)
        if attempt.translation is not None and attempt.translation.content_type:
            headers = [header for header in headers if header[0] != b"content-type"]
            headers.append((b"content-type", attempt.translation.content_type))
        headers.append((b"x-accel-buffering", b"no"))
        exchange.start(connection.status, headers, request.header_lines())


def _headers(request: InferenceRequest, attempt: Attempt, connection: Connection) -> list[tuple[bytes, bytes]]:
    limited = request.limited is not None
    return client_headers(connection.headers, attempt.secret, attempt.endpoint.provider, limited=limited)


class StreamPump:
    """Passes each chunk of a stream to the client. Each event extends the idle timeout; a comment does not."""

    __slots__ = ("_attempt", "_connection", "_end", "_exchange", "_idle", "_relay", "_request", "_seen", "too_long")

    def __init__(self, request: InferenceRequest, attempt: Attempt, connection: Connection, relay: StreamRelay) -> None:
        self._request = request
        self._exchange = request.exchange
        self._attempt = attempt
        self._connection = connection
        self._relay = relay
        self._idle = attempt.idle_seconds
        total = attempt.endpoint.facts.total_timeout_secs
        self._end = NEVER if total is None else attempt.started + total
        self._seen = 0  # events by which the deadline was set
        self.too_long = False

    def wait(self) -> None:
        """Set the deadline of the next event: idle timeout and total timeout, whichever comes first."""
        silent = NEVER if self._idle is None else time.monotonic() + self._idle
        self._connection.deadline = min(self._end, silent)
        self._seen = self._relay.events

    def extend(self) -> None:
        """Set the deadline for chunks that were not parsed: to ask for the time for each of them would be dearer."""
        relay = self._relay
        if relay.events != self._seen and not relay.held:
            self.wait()

    def chunk_taker(self) -> ChunkTaker | None:
        """Return the taker of chunks that repeat the last event but for their text, until the next `take`.

        None: all must be parsed.
        """
        exchange, template = self._exchange, self._relay.chunk_template
        if template is None or not exchange.chunked or exchange.protocol is None:
            return None
        client = exchange.protocol
        return ChunkTaker(template, self._relay, client.transport, client.writes, client.flow)

    def take(self, data: bytes) -> bool:
        """Relay a chunk. Return False if the client cannot take more for now, or if an event is too long."""
        attempt, relay = self._attempt, self._relay
        events, held = relay.events, relay.held
        try:
            out = relay.feed(data)
        except EventTooLong:
            self.too_long = True
            return False
        if relay.held:
            self._idle = GRACE_SECONDS
        if attempt.first_token is None and relay.deltas:
            attempt.first_token = time.monotonic()
            attempt.prompt_read()
        if relay.events > events and not held:
            self.wait()
        if out:
            if not attempt.sent:
                if relay.error is not None and not relay.deltas:
                    return not relay.behind  # the stream begins with its error: failover is still possible
                attempt.sent = True
                start_stream(self._request, attempt, self._connection)
            exchange = self._exchange
            exchange.write(out)
            return not (exchange.write_paused or relay.behind)
        return not relay.behind


async def _pump(request: InferenceRequest, attempt: Attempt, connection: Connection, relay: StreamRelay) -> None:
    """Relay a stream until the endpoint ends it. Raises UpstreamError, or EventTooLong."""
    exchange = request.exchange
    pump = StreamPump(request, attempt, connection, relay)
    while not await connection.consume(pump):
        if pump.too_long:
            raise EventTooLong
        connection.wait_at_most(None)  # it is not the endpoint that is slow
        await exchange.drain()
        while relay.behind:
            await request.services.time_slices.next()
            pump.take(b"")
            if pump.too_long:
                raise EventTooLong
            await exchange.drain()
        pump.wait()
    relay.end()


def _too_long(request: InferenceRequest) -> UpstreamError:
    request.services.bound_hits.hit(UPSTREAM_EVENT)
    return UpstreamError(BROKEN, causes.LONG_EVENT)


def _no_stream(
    request: InferenceRequest, attempt: Attempt, relay: StreamRelay, reason: str, error: UpstreamError | None
) -> Failure:
    """Return the failure of a stream of which the client has received nothing; the endpoint may have reported why."""
    if relay.error is None:
        return Failure(0, b"", [], error, reason)
    failure = failure_of_stream(request, attempt, relay.error)
    failure.error = error
    return failure
