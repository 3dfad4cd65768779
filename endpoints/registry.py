"""All endpoints in memory: a process-level cache that readers take whole and never lock.

Rows are read again on commit of an edit (endpoints.signals), all of them when another process counted a change, and all
of them every 30 seconds anyway. The database is written first, this cache second; a check whose result cannot be stored
is the one exception (`note_check`), since routing must go on without a database.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from django.db import Error

from endpoints.models import Endpoint, EndpointModel, OperatorState, Status, merge_latency, next_error, next_status

log = logging.getLogger(__name__)

MAX_INTERVAL_SECS = 3600  # the reference takes any number; 0 would ask without a pause


@dataclass(frozen=True, slots=True)
class ModelEntry:
    id: str
    canonical_name: str | None = None
    capabilities: tuple[str, ...] = ()
    max_tokens: int | None = None
    last_checked: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One endpoint, without counters: those are told by metrics.trackers alone."""

    id: str
    name: str
    base_url: str
    kind: str
    status: str = Status.PENDING
    operator_state: str = OperatorState.ENABLED
    health_check_interval_secs: int = 30
    inference_timeout_secs: int = 120
    latency_ms: int | None = None
    last_seen: datetime | None = None
    last_error: str | None = None
    error_count: int = 0
    registered_at: datetime | None = None
    notes: str | None = None
    device_info: object = None
    capabilities: tuple[str, ...] = ()  # the staff's word, as stored
    connect_timeout_secs: int | None = None
    idle_timeout_secs: int | None = None
    total_timeout_secs: int | None = None
    max_concurrency: int | None = None
    learned_slots: int | None = None
    tags: tuple[str, ...] = ()
    drain_until: datetime | None = None
    sealed_api_key: str | None = field(default=None, repr=False)
    plain_api_key: str | None = field(default=None, repr=False)  # the reference's column
    models: tuple[ModelEntry, ...] = ()

    @property
    def shown_status(self) -> str:
        """The operator's word goes before what checks say."""
        return self.status if self.operator_state == OperatorState.ENABLED else self.operator_state

    @property
    def slots(self) -> int | None:
        """Requests that it gets at a time; None: any number. The staff's word goes before the server's."""
        return self.max_concurrency or self.learned_slots


Listener = Callable[[], None]


