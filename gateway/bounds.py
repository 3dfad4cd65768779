"""Bounds on what one client or one endpoint may cost: one table of them all, and the count of how often each was hit.

A bound has a place of its own in the live page, so its count survives restarts and is the sum over all processes. Where
a bound is enforced, `Hits.hit` counts it; a Refusal that names its bound is counted by the gateway that sends it. The
texts are those of docs/limits.md, which a test compares.
"""

import threading
import time
from dataclasses import dataclass

from gateway.livepage import MAX_BOUNDS, MAX_WORKERS, LivePage

CONTROL = MAX_WORKERS  # control's row among those of the workers
RECENT_SECONDS = 60  # how long after its last hit a bound needs somebody's attention


def _(text: str) -> str:
    """Mark a text for translation; pages translate it where they show it."""
    return text


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound. `number` is its place in the live page: unique, below MAX_BOUNDS, never used again for another.

    `title` names what is bounded, for people; `limit` says how much is allowed, and by which setting or constant;
    `answer` says what happens to what exceeds it.
    """

    number: int
    name: str
    title: str
    limit: str
    answer: str


# 1-9: stored responses and upstream paths
ENDPOINT_ERROR = Bound(
    1,
    "endpoint_error",
    _("An endpoint's error message"),
    "256 KiB (`MAX_ERROR_BYTES` in `gateway/inference.py`)",
    "The client gets the status and the first 500 bytes as an error in JSON.",
)

# 10-19: work for a request's or a response's content

# 20-39: connections, buffers, the queue
FORWARDED_BODY = Bound(
    39,
    "forwarded_body",
    _("The body of a request for a page or the JSON API"),
    "8 MiB (`MAX_FORWARDED_BODY` in `gateway/handler.py`)",
    "413 `request_too_large`; the connection is closed.",
)

# 40-49: sessions and API keys
SESSIONS_PER_USER = Bound(
    40,
    "sessions_per_user",
    _("Sessions of one user"),
    "50 (`MOST_PER_USER` in `access/sessions.py`)",
    "The login succeeds; the session of this user that was used longest ago ends.",
)
KEYS_PER_USER = Bound(
    41,
    "keys_per_user",
    _("API keys of one user"),
    "`ROUTERDASH_MAX_KEYS_PER_USER`, 50",
    "400 on `/api/me/api-keys`, an error on the page and in the admin; the keys there are go on.",
)

# 50-59: databases

# 60-79: endpoints, event streams, exports
EVENT_STREAMS = Bound(
    60,
    "event_streams",
    _("Live pages that one user has open at once"),
    "20 (`MOST_STREAMS` in `metrics/streams.py`)",
    "429 with `Retry-After`; such a page asks every few seconds instead.",
)
USER_EXPORTS = Bound(
    61,
    "user_exports",
    _("Exports of the history that one user runs at once"),
    "3 (`MOST_OF_ONE` in `metrics/downloads.py`)",
    "429 with `Retry-After`.",
)
EXPORTS = Bound(
    62,
    "exports",
    _("Exports of the history that run at once"),
    "10 (`MOST_AT_ONCE` in `metrics/downloads.py`)",
    "429 with `Retry-After`.",
)
ENDPOINT_MODELS = Bound(
    63,
    "endpoint_models",
    _("Models that one endpoint lists"),
    "2,000 (`MAX_MODELS` in `endpoints/models.py`), with names of 256 characters",
    "The others are left out; `last_error` of the endpoint says so.",
)


BOUNDS = tuple(sorted((it for it in globals().values() if isinstance(it, Bound)), key=lambda it: it.number))
BY_NAME = {bound.name: bound for bound in BOUNDS}


class Hits:
    """Counts hits in the live page, in the row of one process. Safe to be used by several threads."""

    def __init__(self, page: LivePage | None = None, writer: int = CONTROL) -> None:
        """`writer`: the number of a gateway worker, or CONTROL. Without a page nothing is counted."""
        self._page = page
        self._writer = writer
        self._lock = threading.Lock()

    def hit(self, bound: Bound) -> None:
        """Count one request, connection or answer that exceeds the bound."""
        if self._page is not None:
            with self._lock:
                self._page.count_hit(self._writer, bound.number, int(time.time()), RECENT_SECONDS)

    def totals(self) -> dict[str, int]:
        """Hits of every bound that was ever hit, by its name, over all processes."""
        if self._page is None:
            return {}
        counts = ((bound.name, self._page.hits(bound.number)) for bound in BOUNDS)
        return {name: count for name, count in counts if count}

    def recent(self, now: float) -> dict[str, int]:
        """Bounds that were hit within the last minute, each with the second (since 1970) at which that began."""
        if self._page is None:
            return {}
        spans = ((bound.name, self._page.hit_between(bound.number, int(now) - RECENT_SECONDS)) for bound in BOUNDS)
        return {name: since for name, (since, last) in spans if last}


assert len(BY_NAME) == len(BOUNDS) == len({bound.number for bound in BOUNDS})
assert all(0 < bound.number < MAX_BOUNDS for bound in BOUNDS)
