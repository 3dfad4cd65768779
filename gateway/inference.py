"""One inference request: chosen an endpoint for, sent, retried, relayed, recorded.

The order that all figures rest on: the record is in the journal, and the endpoint's in-flight count is down, before the
last bytes of the answer leave. A kill in between costs the client its last bytes, never a figure.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import errors, record
from gateway.balancer import FULL, Decision, pick
from gateway.errors import Refusal, error_body
from gateway.exchange import JSON, Exchange
from gateway.openai import (
    Request,
    Usage,
    adapt_request,
    dialect,
    parse_request,
    read_answer,
    upstream_message,
    with_usage,
)
from gateway.outbox import Body, Data
from gateway.record import Attempt, RequestRecord, uuid7
from gateway.redact import redact
from gateway.relay import EventTooLong, StreamRelay
from gateway.roster import PSEUDONYM, Endpoint, Route, Routes
from gateway.upstream import BROKEN, TIMEOUT, Connection, StaleConnection, UpstreamError

if TYPE_CHECKING:
    from gateway.handler import Gateway

MAX_ATTEMPTS = 2  # one retry, on another endpoint, before the first byte
EVENT_STREAM = b"text/event-stream"
NO_REQUEST = Request("", False, False)
MAX_KNOWN, MAX_KNOWN_LENGTH = 1000, 64  # names of headers
GRACE_SECONDS = 0.5  # for an endpoint to end its body, once the answer in it is whole


class AllowList(dict[bytes, bool]):
    """Names of headers, lower case: may they pass? Each is looked at once, and remembered."""

    def __init__(self, names: Iterable[bytes], prefixes: tuple[bytes, ...]) -> None:
        super().__init__(dict.fromkeys(names, True))
        self._prefixes = prefixes

    def __missing__(self, name: bytes) -> bool:
        passes = name.startswith(self._prefixes)
        if len(self) < MAX_KNOWN and len(name) < MAX_KNOWN_LENGTH:
            self[name] = passes
        return passes


# Never credentials or cookies upstream; never cookies, CORS or redirects back.
_ONWARD = AllowList(
    (b"accept", b"content-type", b"traceparent", b"tracestate", b"user-agent"), (b"anthropic-", b"openai-")
)
_BACK = AllowList(
    (b"content-type", b"content-encoding", b"retry-after", b"cache-control"),
    (b"anthropic-", b"openai-", b"x-ratelimit-"),
)


@dataclass(slots=True)
class Failure:
    """Why an attempt made no answer: the upstream's words, or what went wrong on the way to them."""

    status: int  # 0 without an answer
    body: bytes
    headers: list[tuple[bytes, bytes]]
    error: UpstreamError | None
    message: str


