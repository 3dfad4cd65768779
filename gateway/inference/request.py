"""One inference request: its client, its fields and its progress."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Protocol

from gateway.base.addresses import client_of
from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.body_edits import Places
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.openai_events import Dialect
from gateway.dialects.openai_requests import Request
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.http.exchange import Exchange
from gateway.http.revocation import Ending
from gateway.inference.attempt import Attempt
from gateway.inference.headers import routing_lines
from gateway.inference.services import Services
from gateway.ipc.record import AttemptRecord, uuid7
from gateway.ipc.running_requests import Running, Waiting
from gateway.limits import replies
from gateway.limits.compiled import LimitedRequest
from gateway.loop.time_slices import Slices
from gateway.model_names.chains import Chain, requested_plan
from gateway.model_names.plan import NamePlan
from gateway.routing.affinity.affinity import Prefix
from gateway.routing.balancer import Decision
from gateway.routing.endpoint import Endpoint
from gateway.routing.expected_time import Demand
from gateway.upstream.connection import Connection
from gateway.upstream.errors import UpstreamError
from gateway.upstream.response_head import EVENT_STREAM

ENDED = "ended"  # kind of an UpstreamError: RouterDash itself ended the attempt
NOT_PARSED = Request("", False, False)
MAX_ID_BYTES = 128  # of a client's own x-request-id


class Api(Protocol):
    """The API that a request uses: how it is parsed and sent, and how its response is read."""

    kind: Kind
    dialect: Dialect  # of streams
    relays_huge: bool  # a response too long to be read whole is relayed; its tokens are read in its end
    reads_lines: bool  # a stream may consist of JSON objects, one a line

    def parsing(self, request: "InferenceRequest", body: Body) -> Slices[object]:
        """Read and check the fields of a body; of a big one in time slices. Raises Refusal."""

    def serve(self, request: "InferenceRequest", body: Body) -> Coroutine[object, object, None]:
        """Return the coroutine that serves a request whose fields are read. Raises Refusal."""

    def query(self, request: "InferenceRequest") -> bytes:
        """Return the query that the endpoint receives. Raises Refusal."""

    def send(self, request: "InferenceRequest", attempt: Attempt, body: Body) -> Coroutine[object, object, Connection]:
        """Send the request; return the connection with the header block of the response. Raises UpstreamError."""

    def can_resend(self) -> bool:
        """Return True if the body is still stored, so that another endpoint can receive it."""

    def new_relay(self, request: "InferenceRequest", attempt: Attempt) -> StreamRelay:
        """Create the relay of a streamed response."""

    def reading(self, request: "InferenceRequest", attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        """Return the body that the client receives, with the model name that it sent, and the usage.

        A big body is read in time slices. Raises UpstreamError for a body that is no response.
        """

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
        "api", "attempt", "attempts", "body", "cancelled", "chain", "conversation", "demand", "exchange",
        "gives_way", "id", "limited", "parsed", "preferred", "prefix", "queue_class", "queue_us", "queued_since",
        "recorded", "request_id", "services", "target", "via",
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
        self.queue_class: str | None = None  # BULK of gateway.base.queue_class; None: interactive
        self.gives_way = False  # to interactive requests: it is a bulk request, and has not waited for long
        self.queued_since: float | None = None  # time.monotonic(), while it is queued
        self.queue_us: int | None = None  # total time in the queue
        self.attempts: list[AttemptRecord] = []  # that have ended
        self.attempt: Attempt | None = None  # the current or the last one
        self.limited: LimitedRequest | None = None  # None: nothing limits it
        self.recorded = False
        self.cancelled: Ending | None = None  # by RouterDash, not by a client disconnect
        self.prefix: Prefix | None = None  # the beginning of its prompt, if it may decide about the endpoint
        self.conversation: str | None = None  # see RequestRecord
        self.demand: Demand | None = None  # its expected need, once an endpoint is to be chosen
        self.body: Body | None = None  # if bodies are stored with records

    def begin_chain(self, parsed: Request, places: Places | None = None) -> None:
        """Find the steps of the requested model name, or of several models, if the request has one or the other.

        `places`: of the top-level values in a large body.
        """
        plan = requested_plan(self.services.roster, parsed)
        if plan is not None:
            self.go_by(plan, parsed, places)

    def go_by(self, plan: NamePlan, parsed: Request, places: Places | None) -> None:
        """Have the request go the way of these steps."""
        services = self.services
        self.chain = Chain(services.roster, services.learned, self.exchange, self.api.kind, parsed, plan, places)

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
    def has_hard_budget(self) -> bool:
        """True if it may not use more than it has reserved."""
        return self.limited is not None and self.limited.compiled.has_hard

    @property
    def client(self) -> str:
        """The id of the API key; without one, the client's address (of IPv6 its /64)."""
        key = self.exchange.api_key
        return client_of(self.exchange.head.peer.ip or "") if key is None else key.id

    def header_lines(self) -> bytes:
        """Return header lines of the response: the request's id, endpoint and why, attempts, queue time, and limits."""
        attempt, has_route = self.attempt, self.services.config.route_headers
        lines = [b"x-request-id: ", self.request_id, b"\r\n"]
        if attempt is not None and has_route:
            lines.append(attempt.endpoint.label)
        if self.limited is not None:
            lines.append(replies.header_lines(self.limited))
        if attempt is not None:
            if has_route and attempt.decision.expected_times:
                lines.append(routing_lines(attempt.decision, attempt.kept))
            lines.append(_dropped_by(attempt))
            if has_route and self.chain is not None:
                lines.append(self.chain.header_lines(attempt.route))
        if has_route:
            # The current attempt of a stream is not in the list yet.
            attempts = len(self.attempts) + (attempt is not None and attempt.active)
            queue_ms = (self.queue_us or 0) // 1000
            lines.append(b"x-routerdash-attempts: %d\r\nx-routerdash-queue-ms: %d\r\n" % (attempts, queue_ms))
        return b"".join(lines)

    def leave_endpoint(self) -> None:
        """End the current attempt: its endpoint counts one request less, and the queue is served."""
        attempt = self.attempt
        if attempt is None or not attempt.active:
            return
        attempt.active = False
        attempt.connection = None
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
        since = epoch + (self.queued_since or self.exchange.arrived)
        kind = self.api.kind.name
        return Waiting(
            self.id,
            self.model,
            kind,
            self.key_id,
            self.exchange.head.peer.ip,
            since,
            position,
            self.queue_class,
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
            self.queue_class,
        )

    def _accept_id(self, client_id: bytes) -> bytes:
        """Return the client's own id if it fits a header and a log line, else the id of RouterDash."""
        fits = 0 < len(client_id) <= MAX_ID_BYTES and client_id.isascii() and client_id.decode().isprintable()
        return client_id if fits else self.id.encode()


def _dropped_by(attempt: Attempt) -> bytes:
    """Return the header line with the fields that the endpoint has not received."""
    if attempt.dropped is not None:
        return attempt.dropped.line()
    return b"" if attempt.translation is None else attempt.translation.dropped
