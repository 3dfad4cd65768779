"""One attempt: one try of a request at one endpoint. Failover creates another attempt for the same request."""

from dataclasses import dataclass

from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.sse_relay import Relay
from gateway.ipc.live_page import MOMENTS_PER_SECOND, WORD, moment
from gateway.ipc.record import Work
from gateway.routing.adaptive import Demand, expected_seconds
from gateway.routing.balancer import Decision
from gateway.routing.learned_routes import LearnedFacts
from gateway.routing.routes import LearnedRoutes, Route
from gateway.upstream.connection import Connection
from gateway.upstream.errors import EndpointWithdrawn, UpstreamError

MICROSECONDS = 1_000_000 // MOMENTS_PER_SECOND  # of one moment
_MOST = 1 << 31  # a greater difference is one below 0: the cells of a process that has ended were cleared

# What an attempt was expected to need, and the counts of its endpoint when it began: prompt, output and prefix tokens,
# age of the prefix, duration in microseconds; pending prompt tokens of others, prompt tokens sent so far with its own,
# the integral of the requests in flight in moments (both modulo 2**32), and whether it was idle. A tuple is made faster
# than an object.
AttemptStart = tuple[int, int, int, int, int, int, int, int, bool]


class Attempt:
    """The state of one attempt. It is active as long as its endpoint counts it as in flight."""

    __slots__ = (
        "active", "connection", "decision", "endpoint", "error_body", "first_token", "pending", "reads_stored",
        "relay", "route", "sent", "start", "started", "translated", "trial", "usage_added",
    )  # fmt: skip

    def __init__(self, route: Route, decision: Decision, *, trial: bool, reads_stored: bool = False) -> None:
        """`reads_stored`: it generates nothing, so that a draining or disabled endpoint may get it."""
        self.route = route
        self.endpoint = route.endpoint
        self.decision = decision
        self.reads_stored = reads_stored
        self.trial = trial  # the circuit breaker of its endpoint is not closed
        self.active = True
        self.started = 0.0  # time.monotonic()
        self.start: AttemptStart | None = None  # None: it reads a stored response, or nothing is learned
        self.pending = 0  # prompt tokens, until the response begins
        self.connection: Connection | None = None
        self.translated = False  # the request was sent in another dialect than the client's
        self.usage_added = False  # usage is requested that the client did not request
        self.error_body: bytes | None = None  # of a 4xx response that was read to decide about another request
        self.relay: Relay | None = None  # of a streamed response
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

    def check_endpoint(self) -> None:
        """Raise EndpointWithdrawn if the endpoint was disabled, drained or deleted since it was chosen."""
        if self.endpoint.withdrawn and not self.reads_stored:
            raise EndpointWithdrawn

    def begin(
        self,
        learned: LearnedFacts,
        known: LearnedRoutes,
        demand: Demand,
        prefix_tokens: int = 0,
        prefix_age: int = 0,
    ) -> None:
        """Count the prompt tokens as sent, before the next request is given an endpoint.

        The endpoint counts the request as in flight already. `prefix_tokens` of the prompt were sent to it before; of
        these, `demand.kept` are expected in its cache.
        """
        endpoint = self.endpoint
        row, prompt, kept = known.by_id[endpoint.id], int(demand.prompt), 0
        if demand.kept:
            kept = min(prompt, int(demand.kept.get(row.id, 0.0)))
        own = self.pending = prompt - kept or 1
        in_flight, pending, read, shared = endpoint.send_prompt(own)
        if not learned.alone:
            in_flight, pending, read, shared = learned.totals(endpoint, moment())
        others = pending - own if pending > own else 0
        expected_us = int(expected_seconds(row, demand, in_flight - 1, others) * 1e6)
        self.start = (
            prompt, int(demand.output), prefix_tokens, prefix_age, expected_us, others, read, shared, in_flight == 1,
        )  # fmt: skip

    def work(self, learned: LearnedFacts, now: float) -> Work | None:
        """Return the work of an attempt that ends at `now` (time.monotonic()) and still counts as in flight.

        Sums and integrals are differences between now and the start, over all processes. None if it has no start.
        """
        start = self.start
        if start is None:
            return None
        prompt, output, prefix, age, expected_us, pending, read_before, shared_before, was_idle = start
        at, endpoint = int(now * MOMENTS_PER_SECOND) & WORD, self.endpoint
        _, _, read, shared = endpoint.totals(at) if learned.alone else learned.totals(endpoint, at)
        read, shared = read - read_before & WORD, shared - shared_before & WORD
        return Work(
            prompt,
            output,
            prefix,
            age,
            expected_us,
            pending,
            read if read <= _MOST else 0,
            shared * MICROSECONDS if shared <= _MOST else 0,
            was_idle,
        )

    def prompt_read(self) -> None:
        """Count the prompt as read, once: the response has begun, or the attempt has ended."""
        if self.pending:
            self.endpoint.prompt_read(self.pending)
            self.pending = 0

    def close_connection(self) -> None:
        """Close the connection to the endpoint, which thereby stops its work on the request."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def clean(self, error: EndpointError) -> EndpointError:
        """Remove the endpoint's API key from its error message."""
        clean = self.endpoint.redactor.clean_text
        return EndpointError(clean(error.sentence), tuple(map(clean, error.words)))


@dataclass(slots=True)
class Failure:
    """The reason why an attempt brought no response, so that another endpoint may be tried (failover)."""

    status: int  # 0 without a response
    body: bytes
    headers: list[tuple[bytes, bytes]]
    error: UpstreamError | None
    reason: str  # public: it quotes nothing of the endpoint
    details: EndpointError | None = None  # the endpoint's error, for the client alone: it may quote the request


def pause_of(failure: Failure) -> float | None:
    """Return the seconds of Retry-After in a 429 or 503, during which the endpoint wants no requests."""
    if failure.status not in (429, 503):
        return None
    value = next((value for name, value in failure.headers if name == b"retry-after"), b"")
    return float(value) if value.isdigit() and len(value) < 10 else None