class Inference:
    """The life of one request, in one coroutine. `run` raises Refusal for what never reached an endpoint."""

    __slots__ = (
        "_request_body",
        "attempts",
        "decision",
        "endpoint",
        "exchange",
        "first_token",
        "gateway",
        "id",
        "kind",
        "passed",
        "recorded",
        "relay",
        "request",
        "request_id",
        "started",
    )

    def __init__(self, gateway: "Gateway", exchange: Exchange, kind: str) -> None:
        self.gateway = gateway
        self.exchange = exchange
        self.kind = kind
        self.id = uuid7()
        self.request_id = self._request_id()
        self.request = NO_REQUEST
        self.attempts: list[Attempt] = []
        self.endpoint: Endpoint | None = None  # the one whose in-flight count holds this request
        self.started = 0.0  # of the present attempt
        self.decision: Decision | None = None  # for the present attempt
        self.first_token: float | None = None
        self.relay: StreamRelay | None = None  # of a streamed answer
        self.recorded = False
        self.passed: list[bytes] = []  # routers of our kind that the request has been through
        self._request_body: Body | None = None

    async def run(self) -> None:
        roster = self.gateway.roster
        if b"via" in self.exchange.fields:
            self.passed = self._passed()
            if roster.pseudonym in self.passed:
                raise Refusal(508, errors.LOOP_DETECTED, "An endpoint has sent this request back to RouterDash.")
        body = self.exchange.take_body()
        self.request = request = parse_request(body)
        if self.gateway.config.store_bodies != "none":
            self._request_body = body
        routes = roster.routes(request.model)
        if not routes:
            raise Refusal(
                404,
                errors.MODEL_NOT_FOUND,
                f"The model {request.model!r} does not exist; GET /v1/models lists those there are.",
                param="model",
            )
        try:
            await self._try_each(routes, body)
        except asyncio.CancelledError:
            self._finish(record.CANCELLED, 200 if self.exchange.started else 0, error=self._why_cancelled())
            raise
        except Refusal:
            raise
        except Exception:
            # A fault of our own is told by the handler; the request is counted all the same.
            asked = None if self.endpoint is None else 0
            self._finish(record.FAILED, 500, attempt_status=asked, error="RouterDash failed; its log says why")
            raise
        finally:
            self._leave()

    async def _try_each(self, routes: Routes, body: Body) -> None:
        roster = self.gateway.roster
        endpoints = routes.endpoints
        tried: list[str] = []
        failure: Failure | None = None
        while len(tried) < MAX_ATTEMPTS:
            decision = pick(endpoints, roster.load, tried)
            if decision is None or decision is FULL:
                break
            self.decision = decision
            tried.append(decision.endpoint_id)
            failure = await self._attempt(routes.by_id[decision.endpoint_id], body)
            if failure is None:
                return
            self._leave()
            # In the meantime some may have been edited, or be gone.
            endpoints = [endpoint for endpoint in endpoints if roster.endpoints.get(endpoint.id) is endpoint]
        if failure is None:
            self._no_endpoint()
        else:
            self._give_up(failure)

    async def _attempt(self, route: Route, body: Body) -> Failure | None:
        """None when the client has its answer, whatever it is; a Failure while another endpoint may still be asked."""
        self.endpoint = endpoint = route.endpoint
        endpoint.enter()
        self.started = time.monotonic()
        self.relay = None
        connection: Connection | None = None
        answer: bytes | None = None
        asked_usage = self._has_to_ask_for_usage(endpoint)
        try:
            if asked_usage:
                connection, answer, asked_usage = await self._ask_for_usage(route, body)
            else:
                connection = await self._exchange(endpoint, self._adapted(route, body, include_usage=False))
            status = connection.status
            if answer is None and status >= 400 and _may_retry(status):
                answer = await connection.read_all()
                return self._failed(Failure(status, answer, connection.headers, None, ""))
            content_type = connection.header(b"content-type").lower()
            if status < 400 and content_type.startswith(EVENT_STREAM):
                return await self._stream(connection, asked_usage)
            if answer is None:
                answer = await connection.read_all()
            self._whole(connection, answer, is_json=b"json" in content_type)
        except UpstreamError as error:
            if connection is not None:
                connection.abort()
            return self._failed(Failure(0, b"", [], error, str(error)))
        except BaseException:
            if connection is not None:
                connection.abort()
            raise
        return None

    # To the endpoint

    def _has_to_ask_for_usage(self, endpoint: Endpoint) -> bool:
        """Would the endpoint else not tell the tokens of a stream?"""
        request = self.request
        return (
            request.stream
            and not request.wants_usage
            and dialect(self.kind).usage_on_request
            and not endpoint.usage_refused
        )

    def _adapted(self, route: Route, body: Body, *, include_usage: bool) -> Sequence[Data]:
        """The body as this endpoint is to get it."""
        model = route.model.id if route.model.id != self.request.model else None
        if model is None and include_usage and not self.request.has_options:
            return with_usage(body)
        return (adapt_request(body, model=model, include_usage=include_usage),)

    async def _ask_for_usage(self, route: Route, body: Body) -> tuple[Connection, bytes | None, bool]:
        """Ask an endpoint for a stream that ends with its usage: the connection with the head of its answer, the body
        if it had to be read already, and whether usage was asked for that the client did not want to see.
        """
        endpoint = route.endpoint
        connection = await self._exchange(endpoint, self._adapted(route, body, include_usage=True))
        if connection.status not in (400, 422):
            return connection, None, True
        try:
            answer = await connection.read_all()
        except BaseException:
            connection.abort()
            raise
        if b"stream_options" not in answer and b"include_usage" not in answer:
            return connection, answer, True
        # An older server that does not know the option, or one that repeats a bad request in its error: without the
        # option, only the first answers better.
        connection = await self._exchange(endpoint, self._adapted(route, body, include_usage=False))
        endpoint.usage_refused = connection.status not in (400, 422)
        return connection, None, False

    async def _exchange(self, endpoint: Endpoint, body: Sequence[Data]) -> Connection:
        head = self._head(endpoint, len(body[0]) if len(body) == 1 else sum(map(len, body)))
        fresh = False
        while True:
            connection = None if fresh else endpoint.pool.kept()
            if connection is None:
                connection = await endpoint.pool.connect()
            connection.send(head, body, endpoint.facts.timeout_secs)
            try:
                await connection.head()
                return connection
            except StaleConnection:
                connection.abort()
                fresh = True  # nothing of an answer had come: not an attempt of its own
            except BaseException:
                connection.abort()
                raise

    def _head(self, endpoint: Endpoint, length: int) -> bytes:
        exchange, pool = self.exchange, endpoint.pool
        onward = exchange.head.onward
        if onward is None:
            onward = exchange.head.onward = _onward(exchange.head.headers)
        # Via is how a router sees that its request comes back to it (RFC 9110, section 7.6.3).
        passed = b"".join([b"1.1 %b, " % router for router in self.passed]) if self.passed else b""
        return b"POST %b%b%b HTTP/1.1\r\n%b%bvia: %b1.1 %b\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            pool.prefix,
            exchange.path,
            b"?" + exchange.query if exchange.query else b"",
            endpoint.standing_head,
            onward,
            passed,
            self.gateway.roster.pseudonym,
            self.request_id,
            length,
        )

    def _passed(self) -> list[bytes]:
        """By their pseudonyms in Via."""
        headers = self.exchange.head.headers
        entries = [entry.split() for name, via in headers if name == b"via" for entry in via.split(b",")]
        return [words[1] for words in entries if len(words) > 1 and words[1].startswith(PSEUDONYM)]

    # To the client

    def _whole(self, connection: Connection, body: bytes, *, is_json: bool) -> None:
        status = connection.status
        usage: Usage | None = None
        headers = self._answer_headers(connection.headers)
        if status < 400:
            if is_json:
                body, usage = read_answer(body, self.request.model)
            self._finish(record.OK, status, attempt_status=status, usage=usage, answer=body)
        else:
            message = upstream_message(body)
            self._finish(record.REFUSED, status, attempt_status=status, error=message, answer=body)
        self.exchange.reply(status, headers, body)

    async def _stream(self, connection: Connection, hide_usage: bool) -> Failure | None:
        relay = self.relay = StreamRelay(dialect(self.kind), self.request.model, hide_usage=hide_usage)
        try:
            await self._pump(connection, relay)
        except (UpstreamError, EventTooLong) as error:
            connection.abort()
            failed = error if isinstance(error, UpstreamError) else UpstreamError(BROKEN, "an event is too long")
            failed.__traceback__ = None  # which holds this frame, which holds it
            if not self.exchange.started:
                return self._failed(Failure(0, b"", [], failed, str(failed)))
            if not relay.finished and relay.error is None:
                self._break_off(connection.status, failed)
                return None
        if not self.exchange.started and not relay.finished and relay.error is None:
            return self._failed(Failure(0, b"", [], None, "the stream ended before its first event"))
        if relay.error is None and not relay.finished:
            self._break_off(connection.status, UpstreamError(BROKEN, "the stream ended before its answer did"))
            return None
        outcome = record.OK if relay.whole else record.FAILED
        self._finish(outcome, connection.status, attempt_status=connection.status, error=relay.error)
        self.start(connection)
        self.exchange.end(relay.held)
        return None

    async def _pump(self, connection: Connection, relay: StreamRelay) -> None:
        """Until the endpoint ends its body."""
        limit = self.endpoint.facts.timeout_secs if self.endpoint else None
        passing = Passing(self, connection, relay, limit)
        connection.wait_at_most(limit)
        while not await connection.hand_on(passing.take):
            if passing.too_long:
                raise EventTooLong
            connection.wait_at_most(None)  # it is the client who is slow
            await self.exchange.drain()
            connection.wait_at_most(passing.limit)
        relay.end()

    def start(self, connection: Connection) -> None:
        if not self.exchange.started:
            headers = self._answer_headers(connection.headers)
            self.exchange.start(connection.status, (*headers, (b"x-accel-buffering", b"no")))

    def _break_off(self, status: int, error: UpstreamError) -> None:
        """After the first byte there is no other endpoint to ask: say so in the client's dialect, and end."""
        if error.kind == TIMEOUT:
            body = error_body(504, errors.UPSTREAM_TIMEOUT, "The endpoint stopped sending in the middle of its answer.")
        else:
            body = error_body(502, errors.UPSTREAM_ERROR, "The endpoint broke off in the middle of its answer.")
        self._finish(record.TRUNCATED, status, attempt_status=status, error=str(error))
        self.exchange.end(dialect(self.kind).error_event(body))

    def _no_endpoint(self) -> None:
        message = f"No endpoint that has the model {self.request.model!r} can be asked now."
        self._finish(record.NO_ENDPOINT, 503, error=message)
        self._refuse(503, errors.NO_CAPABLE_ENDPOINTS, message, ((b"retry-after", b"5"),))

    def _give_up(self, failure: Failure) -> None:
        """Every attempt failed: tell the last one's reason."""
        if failure.status in (408, 429):
            self._finish(record.FAILED, failure.status, error=failure.message, answer=failure.body)
            self.exchange.reply(failure.status, self._answer_headers(failure.headers), failure.body)
        elif failure.error is not None and failure.error.kind == TIMEOUT:
            message = "The endpoint did not answer in time."
            self._finish(record.FAILED, 504, error=message, answer=failure.body)
            self._refuse(504, errors.UPSTREAM_TIMEOUT, message)
        else:
            message = f"The endpoint failed: {failure.message}."
            self._finish(record.FAILED, 502, error=message, answer=failure.body)
            self._refuse(502, errors.UPSTREAM_ERROR, message)

    def _refuse(self, status: int, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        body = error_body(status, code, message, "model" if code == errors.NO_CAPABLE_ENDPOINTS else None)
        self.exchange.reply(status, (JSON, (b"x-request-id", self.request_id), *headers), body)

    def _answer_headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        kept = [header for header in headers if _BACK[header[0]]]
        kept.append((b"x-request-id", self.request_id))
        return kept

    def _request_id(self) -> bytes:
        """The client's own id, if it is a decent one; it may not break out of a header or a log line."""
        given = self.exchange.fields.get(b"x-request-id")
        if given is not None and 0 < len(given) <= 128 and given.isascii() and given.decode().isprintable():
            return given
        return self.id.encode()

    # The record

    def _failed(self, failure: Failure) -> Failure:
        if not failure.message:
            failure.message = upstream_message(failure.body) or f"HTTP {failure.status}"
        self._note(record.FAILED, failure.status, failure.message)
        return failure

    def _note(self, outcome: str, status: int, error: str | None) -> None:
        """The present attempt has ended."""
        assert self.endpoint is not None
        duration = round((time.monotonic() - self.started) * 1e6)
        at = round((self.started - self.exchange.arrived) * 1e6)
        decision = self.decision
        assert decision is not None
        self.attempts.append(
            Attempt(self.endpoint.id, outcome, status, duration, error, at, decision.reason, decision.scores)
        )

    def _finish(
        self,
        outcome: str,
        status: int,
        *,
        attempt_status: int | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        answer: bytes | None = None,
    ) -> None:
        """Write the one record of this request. `attempt_status` when the present attempt ends with it."""
        if self.recorded:
            return
        self.recorded = True
        if attempt_status is not None or (outcome == record.CANCELLED and self.endpoint is not None):
            self._note(outcome, attempt_status or 0, error)
        estimated = False
        if self.relay is not None:
            usage, estimated = self._streamed_usage()
        keep = self.gateway.config.store_bodies != "none" and self._keeps_bodies(outcome)
        request_body = redact(self._request_body) if keep and self._request_body else None
        exchange = self.exchange
        self.gateway.record(
            RequestRecord(  # by position: by name it would take six times as long
                self.id,
                time.time_ns() // 1000,
                self.kind,
                self.request.model,
                outcome,
                status,
                max(1, round((time.monotonic() - exchange.arrived) * 1e6)),
                None if self.first_token is None else round((self.first_token - exchange.arrived) * 1e6),
                tuple(self.attempts),
                usage.input_tokens if usage else None,
                usage.output_tokens if usage else None,
                estimated,
                self.relay is not None,  # streamed
                exchange.api_key.id if exchange.api_key else None,
                exchange.peer.ip,
                error,
                request_body,
                redact(answer) if keep and answer else None,
            )
        )
        self._leave()

    def _streamed_usage(self) -> tuple[Usage | None, bool]:
        """As the stream told, else counted from its deltas: True says that it is an estimate."""
        assert self.relay is not None
        if self.relay.usage is not None or not self.relay.deltas:
            return self.relay.usage, False
        return Usage(None, self.relay.deltas), True

    def _keeps_bodies(self, outcome: str) -> bool:
        wanted = self.gateway.config.store_bodies
        return wanted == "all" or (wanted == "errors" and outcome != record.OK)

    def _leave(self) -> None:
        if self.endpoint is not None:
            self.endpoint.leave()
            self.endpoint = None

    def _why_cancelled(self) -> str:
        return "RouterDash was stopped" if self.gateway.stopping else "the client left"


class Passing:
    """What happens to each piece of a stream. The time limit starts anew with each event, not with comments."""

    __slots__ = ("_connection", "_inference", "_relay", "limit", "too_long")

    def __init__(self, inference: Inference, connection: Connection, relay: StreamRelay, limit: float | None) -> None:
        self._inference = inference
        self._connection = connection
        self._relay = relay
        self.limit = limit  # seconds
        self.too_long = False

    def take(self, data: bytes) -> bool:
        """False when the client cannot take more for now, or an event is too long."""
        inference, relay = self._inference, self._relay
        events, held = relay.events, relay.held
        try:
            out = relay.feed(data)
        except EventTooLong:
            self.too_long = True
            return False
        if relay.held:
            self.limit = GRACE_SECONDS
        if inference.first_token is None and relay.deltas:
            inference.first_token = time.monotonic()
        if relay.events > events and not held:
            self._connection.wait_at_most(self.limit)
        if out:
            exchange = inference.exchange
            if not exchange.started:
                inference.start(self._connection)
            exchange.write(out)
            return not exchange.write_paused
        return True


def _onward(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The lines of a request's head that an inference server gets to see."""
    lines: list[bytes] = []
    for name, value in headers:
        if _ONWARD[name]:
            lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def _may_retry(status: int) -> bool:
    return status in (408, 429) or (status >= 500 and status != 501)
