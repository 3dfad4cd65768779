"""Periodic work of a gateway process: registry store, queue, keep-alive comments, cancellation, drain, revocation."""

import logging
import time

from gateway.base import causes
from gateway.http.revocation import BY_ADMINISTRATOR, Revocation
from gateway.inference.services import NO_EVENTS, RunningRequest, Services
from gateway.ipc import cancellations, running_requests
from gateway.ipc.running_requests import Present
from gateway.ipc.strangers import Strangers

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 0.5  # between two lists of running requests, while a page shows them


class Housekeeping:
    """Work that gateway.main calls many times a second."""

    def __init__(self, services: Services, strangers: Strangers) -> None:
        self._services = services
        self._strangers = strangers
        self._revocation: Revocation[RunningRequest] = Revocation()
        self._cancels = services.roster.page.cancels
        self._seen_events: dict[RunningRequest, int] = {}  # of each stream, at the last check for silence
        self._kept_alive_at = self._published_at = 0.0  # time.monotonic()

    def run(self) -> None:
        """Follow control and the other workers, serve the queue, and end requests that must end."""
        services, now = self._services, time.monotonic()
        roster = services.roster
        self.follow()
        services.queue.dispatch_and_expire(now)
        services.end_epoch()
        if services.journal is not None:
            services.journal.check()
            roster.publish_unrecorded(services.journal.unrecorded)
            services.publish_ended()
            self._strangers.write_if_due()
        self._keep_alive(now)
        if now - self._published_at >= PUBLISH_SECONDS and roster.page.watched_until > time.time():
            self._published_at = now
            self._publish_running()
        if self._cancels != roster.page.cancels:
            self._cancels = roster.page.cancels
            self._cancel_requests()

    def serve_queue(self) -> None:
        """Serve the queue at once: another process has called because of its requests."""
        self._services.queue.dispatch()

    def has_work(self) -> bool:
        """Return True if work may arise while no client is connected: requests that end, or a page that watches."""
        services = self._services
        return bool(
            services.running
            or services.queue.length
            or services.stopping
            or (services.journal is not None and services.journal.unrecorded)
            or self._strangers.waiting
            or services.roster.page.watched_until > time.time()
        )

    def follow(self) -> None:
        """Apply what control has published, end the requests that it forbids, and report that; control waits for it."""
        services = self._services
        roster = services.roster
        services.refresh()
        roster.follow()
        services.learned.follow()
        self._end_requests(time.time())
        if self._revocation.pending:
            services.writes.loop.call_soon(self.follow)
        elif roster.version:
            roster.row.set_applied(roster.version)

    def _keep_alive(self, now: float) -> None:
        """Send comments to the clients of silent streams, every `keepalive_secs`."""
        interval = self._services.config.keepalive_secs
        if interval and now - self._kept_alive_at >= interval:
            self._kept_alive_at = now
            before = self._seen_events
            self._seen_events = {
                request: request.keep_alive(before.get(request, NO_EVENTS)) for request in list(self._services.running)
            }

    def _publish_running(self) -> None:
        """Write the list of running and queued requests, which a page shows now."""
        services = self._services
        epoch = time.time() - time.monotonic()
        waiting = [
            waiter.item.request.describe_queued(epoch, position) for position, waiter in enumerate(services.queue, 1)
        ]
        running = [request.describe_running(epoch) for request in services.running if request.endpoint is not None]
        present = Present(
            services.roster.row.number,
            time.time(),
            tuple(waiting[: running_requests.MAX_LISTED]),
            tuple(sorted(running, key=lambda request: request.since)[: running_requests.MAX_LISTED]),
            len(waiting),
            len(running),
        )
        running_requests.save(services.config.data_dir, present)

    def _cancel_requests(self) -> None:
        """Cancel the requests of this worker that administrators have cancelled."""
        cancelled = {cancel.id for cancel in cancellations.load(self._services.config.data_dir)}
        for request in [request for request in self._services.running if request.id in cancelled]:
            log.info("an administrator cancelled request %s", request.id)
            request.cancel(BY_ADMINISTRATOR)

    def _end_requests(self, now: float) -> None:
        """End requests whose endpoint was drained or whose API key ended. `now`: seconds since 1970."""
        services = self._services
        if drained := services.roster.drained(now):
            for request in list(services.running):
                if request.endpoint in drained:
                    request.end_early(causes.DRAINED)
        if services.config.require_api_key:
            roster = services.roster
            for request, ending in self._revocation.due(roster, services.running, now):
                request.cancel(ending)
