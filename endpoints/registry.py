"""Cache of all endpoints in the memory of a process. Readers get one immutable mapping and need no lock.

A row is read again on commit of its edit (endpoints.signals), and when the change log names it, because another
process or program has edited it (endpoints.changes). Changes are written to the database first and to this cache
second. The only exception is a health check whose result cannot be stored (`note_check`), because routing must work
without a database.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from django.db import Error
from django.utils import timezone

from endpoints.capabilities import features as known_features
from endpoints.checks.result import Check
from endpoints.clouds.kinds import CLOUDS
from endpoints.endpoint_fields import FIELDS, words
from endpoints.models import (
    HEALTH_FIELDS,
    Endpoint,
    EndpointModel,
    OperatorState,
    Status,
    merge_latency,
    next_error,
    next_status,
)

log = logging.getLogger(__name__)

LATENCY_SECONDS = 1.0  # while many endpoints are checked, live pages need not compute all figures for each latency


@dataclass(frozen=True, slots=True)
class ModelEntry:
    id: str
    canonical_name: str | None = None
    capabilities: tuple[str, ...] = ()
    max_tokens: int | None = None
    last_checked: datetime | None = None
    max_output_tokens: int | None = None
    lacks: tuple[str, ...] = ()  # of endpoints.capabilities.NEEDS
    features: tuple[str, ...] = ()  # of endpoints.capabilities.FEATURES


class Models(tuple[ModelEntry, ...]):
    """The models of an endpoint."""

    @cached_property
    def ids(self) -> frozenset[str]:
        return frozenset(model.id for model in self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One endpoint, without counters: only metrics.memory.trackers provides those.

    Its attributes are those of endpoint_fields.FIELDS, and its models.
    """

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
    capabilities: tuple[str, ...] = ()  # set by staff, as stored
    connect_timeout_secs: int | None = None
    idle_timeout_secs: int | None = None
    total_timeout_secs: int | None = None
    max_concurrency: int | None = None
    learned_slots: int | None = None
    tier: int | None = None  # None: 1
    cost_weight: float | None = None  # None: 1
    external: bool | None = None  # see `is_external`
    cloud_type: str | None = None
    api_version: str | None = None
    allowed_models: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    drain_until: datetime | None = None
    sealed_api_key: str | None = field(default=None, repr=False)
    plain_api_key: str | None = field(default=None, repr=False)  # llmlb's column
    models: Models = Models()

    @property
    def shown_status(self) -> str:
        """The operator state if it is not enabled, else the status from health checks."""
        return self.status if self.operator_state == OperatorState.ENABLED else self.operator_state

    @property
    def is_external(self) -> bool:
        """Requests leave the network: as staff has set it, else for clouds."""
        return self.kind in CLOUDS if self.external is None else self.external

    @property
    def slots(self) -> int | None:
        """Requests that the endpoint gets at a time: the limit set by staff, else the reported one; None: no limit."""
        return self.max_concurrency or self.learned_slots


Listener = Callable[[Collection[str] | None], None]


