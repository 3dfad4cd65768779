"""Control process: Django under uvicorn on a Unix socket, and the services beside it.

The services are the journal follower, the database writer, the learner, health checks and the publisher of changes.
This module starts them, and stops them in the order in which nothing is lost.
"""

import asyncio
import gc
import logging
import socket
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

from django.conf import settings
from django.db import Error, connection

from access.directory import access
from access.limits.reading import limit_changes
from access.sessions.store import sessions
from endpoints import sealer
from endpoints.changes import counters as change_counters
from endpoints.changes.listening import ChangeSignal, change_signal
from endpoints.checks.engine_poller import EnginePoller
from endpoints.checks.sync_queue import SyncQueue
from endpoints.health import HealthChecker
from endpoints.model_names.registry import model_names
from endpoints.models import REMARKS, Status
from endpoints.registry import Entry, registry
from gateway.base.addresses import normalise_ip
from gateway.base.config import ADAPTIVE
from gateway.base.limits import ENDPOINT_MODELS
from gateway.base.sealing import Unsealable
from gateway.ipc.limit_hits import Hits
from gateway.ipc.live_page import LivePage
from gateway.loop.rest import sleep_until_next, until_next
from gateway.registry.writer import Changes
from gateway.server import Server
from metrics.api.event_stream import hub
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.gauges import gauges
from metrics.memory.runtime import runtime
from metrics.prices.registry import COUNTER, price_registry
from metrics.queries.slowdowns import slowdowns
from metrics.spending.money import Money
from metrics.spending.publisher import SpendingPublisher
from metrics.storage import cost_rows, database, seeding
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from routerdash import secret_key
from routerdash.processes import budget_watch, prepare
from routerdash.processes.data_directory import CannotStart
from routerdash.processes.running_installation import RunningInstallation
from routerdash.publication import stored_entries
from routerdash.publication.audit import Audit
from routerdash.publication.follower import ChangeFollower
from routerdash.publication.learner import Learner
from routerdash.publication.publisher import Publisher, has_limits

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
    """Services of the control process. The main thread creates and runs them."""

    change_signal: ChangeSignal  # while they run

    def __init__(self) -> None:
        self.config = settings.ROUTERDASH
        page = LivePage(self.config.live_page_path)
        self.publisher = Publisher(self.config, page)
        self.learner = Learner(self.publisher)
        budgets = SpendingPublisher(
            page.spending,
            runtime.follower.reader,
            self.config.zone,
            lambda entry: cost_rows.pricing().cost(entry),
            Money(self.config.zone, price_registry.rates),
        )
        price_registry.subscribe(budgets.forget)  # other rates change what was spent
        self.publisher.before_limits = budgets.cover
        self._spenders = budgets.spenders
        self.writer = DatabaseWriter(
            runtime.follower,
            self.config.zone,
            self._endpoint_name,
            history=self.config.history,
            reseed=self._seed_again,
            learned=self.learner.samples_changed,
            spending=budgets,
        )
        self._jobs = ThreadPoolExecutor(1, "jobs")
        self._syncs = SyncQueue(self._jobs)
        self.health = HealthChecker(
            registry,
            self._secret,
            self.publisher.live.last_byte,
            self._syncs.passed_check,
            self._is_database_unavailable,
            database.refuse_moved_files,
        )
        self.engines = EnginePoller(
            registry,
            self._secret,
            self.publisher.live.in_flight_at,
            lambda states: self.publisher.publish_learned(Changes(engines=states)),
            lambda: page.registry_generation,
        )
        self.stopping = threading.Event()
        self.loaded = False  # endpoints and users were read from the database, not from the registry store
        self._ready = False
        self._changes = ChangeFollower(self.publisher)
        self._audit = Audit(self.publisher)
        self._remarked: set[str] = set()  # endpoints with omitted models
        self._prepare_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.installation = RunningInstallation(
            self.publisher, self.writer, Hits(page), self.learner, self.engines.reading
        )
        runtime.installation = self.installation
        registry.in_flight = self.publisher.live.in_flight
        registry.reset_breaker = self.publisher.live.reset_breaker
        self._secret_key = secret_key.Watch(self.config.data_dir / "secret-key")

    # Start and stop

    async def run(self, server: Server, listen: socket.socket) -> None:
        """Run the server and all services until the server stops."""
        self._loop = asyncio.get_running_loop()
        registry.subscribe(self.publisher.publish_endpoints)
        registry.subscribe(self._registry_changed)
        registry.subscribe(self.learner.endpoints_changed)
        model_names.subscribe(self.publisher.publish_model_names)
        access.subscribe_to_keys(self.publisher.publish_keys)
        access.subscribe_to_keys(self.learner.keys_changed)
        limit_changes.subscribe(self.publisher.publish_limits)
        price_registry.subscribe(self.publisher.prices.publish)
        access.find_key = self.installation.find_key
        runtime.follower.on_refused_connection(self._refused)
        runtime.follower.on_unknown_model(self._syncs.unknown_model)
        await asyncio.to_thread(self._load_at_start)
        self.change_signal = change_signal()
        self.publisher.failed = self.change_signal.wake  # so that publishing is tried again soon
        threads = [
            threading.Thread(target=self.writer.run, args=(self.stopping, self._prepared), name="writer"),
            threading.Thread(target=self._poll, name="changes"),
        ]
        watch = (self.stopping, lambda: self._ready)
        looks_at = (self._spenders, partial(has_limits, self.publisher))
        threads.append(threading.Thread(target=budget_watch.run, args=(*watch, *looks_at), name="budgets"))
        if self.config.balancer == ADAPTIVE:
            threads.append(threading.Thread(target=self.learner.run, args=(self.stopping,), name="learner"))
            threads.append(threading.Thread(target=slowdowns.run, args=watch, name="slow-downs"))
        for thread in threads:
            thread.start()
        jobs = [self.health.run(), self._tick(), self._maintain_sessions()]
        if self.config.balancer == ADAPTIVE:
            jobs.append(self.engines.run())
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
            self.learner.stop()
            self.change_signal.close()
            self._jobs.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self._finish, threads)

    def _finish(self, threads: list[threading.Thread]) -> None:
        """Write the last records of the gateways, which have ended, and stop the writer."""
        sessions.close()
        runtime.follower.catch_up()
        for thread in threads:
            thread.join()

    def _load_at_start(self) -> None:
        sessions.hits = runtime.installation.limit_hits
        sessions.open(self.config.data_dir / "sessions.sqlite3", settings.SECRET_KEY)
        access.remember(sessions.stored_users)
        try:
            self._load()
            endpoint_events.refresh()  # figures may be restored already: pages show both from the first response on
        except Error as error:
            log.warning("starting without the database: %s; the registry store is used", error)
            if (database_id := self.publisher.database_id()) is not None:
                registry.fill(stored_entries.endpoints(self.publisher.writer))
                model_names.fill(stored_entries.model_names(self.publisher.writer).values())
                runtime.follower.database_id = database_id  # count at least the waiting records
        finally:
            connection.close()

    def _load(self) -> None:
        """Read endpoints and users, and bring the registry store up to the database. Raises django.db.Error."""
        self.publisher.synchronise()
        access.reload()
        registry.reload()
        model_names.reload()
        self.publisher.prices.publish()
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
        self.writer.sweep()
        change_counters.bump(change_counters.STARTS)  # a write: only this detects a read-only database
        self.learner.read_again()
        self._ready = True
        return True

    def _seed_again(self) -> None:
        seeding.seed()
        self.learner.read_again()

    def _poll(self) -> None:
        """Follow changes of endpoints, users or keys by other processes."""
        looked_at = all_looked_at = float("-inf")
        is_resting = False  # nothing is to be done without a change
        while True:
            has_changed = self.change_signal.wait(LOOK_SECONDS if is_resting else POLL_SECONDS)
            if self.stopping.is_set():
                break
            if not self.loaded:
                continue
            try:
                now = time.monotonic()
                has_failed = self.publisher.publish_again()
                self._audit.run_slice()
                is_resting = self._audit.is_resting and not has_failed
                if has_changed or now - looked_at >= LOOK_SECONDS:
                    if has_changed:
                        time.sleep(SETTLE_SECONDS)
                    self._changes.follow()
                    looked_at = now
                if looked_at > all_looked_at and now - all_looked_at >= POLL_SECONDS:
                    self._look_at_figures()
                    all_looked_at = now
                self.installation.caches_outdated = False
            except Exception as error:  # noqa: BLE001  # without this thread a deleted key would stay valid
                if not self.installation.caches_outdated:
                    log.warning("endpoints, users and keys cannot be read: %s; the old ones stay in use", error)
                self.installation.caches_outdated = True
                looked_at = all_looked_at = float("-inf")
                is_resting = False
                connection.close()
        connection.close()

    def _look_at_figures(self) -> None:
        """Read what is not needed within milliseconds, however often the database changes."""
        counted = change_counters.read()
        if counted.get(change_counters.FIGURES, 0) != runtime.trackers.state.repairs:
            self.writer.read_again.set()
        price_registry.follow(counted.get(COUNTER, 0))
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
                self.writer.wake_if_batch_waits()
                self._syncs.continue_waiting()
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
            online = sum(entry.status == Status.ONLINE for entry in registry.all())
            gauges.note(now, sum(self.publisher.live.in_flight().values()), self.publisher.live.waiting(), online)

    # Callbacks of the services

    def _registry_changed(self, ids: Collection[str] | None) -> None:
        self._call(self.health.registry_changed, ids)
        entries = registry.all() if ids is None else [registry.get(endpoint_id) for endpoint_id in ids]
        remarked = {entry.id for entry in entries if entry is not None and entry.last_error in REMARKS}
        for _ in remarked - self._remarked:
            runtime.installation.limit_hits.hit(ENDPOINT_MODELS)
        self._remarked = remarked if ids is None else self._remarked - set(ids) | remarked

    def _refused(self, endpoint_id: str) -> None:
        self._call(self.health.nudge, endpoint_id)

    def _call(self, function: object, *args: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    def _is_database_unavailable(self) -> bool:
        return self.writer.backlog.error is not None

    def _secret(self, entry: Entry) -> str | None:
        if entry.sealed_api_key is None:
            return entry.plain_api_key
        try:
            return sealer.sealer().open(entry.sealed_api_key)
        except Unsealable:
            return None

    def _endpoint_name(self, endpoint_id: str) -> EndpointName:
        entry = registry.get(endpoint_id)
        if entry is None:
            return EndpointName(registry.name(endpoint_id) or "(deleted)", "0.0.0.0")  # noqa: S104
        return EndpointName(entry.name, normalise_ip(urlsplit(entry.base_url).hostname or "") or "0.0.0.0")  # noqa: S104
