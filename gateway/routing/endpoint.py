"""An endpoint as one gateway process knows it: facts, connections, requests in flight, circuit breaker."""

import logging
import string
import time
from math import ceil, floor
from time import monotonic
from urllib.parse import quote

from gateway.dialects.redact import Redactor
from gateway.ipc.live_page import IN_FLIGHT, MOMENT, MOMENTS_PER_SECOND, PENDING, READ, SHARED, WORD, Row
from gateway.providers.public_errors import without_ids
from gateway.providers.table import provider_of
from gateway.registry import schema
from gateway.routing.balancer import EXCLUDED, OPEN, rank
from gateway.routing.breaker import Breaker
from gateway.routing.endpoint_memory import EndpointMemory
from gateway.upstream.extra_headers import usable_headers
from gateway.upstream.pool import Pool

log = logging.getLogger(__name__)

_HEADER_SAFE = "".join(sorted(set(string.printable) - set(string.whitespace) - {"%"})) + " "

STALE_SECONDS = 1.0  # after a breaker has closed, open states that other workers published before are ignored


class _Exchanged:
    """What this process has published of its circuit breaker, and needs to follow those of others."""

    __slots__ = ("closed_at", "due", "failed_at", "successes")

    def __init__(self) -> None:
        self.due = 0  # second of the next trial, as published
        self.failed_at = self.closed_at = 0.0  # seconds since 1970
        self.successes = 0  # value of `breaker.successes` when it was published last


