"""One inference request: chosen an endpoint for, sent, retried, relayed, recorded.

The order that all figures rest on: the record is in the journal, and the endpoint's in-flight count is down, before the
last bytes of the answer leave. A kill in between costs the client its last bytes, never a figure.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import structs

from gateway import bounds, endpoint_errors, errors, record, targets
from gateway.balancer import EXCLUDED, FULL, MADE_IT, ONLY, Decision, noted, pick
from gateway.bounds import QUEUE, UPSTREAM_EVENT
from gateway.endpoint_errors import MAX_SENTENCE, EndpointError
from gateway.errors import Refusal, error_body
from gateway.exchange import JSON, Exchange
from gateway.kinds import Kind
from gateway.openai import (
    BIG_BYTES,
    CHUNKS,
    DIALECTS,
    Dialect,
    Request,
    Usage,
    adapt_request,
    find_top,
    parse_big,
    parse_small,
    read_answer,
    reading_answer,
    spliced,
    with_usage,
)
from gateway.outbox import Body, Data
from gateway.peer import client_of
from gateway.present import Running, Waiting
from gateway.queue import Waiter
from gateway.record import Attempt, RequestRecord, uuid7
from gateway.redact import REDACTED, redact
from gateway.relay import EventTooLong, Relay, StreamRelay
from gateway.retries import SHARE
from gateway.revocation import Ending
from gateway.roster import PSEUDONYM, Endpoint, Route, Routes
from gateway.skim import Top
from gateway.turns import Slices
from gateway.upstream import BROKEN, CONNECT, EVENT_STREAM, NEVER, TIMEOUT, Connection, StaleConnection, UpstreamError

if TYPE_CHECKING:
    from gateway.handler import Gateway

MAX_ATTEMPTS = 3  # each on another endpoint, before the first byte
MAX_BROKEN = 2  # attempts whose connection broke off: a request that kills its servers is not sent to a third one
ENDED = "ended"  # kind of an UpstreamError: RouterDash itself broke off what the endpoint still worked on
_AT_ONCE = b"x-routerdash-attempts: 1\r\nx-routerdash-queue-ms: 0\r\n"
NO_REQUEST = Request("", False, False)
MAX_KNOWN, MAX_KNOWN_LENGTH = 1000, 64  # names of headers
NOT_THERE = frozenset((404, 405, 501))  # statuses of a path, or a thing, that an endpoint does not have
CANCELLED_STATUS = 499  # of what an operator cancelled: no client takes it for something to try again by itself
BIG_ANSWER_BYTES = 2 << 20  # of a whole answer that is read in slices
BY_OPERATOR = Ending(
    CANCELLED_STATUS, errors.REQUEST_CANCELLED, "An operator cancelled this request.", "an operator cancelled it"
)
MAX_ERROR_BYTES = 256 << 10  # of an endpoint's error: of a longer one, its beginning is told
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
_IS_JSON = re.compile(rb"application/(?:[a-z0-9.-]+\+)?json(?:;.*)?", re.IGNORECASE).fullmatch
_BACK = AllowList(
    (b"content-type", b"content-encoding", b"retry-after", b"cache-control"),
    (b"anthropic-", b"openai-", b"x-ratelimit-"),
)


@dataclass(slots=True)
class Failure:
    """Why an attempt made no answer. No secret of the endpoint is in it."""

    status: int  # 0 without an answer
    body: bytes
    headers: list[tuple[bytes, bytes]]
    error: UpstreamError | None
    why: str  # for everybody
    said: EndpointError | None = None  # for the client: it may quote what that asked


class TurnedAway(Exception):
    """The queue is full, or a request waited in it for too long."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Inference:
    """The life of one request, in one coroutine. `run` raises Refusal for what never reached an endpoint.

    Kinds whose bodies or answers are of another make are its subclasses.
    """

    __slots__ = (
        "_answer", "_request_body", "asked_usage", "attempts", "broken", "cancelled", "connection", "decision",
        "endpoint", "exchange", "first_token", "gateway", "id", "kind", "made_by", "own_id", "passed",
        "queue_us", "queued_at", "recorded", "relay", "request", "request_id", "route", "seen_events", "sent",
        "started", "target", "trial",
    )  # fmt: skip

    def __init__(self, gateway: "Gateway", exchange: Exchange, kind: Kind) -> None:
        self.gateway = gateway
        self.exchange = exchange
        self.kind = kind
        self.target = kind.target  # path and query, as endpoints are asked
        self.id = uuid7()
        self.own_id: str | None = None  # as its client names it
        given = exchange.fields.get(b"x-request-id")
        self.request_id = self.id.encode() if given is None else self._own_id(given)
        self.request = NO_REQUEST
        self.made_by: str | None = None  # the endpoint that has what the request goes on from
        self.passed: Sequence[bytes] = ()  # routers of our kind that the request has been through
        self.queue_us: int | None = None  # in the queue, all in all
        self.queued_at: float | None = None  # time.monotonic(), while it waits there
        self.attempts: list[Attempt] = []
        self.broken = 0  # of these, how many ended with a broken connection
        # Of the present attempt: what was chosen and why, and the endpoint as long as it counts this request.
        self.route: Route | None = None
        self.decision: Decision | None = None
        self.endpoint: Endpoint | None = None
        self.connection: Connection | None = None  # with the head of an answer
        self.started = 0.0
        self.trial = False  # its endpoint's circuit breaker is not closed
        self.asked_usage = False  # of what the client did not ask for
        self._answer: bytes | None = None  # if it had to be read already
        self.relay: Relay | None = None  # of a streamed answer
        self.sent = False  # something of an answer went to the client, not just comments
        self.first_token: float | None = None
        self.seen_events = -1  # at the last look for silence
        self.recorded = False
        self.cancelled: Ending | None = None  # by RouterDash, not by its client
        self._request_body: Body | None = None

    @property
    def dialect(self) -> Dialect:
        """How it streams."""
        return DIALECTS.get(self.kind.name, CHUNKS)

    def run(self) -> Coroutine[Any, Any, None]:
        """The coroutine to be awaited. Raises Refusal at once for what can be seen to be wrong at once."""
        if b"via" in self.exchange.fields:
            self._check_way()
        body = self.exchange.take_body()
        if len(body) > BIG_BYTES:
            return self._serve_big(body)
        self.request = self._parse(body)
        if self.exchange.query:
            self._add_query()
        if self.gateway.keeps_bodies:
            self._request_body = body
        return self._serve(body)

    async def _serve_big(self, body: Body) -> None:
        top = await self.gateway.turns.run_on(find_top(body))
        self.request = parse_big(body, top)
        await self._look_further(body, top)
        if self.exchange.query:
            self._add_query()
        if self.gateway.keeps_bodies:
            self._request_body = body
        await self._serve(body)

    async def _look_further(self, body: Body, top: Top | None) -> None:
        """What else a kind has to know of a big body. Raises Refusal."""

    def _add_query(self) -> None:
        """Raises Refusal."""
        self.target += targets.query(self.kind.query, self.exchange.query)

    def _ended_by(self, error: BaseException) -> None:
        """What ended the request besides its answer. Raises it again, unless RouterDash cancelled the request."""
        if isinstance(error, asyncio.CancelledError) and self.cancelled is not None:
            self._finish(record.CANCELLED, self.cancelled.status, error=self.cancelled.error)
            self._tell_cancelled(self.cancelled)
            return
        if isinstance(error, asyncio.CancelledError):
            self._finish(record.CANCELLED, 200 if self.exchange.started else 0, error=self._why_cancelled())
        elif isinstance(error, Exception) and not isinstance(error, Refusal):
            # A fault of our own is told by the handler; the request is counted all the same.
            asked = None if self.endpoint is None else 0
            self._finish(record.FAILED, 500, attempt_status=asked, error="RouterDash failed; its log says why")
        raise error

    def _let_go(self) -> None:
        self.gateway.running.discard(self)
        if self.endpoint is not None:
            self._leave()

    # Where to

    _passes_huge = (
        True  # an answer that is too long to be read whole is passed on as it comes, and nothing counted of it
    )
    _parse = staticmethod(parse_small)

    def _routes(self) -> Routes:
        """Endpoints that have the model and can do what is asked, in any state. Raises Refusal."""
        model = self.request.model
        known = self.gateway.roster.routes(model)
        if not known:
            raise Refusal(
                404,
                errors.MODEL_NOT_FOUND,
                f"The model {model!r} does not exist; GET /v1/models lists those there are.",
                param="model",
            )
        capable = known.capable[self.kind.capability]
        if not capable:
            raise Refusal(
                400,
                errors.MODEL_NOT_CAPABLE,
                f"The model {model!r} is not one for {self.kind.path}: that takes the capability "
                f"{self.kind.capability}; GET /v1/models tells what each can do.",
                param="model",
            )
        return capable

    def _routes_again(self) -> Routes:
        """The same at another moment: by then there may be none."""
        return self.gateway.roster.routes(self.request.model).capable[self.kind.capability]

    async def _serve(self, body: Body) -> None:
        """From the moment at which it is known what is asked for."""
        gateway = self.gateway
        gateway.running.add(self)
        tried: list[str] = []
        failure: Failure | None = None
        try:
            routes = self._routes()
            gateway.retries.balance += SHARE
            while True:
                decision = FULL if gateway.queue.length else self._take(routes, tried)
                if decision is FULL:
                    decision = await self._wait(routes, tried)
                if decision is None:
                    if not gateway.roster.refresh():
                        break
                    routes = self._routes_again()  # an endpoint may have come in this very moment
                    continue
                assert self.route is not None
                tried.append(self.route.endpoint.id)
                failure = await self._attempt(self.route, body)
                if failure is None:
                    return
                self._leave()
                if not self._goes_on(failure, len(tried)):
                    break
                routes = self._routes_again()
            if failure is None:
                self._no_endpoint()
            else:
                self._give_up(failure)
        except TurnedAway as told:
            self._finish(record.QUEUE, told.status, error=told.message)
            self._refuse(told.status, told.code, told.message, ((b"retry-after", b"1"),))
        except BaseException as error:  # noqa: BLE001  # raised again there
            self._ended_by(error)
        finally:
            self._let_go()

    def _goes_on(self, failure: Failure, tried: int) -> bool:
        """After a failure: may another endpoint be asked? `tried`: how many were."""
        if failure.error is not None and failure.error.kind == BROKEN:
            self.broken += 1
        if tried >= MAX_ATTEMPTS or self.broken >= MAX_BROKEN or not self._can_repeat():
            return False
        return self.gateway.retries.withdraw()

    def _can_repeat(self) -> bool:
        """Is what was sent still there to be sent again?"""
        return True

    async def _wait(self, routes: Routes, tried: list[str]) -> Decision | None:
        """For a free slot; None when nothing is left to wait for. Raises TurnedAway."""
        queue = self.gateway.queue
        # What can go to the same endpoints waits in one line.
        line = f"{self.request.model}\n{self.kind.capability}\n{self.made_by or ''}"
        if not queue.waits_for(line):
            decision = self._take(routes, tried)
            if decision is not FULL:
                return decision
        key = self._key_id() or self.exchange.peer.ip or ""
        if (bound := self.gateway.full_queue(key)) is not None:
            self.gateway.bounds.hit(bound)
            whose = "" if bound is QUEUE else " of this API key"
            raise TurnedAway(429, errors.QUEUE_FULL, f"Too many requests{whose} wait for an endpoint already.")
        now = time.monotonic()
        until = now + self.gateway.config.queue_timeout_secs
        waiter = Waiter(self, key, line, tried, self.exchange.arrived, until)
        self.queued_at = now
        queue.add(waiter)
        try:
            await waiter.wait()
        finally:
            queue.remove(waiter)
            self.queued_at = None
            self.queue_us = (self.queue_us or 0) + round((time.monotonic() - now) * 1e6)
        if waiter.decision is FULL:
            raise TurnedAway(503, errors.QUEUE_TIMEOUT, "No endpoint became free in time.")
        return waiter.decision

    def look_again(self, tried: Collection[str]) -> Decision | None:
        """Could it go now? Asked by the queue."""
        return self._take(self._routes_again(), tried)

    def _take(self, routes: Routes, tried: Collection[str]) -> Decision | None:
        """Choose an endpoint and enter it. FULL, and None, as of `pick`."""
        decision = None
        if self.made_by is not None:
            decision = self._where_it_is(self.made_by, routes, tried)
        if decision is None:
            decision = pick(routes.endpoints, self.gateway.roster.load, tried)
        if decision is None or decision is FULL:
            return decision
        route = routes.by_id[decision.endpoint_id]
        endpoint = route.endpoint
        if endpoint.slots is None:
            endpoint.enter()
        elif not self.gateway.roster.take(endpoint):
            return FULL
        self.route, self.decision, self.endpoint = route, decision, endpoint
        if endpoint.breaker.due is not None:
            self.trial = True
            endpoint.begin_trial()
        return decision

    def _where_it_is(self, made_by: str, routes: Routes, tried: Collection[str]) -> Decision | None:
        """The endpoint that has what the request goes on from, if it can be asked."""
        route = routes.by_id.get(made_by)
        if route is None or route.endpoint.rank >= EXCLUDED or made_by in tried:
            return None
        return Decision(made_by, MADE_IT, ())

    async def _attempt(self, route: Route, body: Body) -> Failure | None:
        """None when the client has its answer, whatever it is; a Failure while another endpoint may still be asked."""
        self.started = time.monotonic()
        self.relay = self._answer = None
        try:
            connection = await self._ask(route, body)
            status = connection.status
            if status >= 400 and _may_retry(status):
                answer, said = self._heard(connection, await connection.read_all())
                return self._failed(Failure(status, answer, connection.headers, None, said.summary(status), said))
            head = connection.answer
            if status < 400:
                if head.is_stream:
                    return await self._stream(connection)
                if self.kind.binary and not head.is_json:
                    return await self._pass(connection)
            whole = connection.whole() if self._answer is None else self._answer
            if whole is None and status < 400 and self._passes_huge and connection.is_huge:
                self.gateway.bounds.hit(bounds.UPSTREAM_RESPONSE)
                return await self._pass(connection)
            answer = await connection.read_all(self.exchange.room_for_answer()) if whole is None else whole
            if status == 200 and answer[:1] != b"{" and (why := _is_no_answer(answer, head.content_type)):
                return self._failed(Failure(status, b"", [], None, why))
            if len(answer) > BIG_ANSWER_BYTES:
                self._answer = answer
                del answer, whole  # what it becomes would be a second one in memory
                await self._whole_slowly(connection)
            else:
                self._whole(connection, answer)
        except UpstreamError as error:
            self._hang_up()
            own = None if error.said is None else self._cleaned(error.said)
            return self._failed(Failure(0, b"", [], error, str(error), own))
        except BaseException:
            self._hang_up()
            raise
        return None

    def _hang_up(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    # To the endpoint

    def _ask(self, route: Route, body: Body) -> Coroutine[Any, Any, Connection]:
        """Send the request; the connection with the head of the answer. Raises UpstreamError."""
        endpoint = route.endpoint
        request = self.request
        self.asked_usage = (
            request.stream and not request.wants_usage and self.dialect.usage_on_request and not endpoint.usage_refused
        )
        if self.asked_usage:
            asking = self._adapted(route, body, include_usage=True)
            return self._ask_for_usage(endpoint, asking, lambda: self._adapted(route, body, include_usage=False))
        return self._send(endpoint, self._adapted(route, body, include_usage=False))

    async def _ask_for_usage(
        self, endpoint: Endpoint, asking: Sequence[Data], without: Callable[[], Sequence[Data]], path: bytes = b""
    ) -> Connection:
        """By a body that asks for it; `without` makes one that does not, for a server that refuses that."""
        connection = await self._send(endpoint, asking, path)
        if connection.status not in (400, 422):
            return connection
        answer = self._answer = await connection.read_all()
        if b"stream_options" not in answer and b"include_usage" not in answer:
            return connection
        # An older server that does not know the option, or one that repeats a bad request in its error: without the
        # option, only the first answers better.
        connection = await self._send(endpoint, without(), path)
        endpoint.usage_refused = connection.status not in (400, 422)
        self.asked_usage, self._answer = False, None
        return connection

    def _adapted(self, route: Route, body: Body, *, include_usage: bool) -> Sequence[Data]:
        """The body as this endpoint is to get it."""
        request = self.request
        model = route.model.id if route.model.id != request.model else None
        if request.model_at is not None and (model is not None or include_usage):
            return spliced(body, request, model=model, include_usage=include_usage)
        if model is None and include_usage and not request.has_options:
            return with_usage(body)
        if model is None and not include_usage:
            return (body,)
        return (adapt_request(body, model=model, include_usage=include_usage),)

    async def _send(
        self, endpoint: Endpoint, body: Sequence[Data], path: bytes = b"", timeout: float | None = None
    ) -> Connection:
        head = self._head(endpoint, path, len(body[0]) if len(body) == 1 else sum(map(len, body)))
        fresh = False
        while True:
            connection = None if fresh else endpoint.pool.kept()
            if connection is None:
                connection = await endpoint.pool.connect()
            self.connection = connection
            connection.send(head, body, timeout or endpoint.facts.timeout_secs)
            try:
                while not connection.answered:
                    connection.raise_if_broken()
                    await connection.wait()
                return connection
            except StaleConnection:
                connection.abort()
                fresh = True  # nothing of an answer had come: not an attempt of its own

    def _head(self, endpoint: Endpoint, path: bytes, length: int | None) -> bytes:
        """`length` of the body; None: it comes in chunks."""
        exchange, pool = self.exchange, endpoint.pool
        onward = exchange.head.onward
        if onward is None:
            onward = exchange.head.onward = onward_lines(exchange.head.headers)
        # Via is how a router sees that its request comes back to it (RFC 9110, section 7.6.3).
        passed = b"".join([b"1.1 %b, " % router for router in self.passed]) if self.passed else b""
        return b"".join((
            exchange.method, b" ", pool.prefix, path or self.target, b" HTTP/1.1\r\n",
            endpoint.standing_head, onward, b"via: ", passed, b"1.1 ", self.gateway.roster.pseudonym,
            b"\r\nx-request-id: ", self.request_id,
            b"\r\ntransfer-encoding: chunked\r\n\r\n" if length is None else b"\r\ncontent-length: %d\r\n\r\n" % length,
        ))  # fmt: skip

    def _check_way(self) -> None:
        """Has the request been here before? Routers name themselves in Via. Raises Refusal."""
        headers = self.exchange.head.headers
        entries = [entry.split() for name, via in headers if name == b"via" for entry in via.split(b",")]
        self.passed = [words[1] for words in entries if len(words) > 1 and words[1].startswith(PSEUDONYM)]
        if self.gateway.roster.pseudonym in self.passed:
            raise Refusal(508, errors.LOOP_DETECTED, "An endpoint has sent this request back to RouterDash.")

    # To the client

    async def _whole_slowly(self, connection: Connection) -> None:
        """The same of a big answer, which `_answer` is, in several turns of the event loop."""
        turns = self.gateway.turns
        body, self._answer = self._answer, None
        assert body is not None
        read: tuple[bytes, Usage | None] = body, None
        await turns.next()
        if connection.status < 400:
            if connection.answer.is_json:
                reading, body = self._reading(body, self.request.model), b""
                read = await turns.run_on(reading)
                del reading
                await turns.next()
            body, usage = read
            if (secret := self._secret) is not None and secret in body:
                body = body.replace(secret, REDACTED)
            read = body, usage
            await turns.next()
        self._whole(connection, body, read)

    def _whole(self, connection: Connection, body: bytes, read: tuple[bytes, Usage | None] | None = None) -> None:
        """`read`: what the client gets of the body, and its usage, if that is known already."""
        status = connection.status
        if status >= 400:
            self._pass_refusal(connection, body)
            return
        route = self.route
        assert route is not None
        secret = route.endpoint.redactor.in_answers
        usage: Usage | None = None
        if read is not None:
            body, usage = read
        else:
            if connection.answer.is_json:
                body, usage = self._read(body, self.request.model)
            if secret is not None and secret in body:
                body = body.replace(secret, REDACTED)
        self._finish(record.OK, status, attempt_status=status, usage=usage, answer=body)
        exchange = self.exchange
        if exchange.started:
            self._reply_late(body)
        elif exchange.cors is not None:
            exchange.reply(status, _kept(connection.headers, secret), body, self._way())
        else:
            answer = connection.answer
            kept = answer.kept
            if kept is None:
                kept = answer.kept = header_lines(_kept(answer.headers, secret))
            exchange.reply(status, (), body, kept + self._way())

    @property
    def _secret(self) -> bytes | None:
        """What no answer of the present endpoint may tell."""
        return None if self.route is None else self.route.endpoint.redactor.in_answers

    # A whole answer as the client is to get it, by the name that it asked for, and its usage. Raises UpstreamError for
    # what is none.
    _read = staticmethod(read_answer)

    def _reading(self, body: bytes, asked: str) -> Slices[tuple[bytes, Usage | None]]:
        """The same of a big answer, in slices."""
        return reading_answer(body, asked)

    def _reply_late(self, body: bytes) -> None:
        """To a client that was told by comments that its stream is alive: all in one event."""
        self.exchange.end(b"data: %b\n\n%b" % (b"".join(body.splitlines()), self.dialect.done))

    # What an endpoint says of its errors

    def _heard(self, connection: Connection, body: bytes) -> tuple[bytes, EndpointError]:
        """The body of an error, without the endpoint's own secrets, and what it says."""
        if len(body) > MAX_ERROR_BYTES:
            self.gateway.bounds.hit(bounds.ENDPOINT_ERROR)
            body = body[:MAX_SENTENCE]  # no JSON any more
        if connection.header(b"content-encoding").lower() not in (b"", b"identity"):
            body = b""  # nobody has asked for that
        assert self.route is not None
        body = self.route.endpoint.redactor.clean(body)
        return body, endpoint_errors.read(body)

    def _cleaned(self, said: EndpointError) -> EndpointError:
        assert self.route is not None
        clean = self.route.endpoint.redactor.clean_text
        return EndpointError(clean(said.sentence), tuple(map(clean, said.words)))

    def _pass_refusal(self, connection: Connection, body: bytes) -> None:
        """An error that is the client's own fault: it gets what the endpoint says."""
        status = connection.status
        body, said = self._heard(connection, body)
        self._finish(
            record.REFUSED, status, attempt_status=status, error=said.summary(status), said=said.sentence, answer=body
        )
        self._tell_refusal(status, connection.headers, body, said)

    def _tell_refusal(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, said: EndpointError) -> None:
        exchange = self.exchange
        if exchange.started:
            sentence = said.sentence or f"The endpoint answered {status}."
            exchange.end(self.dialect.error_event(error_body(status, errors.UPSTREAM_ERROR, sentence)))
            return
        assert self.route is not None
        clean = self.route.endpoint.redactor.clean
        kept = [(name, clean(value)) for name, value in _kept(headers) if name != b"content-encoding"]
        told = self._refused(status, body, said)
        if told is not body or not any(name == b"content-type" and _IS_JSON(value) for name, value in kept):
            kept = [JSON, *(header for header in kept if header[0] != b"content-type")]
        exchange.reply(status, kept, told, self._way())

    def _refused(self, status: int, body: bytes, said: EndpointError) -> bytes:
        """The body of an endpoint's error as the client is to get it: JSON."""
        if said.is_json:
            return body
        return error_body(status, errors.UPSTREAM_ERROR, said.sentence or f"The endpoint answered {status}.")

    async def _stream(self, connection: Connection) -> Failure | None:
        relay = self.relay = self._new_relay()
        assert self.route is not None
        relay.redact = self.route.endpoint.redactor.clean
        try:
            await self._pump(connection, relay)
        except (UpstreamError, EventTooLong) as error:
            connection.abort()
            failed = error if isinstance(error, UpstreamError) else self._too_long()
            failed.__traceback__ = None  # which holds this frame, which holds it
            if not self.sent and not relay.whole:
                self.relay = None
                return self._failed(self._no_stream(relay, str(failed), failed))
            if not relay.finished and relay.error is None:
                self._break_off(connection.status, failed)
                return None
        if not self.sent and not relay.whole:
            self.relay = None
            return self._failed(self._no_stream(relay, "the stream ended before its first event"))
        if relay.error is None and not relay.finished:
            self._break_off(connection.status, UpstreamError(BROKEN, "the stream ended before its answer did"))
            return None
        if relay.error is None:
            self._finish(record.OK, connection.status, attempt_status=connection.status)
        else:
            said = self._cleaned(relay.error)
            why = said.summary(connection.status)
            self._finish(
                record.FAILED, connection.status, attempt_status=connection.status, error=why, said=said.sentence
            )
        self.start(connection)
        self.exchange.end(relay.held)
        return None

    def _too_long(self) -> UpstreamError:
        self.gateway.bounds.hit(UPSTREAM_EVENT)
        return UpstreamError(BROKEN, "an event is too long")

    def _no_stream(self, relay: Relay, why: str, error: UpstreamError | None = None) -> Failure:
        """Nothing of a stream went to the client; the endpoint may have said why."""
        if relay.error is None:
            return Failure(0, b"", [], error, why)
        said = self._cleaned(relay.error)
        return Failure(0, b"", [], error, said.summary(0), said)

    def _new_relay(self) -> Relay:
        return StreamRelay(self.dialect, self.request.model, hide_usage=self.asked_usage)

    async def _pump(self, connection: Connection, relay: Relay) -> None:
        """Until the endpoint ends its body."""
        passing = Passing(self, connection, relay)
        while not await connection.hand_on(passing.take):
            if passing.too_long:
                raise EventTooLong
            connection.wait_at_most(None)  # it is the client who is slow, or we
            await self.exchange.drain()
            while relay.behind:
                await self.gateway.turns.next()
                passing.take(b"")
                if passing.too_long:
                    raise EventTooLong
                await self.exchange.drain()
            passing.wait()
        relay.end()

    async def _pass(self, connection: Connection) -> Failure | None:
        """An answer that is neither JSON nor a stream of events: sound, say. Passed on as it comes, but its end."""
        exchange = self.exchange
        try:
            while data := await connection.read():
                if not exchange.started:
                    exchange.start(connection.status, _kept(connection.headers, self._secret), self._way())
                exchange.write(data)
                connection.wait_at_most(None)  # it may be the client who is slow
                await exchange.drain()
                connection.wait_at_most(self.idle_seconds)
        except UpstreamError as error:
            if not exchange.started:
                raise
            # There is no way to say it in such an answer but to break it off.
            self._finish(record.TRUNCATED, connection.status, attempt_status=connection.status, error=str(error))
            exchange.abort()
            return None
        if not exchange.started:
            return self._failed(Failure(connection.status, b"", [], None, "an empty answer"))
        self._finish(record.OK, connection.status, attempt_status=connection.status)
        exchange.end()
        return None

    @property
    def idle_seconds(self) -> float | None:
        """The longest that a stream may be silent between two events."""
        if self.endpoint is None:
            return None
        facts = self.endpoint.facts
        return facts.timeout_secs if facts.idle_timeout_secs is None else facts.idle_timeout_secs

    def start(self, connection: Connection) -> None:
        if not self.exchange.started:
            headers = _kept(connection.headers, self._secret)
            headers.append((b"x-accel-buffering", b"no"))
            self.exchange.start(connection.status, headers, self._way())

    def keep_alive(self) -> None:
        """Now and then: a comment, if the client of a stream has heard nothing since the last look. It is no token."""
        if not self.request.stream or not self.kind.generates or self.recorded:
            return
        events = self.relay.events if self.relay is not None else 0
        if events != self.seen_events:
            self.seen_events = events
            return
        exchange = self.exchange
        if not exchange.started:
            headers = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")]
            exchange.start(200, headers, self._way())
        exchange.write(b": waiting\n\n")

    def end_early(self, why: str) -> None:
        """An operator's word: what still runs at the end of a drain. It breaks off as if the endpoint had."""
        if self.connection is not None and self.endpoint is not None:
            self.connection.fail(UpstreamError(ENDED, why))

    def cancel(self, why: Ending = BY_OPERATOR) -> None:
        """It ends now, wherever it waits, and its client is told."""
        task = self.exchange.task
        if task is not None and not self.recorded:
            self.cancelled = why
            task.throw(asyncio.CancelledError())

    def _tell_cancelled(self, why: Ending) -> None:
        if self.exchange.started and self.kind.binary and self.relay is None:
            self.exchange.abort()  # half of a sound: there is no way to say it in there
        else:
            self._refuse(why.status, why.code, why.message)

    def _break_off(self, status: int, error: UpstreamError) -> None:
        """After the first byte there is no other endpoint to ask: say so in the client's dialect, and end."""
        if error.kind == TIMEOUT:
            code, message = 504, "The endpoint stopped sending in the middle of its answer."
        else:
            code, message = 502, "The endpoint broke off in the middle of its answer."
        self._finish(record.TRUNCATED, status, attempt_status=status, error=str(error))
        name = errors.UPSTREAM_TIMEOUT if code == 504 else errors.UPSTREAM_ERROR
        self.exchange.end(self.dialect.error_event(error_body(code, name, message)))

    def _no_endpoint(self) -> None:
        message = f"No endpoint that has the model {self.request.model!r} can be asked now."
        self._finish(record.NO_ENDPOINT, 503, error=message)
        self._refuse(503, errors.NO_CAPABLE_ENDPOINTS, message, ((b"retry-after", b"5"),))

    def _give_up(self, failure: Failure) -> None:
        """Every attempt failed: tell the last one's reason."""
        if failure.status in (408, 429):
            self._finish(record.FAILED, failure.status, error=failure.why, answer=failure.body)
            said = failure.said or EndpointError("")
            self._tell_refusal(failure.status, failure.headers, failure.body, said)
        elif failure.error is not None and failure.error.kind == TIMEOUT:
            message = "The endpoint did not answer in time."
            self._finish(record.FAILED, 504, error=message, answer=failure.body)
            self._refuse(504, errors.UPSTREAM_TIMEOUT, message)
        else:
            self._finish(record.FAILED, 502, error=f"The endpoint failed: {failure.why}.", answer=failure.body)
            told = failure.why if failure.said is None else failure.said.sentence or failure.why
            self._refuse(502, errors.UPSTREAM_ERROR, f"The endpoint failed: {told}.")

    def _refuse(self, status: int, code: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        param = "model" if code == errors.NO_CAPABLE_ENDPOINTS else None
        if self.exchange.started:
            self.exchange.end(self.dialect.error_event(error_body(status, code, message, param)))
            return
        body = self._error_body(status, code, message, param)
        self.exchange.reply(status, (JSON, *headers), body, self._way())

    def _error_body(self, status: int, code: str, message: str, param: str | None) -> bytes:
        return error_body(status, code, message, param)

    def _way(self) -> bytes:
        """Header lines: the request's id, and what RouterDash says of the way that it took."""
        if not self.gateway.config.route_headers:
            return b"x-request-id: %b\r\n" % self.request_id
        attempts = len(self.attempts) + (self.endpoint is not None)  # of a stream, the present one is not noted yet
        endpoint = b"" if self.route is None else self.route.endpoint.label
        if attempts == 1 and self.queue_us is None:
            return b"".join((b"x-request-id: ", self.request_id, b"\r\n", endpoint, _AT_ONCE))
        return b"x-request-id: %b\r\n%bx-routerdash-attempts: %d\r\nx-routerdash-queue-ms: %d\r\n" % (
            self.request_id,
            endpoint,
            attempts,
            (self.queue_us or 0) // 1000,
        )

    def _own_id(self, given: bytes) -> bytes:
        """The client's own id, if it is a decent one, else ours: it may not break out of a header or a log line."""
        decent = 0 < len(given) <= 128 and given.isascii() and given.decode().isprintable()
        request_id = given if decent else self.id.encode()
        self.own_id = request_id.decode()
        return request_id

    # For whoever looks

    def waiting(self, epoch: float, position: int) -> Waiting:
        """As one of those in the queue. `epoch`: seconds since 1970 at which time.monotonic() was 0."""
        since = epoch + (self.queued_at or self.exchange.arrived)
        return Waiting(
            self.id, self.request.model, self.kind.name, self._key_id(), self.exchange.peer.ip, since, position
        )

    def running(self, epoch: float) -> Running:
        """As one of those on an endpoint."""
        return Running(
            self.id,
            self.request.model,
            self.kind.name,
            None if self.endpoint is None else self.endpoint.id,
            self._key_id(),
            self.exchange.peer.ip,
            epoch + self.exchange.arrived,
            self.request.stream,
            0 if self.relay is None else self.relay.deltas,
            None if self.first_token is None else epoch + self.first_token,
        )

    def _key_id(self) -> str | None:
        return self.exchange.api_key.id if self.exchange.api_key else None

    # The record

    def _failed(self, failure: Failure) -> Failure:
        if failure.error is not None and failure.error.bound is not None:
            self.gateway.bounds.hit(failure.error.bound)
        said = failure.said
        if failure.status == 401:  # not the client's key
            failure.why, failure.said = "it refuses the key that RouterDash has for it", None
        self._note(record.FAILED, failure.status, failure.why, time.monotonic(), said.sentence if said else None)
        self._blame(failure.error, failure)
        return failure

    def _blame(self, error: Exception | None, failure: Failure | None = None) -> None:
        """Tell the endpoint's circuit breaker. `error`: what went wrong with the connection, if anything did."""
        kind = error.kind if isinstance(error, UpstreamError) else None
        if self.endpoint is None or kind == ENDED:
            return
        pause = None if failure is None else _pause(failure)
        # A request can make an endpoint fail that has accepted it, but not refuse a connection or RouterDash's own key.
        at_fault = kind in (CONNECT, TIMEOUT) or (failure is not None and failure.status in (401, 408, 429))
        self.endpoint.failed(pause, None if at_fault or pause is not None else self._client())

    def _did_badly(self, outcome: str) -> None:
        """The present attempt ends, and was no success."""
        if outcome in (record.FAILED, record.TRUNCATED):
            self._blame(None if self.connection is None else self.connection.error)

    def _client(self) -> str:
        """Whose request it is: the API key's id, without one the client's address (of IPv6 its /64)."""
        key = self.exchange.api_key
        return client_of(self.exchange.peer.ip or "") if key is None else key.id

    def _note(self, outcome: str, status: int, error: str | None, now: float, said: str | None = None) -> None:
        """The present attempt has ended. `said`: the endpoint's own words on its error."""
        decision = self.decision
        assert decision is not None
        started = self.started
        self.attempts.append(
            Attempt(  # by position: by name it would take six times as long
                decision.endpoint_id,
                outcome,
                status,
                int((now - started) * 1e6),
                error,
                int((started - self.exchange.arrived) * 1e6),
                decision.reason,
                () if decision.reason == ONLY else noted(decision),
                said,
            )
        )

    def _finish(
        self,
        outcome: str,
        status: int,
        *,
        attempt_status: int | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        said: str | None = None,
        answer: bytes | None = None,
    ) -> None:
        """Write the one record of this request. `attempt_status` when the present attempt ends with it."""
        if self.recorded:
            return
        self.recorded = True
        gateway, exchange, relay = self.gateway, self.exchange, self.relay
        now = time.monotonic()
        if attempt_status is not None or (outcome == record.CANCELLED and self.endpoint is not None):
            self._note(outcome, attempt_status or 0, error, now, said)
            if outcome == record.OK:
                endpoint, key = self.endpoint, exchange.api_key
                assert endpoint is not None
                breaker = endpoint.breaker
                breaker.well += 1
                keys = breaker.keys
                if key is not None and key.id == keys.last:
                    keys.last_at = now
                else:
                    keys.succeeded(self._client(), now)
                if breaker.bad_in_a_row:
                    endpoint.did_well()
            else:
                self._did_badly(outcome)
        estimated = False
        if relay is not None:
            usage, estimated = self._streamed_usage()
        asked_with = answered_with = None
        if gateway.keeps_bodies and self._keeps_bodies(outcome):
            asked_with = redact(self._request_body) if self._request_body else None
            answered_with = redact(answer) if answer else None
        elif outcome != record.OK or len(self.attempts) > 1:
            self._forget_words()
        if status >= 400 and exchange.started:
            status = 200  # as a stream that was kept alive has told
        gateway.record(
            RequestRecord(  # by position
                self.id,
                time.time_ns() // 1000,
                self.kind.name,
                self.request.model,
                outcome,
                status,
                int((now - exchange.arrived) * 1e6) or 1,
                None if self.first_token is None else int((self.first_token - exchange.arrived) * 1e6),
                tuple(self.attempts),
                usage.input_tokens if usage else None,
                usage.output_tokens if usage else None,
                estimated,
                relay is not None,  # streamed
                exchange.api_key.id if exchange.api_key else None,
                exchange.peer.ip,
                error,
                asked_with,
                answered_with,
                self.queue_us,
                self.own_id,
            )
        )
        self._leave()

    def _forget_words(self) -> None:
        """Endpoints' own words on their errors are kept with bodies alone."""
        self.attempts = [it if it.said is None else structs.replace(it, said=None) for it in self.attempts]

    def _streamed_usage(self) -> tuple[Usage | None, bool]:
        """As the stream told, else counted from its deltas: True says that it is an estimate."""
        assert self.relay is not None
        usage, deltas = self.relay.usage, self.relay.deltas
        if not deltas or (usage is not None and usage.output_tokens is not None):
            return usage, False
        return Usage(None if usage is None else usage.input_tokens, deltas), True

    def _keeps_bodies(self, outcome: str) -> bool:
        wanted = self.gateway.config.store_bodies
        return wanted == "all" or (wanted == "errors" and outcome != record.OK)

    def _leave(self) -> None:
        endpoint = self.endpoint
        if endpoint is None:
            return
        self.endpoint = self.connection = None
        endpoint.leave()
        if self.trial:
            self.trial = False
            endpoint.end_trial()
        if self.gateway.queue.length:
            self.gateway.queue_moves()

    def _why_cancelled(self) -> str:
        return "RouterDash was stopped" if self.gateway.stopping else "the client left"


class Passing:
    """What happens to each piece of a stream. Each event gives the next its time; comments give none."""

    __slots__ = ("_connection", "_end", "_idle", "_inference", "_relay", "too_long")

    def __init__(self, inference: Inference, connection: Connection, relay: Relay) -> None:
        self._inference = inference
        self._connection = connection
        self._relay = relay
        self._idle = inference.idle_seconds
        total = None if inference.endpoint is None else inference.endpoint.facts.total_timeout_secs
        self._end = NEVER if total is None else inference.started + total
        self.too_long = False

    def wait(self) -> None:
        """From now on for the next event, within the time of the whole stream."""
        deadline, idle = self._end, self._idle
        if idle is not None and (silent := time.monotonic() + idle) < deadline:  # quicker than `min`
            deadline = silent
        self._connection.deadline = deadline

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
            self._idle = GRACE_SECONDS
        if inference.first_token is None and relay.deltas:
            inference.first_token = time.monotonic()
        if relay.events > events and not held:
            self.wait()
        if out:
            if not inference.sent:
                if relay.error is not None and not relay.deltas:
                    return not relay.behind  # it begins with its failure: another endpoint may still be asked
                inference.sent = True
                inference.start(self._connection)
            exchange = inference.exchange
            exchange.write(out)
            return not (exchange.write_paused or relay.behind)
        return not relay.behind


def _kept(headers: list[tuple[bytes, bytes]], secret: bytes | None = None) -> list[tuple[bytes, bytes]]:
    """The headers of an endpoint's answer that a client gets to see, without the endpoint's secret."""
    kept = [header for header in headers if _BACK[header[0]]]
    return kept if secret is None else [(name, value.replace(secret, REDACTED)) for name, value in kept]


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines: list[bytes] = []
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def onward_lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The lines of a request's head that an inference server gets to see."""
    return header_lines(header for header in headers if _ONWARD[header[0]])


def _may_retry(status: int) -> bool:
    """Not the client's fault: another endpoint may do better. 401 refuses the key that RouterDash sent."""
    return status in (401, 408, 429) or (status >= 500 and status != 501)


def _is_no_answer(answer: bytes, content_type: bytes) -> str | None:
    """Why a 200 is none. An endpoint that fails fast in this way would draw every request."""
    if not answer.strip():
        return "an empty answer"
    if content_type.startswith(b"text/html"):
        return "a web page instead of an answer"
    return None


def _pause(failure: Failure) -> float | None:
    """Seconds for which the endpoint asked to be left alone."""
    if failure.status not in (429, 503):
        return None
    value = next((value for name, value in failure.headers if name == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) < 10 else None
