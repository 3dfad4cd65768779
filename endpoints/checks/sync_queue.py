"""Queue of model syncs that passed health checks ask for. The background process runs them.

A sync reads the list of a server's models, after a recovery its type too, and costs a hundred times the CPU time of a
check. So endpoints that come and go get few, and those of a large installation are spread.
"""

import logging
import threading
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from django.db import Error, close_old_connections, transaction
from django_q.tasks import async_task

log = logging.getLogger(__name__)

SYNC_SECONDS = 900.0
UNKNOWN_SECONDS = 60.0
RECOVERED_SECONDS = 60.0  # from the sync after a recovery to that after the next one; doubled each time
AT_ONCE = 20.0  # syncs that are queued without a pause, such as all of a small installation
PER_SECOND = 2.0  # of further ones


def sync_soon(endpoint_id: str) -> None:
    """Queue a model sync now, with the detection of the type. Raises django.db.Error."""
    async_task("endpoints.tasks.sync_models", endpoint_id, True, group="sync")


@dataclass(slots=True)
class _Syncs:
    """What is known of an endpoint's syncs."""

    wanted_at: float = float("-inf")  # time.monotonic() of the last one
    has_recovered: bool = False  # since then
    apart: float = 0.0  # seconds from the last one to that after the next recovery


class _Pace:
    """Moments at which syncs may be queued: some at once, others one after the other."""

    def __init__(self) -> None:
        self._room = AT_ONCE
        self._at = monotonic()

    def room(self, endpoints: int) -> int:
        """Return how many syncs may be queued now in an installation with so many endpoints."""
        rate = max(PER_SECOND, 2 * endpoints / SYNC_SECONDS)  # then those of all endpoints take half of SYNC_SECONDS
        now = monotonic()
        self._room = min(AT_ONCE, self._room + (now - self._at) * rate)
        self._at = now
        return int(self._room)

    def take(self, number: int) -> None:
        self._room -= number


class SyncQueue:
    """Model syncs, queued in a thread of the executor: all that are due in one transaction."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._syncs: dict[str, _Syncs] = {}
        # Ids of endpoints that wait, in this order, and whether their type is to be detected.
        self._urgent: dict[str, bool] = {}
        self._routine: dict[str, bool] = {}  # after the urgent ones
        self._pace = _Pace()
        self._is_submitted = False

    def passed_check(self, endpoint_id: str, recovered: bool) -> None:
        """Queue a model sync after a passed check: at once if the endpoint was offline, else every 15 minutes.

        While an endpoint comes and goes, the pauses between its syncs grow from RECOVERED_SECONDS to 15 minutes.
        """
        now = monotonic()
        with self._lock:
            syncs = self._syncs.setdefault(endpoint_id, _Syncs())
            syncs.has_recovered |= recovered
            if syncs.has_recovered and now - syncs.wanted_at >= syncs.apart:
                syncs.apart = min(SYNC_SECONDS, syncs.apart * 2 or RECOVERED_SECONDS)
                self._want(endpoint_id, syncs, now, self._urgent)
            elif now - syncs.wanted_at >= SYNC_SECONDS:
                syncs.apart = 0.0
                self._want(endpoint_id, syncs, now, self._routine)
            self._submit()

    def unknown_model(self, endpoint_id: str) -> None:
        """Queue a model sync because the endpoint does not know a model that it listed: at most one a minute."""
        now = monotonic()
        with self._lock:
            syncs = self._syncs.setdefault(endpoint_id, _Syncs())
            if now - syncs.wanted_at >= UNKNOWN_SECONDS:
                self._want(endpoint_id, syncs, now, self._urgent)
            self._submit()

    def continue_waiting(self) -> None:
        """Queue what waits, as far as the pace now allows. Call this often: a check may follow only after an hour."""
        if self._urgent or self._routine:
            with self._lock:
                self._submit()

    def _want(self, endpoint_id: str, syncs: _Syncs, now: float, waiting: dict[str, bool]) -> None:
        detect = self._routine.pop(endpoint_id, False) or self._urgent.get(endpoint_id, False)
        waiting[endpoint_id] = detect or syncs.has_recovered
        syncs.wanted_at, syncs.has_recovered = now, False

    def _submit(self) -> None:
        """Have the executor queue what is due. The rest waits for a later check or `continue_waiting`."""
        waits = self._urgent or self._routine
        if waits and not self._is_submitted and self._pace.room(len(self._syncs)):
            self._is_submitted = True
            self._executor.submit(self._queue)

    def _take_due(self) -> dict[str, bool]:
        due: dict[str, bool] = {}
        with self._lock:
            self._is_submitted = False
            room = self._pace.room(len(self._syncs))
            for waiting in (self._urgent, self._routine):
                for endpoint_id in list(islice(waiting, room - len(due))):
                    due[endpoint_id] = waiting.pop(endpoint_id)
            self._pace.take(len(due))
        return due

    def _queue(self) -> None:
        due = self._take_due()
        close_old_connections()
        try:
            with transaction.atomic():
                for endpoint_id, detect in due.items():
                    async_task("endpoints.tasks.sync_models", endpoint_id, detect, group="sync")
        except Error as error:
            log.warning("model syncs could not be queued: %s; the next passed health checks try again", error)
            with self._lock:
                for endpoint_id, detect in due.items():
                    self._syncs[endpoint_id] = _Syncs(has_recovered=detect)
        finally:
            close_old_connections()
