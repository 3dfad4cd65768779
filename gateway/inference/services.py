"""Services that all requests of one gateway process share: routing, queue, retry budget, journal, settings."""

from collections.abc import Collection
from functools import partial
from typing import Protocol

from gateway.base.config import ADAPTIVE, Config
from gateway.fast.coroutine_runner import PLAIN_TASKS
from gateway.http.admission import Admission
from gateway.http.control_proxy import ControlProxy
from gateway.http.exchange import Exchange
from gateway.http.revocation import Ending
from gateway.ipc.bound_hits import Hits
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.journal import Writer
from gateway.ipc.live_page import QueuedRequests
from gateway.ipc.record import RequestRecord
from gateway.ipc.response_owners import Owners
from gateway.ipc.running_requests import Running, Waiting
from gateway.limits.budgets import Budgets
from gateway.limits.compiled import KeyLimits
from gateway.limits.queue_places import QueuePlaces
from gateway.loop.time_slices import TimeSlices
from gateway.prices.published import PublishedPrices
from gateway.routing.affinity.affinity import open_affinity
from gateway.routing.balancer import Decision
from gateway.routing.endpoint import Endpoint
from gateway.routing.learned_routes import LearnedFacts
from gateway.routing.queue import Queue
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.roster import Roster

NO_EVENTS = -1  # nobody has looked yet how many events a stream has


class RunningRequest(Protocol):
    """The part of a request that the queue and the periodic work use."""

    id: str
    exchange: Exchange

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that the request runs at; None while it waits."""

    def keep_alive(self, seen_events: int) -> int:
        """Send a comment to the client of a stream that has been silent since the last call.

        `seen_events`: the result of the last call, or NO_EVENTS.
        """

    def end_early(self, reason: str) -> None:
        """End the attempt as if the endpoint had closed its connection."""

    def cancel(self, ending: Ending) -> None:
        """End the request at once, and send the reason to the client."""

    def describe_queued(self, epoch: float, position: int) -> Waiting:
        """Describe a queued request. `epoch`: seconds since 1970 at which time.monotonic() was 0."""

    def describe_running(self, epoch: float) -> Running:
        """Describe a running request. `epoch`: seconds since 1970 at which time.monotonic() was 0."""


class QueuedRequest(Protocol):
    """A request in the queue."""

    @property
    def request(self) -> RunningRequest: ...

    def choose(self, tried: Collection[str], *, gives_way: bool) -> Decision | None:
        """Choose an endpoint among those not tried yet, as `gateway.inference.choosing.choose` does.

        `gives_way`: to interactive requests.
        """


class Services:
    """Everything that a request may use besides its own exchange."""

    def __init__(self, config: Config, roster: Roster, control: ControlProxy) -> None:
        self.config = config
        self.roster = roster
        self.control = control
        self.admission = Admission(config, roster, self.refresh)
        self.queued = QueuedRequests(roster.page)
        self.bound_hits = Hits(roster.page, roster.row.number)
        counters = LimitCounters(roster.page, roster.row)
        prices = PublishedPrices(roster.reader, partial(_kind_of, roster), config.zone)
        self.limits = KeyLimits(roster.reader, counters, Budgets(roster.page.spending, config.zone), prices)
        self.queue_places = QueuePlaces(config, roster, counters)
        self.is_adaptive = config.balancer == ADAPTIVE
        self.learned = LearnedFacts(roster, config.spill_after_secs)
        self.affinity = open_affinity(config, roster.page, lambda: roster.endpoints) if self.is_adaptive else None
        self.retries = RetryBudget()
        self.running: set[RunningRequest] = set()
        self.queue: Queue[QueuedRequest] = Queue(
            lambda waiter: waiter.item.choose(waiter.tried, gives_way=waiter.gives_way),
            roster.row.set_waiting,
        )
        self.stopping = False  # the process drains
        self.stores_bodies = config.store_bodies != "none"
        self.journal: Writer | None = None
        self.writes = roster.sweeper.writes
        self.writes.before_flush = self._write_records
        self.time_slices = TimeSlices(self.writes.loop)
        self._owners: Owners | None = None

    def record(self, record: RequestRecord) -> None:
        """Add a record to the journal. It is written before any bytes that are sent from now on.

        A process that has never read the registry store has no journal yet, and records nothing.
        """
        if self.journal is None:
            return
        size = self.journal.put(record)
        if record.attempts:
            if size:
                self.roster.row.counts.unwritten += 1
            else:  # it is counted as unrecorded
                self.roster.row.counts.recorded += 1
        if len(self.running) == 1 and not PLAIN_TASKS:  # no other request can end in this iteration of the event loop
            self.writes.flush()
        else:
            self.writes.add_record(size)

    @property
    def owners(self) -> Owners:
        """The owners of stored responses. Most gateways never need them."""
        if self._owners is None:
            self._owners = Owners(self.config.responses_dir, self.roster.row.number, self.writes.add_record)
        return self._owners

    def refresh(self) -> None:
        """Read what control has published, and open the journal of the database that it names."""
        self.roster.refresh()
        if not self.roster.version:
            return
        database_id = self.roster.database_id
        if self.journal is None or self.journal.database_id != database_id:
            if self.journal is not None:
                self.journal.close()
            self.journal = Writer(
                self.config.journal_dir,
                database_id,
                max_bytes=self.config.journal_max_mb << 20,
                durable=bool(self.config.journal_fsync_secs),
            )
            self.journal.open()

    def close(self) -> None:
        """Write and close the files of this process, at its end."""
        self.roster.close()
        if self.journal is not None:
            self._write_records()
            self.publish_ended()
            self.journal.close()
        self.limits.budgets.close()
        self.limits.waker.close()
        if self._owners is not None:
            self._owners.close()

    def end_epoch(self) -> None:
        """Let control include the requests that budgets have counted, every few seconds."""
        self.limits.budgets.end_epoch(self._write_records)

    def serve_queue(self) -> None:
        """Have the queue served soon: a request has left its endpoint, and others wait."""
        self.queue.nudge(self.writes.loop)

    def _write_records(self) -> None:
        """Write records and owners of stored responses, before the bytes of this loop iteration are sent."""
        if self._owners is not None and self._owners.pending:
            self._owners.flush()
        journal = self.journal
        if journal is None or not journal.pending:
            return
        counts, before = self.roster.row.counts, journal.unrecorded
        records, counts.unwritten = counts.unwritten, 0
        journal.flush()
        counts.recorded += records
        if journal.unrecorded != before:
            self.roster.publish_unrecorded(journal.unrecorded)

    def publish_ended(self) -> None:
        """Store how many requests were served; unless a fault loses one, all have their record. Called regularly."""
        if self.journal is not None and not self.journal.pending:
            self.roster.row.counts.store_ended()


def _kind_of(roster: Roster, endpoint_id: str) -> str:
    """Return the type of an endpoint; empty for a deleted one."""
    endpoint = roster.endpoints.get(endpoint_id)
    return "" if endpoint is None else endpoint.facts.kind
