"""An endpoint as one gateway process knows it: facts, connections, requests in flight, circuit breaker."""

import logging
import math
import string
import time
from urllib.parse import quote

from gateway.dialects.redact import Redactor
from gateway.ipc.live_page import IN_FLIGHT, MOMENT, PENDING, READ, SHARED, WORD, Row, moment
from gateway.registry import schema
from gateway.routing.balancer import EXCLUDED, OPEN, rank
from gateway.routing.breaker import Breaker
from gateway.upstream.pool import Pool

log = logging.getLogger(__name__)

_HEADER_SAFE = "".join(sorted(set(string.printable) - set(string.whitespace) - {"%"})) + " "

STALE_SECONDS = 1.0  # after a breaker has closed, open states that other workers published before are ignored


class Endpoint:
    """An endpoint in this worker: facts of the registry, connections, requests in flight, circuit breaker."""

    __slots__ = (
        "_cells",
        "_closed_at",
        "_failed_at",
        "_health",
        "_published_due",
        "_row",
        "_successes_seen",
        "breaker",
        "facts",
        "fixed_head",
        "id",
        "in_flight",
        "label",
        "pending",
        "pool",
        "rank",
        "redactor",
        "slots",
        "unsupported_paths",
        "usage_refused",
    )  # fmt: skip

    def __init__(self, facts: schema.EndpointFacts, pool: Pool, secret: str | None, row: Row) -> None:
        self.pool = pool
        self.in_flight = self.pending = 0
        self.breaker = Breaker()
        self._published_due = 0
        self._failed_at = self._closed_at = 0.0  # seconds since 1970
        self._successes_seen = 0  # value of `breaker.successes` when it was published last
        self._row = row
        self.reset_learned()
        self.update(facts, secret)

    def update(self, facts: schema.EndpointFacts, secret: str | None) -> None:
        """Take the facts of a newer schema."""
        self.facts = facts
        self.id = facts.id
        self._cells = self._row.cells(facts.slot)
        self.redactor = Redactor(secret)
        self.slots = facts.slots
        self.pool.connect_timeout = facts.connect_timeout_secs
        self.label = b"x-routerdash-endpoint: %b\r\n" % quote(facts.name, safe=_HEADER_SAFE).encode()
        key = b"" if secret is None else b"authorization: Bearer %b\r\n" % secret.encode()
        # Headers of every request to the endpoint.
        self.fixed_head = b"host: %b\r\naccept-encoding: identity\r\n%b" % (self.pool.authority, key)
        self._health = rank(facts.status, facts.operator_state)
        self.update_rank()

    def reset_learned(self) -> None:
        """Forget facts that earlier responses have shown: the address now leads to another server."""
        self.usage_refused = False  # it refused stream_options with 4xx; not sent again until the endpoint is edited
        self.unsupported_paths: set[str] = set()  # paths that it responded to with 404
        self.breaker.close()

    def __repr__(self) -> str:
        return f"<Endpoint {self.facts.name} {self.facts.status}, {self.in_flight} in flight>"

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
        if pending:  # as in `prompt_read`
            self.pending = self._cells[PENDING] = self.pending - pending
        self.in_flight = self._cells[IN_FLIGHT] = self.in_flight - 1

    def send_prompt(self, tokens: int) -> tuple[int, int, int, int]:
        """Count prompt tokens that are sent now. Until `prompt_read` they are pending.

        Return the same as `totals` for the moment of the last change of the requests in flight.
        """
        cells = self._cells
        self.pending = cells[PENDING] = pending = self.pending + tokens
        cells[READ] = read = cells[READ] + tokens & WORD
        return self.in_flight, pending, read, cells[SHARED]

    def prompt_read(self, tokens: int) -> None:
        """Count prompt tokens as read: the response to them has begun, or there will be none."""
        self.pending = self._cells[PENDING] = self.pending - tokens

    def totals(self, now: int) -> tuple[int, int, int, int]:
        """Return what `gateway.ipc.live_page.EndpointWork.totals` returns, of this process alone."""
        cells, in_flight = self._cells, self.in_flight
        return in_flight, self.pending, cells[READ], cells[SHARED] + in_flight * (now - cells[MOMENT] & WORD) & WORD

    def received(self) -> None:
        """Publish the time of the last byte received."""
        self._row.set_last_byte(self.facts.slot, int(time.time()))

    # The circuit breaker

    @property
    def trial_due(self) -> float:
        """Time of the next trial request (gateway.routing.balancer.Candidate)."""
        return self.breaker.due or 0.0

    def record_success(self) -> None:
        """Record a success after failures: the circuit breaker closes."""
        self.breaker.record_success()
        if self._published_due:
            log.info("endpoint %s: the circuit breaker closed; it receives requests again", self.facts.name)
            self._closed_at = time.time()
            self._row.set_closed_at(self.facts.slot, int(self._closed_at))
            self.update_rank()

    def record_failure(self, pause: float | None = None, key: str | None = None) -> None:
        """Record a failed attempt, which may open the circuit breaker.

        `pause`: seconds of the endpoint's Retry-After. `key`: the client's API key if the request itself may be the
        cause, else None.
        """
        now = time.monotonic()
        if key is not None and not self.breaker.keys.failed(key, now):
            return
        self._failed_at = time.time()
        if self.breaker.record_failure(now, pause=pause):
            due = self.breaker.due or now
            log.warning(
                "endpoint %s: the circuit breaker opened; requests go to other endpoints for %.1f s",
                self.facts.name,
                due - now,
            )
            self.update_rank()

    def reset(self) -> None:
        """Close the circuit breaker on an operator's request."""
        log.info("endpoint %s: an operator reset the circuit breaker; it receives requests again", self.facts.name)
        self.breaker.close()
        self._closed_at = time.time()
        self.update_rank()

    def begin_trial(self) -> None:
        """Count a trial request, which an open breaker admits."""
        self.breaker.trials += 1
        self.update_rank()

    def end_trial(self) -> None:
        self.breaker.trials -= 1
        self.update_rank()

    def update_rank(self) -> None:
        """Compute the rank from health, operator state and breaker, and publish the breaker's state."""
        breaker = self.breaker
        now = time.monotonic()
        self.rank = OPEN if self._health < OPEN and breaker.blocks(now) else self._health
        due = 0 if breaker.due is None else math.ceil(time.time() + breaker.due - now)
        if due != self._published_due:
            self._published_due = due
            self._row.set_trial_due(self.facts.slot, due)

    def follow(self, opened_until: int, closed_at: int) -> None:
        """Follow the breakers of other workers, and admit a trial that is due. Called several times a second."""
        breaker = self.breaker
        if breaker.due is None:
            self._follow_others(opened_until - time.time())
            return
        if closed_at > self._failed_at:
            breaker.close()
            self._closed_at = time.time()
        self.update_rank()

    def _follow_others(self, ahead: float) -> None:
        """Follow another worker's breaker, which stays open for `ahead` seconds; negative: it is half-open."""
        breaker, now = self.breaker, time.time()
        if ahead > 1.0:  # times are published in whole seconds, so that the rest of one may have passed
            if now - self._closed_at > STALE_SECONDS:
                breaker.due = time.monotonic() + ahead
                self._failed_at = now
                self.update_rank()
        elif ahead < 0.0 and breaker.successes not in (0, self._successes_seen):
            # The other worker has no request for a trial; here requests succeed, so its breaker may close.
            self._successes_seen = breaker.successes
            self._row.set_closed_at(self.facts.slot, int(now))


class MeasuredEndpoint(Endpoint):
    """An endpoint whose requests in flight are integrated over time, from which control learns its speeds."""

    __slots__ = ()

    def enter(self) -> None:
        self._integrate()
        super().enter()

    def leave(self, pending: int = 0) -> None:
        self._integrate()
        super().leave(pending)

    def _integrate(self) -> None:
        """Add the requests in flight since the last change to their integral."""
        cells, now = self._cells, moment()
        if self.in_flight:
            cells[SHARED] = cells[SHARED] + self.in_flight * (now - cells[MOMENT] & WORD) & WORD
        cells[MOMENT] = now
