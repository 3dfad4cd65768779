"""Endpoint events of the last 60 minutes: changes of status by health checks, and edits by staff, with time and cause.

They are read from the database when an endpoint has changed, and every 30 seconds. Pages get them from memory. Control
reads them in a thread that may wait for the database; while the database is away, the cached events stay.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.db import Error, connection
from django.db.models import F, Max

from endpoints.endpoint_fields import EVENT_FIELDS
from endpoints.models import HealthCheck
from endpoints.registry import Entry, registry

log = logging.getLogger(__name__)

MINUTES = 60
MAX_EVENTS = 100
READ_SECONDS = 30.0
PENDING_SECONDS = 1.0  # interval while a change of status is not stored yet: it is written after the status itself

STATUS, ADDED, CHANGED, DELETED = "status", "added", "changed", "deleted"
KINDS = (STATUS, ADDED, CHANGED, DELETED)
_EDITS = {ADDITION: ADDED, CHANGE: CHANGED, DELETION: DELETED}


@dataclass(frozen=True, slots=True)
class EndpointEvent:
    """One endpoint event. `detail` is the cause of a change of status, or the names of edited fields."""

    at: datetime
    kind: str  # one of KINDS
    endpoint_id: str
    endpoint_name: str | None
    before: str | None = None
    after: str | None = None
    detail: str | None = None
    by: str | None = None


class EndpointEvents:
    """Cached events of the last 60 minutes, and the last change of status of each endpoint."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Remove all cached events."""
        self._read_for: tuple[object, ...] | None = None  # fields of all endpoints at the last read
        self._read_at = float("-inf")
        self._events: tuple[EndpointEvent, ...] = ()
        self._last_changes: Mapping[str, EndpointEvent] = {}  # by endpoint id
        self.version = 0  # number of reads that found different events

    def refresh(self) -> None:
        """Read the events if an endpoint has changed or the cache is old. Never raises django.db.Error."""
        with self._lock:
            fields = tuple(_watched_fields(entry) for entry in registry.all()) if registry.loaded else ()
            interval = PENDING_SECONDS if self._is_pending() else READ_SECONDS
            if fields == self._read_for and time.monotonic() - self._read_at < interval:
                return
            try:
                since = datetime.now(UTC) - timedelta(minutes=MINUTES)
                last = {event.endpoint_id: event for event in _last_changes()}
                recent = [endpoint_id for endpoint_id, event in last.items() if event.at >= since]
                events = tuple(
                    sorted((*_changes(recent, since), *_edits(since)), key=lambda event: event.at)[-MAX_EVENTS:]
                )
            except Error as error:
                log.warning("endpoint events cannot be read, the cached ones stay: %s", error)
                connection.close()
                return
            self._read_for, self._read_at = fields, time.monotonic()
            if (events, last) != (self._events, self._last_changes):
                self._events, self._last_changes = events, last
                self.version += 1

    def _is_pending(self) -> bool:
        """Return True if the status of an endpoint differs from its last stored change."""
        return any(
            event.after != entry.status
            for entry in registry.all()
            if (event := self._last_changes.get(entry.id)) is not None
        )

    def recent(self) -> list[EndpointEvent]:
        """Return the events of the last 60 minutes, oldest first."""
        since = datetime.now(UTC) - timedelta(minutes=MINUTES)
        return [event for event in self._events if event.at >= since]

    def since(self, endpoint_id: str, status: str) -> datetime | None:
        """Return since when an endpoint has had this status, or None if that is unknown."""
        event = self._last_changes.get(endpoint_id)
        return event.at if event is not None and event.after == status else None


def _watched_fields(entry: Entry) -> tuple[object, ...]:
    """Return the fields that a change of status or an edit changes."""
    return tuple(getattr(entry, name) for name in EVENT_FIELDS)


def _last_changes() -> Iterator[EndpointEvent]:
    """Return the last change of status of each endpoint. A partial index has the changes among millions of checks."""
    changed = HealthCheck.objects.exclude(status_before=F("status_after"))
    ids = [row["last"] for row in changed.values("endpoint_id").annotate(last=Max("id"))]
    yield from map(_status_event, HealthCheck.objects.filter(id__in=ids))


def _changes(endpoint_ids: list[str], since: datetime) -> Iterator[EndpointEvent]:
    changed = HealthCheck.objects.filter(endpoint_id__in=endpoint_ids, checked_at__gte=since)
    yield from map(_status_event, changed.exclude(status_before=F("status_after")).order_by("-id")[:MAX_EVENTS])


def _status_event(check: HealthCheck) -> EndpointEvent:
    endpoint_id = str(check.endpoint_id)
    name, error = registry.name(endpoint_id), check.error_message
    return EndpointEvent(check.checked_at, STATUS, endpoint_id, name, check.status_before, check.status_after, error)


def _edits(since: datetime) -> Iterator[EndpointEvent]:
    """Return edits from the log of the admin, which is short and has no index by time."""
    entries: Any = LogEntry.objects.filter(content_type__app_label="endpoints", content_type__model="endpoint")
    for entry in entries.select_related("user").order_by("-id")[:MAX_EVENTS]:
        if entry.action_time >= since:
            kind, by = _EDITS.get(entry.action_flag, CHANGED), str(entry.user)
            name = registry.name(entry.object_id) or entry.object_repr
            yield EndpointEvent(entry.action_time, kind, entry.object_id, name, detail=_edited_fields(entry), by=by)


def _edited_fields(entry: LogEntry) -> str | None:
    """Return the names of the edited fields, or the message of an admin action."""
    try:
        parts = json.loads(entry.change_message)
        fields = [name for part in parts for name in part.get("changed", {}).get("fields", ())]
    except (ValueError, AttributeError, TypeError):
        return entry.change_message or None
    return ", ".join(map(str, fields)) or None


endpoint_events = EndpointEvents()
