"""Slow-downs of all endpoints, as they were found last. Control looks for them in a thread of its own.

Pages get them from memory. They depend on stored samples and the time alone (metrics.learning.slowdown), so that a
restart finds the same ones.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple, TypedDict

from django.db import Error, connection

from endpoints.edit_log import Edit
from endpoints.openapi.payload_fields import Choices, Help, TimeText
from endpoints.registry import registry
from metrics.learning import past_rows
from metrics.learning.past import HOUR_US, hour_of
from metrics.learning.past_rows import Key
from metrics.learning.slowdown import (
    CURRENT_US,
    DAY_US,
    Reference,
    Slowdown,
    find,
    reference,
    reference_end,
    reference_samples,
    reference_start,
)
from metrics.queries.uptime import KNOWN_STATES, StateSpan
from metrics.times import json_time

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS, LOOK_SECONDS = 5.0, 120.0
REST_FACTOR = 50.0  # a longer pause follows a long look, so that many models leave time for the rest


STATE, EDITED, ADDED = "state", "edited", "added"
WHATS = (STATE, EDITED, ADDED)
BEFORE, AFTER = timedelta(hours=6), timedelta(hours=1)  # from the beginning of a slow-down: what may have caused it
MAX_NEARBY = 12


class NearbyPayload(TypedDict):
    """What happened to an endpoint when it became slower."""

    at: TimeText
    what: Annotated[str, Choices(WHATS)]
    state: Annotated[str | None, Choices(KNOWN_STATES), Help("The state that began.")]
    cause: Annotated[str | None, Help("Of the state, as in its health.")]
    user: Annotated[str | None, Help("Who edited the endpoint.")]
    changed: Annotated[list[str], Help("Names of the edited fields.")]


class SlowdownPayload(TypedDict):
    """Requests of one kind to a model that take longer than before, beside as many others."""

    model: Annotated[str, Help("The requested name.")]
    kind: str
    since: Annotated[TimeText, Help("When it began, as far as requests show it; at most eight days ago.")]
    factor: Annotated[float, Help("By which the requests since then take longer, in the median.")]
    requests: Annotated[int, Help("Requests since then that were compared.")]
    last_request_at: TimeText
    nearby: Annotated[
        list[NearbyPayload], Help("Changes of state and edits from six hours before it to one after, oldest first.")
    ]


@dataclass(frozen=True, slots=True)
class SlowModel:
    """Requests of one kind to a model of an endpoint, which have become slower."""

    endpoint_id: str
    model: str  # the requested name
    kind: str
    slowdown: Slowdown

    @property
    def since(self) -> datetime:
        return datetime.fromtimestamp(self.slowdown.since_us // 1_000_000, UTC)

    @property
    def factor(self) -> float:
        return self.slowdown.factor


@dataclass(frozen=True, slots=True)
class Nearby:
    """What happened to an endpoint when it became slower: a change of its state, or an edit."""

    at: datetime
    span: StateSpan | None = None  # that began
    edit: Edit | None = None

    @property
    def payload(self) -> NearbyPayload:
        span, edit = self.span, self.edit
        return {
            "at": json_time(self.at),
            "what": STATE if span is not None else ADDED if edit is not None and edit.added else EDITED,
            "state": span.state if span is not None else None,
            "cause": span.cause if span is not None else None,
            "user": edit.user if edit is not None else None,
            "changed": list(edit.values) if edit is not None else [],
        }


@dataclass(frozen=True, slots=True)
class ShownSlowdown:
    """A slow-down with what happened in the hours before it, oldest first."""

    of: SlowModel
    nearby: list[Nearby]

    @property
    def payload(self) -> SlowdownPayload:
        of = self.of
        return {
            "model": of.model,
            "kind": of.kind,
            "since": json_time(of.since),
            "factor": of.factor,
            "requests": of.slowdown.requests,
            "last_request_at": json_time(datetime.fromtimestamp(of.slowdown.last_us / 1e6, UTC)),
            "nearby": [event.payload for event in self.nearby],
        }


class _Known(NamedTuple):
    engine: str
    end_us: int
    until_us: int  # when it has to be looked for again
    of: Reference | None


class Slowdowns:
    """The slow-downs that go on. One thread refreshes them; any may read them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._references: dict[Key, _Known] = {}
        self._slow_models: dict[Key, SlowModel] = {}

    def run(self, stopping: threading.Event, is_ready: Callable[[], bool]) -> None:
        """Look for slow-downs until `stopping` is set. `is_ready`: the database can be read."""
        has_failed, pause = False, FIRST_LOOK_SECONDS
        while not stopping.wait(pause):
            if not is_ready():
                continue
            started = time.monotonic()
            try:
                self.refresh(time.time())
                has_failed = False
            except Error as error:
                if not has_failed:
                    log.warning("slow-downs of endpoints cannot be looked for: %s", error)
                has_failed = True
                connection.close()
            pause = max(LOOK_SECONDS, REST_FACTOR * (time.monotonic() - started))
        connection.close()

    def refresh(self, now: float) -> None:
        """Look at all endpoints with requests of the last day. Raises django.db.Error."""
        now_us = round(now * 1e6)
        keys = past_rows.keys_since(hour_of(now_us - CURRENT_US))
        slow_models = {key: slow for key in keys if (slow := self._look(key, now_us)) is not None}
        self._references = {key: self._references[key] for key in keys if key in self._references}
        self._slow_models = slow_models

    def _look(self, key: Key, now_us: int) -> SlowModel | None:
        entry = registry.get(key[0])
        known = self._reference(key, entry.kind, now_us) if entry is not None else None
        if known is None or known.of is None:
            return None
        samples = past_rows.read(key, hour_of(known.end_us), hour_of(now_us))
        slow = find(known.of, (sample for sample in samples if known.end_us <= sample.completed_us <= now_us))
        return SlowModel(*key, slow) if slow is not None else None

    def _reference(self, key: Key, engine: str, now_us: int) -> _Known:
        """Return the reference of this day. While there is none, it is looked for every hour."""
        known = self._references.get(key)
        if known is not None and now_us < known.until_us and known.engine == engine:
            return known
        start, hour = reference_start(now_us), hour_of(now_us)
        samples = past_rows.read(key, hour_of(start), hour)
        end = reference_end(samples[0].completed_us if samples else now_us, now_us)
        of = reference(reference_samples(sample for sample in samples if sample.completed_us < end), engine)
        until = (hour + 1) * HOUR_US if of is None else (now_us // DAY_US + 1) * DAY_US
        self._references[key] = known = _Known(engine, end, until, of)
        return known

    def current(self, now: float) -> list[SlowModel]:
        """Return those with requests of the last day, by endpoint, the slowest first."""
        oldest = round(now * 1e6) - CURRENT_US
        slow = [slow_model for slow_model in self._slow_models.values() if slow_model.slowdown.last_us > oldest]
        return sorted(
            slow, key=lambda slow_model: (slow_model.endpoint_id, -slow_model.factor, slow_model.model, slow_model.kind)
        )

    def factors(self, now: float) -> dict[str, float]:
        """Return the largest factor of each endpoint that has become slower."""
        return {slow_model.endpoint_id: slow_model.factor for slow_model in reversed(self.current(now))}

    def of_endpoint(self, endpoint_id: str, now: float) -> list[SlowModel]:
        return [slow_model for slow_model in self.current(now) if slow_model.endpoint_id == endpoint_id]


slowdowns = Slowdowns()


def shown(endpoint_id: str, now: float, edits: Sequence[Edit], spans: Sequence[StateSpan]) -> list[ShownSlowdown]:
    """Return the slow-downs of an endpoint, the slowest first, beside its edits and its states (uptime.timeline)."""
    events = [Nearby(span.since, span=span) for span in spans if span.began]
    events += [Nearby(edit.at, edit=edit) for edit in edits if edit.state is None]  # those are in `spans`
    events.sort(key=lambda event: event.at)
    return [
        ShownSlowdown(
            of, [event for event in events if of.since - BEFORE <= event.at <= of.since + AFTER][-MAX_NEARBY:]
        )
        for of in slowdowns.of_endpoint(endpoint_id, now)
    ]