class Registry:
    """Cache of endpoints in a process."""

    def __init__(self) -> None:
        self._entries: Mapping[str, Entry] | None = None  # None: not loaded yet; different from loaded and empty
        self._names: dict[str, str] = {}  # also of endpoints deleted since
        self._writing = threading.RLock()
        self._listeners: list[Listener] = []
        self.version = 0  # counts the changes, except those of `last_seen`, and of latencies at most each second
        self._latencies_shown_at = float("-inf")
        self.outdated = False  # an edit could not be read again
        self.failed_reads = 0  # counts such edits
        # In-flight requests of each endpoint, summed over all gateways. Empty outside of control.
        self.in_flight: Callable[[], Mapping[str, int]] = dict
        # Closes the circuit breakers of an endpoint in all gateways, and clears their counts.
        self.reset_breaker: Callable[[str], None] = lambda endpoint_id: None

    def all(self) -> tuple[Entry, ...]:
        """Return all endpoints, oldest first. The first call reads the database."""
        return tuple(self._loaded().values())

    def get(self, endpoint_id: str) -> Entry | None:
        return self._loaded().get(endpoint_id)

    def name(self, endpoint_id: str) -> str | None:
        """Return the endpoint's name, even if it was deleted while this process ran."""
        return self._names.get(endpoint_id)

    @property
    def loaded(self) -> bool:
        return self._entries is not None

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` after each change, in its thread, with the ids of the endpoints; None: any of them."""
        self._listeners.append(listener)

    def reload(self) -> None:
        """Read all endpoints again. Raises django.db.Error, after which the old entries stay."""
        with self._writing:
            self._swap(read_entries())
        self.outdated = False
        self._notify_listeners(None)

    def refresh(self, *ids: str) -> None:
        """Read endpoints again on commit of their edit. A database error is logged, and the old entries stay."""
        try:
            self.read_again(ids)
        except Error as error:
            self.outdated, self.failed_reads = True, self.failed_reads + 1
            log.warning("endpoint %s could not be read again: %s", ", ".join(ids), error)

    def read_again(self, ids: Collection[str]) -> None:
        """Read endpoints again, in a process that has read all before. Raises django.db.Error."""
        if self._entries is None:
            return
        with self._writing:
            entries = dict(self._entries)
            found = read_entries(ids)
            changed = [endpoint_id for endpoint_id in ids if not _take(entries, endpoint_id, found.get(endpoint_id))]
            if changed:
                self._swap(entries, changed)
        if changed:
            self._notify_listeners(changed)

    def take_checks(self, rows: Iterable[Endpoint]) -> None:
        """Take the results of health checks from rows that were stored, without reading the database."""
        checked = {
            str(row.pk): {field.name: field.read(getattr(row, field.column)) for field in _HEALTH} for row in rows
        }

        def taken(entry: Entry, values: dict[str, Any]) -> Entry:
            latency = merge_latency(values["latency_ms"], entry.latency_ms)
            return replace(entry, **values | {"latency_ms": latency})

        if self.loaded:
            changes = ((endpoint_id, partial(taken, values=values)) for endpoint_id, values in checked.items())
            now = time.monotonic()
            is_due = now - self._latencies_shown_at >= LATENCY_SECONDS
            if self._change_health(changes, show_latencies=is_due) and is_due:
                self._latencies_shown_at = now

    def note_check(self, endpoint_id: str, *, success: bool, latency_ms: int | None, error: str | None) -> None:
        """Apply the result of a health check that the database did not store."""
        self.note_checks([(endpoint_id, Check(success, latency_ms, error, timezone.now()))])

    def note_checks(self, checks: Iterable[tuple[str, Check]]) -> None:
        """Apply results of health checks that the database did not store."""

        def noted(entry: Entry, check: Check) -> Entry:
            status, error_count = next_status(entry.status, entry.error_count, success=check.success)
            return replace(
                entry,
                status=status,
                error_count=error_count,
                latency_ms=merge_latency(check.latency_ms, entry.latency_ms),
                last_error=next_error(entry.last_error, check),
            )

        self._change_health((endpoint_id, partial(noted, check=check)) for endpoint_id, check in checks)

    def _change_health(
        self, changes: Iterable[tuple[str, Callable[[Entry], Entry]]], *, show_latencies: bool = True
    ) -> bool:
        """Apply results of health checks to entries. Return True if the version counts the change.

        Most change only the latency, which gateways do not need, or nothing but the time: then no listener is called.
        """
        pairs: list[tuple[Entry, Entry]] = []  # before and after
        with self._writing:
            entries = dict(self._loaded())
            for endpoint_id, change in changes:
                if (entry := entries.get(endpoint_id)) is not None:
                    entries[endpoint_id] = change(entry)
                    pairs.append((entry, entries[endpoint_id]))
            if not pairs:
                return False
            listened = [after.id for before, after in pairs if _listened(before) != _listened(after)]
            has_latencies = any(before.latency_ms != after.latency_ms for before, after in pairs)
            is_shown = bool(listened) or (show_latencies and has_latencies)
            self._swap(entries, (), is_shown=is_shown)
        if listened:
            self._notify_listeners(listened)
        return is_shown

    def fill(self, entries: Mapping[str, Entry]) -> None:
        """Use these entries while there is no database."""
        with self._writing:
            self._swap(entries)

    def forget(self) -> None:
        """Reset to the state before the first load; for tests."""
        self._entries = None
        self._names = {}

    def _loaded(self) -> Mapping[str, Entry]:
        if self._entries is None:
            with self._writing:
                self._swap(read_entries())
        assert self._entries is not None
        return self._entries

    def _swap(
        self, entries: Mapping[str, Entry], changed: Collection[str] | None = None, *, is_shown: bool = True
    ) -> None:
        """Use new entries, which no one else changes. `changed`: ids of those that may have another name; None: any."""
        self._entries = MappingProxyType(entries)
        self.version += is_shown
        for endpoint_id in entries if changed is None else changed:
            if endpoint_id in entries:
                self._names[endpoint_id] = entries[endpoint_id].name

    def _notify_listeners(self, changed: Collection[str] | None) -> None:
        for listener in self._listeners:
            listener(changed)


registry = Registry()

_HEALTH = tuple(field for field in FIELDS if field.column in HEALTH_FIELDS)


def _listened(entry: Entry) -> object:
    """Return what listeners act on, of all that a health check changes."""
    return entry.status, entry.last_error, entry.error_count


def _take(entries: dict[str, Entry], endpoint_id: str, entry: Entry | None) -> bool:
    """Put an entry that was read into the cache. Return True if it is as it was."""
    old = entries.get(endpoint_id)
    if entry is None:
        return entries.pop(endpoint_id, None) is None
    entry = replace(entry, latency_ms=merge_latency(entry.latency_ms, old.latency_ms if old else None))
    if entry == old:
        return True
    entries[endpoint_id] = entry
    return False


IDS_AT_ONCE = 500  # in one query


def read_entries(ids: Collection[str] | None = None) -> dict[str, Entry]:
    """Read endpoints by id, or all, oldest first. Raises django.db.Error."""
    if ids is not None and len(ids) > IDS_AT_ONCE:
        listed = list(ids)
        parts = (listed[start : start + IDS_AT_ONCE] for start in range(0, len(listed), IDS_AT_ONCE))
        return {endpoint_id: entry for part in parts for endpoint_id, entry in read_entries(part).items()}
    rows = Endpoint.objects.select_related("options").order_by("registered_at", "name")
    models = EndpointModel.objects.order_by("model_id")
    if ids is not None:
        rows, models = rows.filter(pk__in=ids), models.filter(endpoint_id__in=ids)
    by_endpoint: dict[str, list[ModelEntry]] = {}
    # Values, not objects: Django takes four times as long to make an object of each of many models.
    values_of_all = models.values_list("endpoint_id", *_MODEL_COLUMNS)
    # An iterator bounds the memory for all models. For a few, its cursor on PostgreSQL costs four round trips, not one.
    for endpoint_id, *values in values_of_all.iterator() if ids is None else values_of_all:
        by_endpoint.setdefault(str(endpoint_id), []).append(_model(*values))
    return {str(row.id): _entry(row, by_endpoint.get(str(row.id), [])) for row in rows}


def models_of(endpoint_id: str) -> list[ModelEntry]:
    """Return the models of an endpoint in the database, sorted by name."""
    rows = EndpointModel.objects.filter(endpoint_id=endpoint_id).order_by("model_id").values_list(*_MODEL_COLUMNS)
    return [_model(*row) for row in rows]


def entry_of(row: Endpoint) -> Entry:
    """Return the entry of a row, without its models."""
    return _entry(row, [])


def _entry(row: Endpoint, models: list[ModelEntry]) -> Entry:
    options = row.options_or_default
    values = {
        field.name: field.read(getattr(options if field.is_option else row, field.attribute or field.column))
        for field in FIELDS
    }
    return Entry(**values, models=Models(models))


_MODEL_COLUMNS = (
    *("model_id", "canonical_name", "capabilities", "max_tokens", "last_checked"),
    *("max_output_tokens", "lacks", "features"),
)


def _model(
    model_id: str,
    canonical: str | None,
    capabilities: object,
    max_tokens: int | None,
    last_checked: datetime | None,
    max_output_tokens: int | None,
    *reported: object,
) -> ModelEntry:
    return ModelEntry(
        model_id,
        canonical,
        words(capabilities),
        max_tokens,
        last_checked,
        max_output_tokens,
        *map(known_features, reported),  # what it lacks, and its features
    )
