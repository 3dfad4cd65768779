"""The endpoints that the overview shows: all of a small installation, else those that matter to its administrator.

First come the endpoints with a problem, the most severe and then the most recent first; then those that changed in the
last 60 minutes; then the busiest. The list of endpoints has all of them.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from endpoints.models import OperatorState, Status
from endpoints.registry import Entry
from metrics.memory import last_hour
from metrics.memory.endpoint_events import endpoint_events
from metrics.queries import breakers
from metrics.queries.figures import Moment

SHOWN = 30
PROBLEMS = 20  # of them at most
CHANGED = 5  # of them at most, beside those with a problem
CHOSEN_SECONDS = 10.0  # the busiest stay for this time, so that rows do not move all the time
ALARMING = 0.1  # share of failed attempts that is a problem

_ORDER: dict[str, int] = {Status.OFFLINE: 0, Status.ERROR: 1, Status.PENDING: 2, Status.ONLINE: 3}


class ShownEndpoints:
    """Chooses the endpoints. All pages and events of a process use one instance, so they show the same ones."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._chosen_at = float("-inf")
        self._busiest: tuple[str, ...] = ()  # ids

    def of(self, moment: Moment) -> list[Entry]:
        """Return the endpoints in the order of the page: the worst status first, then by name."""
        entries = moment.entries if len(moment.entries) <= SHOWN else self._chosen(moment)
        return sorted(entries, key=lambda entry: (_ORDER.get(entry.status, 0), entry.name))

    def reset(self) -> None:
        """Choose the busiest again at the next call."""
        self._chosen_at = float("-inf")

    def _chosen(self, moment: Moment) -> Iterable[Entry]:
        known = {entry.id: entry for entry in moment.entries}
        chosen = {entry.id: entry for entry in _problems(moment)}
        changed = (event.endpoint_id for event in reversed(endpoint_events.recent()))
        new = dict.fromkeys(name for name in changed if name in known and name not in chosen)
        chosen |= {name: known[name] for name in islice(new, CHANGED)}
        if self._clock() - self._chosen_at >= CHOSEN_SECONDS:
            self._chosen_at, self._busiest = self._clock(), tuple(_busiest(moment))
        for name in self._busiest:
            if len(chosen) >= SHOWN:
                break
            if name in known:
                chosen.setdefault(name, known[name])
        return chosen.values()


def _problems(moment: Moment) -> list[Entry]:
    """Return the endpoints with a problem, the most severe and recent first."""
    problems: list[tuple[int, float, str, Entry]] = []
    for entry in moment.entries:
        severity = _severity(entry, moment)
        if severity is not None:
            since = endpoint_events.since(entry.id, entry.status)
            problems.append((severity, -since.timestamp() if since else 0.0, entry.name, entry))
    problems.sort(key=lambda problem: problem[:3])
    return [entry for *_order, entry in problems[:PROBLEMS]]


def _severity(entry: Entry, moment: Moment) -> int | None:
    """Return a number that is smaller for a worse state; None without a problem. A disabled endpoint is none."""
    if entry.operator_state != OperatorState.ENABLED:
        return 5 if entry.operator_state == OperatorState.DRAINING else None
    if entry.status in (Status.OFFLINE, Status.ERROR):
        return _ORDER[entry.status]
    if breakers.state(moment.trials.get(entry.id, 0), moment.figures.at) != breakers.CLOSED:
        return 2
    if (note := moment.aside.get(entry.id)) is not None and note.paused_until:
        return 2
    failed = moment.figures.hour.get((last_hour.FAILED, entry.id), 0)
    if failed and failed >= ALARMING * moment.figures.hour.get((last_hour.ATTEMPTS, entry.id), 0):
        return 3
    return 4 if entry.status == Status.PENDING else None


def _busiest(moment: Moment) -> Iterator[str]:
    """Yield the ids of the endpoints with the most attempts in 60 minutes; equal ones by all attempts and name."""
    hour, counters = moment.figures.hour, moment.figures.endpoints

    def order(entry: Entry) -> tuple[int, int, str]:
        total = counters[entry.id].total if entry.id in counters else 0
        return -hour.get((last_hour.ATTEMPTS, entry.id), 0), -total, entry.name

    yield from (entry.id for entry in sorted(moment.entries, key=order)[:SHOWN])


shown_endpoints = ShownEndpoints()
