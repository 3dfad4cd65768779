"""What needs a person, the worst first: from memory alone, so that it is told while the database is away."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from endpoints.models import OperatorState, Status
from endpoints.registry import Entry
from gateway import volumes
from metrics import breakers
from metrics.history import json_time
from metrics.marks import marks
from metrics.teller import surroundings

BAD, WARN = "bad", "warn"
SEVERITIES = (BAD, WARN)
UNRECORDED, DISK, OFFLINE, ERROR, BREAKER = "unrecorded", "disk", "offline", "error", "breaker"
UNRESTORED, WAITING, PASSWORD, BOUND = "unrestored", "waiting", "password", "bound"
PLAIN_HTTP, VOLATILE, CLEAR_KEYS = "plain_http", "volatile", "clear_keys"
KINDS = (
    UNRECORDED, DISK, OFFLINE, ERROR, BREAKER, UNRESTORED, WAITING, BOUND, VOLATILE, CLEAR_KEYS, PASSWORD, PLAIN_HTTP,
)  # fmt: skip

FULL_BYTES = 1 << 30  # less than this is nearly full on any disk
FULL_SHARE, FULL_AT_MOST = 0.03, 20 << 30  # so is less than 3 %, if that is not more than anybody would miss
TOLD_IN = 100 << 20  # bytes: what is free is told in steps, so that it does not change all the time

Item = dict[str, Any]


def items(entries: tuple[Entry, ...], trials: dict[str, str], stats: dict[str, Any], at: float) -> list[Item]:
    """`trials`: the state of each circuit breaker that is not closed; `at`: seconds since 1970."""
    found = [*_recording(stats, at), *_disk(), *_endpoints(entries, trials), *_bounds(at), *_stored(entries)]
    found += _passwords()
    if settings.ROUTERDASH.plain_http:
        found.append(_item(PLAIN_HTTP, WARN))
    return sorted(found, key=lambda it: (it["severity"] != BAD, KINDS.index(it["kind"]), it["endpoint_name"] or ""))


def _item(kind: str, severity: str, since: datetime | None = None, **told: Any) -> Item:
    return {
        "kind": kind,
        "severity": severity,
        "since": json_time(since),
        "cause": None,
        "endpoint_id": None,
        "endpoint_name": None,
        "models": None,
        "models_nowhere_else": None,
        "user_id": None,
        "username": None,
        "free_bytes": None,
        "keys": None,
        **told,
    }


def _recording(stats: dict[str, Any], at: float) -> Iterator[Item]:
    if not stats["figures_restored"]:
        yield _item(UNRESTORED, WARN)
    if (seconds := stats["records_waiting_secs"]) is not None:
        yield _item(WAITING, WARN, datetime.fromtimestamp(round(at - seconds), UTC), cause=stats["writer_error"])
    if stats["records_unrecorded"]:
        yield _item(UNRECORDED, BAD)


def _disk() -> Iterator[Item]:
    try:
        disk = shutil.disk_usage(settings.ROUTERDASH.data_dir)
    except OSError:
        return
    if disk.free < max(FULL_BYTES, min(disk.total * FULL_SHARE, FULL_AT_MOST)):
        yield _item(DISK, BAD, free_bytes=disk.free // TOLD_IN * TOLD_IN)


def _endpoints(entries: tuple[Entry, ...], trials: dict[str, str]) -> Iterator[Item]:
    """What an operator has drained or disabled is as he wants it."""
    wanted = [entry for entry in entries if entry.operator_state == OperatorState.ENABLED]
    away = [entry for entry in wanted if entry.status in (Status.OFFLINE, Status.ERROR)]
    served = (
        {model.id for entry in wanted if entry.status == Status.ONLINE for model in entry.models} if away else set()
    )
    for entry in away:
        kind = OFFLINE if entry.status == Status.OFFLINE else ERROR
        yield _item(
            kind,
            BAD,
            marks.since(entry.id, entry.status),
            cause=entry.last_error,
            endpoint_id=entry.id,
            endpoint_name=entry.name,
            models=len(entry.models),
            models_nowhere_else=sum(model.id not in served for model in entry.models),
        )
    for entry in wanted:
        state = trials.get(entry.id, breakers.CLOSED)
        if state != breakers.CLOSED and entry.status not in (Status.OFFLINE, Status.ERROR):
            severity = BAD if state == breakers.OPEN else WARN
            yield _item(BREAKER, severity, cause=state, endpoint_id=entry.id, endpoint_name=entry.name)


def _bounds(at: float) -> Iterator[Item]:
    """One item a bound, however many clients hit it."""
    for name, since in surroundings.bounds.recent(at).items():
        yield _item(BOUND, WARN, datetime.fromtimestamp(since, UTC), cause=name)


def _stored(entries: tuple[Entry, ...]) -> Iterator[Item]:
    config = settings.ROUTERDASH
    if config.in_container and volumes.goes_with_the_container(config.data_dir):
        yield _item(VOLATILE, WARN)
    if keys := sum(bool(entry.plain_api_key and not entry.sealed_api_key) for entry in entries):
        yield _item(CLEAR_KEYS, WARN, keys=keys)


def _passwords() -> Iterator[Item]:
    for user_id, username, since in surroundings.generated_passwords():
        yield _item(PASSWORD, WARN, since, user_id=user_id, username=username)
