"""State of the running gateways, and requests of administrators to them, by the live page."""

import logging
import threading
import time

from gateway.base.config import Config, ConfigError
from gateway.ipc import cancellations
from gateway.ipc.cancellations import Cancel
from gateway.ipc.counters.limit_use import LimitUse, limit_use
from gateway.ipc.live_page import EndpointWork, LivePage, QueuedRequests, wanted_bit
from gateway.routing.affinity.affinity import Affinity, open_affinity
from gateway.routing.set_aside import AsideNote, note_of
from metrics.memory.installation import InteractiveWaits
from routerdash.publication.slots import Slots

log = logging.getLogger(__name__)


class LiveState:
    """The live page by endpoint ids instead of slots. Its methods may be called in any thread."""

    def __init__(self, config: Config, page: LivePage, slots: Slots) -> None:
        self._config = config
        self._data_dir = config.data_dir
        self._page = page
        self._work = EndpointWork(page)
        self._slots = slots
        self._cancels = cancellations.load(config.data_dir)
        self._lock = threading.Lock()

    def in_flight(self) -> dict[str, int]:
        """Return the in-flight requests of each endpoint, over all workers."""
        return {endpoint_id: self._page.in_flight(slot) for endpoint_id, slot in self._slots.by_id.items()}

    def in_flight_at(self, endpoint_id: str) -> int:
        """Return the in-flight requests of one endpoint, over all workers."""
        slot = self._slots.by_id.get(endpoint_id)
        return 0 if slot is None else self._page.in_flight(slot)

    def pending(self) -> dict[str, int]:
        """Return the prompt tokens of each endpoint whose responses have not begun, over all workers."""
        return {endpoint_id: self._work.pending(slot) for endpoint_id, slot in self._slots.by_id.items()}

    def affinity(self) -> Affinity | None:
        """Open the prefix affinity that gateways share, to read it; None if it is off or its secret is damaged."""
        try:
            return open_affinity(self._config, self._page, dict)
        except (ConfigError, OSError) as error:
            log.error("prefix affinity cannot be read: %s", error)
            return None

    def trials(self) -> dict[str, int]:
        """Return BreakerCells.trial_due by endpoint id, for circuit breakers that are not closed."""
        slots = self._slots.by_id.items()
        due = ((endpoint_id, self._page.breakers.trial_due(slot)) for endpoint_id, slot in slots)
        return {endpoint_id: second for endpoint_id, second in due if second}

    def aside(self) -> dict[str, AsideNote]:
        """Return the endpoints that get no requests now, or lack a kind of requests, by id."""
        now = time.time()
        notes = ((each, note_of(self._page.notes, slot, each, now)) for each, slot in self._slots.by_id.items())
        return {endpoint_id: note for endpoint_id, note in notes if note is not None}

    def limit_use(self, level: str, subject_id: str) -> LimitUse:
        """Return the present use of the limits of an API key, a user, or everyone, over all workers."""
        return limit_use(self._page.counters, level, subject_id)

    def waiting(self) -> int:
        return self._page.waiting

    def waiting_interactive(self) -> InteractiveWaits:
        """Return the requests in the queue without bulk requests, and the endpoints that they wait for."""
        queued = QueuedRequests(self._page)
        wanted = queued.wanted
        slots = self._slots.by_id.items() if wanted else ()
        endpoints = frozenset(endpoint_id for endpoint_id, slot in slots if wanted & wanted_bit(slot))
        return InteractiveWaits(queued.interactive, endpoints)

    def watch(self, until: int) -> int:
        """Let workers publish their running requests until this second (since 1970). Return the previous value."""
        before = self._page.watched_until
        self._page.watched_until = until
        return before

    def cancel(self, request_id: str) -> None:
        """Let the worker that runs this request cancel it. Raises OSError."""
        with self._lock:
            if request_id not in self.cancelled():
                self._cancels = (*self._recent(), Cancel(request_id, time.time()))
                cancellations.save(self._data_dir, self._cancels)
                self._page.cancels += 1

    def cancelled(self) -> frozenset[str]:
        """Return the ids of the requests that were cancelled in the last minute."""
        return frozenset(cancel.id for cancel in self._recent())

    def reset_breaker(self, endpoint_id: str) -> None:
        """Let all workers close their circuit breakers for this endpoint."""
        with self._lock:
            slot = self._slots.by_id.get(endpoint_id)
            if slot is not None:  # without a slot, no worker has the endpoint
                self._page.breakers.reset(slot)

    def _recent(self) -> tuple[Cancel, ...]:
        now = time.time()
        return tuple(cancel for cancel in self._cancels if abs(now - cancel.at) < cancellations.KEPT_SECONDS)

    def unrecorded(self, *, lost: bool = True) -> int:
        return self._page.unrecorded + (self._page.requests.without_record() if lost else 0)

    def last_byte(self, endpoint_id: str) -> float:
        slot = self._slots.by_id.get(endpoint_id)
        return 0.0 if slot is None else self._page.last_byte(slot)
