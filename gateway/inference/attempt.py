"""One attempt: one try of a request at one endpoint. Failover creates another attempt for the same request."""

from dataclasses import dataclass
from math import floor

from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.chat.translation import Translation
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.sse_relay import StreamRelay
from gateway.ipc.live_page import MOMENTS_PER_SECOND, WORD
from gateway.ipc.record import FAILED, REFUSED, Work
from gateway.providers.errors import LACKING, OF_THE_REQUEST, ErrorCause
from gateway.routing.balancer import Decision
from gateway.routing.endpoint import Endpoint
from gateway.routing.expected_time import Row, recent_mean
from gateway.routing.learned_routes import LearnedFacts
from gateway.routing.loaded_models import ModelLoad
from gateway.routing.routes import Route
from gateway.upstream.connection import Connection
from gateway.upstream.errors import EndpointWithdrawn, UpstreamError

MICROSECONDS = int(1_000_000 / MOMENTS_PER_SECOND)  # of one moment
_BITS = 31  # of a difference; a greater one is below 0: the cells of a process that has ended were cleared


class Attempt:
    """The state of one attempt. It is active as long as its endpoint counts it as in flight."""

    __slots__ = (
        "active", "connect_us", "connection", "decision", "dropped", "endpoint", "error_body",
        "first_token", "kept", "load", "pending", "relay", "route", "sent", "start", "started", "translation",
        "trial", "usage_added", "without_load",
    )  # fmt: skip

    reads_stored = False

    def __init__(self, route: Route, decision: Decision, *, trial: bool) -> None:
        self.route = route
        self.endpoint = route.endpoint
        self.decision = decision
        self.trial = trial  # the circuit breaker of its endpoint is not closed
        self.active = True
        self.started = 0.0  # time.monotonic()
        # The work as it is expected, with the endpoint's counts at the start: prompt tokens sent so far with its own,
        # and the integral of the requests in flight in moments; of both, only differences modulo 2**32 mean something.
        # None: it reads a stored response, or nothing is learned; or the attempt has ended.
        self.start: Work | None = None
        self.pending = 0  # prompt tokens, until the response begins
        self.kept = 0  # prompt tokens that are expected in the endpoint's prefix cache
        self.load: ModelLoad | None = None  # that it waits for, until the response begins
        # Expected seconds until the first token and until the end, without the load that it caused.
        self.without_load: tuple[float, float] | None = None
        self.connection: Connection | None = None
        self.connect_us: int | None = 0  # for opening it; 0 if it was idle, None if that was cancelled
        self.translation: Translation | None = None  # the request was sent in another dialect than the client's
        self.dropped: Dropped | None = None  # tools that the endpoint refuses
        self.usage_added = False  # usage is requested that the client did not request
        self.error_body: bytes | None = None  # of a 4xx response that was read to decide about another request
        self.relay: StreamRelay | None = None  # of a streamed response
        self.sent = False  # events of the response went to the client; keep-alive comments do not count
        self.first_token: float | None = None  # time.monotonic()

    @property
    def secret(self) -> bytes | None:
        """The endpoint's own API key, which no response may contain."""
        return self.endpoint.redactor.in_responses

    @property
    def idle_seconds(self) -> float | None:
        """The idle timeout: the longest time between two events of a stream."""
        facts = self.endpoint.facts
        return facts.timeout_secs if facts.idle_timeout_secs is None else facts.idle_timeout_secs

    @property
    def is_loading(self) -> bool:
        """True if it waits for the endpoint to load the model, or has waited in vain."""
        return self.load is not None and not self.load.is_loaded

    def check_endpoint(self) -> None:
        """Raise EndpointWithdrawn if the endpoint was disabled, drained or deleted since it was chosen."""
        if self.endpoint.withdrawn and not self.reads_stored:
            raise EndpointWithdrawn

    def begin(
        self,
        learned: LearnedFacts,
        row: Row[Endpoint],
        prompt: int,
        output: float,
        prefix_tokens: int = 0,
        prefix_age: int = 0,
    ) -> None:
        """Count the prompt tokens as sent, before the next request is given an endpoint.

        The endpoint, which has this row, counts the request as in flight already. `prefix_tokens` of the prompt were
        sent to it before; of these, `kept` are expected in its cache. `output`: expected tokens.
        """
        endpoint = self.endpoint
        unread = prompt - self.kept
        self.pending = own = unread or 1
        in_flight, others, read, shared = endpoint.send_prompt(own)
        if not learned.alone:
            in_flight, pending, read, shared = learned.totals(endpoint)
            others = pending - own if pending > own else 0
        # Its own delay to others is no part of it.
        expected = row.parameters.duration(others + unread, output, in_flight)
        if row.replaced:
            memory = endpoint.memory
            memory.recent_prompt = recent_mean(memory.recent_prompt, prompt)
        if self.load is None:
            expected += row.load
        else:  # the row has what it counts in a choice, which may be more
            if self.load.has_one:
                self.without_load = row.parameters.prefill(others + unread), expected
            expected += self.load.seconds_left
        self.start = Work(
            prompt_tokens=prompt,
            output_tokens=int(output),
            prefix_tokens=prefix_tokens,
            prefix_age=prefix_age,
            expected_us=int(expected * 1e6),
            pending_tokens=others,
            read_tokens=read,
            shared_us=shared,
            was_idle=in_flight == 1,
        )

    def _load_us(self, now: float) -> int:
        """Return how long the load took that the attempt has caused and that is over; 0 if there is none."""
        if self.without_load is None or self.is_loading:
            return 0
        until_first, whole = self.without_load
        if self.relay is None:
            waited = now - self.started - whole
        else:
            waited = (self.first_token or now) - self.started - until_first
        return max(1, int(waited * 1e6))

    def work(self, learned: LearnedFacts, now: float) -> Work | None:
        """Return the work of an attempt that ends at `now` (time.monotonic()) and still counts as in flight.

        Sums and integrals are differences between now and the start, over all processes. None if it has no start, or
        was called before.
        """
        work, self.start = self.start, None
        if work is None:
            return None
        moment = floor(now * MOMENTS_PER_SECOND)
        if learned.alone:
            read, shared = self.endpoint.work_until(moment)
        else:
            read, shared = learned.work_until(self.endpoint, moment)
        work.read_tokens = _difference(read - work.read_tokens)
        work.shared_us = _difference(shared - work.shared_us) * MICROSECONDS
        if self.load is not None:
            work.is_cold, work.load_us = True, self._load_us(now)
        return work

    def prompt_read(self) -> None:
        """Count the prompt as read, once: the response has begun, or the attempt has ended."""
        if self.pending:
            self.endpoint.prompt_read(self.pending)
            self.pending = 0
            if self.load is not None:
                self.load.response_began()

    def close_connection(self) -> None:
        """Close the connection to the endpoint, which thereby stops its work on the request."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def clean(self, error: EndpointError) -> EndpointError:
        """Remove the endpoint's API key from its error message."""
        clean = self.endpoint.clean_text
        return EndpointError(clean(error.sentence), tuple(map(clean, error.words)), error.is_json, error.status)


def _difference(value: int) -> int:
    """Return a difference of two counts modulo 2**32; 0 if it is below 0."""
    value &= WORD
    return 0 if value >> _BITS else value


class LookupAttempt(Attempt):
    """It reads a stored response and generates nothing, so that a draining or disabled endpoint may get it."""

    __slots__ = ()
    reads_stored = True


@dataclass(slots=True)
class Failure:
    """The reason why an attempt brought no response, so that another endpoint may be tried (failover)."""

    status: int  # 0 without a response
    body: bytes
    headers: list[tuple[bytes, bytes]]
    error: UpstreamError | None
    reason: str  # public: it quotes nothing of the endpoint
    details: EndpointError | None = None  # the endpoint's error, for the client alone: it may quote the request
    cause: ErrorCause | None = None  # None: there was no response, or a broken one
    wait: float | None = None  # seconds for which the endpoint wants no requests

    @property
    def outcome(self) -> str:
        """The outcome of the attempt, and of its request if no endpoint is left."""
        return REFUSED if self.cause in OF_THE_REQUEST or self.cause in LACKING else FAILED
