"""Cache of all endpoints in the memory of a process. Readers get one immutable mapping and need no lock.

A row is read again on commit of its edit (endpoints.signals), and when the change log names it, because another
process or program has edited it (endpoints.changes). Changes are written to the database first and to this cache
second. The only exception is a health check whose result cannot be stored (`note_check`), because routing must work
without a database.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from django.utils import timezone

from endpoints import connections
from endpoints.cached_table import CachedTable
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
    first_seen: datetime | None = None


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
    capabilities: tuple[str, ...] = ()  # set by administrators, as stored
    connect_timeout_secs: int | None = None
    idle_timeout_secs: int | None = None
    total_timeout_secs: int | None = None
    max_concurrency: int | None = None
    learned_slots: int | None = None
    assumed_slots: int | None = None
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
    sealed_connection: str | None = field(default=None, repr=False)  # see endpoints.connections
    models: Models = Models()

    @property
    def shown_status(self) -> str:
        """The administrative state if it is not enabled, else the status from health checks."""
        return self.status if self.operator_state == OperatorState.ENABLED else self.operator_state

    def created(self, model: ModelEntry) -> int:
        """Return when a model of this endpoint was first seen, in seconds since 1970; 0 if that is unknown.

        Rows of earlier releases lack the time: the endpoint's own is the earliest that it can be.
        """
        first_seen = model.first_seen or self.registered_at
        return 0 if first_seen is None else int(first_seen.timestamp())

    @property
    def is_external(self) -> bool:
        """Requests leave the network: as an administrator has set it, else for clouds."""
        return self.kind in CLOUDS if self.external is None else self.external

    @property
    def shown_connection(self) -> connections.ShownConnection | None:
        """Proxy, certificates and extra headers, with masked secrets."""
        return connections.shown(self.sealed_connection)

    @property
    def slots(self) -> int | None:
        """Requests that the endpoint gets at a time: the limit that was set, else the reported one, else the assumed
        one; None: no limit.
        """
        return self.max_concurrency or self.learned_slots or self.assumed_slots

    @property
    def has_assumed_slots(self) -> bool:
        """Return True if the limit that applies is an assumed one."""
        return self.assumed_slots is not None and not (self.max_concurrency or self.learned_slots)


class Registry(CachedTable[Entry]):
    """Cache of endpoints in a process, oldest first."""

    def __init__(self) -> None:
        # The version counts the changes, except those of `last_seen`, and of latencies at most each second.
        super().__init__("endpoints", lambda ids: read_entries(ids))
        self._names: dict[str, str] = {}  # also of endpoints deleted since
        self._latencies_shown_at = float("-inf")
        # In-flight requests of each endpoint, summed over all gateways. Empty outside of control.
        self.in_flight: Callable[[], Mapping[str, int]] = dict
        # Closes the circuit breakers of an endpoint in all gateways, and clears their counts.
        self.reset_breaker: Callable[[str], None] = lambda endpoint_id: None

    def connect(self, *, in_flight: Callable[[], Mapping[str, int]], reset_breaker: Callable[[str], None]) -> None:
        """Give this process its ways to the gateways. `reset_breaker` gets the id of an endpoint."""
        self.in_flight, self.reset_breaker = in_flight, reset_breaker

    def name(self, endpoint_id: str) -> str | None:
        """Return the endpoint's name, even if it was deleted while this process ran."""
        return self._names.get(endpoint_id)

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
            self._swap(entries, (), is_counted=is_shown)
        if listened:
            self._notify(listened)
        return is_shown

    def forget(self) -> None:
        super().forget()
        self._names = {}

    def _merged(self, row: Entry, before: Entry | None) -> Entry:
        """Return the entry with the last latency that was measured."""
        return replace(row, latency_ms=merge_latency(row.latency_ms, before.latency_ms if before else None))

    def _swap(
        self, rows: Mapping[str, Entry], changed: Collection[str] | None = None, *, is_counted: bool = True
    ) -> None:
        super()._swap(rows, changed, is_counted=is_counted)
        for endpoint_id in rows if changed is None else changed:
            if endpoint_id in rows:
                self._names[endpoint_id] = rows[endpoint_id].name


registry = Registry()

_HEALTH = tuple(field for field in FIELDS if field.column in HEALTH_FIELDS)


def _listened(entry: Entry) -> object:
    """Return what listeners act on, of all that a health check changes."""
    return entry.status, entry.last_error, entry.error_count


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
    *("max_output_tokens", "first_seen", "lacks", "features"),
)


def _model(
    model_id: str,
    canonical: str | None,
    capabilities: object,
    max_tokens: int | None,
    last_checked: datetime | None,
    max_output_tokens: int | None,
    first_seen: datetime | None,
    *reported: object,
) -> ModelEntry:
    lacks, features = map(known_features, reported)
    return ModelEntry(
        model_id,
        canonical,
        words(capabilities),
        max_tokens,
        last_checked,
        max_output_tokens,
        lacks,
        features,
        first_seen,
    )
