"""The requests that are here now, of all workers. These tell them while somebody asks (gateway.present)."""

import logging
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import Error

from endpoints.registry import registry
from gateway import present
from gateway.present import Present, Running, Waiting
from metrics import queries
from metrics.history import json_time
from metrics.teller import surroundings

log = logging.getLogger(__name__)

WATCH_SECONDS = 10  # so long do workers go on telling after a look
FRESH_SECONDS = 3.0  # what is older is of a worker that died or hangs
FIRST_LOOK_SECONDS = 1.0  # to wait for workers that nobody had looked at
STEP_SECONDS = 0.05


# What a request does now.
IN_QUEUE, TO_FIRST_TOKEN, STREAMS, IS_ANSWERED = "queue", "first_token", "stream", "answer"
PHASES = (IN_QUEUE, TO_FIRST_TOKEN, STREAMS, IS_ANSWERED)


def look(*, patient: bool = True) -> dict[str, Any]:
    """What is waiting and running now, oldest first, as the API tells it. Takes up to a second where nobody looked
    before; who is not patient gets what workers have told by now.
    """
    asked = time.time()
    watched_until = surroundings.watch(math.ceil(asked) + WATCH_SECONDS)
    found = _load()
    if patient and watched_until < asked:
        deadline = time.monotonic() + FIRST_LOOK_SECONDS
        while not _all_since(found, asked) and time.monotonic() < deadline:
            time.sleep(STEP_SECONDS)
            found = _load()
    return _told(found)


def cancel(request_id: str) -> bool:
    """Have a request ended that is here; once more is no more. False: it is not here. Where workers have more than they
    tell, it may be among the others: then they look for it themselves.
    """
    if request_id in surroundings.cancelled():
        return True
    told = look()
    cut = told["waiting_is_cut"] or told["running_is_cut"]
    if not cut and not any(row["id"] == request_id for row in (*told["waiting"], *told["running"])):
        return False
    surroundings.cancel(request_id)
    return True


def _load() -> list[Present]:
    """Of the workers that there are, what they have told just now."""
    config = settings.ROUTERDASH
    found = [present.load(config.data_dir, worker) for worker in range(config.workers)]
    now = time.time()
    return [it for it in found if it is not None and abs(now - it.at) < FRESH_SECONDS]


def _all_since(found: list[Present], moment: float) -> bool:
    return sum(it.at >= moment for it in found) == settings.ROUTERDASH.workers


def _told(found: list[Present]) -> dict[str, Any]:
    now = time.time()
    waiting = [(it, of.worker) for of in found for it in of.waiting]
    running = [(it, of.worker) for of in found for it in of.running]
    keys = _key_names() if waiting or running else {}
    return {
        "at": json_time(datetime.fromtimestamp(now, UTC)),
        "workers": settings.ROUTERDASH.workers,
        "workers_told": len(found),
        "waiting_total": sum(it.waiting_total for it in found),
        "running_total": sum(it.running_total for it in found),
        "waiting_is_cut": any(it.waiting_total > len(it.waiting) for it in found),
        "running_is_cut": any(it.running_total > len(it.running) for it in found),
        "waiting": [
            {**_common(it, worker, now, keys), "phase": IN_QUEUE, "position": it.position}
            for it, worker in sorted(waiting, key=_age)
        ],
        "running": [
            {
                **_common(it, worker, now, keys),
                "endpoint_id": it.endpoint_id,
                "endpoint_name": it.endpoint_id and registry.name(it.endpoint_id),
                "streamed": it.streamed,
                "deltas": it.deltas,
                "phase": _phase(it),
                "first_token_ms": None if it.first_token is None else max(0.0, (it.first_token - it.since) * 1000),
            }
            for it, worker in sorted(running, key=_age)
        ],
    }


def _phase(it: Running) -> str:
    if not it.streamed:
        return IS_ANSWERED
    return STREAMS if it.deltas else TO_FIRST_TOKEN


def _age(entry: tuple[Waiting | Running, int]) -> tuple[float, str]:
    return entry[0].since, entry[0].id


def _common(it: Waiting | Running, worker: int, now: float, keys: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": it.id,
        "worker": worker,
        "model": it.model,
        "kind": it.kind,
        "api_key_id": it.api_key_id,
        "api_key_name": keys.get(it.api_key_id or ""),
        "client_ip": it.client_ip,
        "since": json_time(datetime.fromtimestamp(it.since, UTC)),
        "age_ms": max(0.0, (now - it.since) * 1000),
    }


def _key_names() -> Mapping[str, str]:
    try:
        return queries.key_names()
    except Error as error:  # what is here is told all the same
        log.warning("names of API keys cannot be read: %s", error)
        return {}
