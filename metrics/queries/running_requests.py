"""Running and queued requests of all workers, which report them while a page is open (gateway.ipc.running_requests)."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, TypedDict

from django.conf import settings
from django.db import Error

from endpoints.openapi.payload_fields import Choices, Help, TimeText, UuidText
from endpoints.registry import registry
from gateway.base.queue_class import CLASSES, INTERACTIVE
from gateway.ipc import running_requests
from gateway.ipc.running_requests import Present, Running, Waiting
from metrics.memory.runtime import runtime
from metrics.queries.api_keys import key_names
from metrics.times import json_time

log = logging.getLogger(__name__)

WATCH_SECONDS = 10  # workers report for so long after a request
FRESH_SECONDS = 3.0  # an older report is from a worker that died or hangs
FIRST_WAIT_SECONDS = 1.0  # for the first reports of workers that were not watched
STEP_SECONDS = 0.05

# Phases of a request.
IN_QUEUE, TO_FIRST_TOKEN, STREAMS, IS_ANSWERED = "queue", "first_token", "stream", "answer"
PHASES = (IN_QUEUE, TO_FIRST_TOKEN, STREAMS, IS_ANSWERED)


class _Arrival(TypedDict):
    id: str
    worker: int
    model: str
    kind: str
    api_key_id: UuidText | None
    api_key_name: str | None
    client_ip: str | None
    since: Annotated[TimeText, Help("Time of the request's arrival.")]
    age_ms: float


class _RequestNow(_Arrival):
    phase: Annotated[
        str,
        Choices(PHASES),
        Help(
            "`queue`: waits for a slot; `first_token`: a stream before its first token; `stream`: after it; "
            "`answer`: a response that is not streamed."
        ),
    ]
    queue_class: Annotated[str, Choices(CLASSES), Help("`bulk`: it gives way to interactive requests.")]


class WaitingPayload(_RequestNow):
    """A queued or running request."""

    position: Annotated[int, Help("Position in the queue of the worker; 1 is the next.")]


class RunningPayload(_RequestNow):
    """A queued or running request."""

    endpoint_id: UuidText | None
    endpoint_name: str | None
    streamed: bool
    deltas: Annotated[int, Help("Stream events that were sent to the client.")]
    first_token_ms: Annotated[float | None, Help("Time to first token; null if no token has arrived yet.")]


class LivePayload(TypedDict):
    at: TimeText
    workers: int
    workers_told: Annotated[int, Help("Workers that reported their requests within three seconds.")]
    waiting_total: int
    running_total: int
    waiting_is_cut: Annotated[bool, Help("True if `waiting` is incomplete; `waiting_total` counts all.")]
    running_is_cut: Annotated[bool, Help("True if `running` is incomplete; `running_total` counts all.")]
    waiting: list[WaitingPayload]
    running: list[RunningPayload]


def read_running(*, wait: bool = True) -> LivePayload:
    """Return the queued and running requests, oldest first.

    If workers were not watched before, this waits up to a second for their reports; not if `wait` is False.
    """
    requested = time.time()
    watched_until = runtime.installation.watch(math.ceil(requested) + WATCH_SECONDS)
    reports = _load()
    if wait and watched_until < requested:
        deadline = time.monotonic() + FIRST_WAIT_SECONDS
        while not _all_since(reports, requested) and time.monotonic() < deadline:
            time.sleep(STEP_SECONDS)
            reports = _load()
    return _payload(reports)


def cancel(request_id: str) -> bool:
    """Cancel a running or queued request; a second call changes nothing. Return False if there is no such request.

    If workers have more requests than they report, it may be one of the others: then they search it themselves.
    """
    if request_id in runtime.installation.cancelled():
        return True
    payload = read_running()
    cut = payload["waiting_is_cut"] or payload["running_is_cut"]
    if not cut and not any(row["id"] == request_id for row in (*payload["waiting"], *payload["running"])):
        return False
    runtime.installation.cancel(request_id)
    return True


def _load() -> list[Present]:
    """Read the fresh reports of all workers."""
    now = time.time()
    reports = running_requests.load_all(settings.ROUTERDASH.data_dir)
    return [report for report in reports if abs(now - report.at) < FRESH_SECONDS]


def _all_since(reports: list[Present], moment: float) -> bool:
    return sum(report.at >= moment for report in reports) >= settings.ROUTERDASH.workers


def _payload(reports: list[Present]) -> LivePayload:
    now = time.time()
    waiting = [(request, report.worker) for report in reports for request in report.waiting]
    running = [(request, report.worker) for report in reports for request in report.running]
    ids = {request.api_key_id for request, _ in waiting} | {request.api_key_id for request, _ in running}
    keys = _key_names(ids)
    return {
        "at": json_time(datetime.fromtimestamp(now, UTC)),
        "workers": max(settings.ROUTERDASH.workers, len(reports)),  # more while those of an earlier start drain
        "workers_told": len(reports),
        "waiting_total": sum(report.waiting_total for report in reports),
        "running_total": sum(report.running_total for report in reports),
        "waiting_is_cut": any(report.waiting_total > len(report.waiting) for report in reports),
        "running_is_cut": any(report.running_total > len(report.running) for report in reports),
        "waiting": [
            {
                **_arrival(request, worker, now, keys),
                "queue_class": request.queue_class or INTERACTIVE,
                "phase": IN_QUEUE,
                "position": request.position,
            }
            for request, worker in sorted(waiting, key=_age)
        ],
        "running": [
            {
                **_arrival(request, worker, now, keys),
                "queue_class": request.queue_class or INTERACTIVE,
                "endpoint_id": request.endpoint_id,
                "endpoint_name": request.endpoint_id and registry.name(request.endpoint_id),
                "streamed": request.streamed,
                "deltas": request.deltas,
                "phase": _phase(request),
                "first_token_ms": None
                if request.first_token is None
                else max(0.0, (request.first_token - request.since) * 1000),
            }
            for request, worker in sorted(running, key=_age)
        ],
    }


def _phase(request: Running) -> str:
    if not request.streamed:
        return IS_ANSWERED
    return STREAMS if request.deltas else TO_FIRST_TOKEN


def _age(entry: tuple[Waiting | Running, int]) -> tuple[float, str]:
    return entry[0].since, entry[0].id


def _arrival(request: Waiting | Running, worker: int, now: float, keys: Mapping[str, str]) -> _Arrival:
    return {
        "id": request.id,
        "worker": worker,
        "model": request.model,
        "kind": request.kind,
        "api_key_id": request.api_key_id,
        "api_key_name": keys.get(request.api_key_id or ""),
        "client_ip": request.client_ip,
        "since": json_time(datetime.fromtimestamp(request.since, UTC)),
        "age_ms": max(0.0, (now - request.since) * 1000),
    }


def _key_names(ids: Iterable[str | None]) -> Mapping[str, str]:
    try:
        return key_names(ids)
    except Error as error:
        log.warning("names of API keys cannot be read; running requests are shown without them: %s", error)
        return {}