class Registry:
    """Where a process looks endpoints up."""

    def __init__(self) -> None:
        self._entries: Mapping[str, Entry] | None = None  # None: never loaded, as against loaded and empty
        self._names: dict[str, str] = {}  # also of endpoints deleted since
        self._writing = threading.RLock()
        self._listeners: list[Listener] = []
        self.version = 0  # counts the changes
        # Requests on each endpoint now, over all gateways. Control knows them; elsewhere there are none.
        self.in_flight: Callable[[], Mapping[str, int]] = dict
        # Have all gateways close their circuit breakers for an endpoint, and forget what these counted.
        self.reset_breaker: Callable[[str], None] = lambda endpoint_id: None

    def all(self) -> tuple[Entry, ...]:
        """Every endpoint, oldest first. Reads the database the first time."""
        return tuple(self._loaded().values())

    def get(self, endpoint_id: str) -> Entry | None:
        return self._loaded().get(endpoint_id)

    def name(self, endpoint_id: str) -> str | None:
        """The endpoint's name, even if it was deleted while this process ran."""
        return self._names.get(endpoint_id)

    @property
    def loaded(self) -> bool:
        return self._entries is not None

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` after each change, in the thread that made it."""
        self._listeners.append(listener)

    def reload(self) -> None:
        """Read everything again. Raises django.db.Error, and then keeps what it had."""
        with self._writing:
            self._swap(_read_all())
        self._tell()

    def refresh(self, endpoint_id: str) -> None:
        """Read one endpoint again, on commit of its edit. A failing database leaves the old entry, and says so."""
        try:
            with self._writing:
                entries = dict(self._loaded())
                entry = _read_one(endpoint_id)
                if entry is None:
                    entries.pop(endpoint_id, None)
                else:
                    old = entries.get(endpoint_id)
                    latency = merge_latency(entry.latency_ms, old.latency_ms if old else None)
                    entries[endpoint_id] = replace(entry, latency_ms=latency)
                self._swap(entries)
        except Error as error:
            log.warning("endpoint %s could not be read again: %s", endpoint_id, error)
            return
        self._tell()

    def note_check(self, endpoint_id: str, *, success: bool, latency_ms: int | None, error: str | None) -> None:
        """A health check's result that the database would not take."""
        with self._writing:
            entries = dict(self._loaded())
            entry = entries.get(endpoint_id)
            if entry is None:
                return
            status, error_count = next_status(entry.status, entry.error_count, success=success)
            entries[endpoint_id] = replace(
                entry,
                status=status,
                error_count=error_count,
                latency_ms=merge_latency(latency_ms, entry.latency_ms),
                last_error=next_error(entry.last_error, None if success else error),
            )
            self._swap(entries)
        self._tell()

    def fill(self, entries: Mapping[str, Entry]) -> None:
        """Start from what a snapshot knew, while there is no database."""
        with self._writing:
            self._swap(entries)

    def forget(self) -> None:
        """As if never loaded; for tests."""
        self._entries = None
        self._names = {}

    def _loaded(self) -> Mapping[str, Entry]:
        if self._entries is None:
            with self._writing:
                self._swap(_read_all())
        assert self._entries is not None
        return self._entries

    def _swap(self, entries: Mapping[str, Entry]) -> None:
        self._entries = MappingProxyType(dict(entries))
        self.version += 1
        self._names |= {entry.id: entry.name for entry in entries.values()}

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


registry = Registry()


def _read_all() -> dict[str, Entry]:
    models: dict[str, list[ModelEntry]] = {}
    for row in EndpointModel.objects.order_by("model_id"):
        models.setdefault(str(row.endpoint_id), []).append(_model(row))
    rows = Endpoint.objects.select_related("options").order_by("registered_at", "name")
    return {str(row.id): _entry(row, models.get(str(row.id), [])) for row in rows}


def models_of(endpoint_id: str) -> list[ModelEntry]:
    """An endpoint's models as the database has them, by name."""
    return [_model(row) for row in EndpointModel.objects.filter(endpoint_id=endpoint_id).order_by("model_id")]


def _read_one(endpoint_id: str) -> Entry | None:
    row = Endpoint.objects.select_related("options").filter(pk=endpoint_id).first()
    if row is None:
        return None
    return _entry(row, [_model(model) for model in row.models.order_by("model_id")])


def entry_of(row: Endpoint) -> Entry:
    """A row as it is kept here, without its models."""
    return _entry(row, [])


def _entry(row: Endpoint, models: list[ModelEntry]) -> Entry:
    options = row.options_or_default
    return Entry(
        id=str(row.id),
        name=row.name,
        base_url=row.base_url,
        kind=row.endpoint_type,
        status=row.status if row.status in Status.values else Status.PENDING,
        operator_state=options.operator_state,
        health_check_interval_secs=min(MAX_INTERVAL_SECS, max(1, row.health_check_interval_secs)),
        inference_timeout_secs=row.inference_timeout_secs,
        latency_ms=row.latency_ms,
        last_seen=row.last_seen,
        last_error=row.last_error,
        error_count=row.error_count,
        registered_at=row.registered_at,
        notes=row.notes,
        device_info=row.device_info,
        capabilities=_words(row.capabilities),
        connect_timeout_secs=options.connect_timeout_secs,
        idle_timeout_secs=options.idle_timeout_secs,
        total_timeout_secs=options.total_timeout_secs,
        max_concurrency=options.max_concurrency,
        learned_slots=options.learned_slots,
        tags=_words(options.tags),
        drain_until=options.drain_until,
        sealed_api_key=options.sealed_api_key,
        plain_api_key=row.api_key_encrypted,
        models=tuple(models),
    )


def _model(row: EndpointModel) -> ModelEntry:
    return ModelEntry(
        id=row.model_id,
        canonical_name=row.canonical_name,
        capabilities=_words(row.capabilities),
        max_tokens=row.max_tokens,
        last_checked=row.last_checked,
    )


def _words(column: object) -> tuple[str, ...]:
    return tuple(str(word) for word in column) if isinstance(column, list) else ()
