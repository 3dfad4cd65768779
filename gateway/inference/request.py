"""One inference request: its client, its fields and its progress."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import NamedTuple, Protocol

from gateway.base.addresses import client_of
from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.json_outline import Outline
from gateway.dialects.openai_events import Dialect
from gateway.dialects.openai_requests import Request
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.http.exchange import Exchange
from gateway.http.revocation import Ending
from gateway.inference.attempt import INTEGRATED, Attempt
from gateway.inference.headers import routing_lines
from gateway.inference.services import Services
from gateway.inference.steps.chains import Chain
from gateway.ipc.record import AttemptRecord, uuid7
from gateway.ipc.running_requests import Running, Waiting
from gateway.limits import replies
from gateway.limits.compiled import LimitedRequest
from gateway.loop.time_slices import Slices
from gateway.routing.adaptive import FASTEST, Demand
from gateway.routing.affinity.affinity import Prefix
from gateway.routing.balancer import Decision
from gateway.routing.endpoint import Endpoint
from gateway.upstream.connection import Connection
from gateway.upstream.errors import UpstreamError
from gateway.upstream.response_head import EVENT_STREAM

ENDED = "ended"  # kind of an UpstreamError: RouterDash itself ended the attempt
# Lines of most responses with two endpoints. One format takes fewer instructions than lines that are joined.
_FASTEST_OF_TWO = b"x-request-id: %%b\r\n%%bx-routerdash-reason: %b;cost=%%d;next=%%d\r\n%b" % (
    FASTEST.encode(), replies.FIRST_ATTEMPT,
)  # fmt: skip
NOT_PARSED = Request("", False, False)
MAX_ID_BYTES = 128  # of a client's own x-request-id


class QueueStay(NamedTuple):
    """The class of a request, and its stay in the queue."""

    queue_class: str | None = None  # BULK of gateway.base.queue_class; None: interactive
    gives_way: bool = False  # to interactive requests: it is a bulk request, and has not waited for long
    since: float | None = None  # time.monotonic(), while it is queued
    us: int | None = None  # total time in the queue


NO_STAY = QueueStay()


class Api(Protocol):
    """The API that a request uses: how it is parsed and sent, and how its response is read."""

    kind: Kind
    dialect: Dialect  # of streams
    relays_huge: bool  # a response too long to be read whole is relayed, without counting its tokens
    reads_lines: bool  # a stream may consist of JSON objects, one a line

    def parse(self, request: "InferenceRequest", body: Body) -> Request:
        """Parse a small body. Raises Refusal."""

    def check_big(
        self, request: "InferenceRequest", body: Body, top: Outline | None
    ) -> Coroutine[object, object, None]:
        """Check the fields of a big body that `parse` checks in a small one. Raises Refusal."""

    def query(self, request: "InferenceRequest") -> bytes:
        """Return the query that the endpoint receives. Raises Refusal."""

    def send(self, request: "InferenceRequest", attempt: Attempt, body: Body) -> Coroutine[object, object, Connection]:
        """Send the request; return the connection with the header block of the response. Raises UpstreamError."""

    def can_resend(self) -> bool:
        """Return True if the body is still stored, so that another endpoint can receive it."""

    def new_relay(self, request: "InferenceRequest", attempt: Attempt) -> StreamRelay:
        """Create the relay of a streamed response."""

    def read(self, request: "InferenceRequest", attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        """Return the body that the client receives, with the model name that it sent, and the usage.

        Raises UpstreamError for a body that is no response.
        """

    def read_slices(
        self, request: "InferenceRequest", attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        """Read a big body as `read` does, in time slices."""

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        """Return the JSON body by which the client receives an error of the endpoint."""

    def error_event(self, request: "InferenceRequest", body: bytes) -> bytes:
        """Return the events by which a stream that has begun ends with an error of RouterDash, in OpenAI's format."""

    def error_body(
        self,
        request: "InferenceRequest",
        status: int,
        code: str,
        message: str,
        param: str | None,
        error_type: str | None = None,
    ) -> bytes:
        """Return the body of an error of RouterDash itself. `error_type`: of OpenAI, in place of that of the status."""


