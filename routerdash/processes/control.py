"""Control process: Django under uvicorn on a Unix socket, and the services beside it.

The services are the journal follower, the database writer, the learner, health checks and the publisher of changes.
`routerdash.processes.wiring` makes them. This module starts them, and stops them in the order in which nothing is
lost.
"""

import asyncio
import gc
import logging
import socket
import threading
import time
from collections.abc import Collection
from functools import partial

from django.conf import settings
from django.db import Error, connection

from access.directory import access
from access.sessions.store import sessions
from endpoints.changes import counters as change_counters
from endpoints.model_names.name_cache import model_names
from endpoints.models import REMARKS, Status
from endpoints.registry import registry
from gateway.base.bounds import ENDPOINT_MODELS
from gateway.base.config import ADAPTIVE
from gateway.loop.rest import sleep_until_next, until_next
from gateway.server import Server
from metrics.api.event_stream import hub
from metrics.costs.price_cache import COUNTER, price_cache
from metrics.learning.current_slowdowns import slowdowns
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.gauges import gauges
from metrics.memory.runtime import runtime
from metrics.storage import seeding
from routerdash import secret_key
from routerdash.processes import budget_watch, prepare
from routerdash.processes.data_directory import CannotStart
from routerdash.processes.wiring import ControlServices, connect, subscribe
from routerdash.publication import stored_entries
from routerdash.publication.publisher import has_limits

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # until something that has failed is tried again, and between two looks at figures
SETTLE_SECONDS = 0.05  # from a signal to a look: control has published its own changes then, so that a look is short
LOOK_SECONDS = 1.0  # between two looks at the database without a signal
TICK_SECONDS = 0.1
LOADED_RECORDS = 100  # from so many new ones on, a longer pause pays off while nobody watches
LOADED_TICK_SECONDS = 0.25
REST_TICK_SECONDS = 0.5
QUIET_SECONDS = 5.0
SESSIONS_SECONDS = 1.0
PREPARE_AGAIN_SECONDS = 2.0


