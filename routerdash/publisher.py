"""The snapshot for gateways: endpoints and keys from their caches, written when they differ from the last one."""

import logging
import threading
import time
from collections.abc import Iterable

from django.db import Error

from access.directory import KeyEntry, access
from endpoints import capabilities, keys, names
from endpoints.registry import Entry, ModelEntry, registry
from gateway import cancels, snapshot
from gateway.cancels import Cancel
from gateway.config import Config
from gateway.livepage import MAX_ENDPOINTS, LivePage
from gateway.snapshot import Snapshot

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECS = 5


class Publisher:
    """Writes the snapshot file and its version in the live page."""

    def __init__(self, config: Config, page: LivePage) -> None:
        self._path = config.snapshot_path
        self._data_dir = config.data_dir
        self._cancels = cancels.load(config.data_dir)
        self._workers = config.workers
        self._page = page
        self._lock = threading.Lock()
        self._last = self._read()
        self.slots = {endpoint.id: endpoint.slot for endpoint in self._last.endpoints} if self._last else {}
        self._page.version = self._last.version if self._last else 0
        self.database_id: str | None = None

    @property
    def last(self) -> Snapshot | None:
        return self._last

    def publish(self) -> None:
        """Called after every change of the registry or the directory, in the thread that made it."""
        if self.database_id is None:
            return  # nothing is known yet for certain: the old snapshot stays
        with self._lock:
            try:
                fresh = self._compose(self.database_id)
                if self._last is not None and _same(fresh, self._last):
                    return
                snapshot.save(self._path, fresh)
            except (Error, OSError) as error:
                log.error("the snapshot could not be published: %s", error)
                return
            self._last = fresh
            self._page.version = fresh.version

    def in_flight(self) -> dict[str, int]:
        """Requests on each endpoint now, over all workers."""
        return {endpoint_id: self._page.in_flight(slot) for endpoint_id, slot in self.slots.items()}

    def trials(self) -> dict[str, int]:
        """Endpoints whose circuit breaker is not closed, with LivePage.trial_due."""
        slots = self.slots.items()
        due = ((endpoint_id, self._page.trial_due(slot, self._workers)) for endpoint_id, slot in slots)
        return {endpoint_id: second for endpoint_id, second in due if second}

    def waiting(self) -> int:
        return self._page.waiting

    def watch(self, until: int) -> int:
        """Have the workers tell what is here until this second. Until when they do already."""
        before = self._page.watched_until
        self._page.watched_until = until
        return before

    def cancel(self, request_id: str) -> None:
        """Have the worker that has this request end it. Raises OSError."""
        with self._lock:
            if request_id not in self.cancelled():
                self._cancels = (*self._recent(), Cancel(request_id, time.time()))
                cancels.save(self._data_dir, self._cancels)
                self._page.cancels += 1

    def cancelled(self) -> frozenset[str]:
        """The requests of the last minute that were to be ended."""
        return frozenset(it.id for it in self._recent())

    def reset_breaker(self, endpoint_id: str) -> None:
        """Have all workers close their circuit breakers for this endpoint."""
        with self._lock:
            slot = self.slots.get(endpoint_id)
            if slot is not None:  # else no worker knows it
                self._page.reset_breaker(slot)

    def _recent(self) -> tuple[Cancel, ...]:
        now = time.time()
        return tuple(it for it in self._cancels if abs(now - it.at) < cancels.KEPT_SECONDS)

    def unrecorded(self) -> int:
        return self._page.unrecorded

    def last_byte(self, endpoint_id: str) -> float:
        slot = self.slots.get(endpoint_id)
        return 0.0 if slot is None else self._page.last_byte(slot)

    def _read(self) -> Snapshot | None:
        try:
            return snapshot.load(self._path)
        except snapshot.Unreadable:
            return None

    def _compose(self, database_id: str) -> Snapshot:
        entries = registry.all()
        self._assign_slots(entries)
        return Snapshot(
            version=(self._last.version if self._last else 0) + 1,
            database_id=database_id,
            endpoints=tuple(_endpoint(entry, self.slots[entry.id]) for entry in entries if entry.id in self.slots),
            api_keys=tuple(_key(key) for key in access.directory().keys.values()),
        )

    def _assign_slots(self, entries: Iterable[Entry]) -> None:
        """A slot stays with its endpoint; one that a deleted endpoint left is given away as late as possible."""
        present = {entry.id for entry in entries}
        slots = dict(self.slots)  # swapped at the end: readers may be going through the old one
        taken = set(slots.values())
        for entry in entries:
            if entry.id in slots:
                continue
            free = next((slot for slot in range(MAX_ENDPOINTS) if slot not in taken), None)
            if free is None:
                gone = next((key for key in slots if key not in present), None)
                if gone is None:
                    log.error("more than %d endpoints: %s is not served", MAX_ENDPOINTS, entry.name)
                    continue
                free = slots.pop(gone)
            slots[entry.id] = free
            taken.add(free)
        self.slots = slots


def _same(one: Snapshot, other: Snapshot) -> bool:
    return (one.database_id, one.endpoints, one.api_keys) == (other.database_id, other.endpoints, other.api_keys)


def _endpoint(entry: Entry, slot: int) -> snapshot.Endpoint:
    return snapshot.Endpoint(
        id=entry.id,
        slot=slot,
        name=entry.name,
        base_url=entry.base_url,
        kind=entry.kind,
        status=entry.status,
        operator_state=entry.operator_state,
        sealed_key=entry.sealed_api_key or _seal(entry),
        timeout_secs=float(entry.inference_timeout_secs),
        connect_timeout_secs=float(entry.connect_timeout_secs or CONNECT_TIMEOUT_SECS),
        idle_timeout_secs=_seconds(entry.idle_timeout_secs),
        total_timeout_secs=_seconds(entry.total_timeout_secs),
        max_concurrency=entry.slots,
        drain_until=entry.drain_until.timestamp() if entry.drain_until else None,
        models=tuple(_model(model, capabilities.added(list(entry.capabilities))) for model in entry.models),
    )


def _seconds(value: int | None) -> float | None:
    return None if value is None else float(value)


_sealed: dict[str, str] = {}


def _seal(entry: Entry) -> str | None:
    """A secret that the reference left in plain text is sealed on its way; once, so that snapshots compare equal."""
    if not entry.plain_api_key:
        return None
    return _sealed.setdefault(entry.plain_api_key, keys.sealer().seal(entry.plain_api_key))


def _model(model: ModelEntry, added: tuple[str, ...]) -> snapshot.Model:
    return snapshot.Model(
        id=model.id,
        canonical=model.canonical_name,
        aliases=names.aliases(model.id, model.canonical_name),
        capabilities=capabilities.together(model.capabilities, added),
        max_tokens=model.max_tokens,
    )


def _key(key: KeyEntry) -> snapshot.ApiKey:
    return snapshot.ApiKey(key.id, key.hash, key.permissions, key.expires_at)
