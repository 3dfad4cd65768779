"""The control process: Django under uvicorn on a Unix socket, and beside it in the same process the folder of journals,
the database writer, health checks and the publisher of snapshots. All are started here, and stopped in the order in
which nothing is lost.
"""

import asyncio
import gc
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.db import Error, close_old_connections, connection
from django_q.tasks import async_task

from access.directory import access
from access.sessions import sessions
from endpoints import changes, keys
from endpoints.health import HealthChecker
from endpoints.models import REMARKS, Status
from endpoints.registry import Entry, ModelEntry, registry
from gateway.bounds import ENDPOINT_MODELS, Hits
from gateway.livepage import LivePage
from gateway.main import Server
from gateway.peer import normalise_ip
from gateway.sealing import Unsealable
from gateway.snapshot import Snapshot
from metrics import database, seeding
from metrics.events import hub
from metrics.gauges import gauges
from metrics.marks import marks
from metrics.rows import Where
from metrics.teller import folder, surroundings, trackers
from metrics.writer import DatabaseWriter
from routerdash import prepare, secret_key
from routerdash.publisher import Publisher

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RELOAD_SECONDS = 30.0
TICK_SECONDS = 0.1
SESSIONS_SECONDS = 0.5
PREPARE_AGAIN_SECONDS = 2.0
SYNC_SECONDS = 900.0


