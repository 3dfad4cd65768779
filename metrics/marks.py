"""What happened to endpoints: changes of their status by health checks, edits by staff. Each with its time and cause.

Read from the database when an endpoint has changed, and every 30 seconds; told from memory. Control does it in a thread
that may wait for the database. While that is away, what was known stays.
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

from endpoints.models import HealthCheck
from endpoints.registry import Entry, registry
from metrics.history import json_time

log = logging.getLogger(__name__)

MINUTES = 60
MOST = 100
READ_SECONDS = 30.0
LATE_SECONDS = 1.0  # as long as a change of status is not there yet: it is written behind the status itself

STATUS, ADDED, CHANGED, DELETED = "status", "added", "changed", "deleted"
WHAT = (STATUS, ADDED, CHANGED, DELETED)
_EDITS = {ADDITION: ADDED, CHANGE: CHANGED, DELETION: DELETED}


@dataclass(frozen=True, slots=True)
class Mark:
    """`detail` is the cause of a change of status, of an edit what was changed."""

    at: datetime
    what: str
    endpoint_id: str
    endpoint_name: str | None
    before: str | None = None
    after: str | None = None
    detail: str | None = None
    by: str | None = None


class Marks:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """As if never read."""
        self._rested_on: tuple[object, ...] | None = None
        self._read_at = float("-inf")
        self._marks: tuple[Mark, ...] = ()
        self._last: Mapping[str, Mark] = {}  # the last change of status, by endpoint
        self.version = 0  # counts the times that others were read

    def refresh(self) -> None:
        """Read them if anything has changed. Never raises for a database that is away."""
        with self._lock:
            rests_on = tuple(_of(entry) for entry in registry.all()) if registry.loaded else ()
            patience = LATE_SECONDS if self._is_late() else READ_SECONDS
            if rests_on == self._rested_on and time.monotonic() - self._read_at < patience:
                return
            try:
                since = datetime.now(UTC) - timedelta(minutes=MINUTES)
                last = {mark.endpoint_id: mark for mark in _last_changes()}
                recent = [endpoint_id for endpoint_id, mark in last.items() if mark.at >= since]
                found = sorted((*_changes(recent, since), *_edits(since)), key=lambda it: it.at)[-MOST:]
            except Error as error:
                log.warning("changes of endpoints cannot be read: %s", error)
                connection.close()
                return
            self._rested_on, self._read_at = rests_on, time.monotonic()
            if (tuple(found), last) != (self._marks, self._last):
                self._marks, self._last = tuple(found), last
                self.version += 1

    def _is_late(self) -> bool:
        """Is there an endpoint with another status than its last known change led to?"""
        return any(
            mark.after != entry.status for entry in registry.all() if (mark := self._last.get(entry.id)) is not None
        )

    def recent(self) -> list[Mark]:
        """Those of the last 60 minutes, oldest first."""
        since = datetime.now(UTC) - timedelta(minutes=MINUTES)
        return [mark for mark in self._marks if mark.at >= since]

    def since(self, endpoint_id: str, status: str) -> datetime | None:
        """Since when an endpoint has had this status; None where that is not known."""
        mark = self._last.get(endpoint_id)
        return mark.at if mark is not None and mark.after == status else None


def told(found: list[Mark]) -> list[dict[str, Any]]:
    return [
        {
            "at": json_time(mark.at),
            "what": mark.what,
            "endpoint_id": mark.endpoint_id,
            "endpoint_name": mark.endpoint_name,
            "status_before": mark.before,
            "status_after": mark.after,
            "detail": mark.detail,
            "by": mark.by,
        }
        for mark in found
    ]


def _of(entry: Entry) -> tuple[object, ...]:
    """What a change of status or an edit changes."""
    return (
        entry.id, entry.status, entry.operator_state, entry.drain_until, entry.name, entry.base_url, entry.notes,
        entry.health_check_interval_secs, entry.inference_timeout_secs, entry.connect_timeout_secs,
        entry.idle_timeout_secs, entry.total_timeout_secs, entry.max_concurrency, entry.capabilities,
        entry.sealed_api_key,
    )  # fmt: skip


def _last_changes() -> Iterator[Mark]:
    """Of each endpoint. An index has the changes alone, among millions of checks."""
    changed = HealthCheck.objects.exclude(status_before=F("status_after"))
    ids = [found["last"] for found in changed.values("endpoint_id").annotate(last=Max("id"))]
    yield from map(_mark, HealthCheck.objects.filter(id__in=ids))


def _changes(endpoint_ids: list[str], since: datetime) -> Iterator[Mark]:
    changed = HealthCheck.objects.filter(endpoint_id__in=endpoint_ids, checked_at__gte=since)
    yield from map(_mark, changed.exclude(status_before=F("status_after")).order_by("-id")[:MOST])


def _mark(check: HealthCheck) -> Mark:
    endpoint_id = str(check.endpoint_id)
    name, error = registry.name(endpoint_id), check.error_message
    return Mark(check.checked_at, STATUS, endpoint_id, name, check.status_before, check.status_after, error)


def _edits(since: datetime) -> Iterator[Mark]:
    """As the admin's log has them. It is short, and has no index by time."""
    entries: Any = LogEntry.objects.filter(content_type__app_label="endpoints", content_type__model="endpoint")
    for entry in entries.select_related("user").order_by("-id")[:MOST]:
        if entry.action_time >= since:
            what, by = _EDITS.get(entry.action_flag, CHANGED), str(entry.user)
            name = registry.name(entry.object_id) or entry.object_repr
            yield Mark(entry.action_time, what, entry.object_id, name, detail=_edited(entry), by=by)


def _edited(entry: LogEntry) -> str | None:
    """The names of the fields, or what an action said."""
    try:
        parts = json.loads(entry.change_message)
        fields = [name for part in parts for name in part.get("changed", {}).get("fields", ())]
    except (ValueError, AttributeError, TypeError):
        return entry.change_message or None
    return ", ".join(map(str, fields)) or None


marks = Marks()
