"""Queue of model syncs that passed health checks ask for. The background process runs them."""

import logging
import threading
import time
from concurrent.futures import Executor

from django.db import Error, close_old_connections, transaction
from django_q.tasks import async_task

log = logging.getLogger(__name__)

SYNC_SECONDS = 900.0
UNKNOWN_SECONDS = 60.0


def sync_soon(endpoint_id: str) -> None:
    """Queue a model sync now, with the detection of the type. Raises django.db.Error."""
    async_task("endpoints.tasks.sync_models", endpoint_id, True, group="sync")


class SyncQueue:
    """Model syncs, queued in a thread of the executor: all that wait in one transaction."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._queued_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, bool]] = []

    def passed_check(self, endpoint_id: str, recovered: bool) -> None:
        """Queue a model sync after a passed check: at once if the endpoint was offline, else every 15 minutes."""
        self._add(endpoint_id, recovered, 0.0 if recovered else SYNC_SECONDS)

    def unknown_model(self, endpoint_id: str) -> None:
        """Queue a model sync because the endpoint does not know a model that it listed: at most one a minute."""
        self._add(endpoint_id, False, UNKNOWN_SECONDS)

    def _add(self, endpoint_id: str, recovered: bool, apart: float) -> None:
        """Queue a model sync, unless one was queued within `apart` seconds."""
        now = time.monotonic()
        if now - self._queued_at.get(endpoint_id, float("-inf")) < apart:
            return
        self._queued_at[endpoint_id] = now
        with self._lock:
            self._waiting.append((endpoint_id, recovered))
            is_first = len(self._waiting) == 1
        if is_first:
            self._executor.submit(self._queue)

    def _queue(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        close_old_connections()
        try:
            with transaction.atomic():
                for endpoint_id, recovered in waiting:
                    async_task("endpoints.tasks.sync_models", endpoint_id, recovered, group="sync")
        except Error as error:
            log.warning("model syncs could not be queued: %s; the next passed health checks try again", error)
            for endpoint_id, _ in waiting:
                self._queued_at.pop(endpoint_id, None)
        finally:
            close_old_connections()