class Control:
    """The services of this process. Made and run in its main thread."""

    def __init__(self) -> None:
        self.config = settings.ROUTERDASH
        page = LivePage(self.config.live_page_path)
        self.publisher = Publisher(self.config, page)
        self.writer = DatabaseWriter(
            folder, self.config.zone, self._where, history=self.config.history, reseed=seeding.seed
        )
        self.health = HealthChecker(
            registry, self._secret, self.publisher.last_byte, self._came_up, self._database_away
        )
        self.stopping = threading.Event()
        self.loaded = False  # endpoints and keys were read from the database, not from the last snapshot
        self._jobs = ThreadPoolExecutor(1, "jobs")
        self._ready = False
        self._outdated = False
        self._synced: dict[str, float] = {}
        self._changes: dict[str, int] = {}
        self._remarked: set[str] = set()  # endpoints of which models are left out
        self._reloaded_at = 0.0
        self._prepare_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        surroundings.in_flight = registry.in_flight = self.publisher.in_flight
        registry.reset_breaker = self.publisher.reset_breaker
        surroundings.waiting = self.publisher.waiting
        surroundings.trials = self.publisher.trials
        surroundings.snapshot = lambda: self.publisher.last
        surroundings.watch = self.publisher.watch
        surroundings.cancel = self.publisher.cancel
        surroundings.cancelled = self.publisher.cancelled
        surroundings.unrecorded = self.publisher.unrecorded
        surroundings.bounds = Hits(page)
        surroundings.serving = lambda: self.publisher.last is not None
        surroundings.outdated = lambda: self._outdated
        surroundings.writer = self.writer
        surroundings.key_names = access.key_names
        surroundings.generated_passwords = access.generated_passwords
        self._secret_key = secret_key.Watch(self.config.data_dir / "secret-key")

    # Start and stop

    async def run(self, server: Server, listen: socket.socket) -> None:
        """Until the server stops."""
        self._loop = asyncio.get_running_loop()
        registry.subscribe(self.publisher.publish)
        registry.subscribe(self._registry_changed)
        access.subscribe(self.publisher.publish)
        folder.on_refused_connection(self._refused)
        await asyncio.to_thread(self._first_look)
        threads = [
            threading.Thread(target=self.writer.run, args=(self.stopping, self._prepared), name="writer"),
            threading.Thread(target=self._poll, name="changes"),
        ]
        for thread in threads:
            thread.start()
        tasks = [asyncio.create_task(job) for job in (self.health.run(), self._tick(), self._tend_sessions())]
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # batches of records are many objects, and no garbage
        try:
            await server.serve(sockets=[listen])
        finally:
            for task in tasks:
                task.cancel()
            self.stopping.set()
            self._jobs.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self._finish, threads)

    def _finish(self, threads: list[threading.Thread]) -> None:
        """The gateways are gone by now; the writer ends by writing what they left."""
        sessions.close()
        folder.catch_up()
        for thread in threads:
            thread.join()

    def _first_look(self) -> None:
        sessions.hits = surroundings.bounds
        access.remember(sessions.open(self.config.data_dir / "sessions.sqlite3", settings.SECRET_KEY))
        try:
            self._load()
        except Error as error:
            log.warning("starting without the database: %s", error)
            if self.publisher.last is not None:
                registry.fill(_entries(self.publisher.last))
                folder.database_id = self.publisher.last.database_id  # figures count at least what waits for it
        finally:
            connection.close()

    def _load(self) -> None:
        self._changes = changes.read()
        self.publisher.database_id = database.database_id()
        registry.reload()
        access.reload()
        self._reloaded_at = time.monotonic()
        self.loaded = True

    # Threads

    def _prepared(self) -> bool:
        """For the writer: is there a database that can be written, and whose figures the trackers hold?

        Tries to get there, now and then. Raises django.db.Error while there is none.
        """
        if self._ready:
            return True
        if time.monotonic() < self._prepare_at:
            return False
        self._prepare_at = time.monotonic() + PREPARE_AGAIN_SECONDS
        try:
            prepare.bring_up_to_date(self.config)
            prepare.people(self.config)
        except prepare.CannotStart as error:
            log.error("%s", error)  # `serve` refuses to start so; here requests are served already
            return False
        if not self.loaded:
            self._load()
        if not trackers.seeded:
            seeding.seed()
        marks.refresh()
        self.writer.sweep()
        changes.bump(changes.STARTS)  # a write at last: a read-only database looks fine until then
        self._ready = True
        return True

    def _poll(self) -> None:
        """Changes that other processes made to endpoints, users or keys."""
        while not self.stopping.wait(POLL_SECONDS):
            if not self.loaded:
                continue
            try:
                self._look_for_changes()
                marks.refresh()
                self._outdated = False
            except Exception as error:  # noqa: BLE001  # without this thread a deleted key would work for ever
                if not self._outdated:
                    log.warning("endpoints, users and keys cannot be read, the old ones stay: %s", error)
                self._outdated = True
                connection.close()
        connection.close()

    def _look_for_changes(self) -> None:
        found = changes.read()
        everything = time.monotonic() - self._reloaded_at > RELOAD_SECONDS
        # Keys first: an endpoint that cannot be read must not keep a deleted key alive.
        if everything or found.get(changes.ACCESS) != self._changes.get(changes.ACCESS):
            access.reload()
        if everything or found.get(changes.ENDPOINTS) != self._changes.get(changes.ENDPOINTS):
            registry.reload()
        if found.get(changes.FIGURES, 0) != trackers.state.repairs:
            self.writer.read_again.set()
        if everything:
            self._reloaded_at = time.monotonic()
        self._changes = found

    # The loop

    async def _tick(self) -> None:
        """Fold what came, and tell open pages."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await asyncio.to_thread(folder.catch_up)
                self.writer.hurry()
                self._gauge()
                await hub.tell()
            except Exception:
                log.exception("the tick failed; it goes on")

    async def _tend_sessions(self) -> None:
        """End what is over, write last uses, take over a new secret key."""
        while True:
            await asyncio.sleep(SESSIONS_SECONDS)
            try:
                await asyncio.to_thread(self._look_at_sessions)
            except Exception:
                log.exception("sessions could not be looked after; it is tried again")

    def _look_at_sessions(self) -> None:
        if (key := self._secret_key.changed()) is not None:
            log.info("the secret key is a new one: all sessions end")
            settings.SECRET_KEY = key
            sessions.new_secret(key)
        sessions.tend()

    def _gauge(self) -> None:
        now = time.time()
        if gauges.due(now) and registry.loaded:
            online = sum(entry.status == Status.ONLINE for entry in registry.all())
            gauges.note(now, sum(self.publisher.in_flight().values()), self.publisher.waiting(), online)

    # What services ask for

    def _registry_changed(self) -> None:
        self._call(self.health.registry_changed)
        before, self._remarked = self._remarked, {it.id for it in registry.all() if it.last_error in REMARKS}
        for _ in self._remarked - before:
            surroundings.bounds.hit(ENDPOINT_MODELS)

    def _refused(self, endpoint_id: str) -> None:
        self._call(self.health.nudge, endpoint_id)

    def _call(self, function: object, *args: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    def _database_away(self) -> bool:
        return self.writer.backlog.error is not None

    def _secret(self, entry: Entry) -> str | None:
        if entry.sealed_api_key is None:
            return entry.plain_api_key
        try:
            return keys.sealer().open(entry.sealed_api_key)
        except Unsealable:
            return None

    def _where(self, endpoint_id: str) -> Where:
        entry = registry.get(endpoint_id)
        if entry is None:
            return Where(registry.name(endpoint_id) or "(deleted)", "0.0.0.0")  # noqa: S104
        return Where(entry.name, normalise_ip(urlsplit(entry.base_url).hostname or "") or "0.0.0.0")  # noqa: S104

    def _came_up(self, endpoint_id: str, recovered: bool) -> None:
        """After a passed check: its models again, at once if it was away, else every 15 minutes."""
        now = time.monotonic()
        if not recovered and now - self._synced.get(endpoint_id, float("-inf")) < SYNC_SECONDS:
            return
        self._synced[endpoint_id] = now
        asyncio.get_running_loop().run_in_executor(self._jobs, self._queue_sync, endpoint_id, recovered)

    def _queue_sync(self, endpoint_id: str, recovered: bool) -> None:
        close_old_connections()
        try:
            async_task("endpoints.tasks.sync_models", endpoint_id, recovered, group="sync")
        except Error as error:
            log.warning("a model sync could not be queued: %s", error)
            self._synced.pop(endpoint_id, None)  # the next passed check tries again
        finally:
            close_old_connections()


def _entries(last: Snapshot) -> dict[str, Entry]:
    """The registry as the last snapshot knew it: enough for pages and health checks while the database is away."""
    return {
        it.id: Entry(
            id=it.id,
            name=it.name,
            base_url=it.base_url,
            kind=it.kind,
            status=it.status,
            operator_state=it.operator_state,
            sealed_api_key=it.sealed_key,
            inference_timeout_secs=int(it.timeout_secs),
            connect_timeout_secs=int(it.connect_timeout_secs),
            idle_timeout_secs=None if it.idle_timeout_secs is None else int(it.idle_timeout_secs),
            total_timeout_secs=None if it.total_timeout_secs is None else int(it.total_timeout_secs),
            max_concurrency=it.max_concurrency,
            drain_until=None if it.drain_until is None else datetime.fromtimestamp(it.drain_until, UTC),
            models=tuple(
                ModelEntry(model.id, model.canonical, model.capabilities, model.max_tokens) for model in it.models
            ),
        )
        for it in last.endpoints
    }
