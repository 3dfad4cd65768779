"""Endpoint events of the last 60 minutes: changes of status by health checks, and edits, with time and cause.

They are read from the database when an endpoint has changed, and every 30 seconds. Pages get them from memory. Control
reads them in a thread that may wait for the database; while the database is away, the cached events stay.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.db import Error, connection
from django.db.models import F, Max, QuerySet

from endpoints.models import HealthCheck
from endpoints.registry import registry

log = logging.getLogger(__name__)

MINUTES = 60
MAX_EVENTS = 100
OVERLAP = 50  # ids before the newest change: transactions may commit in another order than their ids
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
    """Cached events of the last 60 minutes, and the last change of status of each endpoint.

    While endpoints change, only newer changes of status are read. A whole read follows each edit of an endpoint, and
    every READ_SECONDS.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Remove all cached events."""
        self._read_for: int | None = None  # version of the registry at the last read
        self._read_at = self._read_whole_at = float("-inf")
        self._newest_edit: int | None = None  # id
        self._newest_change = 0  # id
        self._changes: dict[int, EndpointEvent] = {}  # by id, the last MAX_EVENTS
        self._last_changes: dict[str, tuple[int, EndpointEvent]] = {}  # by endpoint id, each with its id
        self._edits: tuple[EndpointEvent, ...] = ()
        self._events: tuple[EndpointEvent, ...] = ()
        self.version = 0  # number of reads that found different events

    def refresh(self) -> None:
        """Read the events if an endpoint has changed or the cache is old. Never raises django.db.Error."""
        with self._lock:
            registry_version = registry.version if registry.loaded else -1
            now, interval = time.monotonic(), PENDING_SECONDS if self._is_pending() else READ_SECONDS
            if registry_version == self._read_for and now - self._read_at < interval:
                return
            try:
                newest_edit = LogEntry.objects.aggregate(newest=Max("id"))["newest"]
                if newest_edit != self._newest_edit or now - self._read_whole_at >= READ_SECONDS:
                    self._read_whole()
                    self._newest_edit, self._read_whole_at = newest_edit, now
                else:
                    self._read_newer()
            except Error as error:
                log.warning("endpoint events cannot be read, the cached ones stay: %s", error)
                connection.close()
                return
            self._read_for, self._read_at = registry_version, now

    def _read_whole(self) -> None:
        before, since = self._last_changes, datetime.now(UTC) - timedelta(minutes=MINUTES)
        last = {str(change.endpoint_id): (change.id, _status_event(change)) for change in _last_changes()}
        recent = [endpoint_id for endpoint_id, (_, event) in last.items() if event.at >= since]
        changes = {change.id: _status_event(change) for change in _changes(recent, since)}
        self._edits = tuple(_edits(since))
        self._changes, self._last_changes = changes, last
        self._newest_change = max((number for number, _ in last.values()), default=0)
        self._compose(since, changed=last != before)

    def _read_newer(self) -> None:
        newer = HealthCheck.objects.filter(id__gt=self._newest_change - OVERLAP)
        changed = False
        for change in newer.exclude(status_before=F("status_after")).order_by("id"):
            if change.id in self._changes:
                continue
            changed = True
            endpoint_id, event = str(change.endpoint_id), _status_event(change)
            self._changes[change.id] = event
            if endpoint_id not in self._last_changes or self._last_changes[endpoint_id][0] < change.id:
                self._last_changes[endpoint_id] = change.id, event
            self._newest_change = max(self._newest_change, change.id)
        for number in sorted(self._changes)[:-MAX_EVENTS]:
            del self._changes[number]
        self._compose(datetime.now(UTC) - timedelta(minutes=MINUTES), changed=changed)

    def _compose(self, since: datetime, *, changed: bool) -> None:
        recent = (event for event in self._changes.values() if event.at >= since)
        events = tuple(sorted((*recent, *self._edits), key=lambda event: event.at)[-MAX_EVENTS:])
        if changed or events != self._events:
            self._events = events
            self.version += 1

    def _is_pending(self) -> bool:
        """Return True if the status of an endpoint differs from its last stored change."""
        return any(
            last[1].after != entry.status
            for entry in registry.all()
            if (last := self._last_changes.get(entry.id)) is not None
        )

    def recent(self) -> list[EndpointEvent]:
        """Return the events of the last 60 minutes, oldest first."""
        since = datetime.now(UTC) - timedelta(minutes=MINUTES)
        return [event for event in self._events if event.at >= since]

    def since(self, endpoint_id: str, status: str) -> datetime | None:
        """Return since when an endpoint has had this status, or None if that is unknown."""
        _, event = self._last_changes.get(endpoint_id, (0, None))
        return event.at if event is not None and event.after == status else None


def _last_changes() -> QuerySet[HealthCheck]:
    """Return the last change of status of each endpoint. A partial index has the changes among millions of checks."""
    changed = HealthCheck.objects.exclude(status_before=F("status_after"))
    ids = [row["last"] for row in changed.values("endpoint_id").annotate(last=Max("id"))]
    return HealthCheck.objects.filter(id__in=ids)


def _changes(endpoint_ids: list[str], since: datetime) -> QuerySet[HealthCheck]:
    changed = HealthCheck.objects.filter(endpoint_id__in=endpoint_ids, checked_at__gte=since)
    return changed.exclude(status_before=F("status_after")).order_by("-id")[:MAX_EVENTS]


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