class InferenceRequest:
    """The state of one request, from its arrival to its record."""

    __slots__ = (
        "api", "attempt", "attempts", "body", "cancelled", "chain", "conversation", "demand", "exchange", "id",
        "limited", "parsed", "preferred", "prefix", "recorded", "request_id", "services", "stay", "target", "via",
    )  # fmt: skip

    def __init__(self, services: Services, exchange: Exchange, api: Api) -> None:
        self.services = services
        self.exchange = exchange
        self.api = api
        self.target = api.kind.target  # path and query at the endpoint
        self.id = uuid7()
        client_id = exchange.head.fields.get(b"x-request-id")
        self.request_id = self.id.encode() if client_id is None else self._accept_id(client_id)
        self.parsed = NOT_PARSED
        # The endpoint that stores the previous response (CREATOR), or is the only one that may be used (PINNED).
        self.preferred: Decision | None = None
        self.chain: Chain | None = None  # if it has a model name, or names several models
        self.via: Sequence[bytes] = ()  # other RouterDash installations that the request has passed
        self.stay = NO_STAY
        self.attempts: list[AttemptRecord] = []  # that have ended
        self.attempt: Attempt | None = None  # the current or the last one
        self.limited: LimitedRequest | None = None  # None: nothing limits it
        self.recorded = False
        self.cancelled: Ending | None = None  # by RouterDash, not by a client disconnect
        self.prefix: Prefix | None = None  # the beginning of its prompt, if it may decide about the endpoint
        self.conversation: str | None = None  # see RequestRecord
        self.demand: Demand | None = None  # what it is expected to need, once an endpoint is to be chosen
        self.body: Body | None = None  # if bodies are stored with records

    @property
    def model(self) -> str:
        """The model that the client requested."""
        return self.parsed.model if self.chain is None else self.chain.requested

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that the request runs at; None while it waits."""
        attempt = self.attempt
        return attempt.endpoint if attempt is not None and attempt.active else None

    @property
    def key_id(self) -> str | None:
        """The id of the API key."""
        return self.exchange.api_key.id if self.exchange.api_key else None

    @property
    def client_request_id(self) -> str | None:
        """The id for which the client asked with x-request-id, or RouterDash's instead; None if it did not ask."""
        return self.request_id.decode() if b"x-request-id" in self.exchange.head.fields else None

    @property
    def client(self) -> str:
        """The id of the API key; without one, the client's address (of IPv6 its /64)."""
        key = self.exchange.api_key
        return client_of(self.exchange.head.peer.ip or "") if key is None else key.id

    def header_lines(self) -> bytes:
        """Return header lines of the response: the request's id, endpoint and why, attempts, queue time, and limits."""
        attempt, limited = self.attempt, self.limited
        if not self.services.config.route_headers:
            more = b"" if limited is None else replies.header_lines(limited)
            more += b"" if attempt is None else _dropped_by(attempt)
            return b"x-request-id: %b\r\n%b" % (self.request_id, more)
        label = more = b""
        # The current attempt of a stream is not in the list yet.
        attempts = len(self.attempts) + (attempt is not None and attempt.active)
        is_first = attempts == 1 and self.stay.us is None
        if attempt is not None:
            label = attempt.endpoint.label
            if attempt.translation is not None or attempt.dropped is not None:
                more = _dropped_by(attempt)
            if self.chain is not None:
                more += self.chain.header_lines(attempt.route)
            decision = attempt.decision
            costs = decision.whole_costs
            if costs and is_first and limited is None and not more and decision.reason == FASTEST:  # the usual case
                (name, least), (_, more_costly) = costs
                own, other = (least, more_costly) if name == decision.endpoint_id else (more_costly, least)
                return _FASTEST_OF_TWO % (self.request_id, label, own, other)
            if costs or decision.costs:
                more = routing_lines(decision, attempt.kept) + more
        if limited is not None:
            usual, left = limited.compiled.usual_lines, limited.left
            if is_first and usual is not None and not more and left is not None and not limited.anthropic:
                lines, at, after = usual
                return lines % (self.request_id, label, left[at], left[after])
            more = replies.header_lines(limited) + more
        if is_first:
            return b"".join((b"x-request-id: ", self.request_id, b"\r\n", label, more, replies.FIRST_ATTEMPT))
        return b"x-request-id: %b\r\n%b%bx-routerdash-attempts: %d\r\nx-routerdash-queue-ms: %d\r\n" % (
            self.request_id,
            label,
            more,
            attempts,
            (self.stay.us or 0) // 1000,
        )

    def leave_endpoint(self) -> None:
        """End the current attempt: its endpoint counts one request less, and the queue is served."""
        attempt = self.attempt
        if attempt is None or not attempt.active:
            return
        attempt.active = False
        attempt.connection = None
        if attempt.start is INTEGRATED:
            attempt.endpoint.leave_integrated(attempt.pending)
        else:
            attempt.endpoint.leave(attempt.pending)
        attempt.pending = 0
        if attempt.load is not None:
            attempt.load.left()
        if attempt.trial:
            attempt.trial = False
            attempt.endpoint.end_trial()
        if self.services.queue.length:
            self.services.serve_queue()

    # Periodic work (gateway.inference.housekeeping)

    def keep_alive(self, seen_events: int) -> int:
        """Send a comment (SSE) to the client of a stream that has been silent since the last call.

        `seen_events`: the result of the last call, or NO_EVENTS.
        """
        if not self.parsed.stream or not self.api.kind.generates or self.recorded or not self.api.dialect.has_comments:
            return seen_events
        attempt = self.attempt
        relay = None if attempt is None else attempt.relay
        events = 0 if relay is None else relay.events
        if events != seen_events:
            return events
        exchange = self.exchange
        if not exchange.started:
            headers = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")]
            exchange.start(200, headers, self.header_lines())
        exchange.write(b": waiting\n\n" if attempt is None or not attempt.is_loading else self._loading_comment())
        return events

    def _loading_comment(self) -> bytes:
        """Return the comment while the endpoint loads the model, whose name must not end the line."""
        model = self.model
        return b": loading %b\n\n" % (model.encode() if model.isprintable() else b"the model")

    def end_early(self, reason: str) -> None:
        """End the attempt at the end of a drain, as if the endpoint had closed its connection."""
        attempt = self.attempt
        if attempt is not None and attempt.connection is not None:
            attempt.connection.fail(UpstreamError(ENDED, reason))

    def cancel(self, ending: Ending) -> None:
        """End the request at once, wherever it waits, and send the reason to the client."""
        task = self.exchange.task
        if task is not None and not self.recorded:
            self.cancelled = ending
            task.throw(asyncio.CancelledError())

    def describe_queued(self, epoch: float, position: int) -> Waiting:
        """Describe a queued request. `epoch`: seconds since 1970 at which time.monotonic() was 0."""
        since = epoch + (self.stay.since or self.exchange.arrived)
        kind = self.api.kind.name
        return Waiting(
            self.id,
            self.model,
            kind,
            self.key_id,
            self.exchange.head.peer.ip,
            since,
            position,
            self.stay.queue_class,
        )

    def describe_running(self, epoch: float) -> Running:
        """Describe a running request. `epoch`: seconds since 1970 at which time.monotonic() was 0."""
        attempt, endpoint = self.attempt, self.endpoint
        relay = None if attempt is None else attempt.relay
        first_token = None if attempt is None else attempt.first_token
        return Running(
            self.id,
            self.model,
            self.api.kind.name,
            None if endpoint is None else endpoint.id,
            self.key_id,
            self.exchange.head.peer.ip,
            epoch + self.exchange.arrived,
            self.parsed.stream,
            0 if relay is None else relay.deltas,
            None if first_token is None else epoch + first_token,
            self.stay.queue_class,
        )

    def _accept_id(self, client_id: bytes) -> bytes:
        """Return the client's own id if it fits a header and a log line, else the id of RouterDash."""
        fits = 0 < len(client_id) <= MAX_ID_BYTES and client_id.isascii() and client_id.decode().isprintable()
        return client_id if fits else self.id.encode()


def _dropped_by(attempt: Attempt) -> bytes:
    """Return the header line with what the endpoint has not received."""
    if attempt.dropped is not None:
        return attempt.dropped.line()
    return b"" if attempt.translation is None else attempt.translation.dropped