class Endpoint:
    """An endpoint in this worker: facts of the registry store, connections, requests in flight, circuit breaker."""

    __slots__ = (
        "_cells",
        "_exchanged",
        "_health",
        "_row",
        "breaker",
        "facts",
        "fixed_head",
        "id",
        "in_flight",
        "label",
        "memory",
        "pending",
        "pool",
        "provider",
        "rank",
        "read",
        "redactor",
        "shared",
        "since",
        "slots",
    )  # fmt: skip

    def __init__(self, facts: schema.EndpointFacts, pool: Pool, secret: str | None, row: Row) -> None:
        self.pool = pool
        self.in_flight = self.pending = 0
        # Moment until which the requests in flight are in the integral, if there are any. Neither is modulo 2**32, as
        # its cell is: calculations with numbers of more than 30 bits take longer.
        self.since = 0
        self.breaker = Breaker()
        self._exchanged = _Exchanged()
        self._row = row
        self.reset_learned()
        self.update(facts, secret)

    def update(self, facts: schema.EndpointFacts, secret: str | None) -> None:
        """Take the facts of a newer schema."""
        self.facts = facts
        self.id = facts.id
        self._cells = cells = self._row.cells(facts.slot)
        # Its cells are written by this process only, so what they have is read once.
        self.read, self.shared = cells[READ], cells[SHARED]
        settings = self.pool.settings
        self.redactor = Redactor(secret, settings.secrets)
        self.slots = facts.slots
        self.pool.connect_timeout = facts.connect_timeout_secs
        self.label = b"x-routerdash-endpoint: %b\r\n" % quote(facts.name, safe=_HEADER_SAFE).encode()
        self.provider = provider_of(facts.kind)  # None: it is self-hosted
        if self.provider is not None and not self.provider.takes_usage_option:
            self.memory.lacks_usage_option = True
        if secret is None:
            key = b""
        elif self.provider is None:
            key = b"authorization: Bearer %b\r\n" % secret.encode()
        else:
            key = b"%b: %b\r\n" % tuple(word.encode() for word in self.provider.auth_header(secret))
        # Headers of every request to the endpoint.
        headers = usable_headers(settings, self.provider)
        extra = b"".join([b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in headers])
        self.fixed_head = b"host: %b\r\naccept-encoding: identity\r\n%b%b" % (self.pool.authority, key, extra)
        # Names of its extra headers (lower case), which replace those of clients.
        self.pool.own_names = frozenset([name.lower().encode() for name, _ in headers])
        self._health = rank(facts.status, facts.operator_state, facts.tier)
        self.update_rank()

    def reset_learned(self) -> None:
        """Forget facts that earlier responses have shown: the address now leads to another server."""
        self.memory = EndpointMemory()
        self.breaker.close()

    def __repr__(self) -> str:
        return f"<Endpoint {self.facts.name} {self.facts.status}, {self.in_flight} in flight>"

    @property
    def gets_messages(self) -> bool:
        """True if chat completions are sent to it as Anthropic Messages."""
        return self.memory.chat_as_messages or (self.provider is not None and self.provider.chat_as_messages)

    @property
    def withdrawn(self) -> bool:
        """True if no new request may be sent: it was disabled, drained or deleted. Its rank is EXCLUDED then."""
        return self.facts.operator_state != schema.ENABLED or self.pool.closed

    def withdraw(self) -> None:
        """Send no more requests: the endpoint was deleted."""
        self.pool.close()
        self.rank = self._health = EXCLUDED

    def enter(self) -> None:
        """Count a request in flight."""
        self.in_flight = self._cells[IN_FLIGHT] = self.in_flight + 1

    def leave(self, pending: int = 0) -> None:
        """Count a request in flight less, and its prompt as read: there will be no response to it any more."""
        if pending:
            self.prompt_read(pending)
        self.in_flight = self._cells[IN_FLIGHT] = self.in_flight - 1

    def send_prompt(self, tokens: int) -> tuple[int, int, int, int]:
        """Count prompt tokens that are sent now. Until `prompt_read` they are pending.

        Return the requests in flight, and the prompt tokens that were pending before; the prompt tokens sent so far,
        and the integral of the requests in flight: of both, only differences modulo 2**32 mean something. The request
        has just entered, and all are of this process alone.
        """
        cells, before = self._cells, self.pending
        self.pending = cells[PENDING] = before + tokens
        self.read = read = self.read + tokens
        cells[READ] = read & WORD
        return self.in_flight, before, read, self.shared

    def prompt_read(self, tokens: int) -> None:
        """Count prompt tokens as read: the response to them has begun, or there will be none."""
        self.pending = self._cells[PENDING] = self.pending - tokens

    def work_until(self, now: int) -> tuple[int, int]:
        """Return the prompt tokens sent so far, and the integral of the requests in flight until the moment `now`
        (time.monotonic() * MOMENTS_PER_SECOND), of this process alone. Of both, only differences modulo 2**32 mean
        something.

        It stores nothing for other processes: what they see still leads to the same integral.
        """
        self.shared = shared = self.shared + self.in_flight * (now - self.since)
        self.since = now
        return self.read, shared

    def received(self) -> None:
        """Publish the time of the last byte received."""
        self._row.set_last_byte(self.facts.slot, int(time.time()))

    @property
    def tier(self) -> int:
        """See gateway.routing.balancer.Candidate."""
        return self.facts.tier

    @property
    def recent_prompt(self) -> float:
        """See gateway.routing.expected_time.LoadedCandidate."""
        return self.memory.recent_prompt

    def clean_event(self, event: bytes) -> bytes:
        """Remove the API key from an event with an error of the endpoint; of a provider also ids of its account."""
        event = self.redactor.clean(event)
        if self.provider is None:
            return event
        return without_ids(event.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def clean_text(self, text: str) -> str:
        """Remove the API key from a text of the endpoint; of a provider also the ids of its account."""
        text = self.redactor.clean_text(text)
        return text if self.provider is None else without_ids(text)

    # The circuit breaker

    @property
    def trial_due(self) -> float:
        """Time of the next trial request (gateway.routing.balancer.Candidate)."""
        return self.breaker.due or 0.0

    def record_success(self, client: str, now: float) -> None:
        """Record a successful attempt of a client: the circuit breaker closes if one has failed before.

        `now`: time.monotonic().
        """
        breaker = self.breaker
        breaker.keys.succeeded(client, now)
        breaker.record_success()
        if self._exchanged.due and breaker.due is None:
            log.info("endpoint %s: the circuit breaker closed; it receives requests again", self.facts.name)
            self._exchanged.closed_at = time.time()
            self._row.set_closed_at(self.facts.slot, int(self._exchanged.closed_at))
            self.update_rank()

    def record_failure(self, pause: float | None = None, key: str | None = None) -> None:
        """Record a failed attempt, which may open the circuit breaker.

        `pause`: seconds of the endpoint's Retry-After. `key`: the client's API key if the request itself may be the
        cause, else None.
        """
        now = time.monotonic()
        if key is not None and not self.breaker.keys.failed(key, now):
            return
        self._exchanged.failed_at = time.time()
        if self.breaker.record_failure(now, pause=pause):
            due = self.breaker.due or now
            log.warning(
                "endpoint %s: the circuit breaker opened; requests go to other endpoints for %.1f s",
                self.facts.name,
                due - now,
            )
            self.update_rank()

    def reset(self) -> None:
        """Close the circuit breaker on an administrator's request."""
        log.info("endpoint %s: an administrator reset the circuit breaker; it receives requests again", self.facts.name)
        self.breaker.close()
        self._exchanged.closed_at = time.time()
        self.update_rank()

    def await_trial(self) -> None:
        """Let single requests through until one succeeds: a pause has ended, and the cause of it may be left."""
        self.breaker.half_open(time.monotonic())

    def begin_trial(self) -> None:
        """Count a trial request, which an open breaker admits."""
        self.breaker.trials += 1
        self.update_rank()

    def end_trial(self) -> None:
        self.breaker.trials -= 1
        self.update_rank()

    def update_rank(self) -> None:
        """Compute the rank from health, administrative state and breaker, and publish the breaker's state."""
        breaker = self.breaker
        now = time.monotonic()
        if self.memory.paused_until:
            self.rank = EXCLUDED
        else:
            self.rank = OPEN if self._health < OPEN and breaker.blocks(now) else self._health
        due = 0 if breaker.due is None else ceil(time.time() + breaker.due - now)
        if due != self._exchanged.due:
            self._exchanged.due = due
            self._row.set_trial_due(self.facts.slot, due)

    def follow(self, opened_until: int, closed_at: int) -> None:
        """Follow the breakers of other workers, and admit a trial that is due. Called several times a second."""
        breaker = self.breaker
        if breaker.due is None:
            self._follow_others(opened_until - time.time())
            return
        if closed_at > self._exchanged.failed_at:
            breaker.close()
            self._exchanged.closed_at = time.time()
        self.update_rank()

    def _follow_others(self, ahead: float) -> None:
        """Follow another worker's breaker, which stays open for `ahead` seconds; negative: it is half-open."""
        breaker, now = self.breaker, time.time()
        if ahead > 1.0:  # times are published in whole seconds, so that the rest of one may have passed
            if now - self._exchanged.closed_at > STALE_SECONDS:
                breaker.due = time.monotonic() + ahead
                self._exchanged.failed_at = now
                self.update_rank()
        elif ahead < 0.0 and breaker.successes not in (0, self._exchanged.successes):
            # The other worker has no request for a trial; here requests succeed, so its breaker may close.
            self._exchanged.successes = breaker.successes
            self._row.set_closed_at(self.facts.slot, int(now))


class MeasuredEndpoint(Endpoint):
    """An endpoint whose requests in flight are integrated over time, from which control learns its speeds.

    The integral is stored with each change. Without requests in flight, its moment does not matter.
    """

    __slots__ = ()

    def enter(self) -> None:
        self._integrate()
        super().enter()

    def leave(self, pending: int = 0) -> None:
        self._integrate()
        super().leave(pending)

    def _integrate(self) -> None:
        """Bring the integral up to now, and publish it."""
        now = floor(monotonic() * MOMENTS_PER_SECOND)
        self.work_until(now)
        cells = self._cells
        cells[SHARED] = self.shared & WORD
        cells[MOMENT] = now & WORD