class Control:
    """ControlServices of the control process. The main thread creates and runs them."""

    def __init__(self, services: ControlServices) -> None:
        self.config = services.config
        self.services = services
        self.stopping = threading.Event()
        self.loaded = False  # endpoints and users were read from the database, not from the registry store
        self._ready = False
        self._remarked: set[str] = set()  # endpoints with omitted models
        self._prepare_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._secret_key = secret_key.Watch(self.config.data_dir / "secret-key")

    # Start and stop

    async def run(self, server: Server, listen: socket.socket) -> None:
        """Run the server and all services until the server stops."""
        self._loop = asyncio.get_running_loop()
        services, stopping = self.services, self.stopping
        connect(services)
        subscribe(services)
        registry.subscribe(self._registry_changed)
        runtime.follower.on_refused_connection(self._refused)
        await asyncio.to_thread(self._load_at_start)
        threads = [
            threading.Thread(target=services.writer.run, args=(stopping, self._prepared), name="writer"),
            threading.Thread(target=self._poll, name="changes"),
        ]
        watch = (stopping, lambda: self._ready)
        looks_at = (services.spending.spenders, partial(has_limits, services.publisher))
        threads.append(threading.Thread(target=budget_watch.run, args=(*watch, *looks_at), name="budgets"))
        if self.config.balancer == ADAPTIVE:
            threads.append(threading.Thread(target=services.learner.run, args=(stopping,), name="learner"))
            threads.append(threading.Thread(target=slowdowns.run, args=watch, name="slow-downs"))
        for thread in threads:
            thread.start()
        jobs = [services.health.run(), self._tick(), self._maintain_sessions()]
        if self.config.balancer == ADAPTIVE:
            jobs.append(services.engines.run())
        tasks = [asyncio.create_task(job) for job in jobs]
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)  # batches of records consist of many objects, but no garbage
        try:
            await server.serve(sockets=[listen])
        finally:
            for task in tasks:
                task.cancel()
            self.stopping.set()
            services.learner.stop()
            services.change_signal.close()
            services.jobs.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self._finish, threads)

    def _finish(self, threads: list[threading.Thread]) -> None:
        """Write the last records of the gateways, which have ended, and stop the writer."""
        sessions.close()
        runtime.follower.catch_up()
        for thread in threads:
            thread.join()

    def _load_at_start(self) -> None:
        hits = self.services.installation.bound_hits
        sessions.open(self.config.data_dir / "sessions.sqlite3", settings.SECRET_KEY, hits)
        access.remember(sessions.stored_users)
        try:
            self._load()
            endpoint_events.refresh()  # figures may be restored already: pages show both from the first response on
        except Error as error:
            log.warning("starting without the database: %s; the registry store is used", error)
            if (database_id := self.services.publisher.database_id()) is not None:
                registry.fill(stored_entries.endpoints(self.services.publisher.writer))
                model_names.fill(stored_entries.model_names(self.services.publisher.writer))
                runtime.follower.database_id = database_id  # count at least the waiting records
        finally:
            connection.close()

    def _load(self) -> None:
        """Read endpoints and users, and bring the registry store up to the database. Raises django.db.Error."""
        self.services.publisher.synchronise()
        access.reload()
        registry.reload()
        model_names.reload()
        self.services.publisher.publish_whole()
        self.loaded = True

    # Threads

    def _prepared(self) -> bool:
        """Return True if the database can be written and the trackers hold its figures.

        The writer calls this. Every PREPARE_AGAIN_SECONDS it tries to reach that state. Raises django.db.Error while
        the database is unavailable.
        """
        if self._ready:
            return True
        if time.monotonic() < self._prepare_at:
            return False
        self._prepare_at = time.monotonic() + PREPARE_AGAIN_SECONDS
        try:
            prepare.migrate(self.config)
            prepare.create_first_users(self.config)
        except CannotStart as error:
            log.error("%s", error)  # `serve` refuses to start, but this process already serves requests
            return False
        if not self.loaded:
            self._load()
        endpoint_events.refresh()  # before the trackers are seeded: pages show both as restored from then on
        if not runtime.trackers.seeded:
            seeding.seed()
        self.services.writer.sweep()
        change_counters.bump(change_counters.STARTS)  # a write: only this detects a read-only database
        self.services.learner.read_again()
        self._ready = True
        return True

    def _poll(self) -> None:
        """Follow changes of endpoints, users or keys by other processes."""
        looked_at = all_looked_at = float("-inf")
        is_resting = False  # nothing is to be done without a change
        services, outdated = self.services, self.services.caches_outdated
        while True:
            has_changed = services.change_signal.wait(LOOK_SECONDS if is_resting else POLL_SECONDS)
            if self.stopping.is_set():
                break
            if not self.loaded:
                continue
            try:
                now = time.monotonic()
                has_failed = services.publisher.publish_again()
                services.audit.run_slice()
                is_resting = services.audit.is_resting and not has_failed
                if has_changed or now - looked_at >= LOOK_SECONDS:
                    if has_changed:
                        time.sleep(SETTLE_SECONDS)
                    services.changes.follow()
                    looked_at = now
                if looked_at > all_looked_at and now - all_looked_at >= POLL_SECONDS:
                    self._look_at_figures()
                    all_looked_at = now
                outdated.clear()
            except Exception as error:  # noqa: BLE001  # without this thread a deleted key would stay valid
                if not outdated.is_set():
                    log.warning("endpoints, users and keys cannot be read: %s; the old ones stay in use", error)
                outdated.set()
                looked_at = all_looked_at = float("-inf")
                is_resting = False
                connection.close()
        connection.close()

    def _look_at_figures(self) -> None:
        """Read what is not needed within milliseconds, however often the database changes."""
        counted = change_counters.read()
        if counted.get(change_counters.FIGURES, 0) != runtime.trackers.state.repairs:
            self.services.writer.read_again.set()
        price_cache.follow(counted.get(COUNTER, 0))
        endpoint_events.refresh()

    # The loop

    async def _tick(self) -> None:
        """Fold new records, publish them to open pages, and queue model syncs that wait."""
        new_records = 0
        while True:
            await asyncio.sleep(self._tick_seconds(new_records))
            new_records = 0
            try:
                if runtime.follower.has_news():
                    new_records = await asyncio.to_thread(runtime.follower.catch_up)
                self.services.writer.wake_if_batch_waits()
                self.services.syncs.continue_waiting()
                self._gauge()
                await hub.publish()
            except Exception:
                log.exception("folding or publishing of records failed; the next attempt follows")

    def _tick_seconds(self, new_records: int) -> float:
        """Return the pause before the next tick: a longer one while no page is open and no request, or many, end."""
        if hub.has_listeners:
            return TICK_SECONDS
        if time.time() - runtime.follower.last_record_at > QUIET_SECONDS:
            return until_next(REST_TICK_SECONDS)
        return LOADED_TICK_SECONDS if new_records >= LOADED_RECORDS else TICK_SECONDS

    async def _maintain_sessions(self) -> None:
        """End expired sessions, write the times of last use, and load a new secret key."""
        while True:
            await sleep_until_next(SESSIONS_SECONDS)
            try:
                if self._secret_key.is_replaced() or sessions.is_due():  # else a thread would be woken in vain
                    await asyncio.to_thread(self._check_sessions)
            except Exception:
                log.exception("the maintenance of sessions failed; the next attempt follows")

    def _check_sessions(self) -> None:
        if (key := self._secret_key.changed()) is not None:
            log.info("the secret key was replaced: all sessions end")
            settings.SECRET_KEY = key
            sessions.new_secret(key)
        sessions.maintain()

    def _gauge(self) -> None:
        now = time.time()
        if gauges.due(now) and registry.loaded:
            live = self.services.publisher.live
            online = sum(entry.status == Status.ONLINE for entry in registry.all())
            gauges.note(now, sum(live.in_flight().values()), live.waiting(), online)

    # Callbacks of the services

    def _registry_changed(self, ids: Collection[str] | None) -> None:
        self._call(self.services.health.registry_changed, ids)
        entries = registry.all() if ids is None else [registry.get(endpoint_id) for endpoint_id in ids]
        remarked = {entry.id for entry in entries if entry is not None and entry.last_error in REMARKS}
        for _ in remarked - self._remarked:
            self.services.installation.bound_hits.hit(ENDPOINT_MODELS)
        self._remarked = remarked if ids is None else self._remarked - set(ids) | remarked

    def _refused(self, endpoint_id: str) -> None:
        self._call(self.services.health.nudge, endpoint_id)

    def _call(self, function: object, *args: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]
