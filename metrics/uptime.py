"""How an endpoint was during the last days: its states, one after another, and the share of time it was online.

Made of changes of status alone (the few rows of an index), of what operators said, and of the hours in which no check
of any endpoint was stored, since then nobody knows. docs/figures.md has the definition.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.utils import timezone

from endpoints import edits
from endpoints.edits import Edit
from endpoints.models import HealthCheck, OperatorState, Status
from endpoints.registry import Entry
from metrics.history import json_time, moment

MAX_DAYS = 30  # so long are checks kept
MOST_CHANGES = 5000  # that one answer looks at; before the oldest of them nothing is known
MOST_TOLD = 200
SILENCE = timedelta(minutes=70)  # endpoints are checked at least once an hour, give or take a tenth
CELLS = 96  # a day of the grid has so many

UNKNOWN = "unknown"
LATER = "later"  # of today, what is still to come
# From the one that a cell of the grid shows last to the one it shows first, should several fall into it.
STATES = (
    LATER, Status.ONLINE.value, Status.PENDING.value, UNKNOWN, OperatorState.DRAINING.value,
    OperatorState.DISABLED.value, Status.ERROR.value, Status.OFFLINE.value,
)  # fmt: skip
MEASURED = (Status.ONLINE.value, Status.ERROR.value, Status.OFFLINE.value)


@dataclass(frozen=True, slots=True)
class Change:
    """From this moment on. `cause`: what a check found, or who said so."""

    at: datetime
    before: str
    after: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A state, from one moment to the next. `began` is False where it did before anything is known of it."""

    state: str
    since: datetime
    until: datetime
    cause: str | None = None
    began: bool = True

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


@dataclass(frozen=True, slots=True)
class Track:
    """One state after another, without a gap."""

    times: tuple[datetime, ...]
    states: tuple[str, ...]
    causes: tuple[str | None, ...]

    @classmethod
    def of(cls, changes: Sequence[Change], now: str, since: datetime) -> "Track":
        """`changes` oldest first. Before the first it was what that changed; without any, what it is now."""
        first = changes[0].before if changes else now
        return cls(
            (since, *(it.at for it in changes)),
            (first, *(it.after for it in changes)),
            (None, *(it.cause for it in changes)),
        )

    def at(self, moment: datetime) -> tuple[str, str | None]:
        place = max(0, bisect_right(self.times, moment) - 1)
        return self.states[place], self.causes[place]


def spans(checks: Track, operator: Track, unknown: Sequence[Span], since: datetime, until: datetime) -> list[Span]:
    """What it was, oldest first: nothing is known, else the operator's word if there is one, else what checks said."""
    edges = {since, until, *checks.times, *operator.times}
    edges.update(moment for it in unknown for moment in (it.since, it.until))
    cuts = sorted(it for it in edges if since <= it <= until)
    starts = [it.since for it in unknown]
    found: list[Span] = []
    for at, end in pairwise(cuts):
        state, cause = _state(at, checks, operator, unknown, starts)
        if found and found[-1].state == state:
            found[-1] = Span(state, found[-1].since, end, found[-1].cause, found[-1].began)
        else:
            found.append(Span(state, at, end, cause, began=at > since))
    return found


def _state(
    at: datetime, checks: Track, operator: Track, unknown: Sequence[Span], starts: list[datetime]
) -> tuple[str, str | None]:
    place = bisect_right(starts, at) - 1
    if place >= 0 and at < unknown[place].until:
        return UNKNOWN, unknown[place].cause
    word, who = operator.at(at)
    return checks.at(at) if word == OperatorState.ENABLED else (word, who)


def seconds(found: Iterable[Span], since: datetime, until: datetime) -> dict[str, float]:
    """In each state, between two moments."""
    sums = dict.fromkeys(STATES[1:], 0.0)
    for it in found:
        if it.since < until and it.until > since:
            sums[it.state] += (min(it.until, until) - max(it.since, since)).total_seconds()
    return sums


def uptime(sums: dict[str, float]) -> float | None:
    """The share of the measured time in which it was online; None where nothing was measured."""
    measured = sum(sums[state] for state in MEASURED)
    return sums[Status.ONLINE.value] / measured if measured else None


@dataclass(frozen=True, slots=True)
class Day:
    """A local day: `until` is its end, or now."""

    date: date
    since: datetime
    until: datetime
    seconds: dict[str, float]
    runs: tuple[tuple[str, int, int], ...]  # of the grid: state, first cell, cells

    @property
    def uptime(self) -> float | None:
        return uptime(self.seconds)


@dataclass(frozen=True, slots=True)
class Timeline:
    since: datetime
    until: datetime
    spans: list[Span]  # oldest first
    days: list[Day]  # oldest first

    @property
    def seconds(self) -> dict[str, float]:
        return seconds(self.spans, self.since, self.until)

    @property
    def uptime(self) -> float | None:
        return uptime(self.seconds)

    @property
    def latest(self) -> list[Span]:
        """Newest first."""
        return self.spans[::-1][:MOST_TOLD]


def timeline(entry: Entry, days: int, said: Sequence[Edit] | None = None) -> Timeline:
    """Of `days` local days up to now. Two queries, and one for what operators said unless it is given."""
    now = timezone.now().astimezone(UTC)
    zone = settings.ROUTERDASH.zone
    today = now.astimezone(zone).date()
    dates = [today - timedelta(days=ago) for ago in range(days - 1, -1, -1)]
    edges = [datetime.combine(it, time(), zone).astimezone(UTC) for it in (*dates, today + timedelta(days=1))]
    since = edges[0]
    changes, whole = _changes(entry.id, since)
    unknown = silences(since, now)
    known = max([since] + ([entry.registered_at.astimezone(UTC)] if entry.registered_at else []))
    if not whole:
        known = max(known, changes[0].at)
    if known > since:
        unknown = [Span(UNKNOWN, since, known), *(it for it in unknown if it.until > known)]
    words = _words(edits.latest(entry.id) if said is None else said, since)
    found = spans(
        Track.of(changes, entry.status, since),
        Track.of(words, entry.operator_state, since),
        _merged(unknown),
        since,
        now,
    )
    return Timeline(since, now, found, [_day(it, edges[at], edges[at + 1], found, now) for at, it in enumerate(dates)])


def told(entry: Entry, days: int) -> dict[str, Any]:
    """As the API tells it."""
    found = timeline(entry, days)
    return {
        "endpoint_id": entry.id,
        "days": days,
        "since": json_time(found.since),
        "until": json_time(found.until),
        "uptime": found.uptime,
        "seconds": found.seconds,
        "by_day": [{"date": it.date.isoformat(), "uptime": it.uptime, "seconds": it.seconds} for it in found.days],
        "spans": [
            {
                "state": it.state,
                "since": json_time(it.since),
                "until": json_time(it.until),
                "duration_secs": it.seconds,
                "cause": it.cause,
            }
            for it in found.latest
        ],
        "spans_total": len(found.spans),
        "latencies_ms": latencies(entry.id),
    }


def latencies(endpoint_id: str, limit: int = 120) -> list[int | None]:
    """Of the last checks, oldest first; None where one failed or traffic vouched for the endpoint."""
    checks = HealthCheck.objects.filter(endpoint_id=endpoint_id).order_by("-id")
    return list(checks.values_list("latency_ms", flat=True)[:limit])[::-1]


def _changes(endpoint_id: str, since: datetime) -> tuple[list[Change], bool]:
    """Changes of status, oldest first, and whether these are all. By the index of changes, which has no other rows."""
    rows = HealthCheck.objects.filter(endpoint_id=endpoint_id).exclude(status_before=F("status_after"))
    columns = rows.order_by("-id").values_list("checked_at", "status_before", "status_after", "error_message")
    found = [
        Change(at.astimezone(UTC), _status(before), _status(after), error)
        for at, before, after, error in columns[: MOST_CHANGES + 1]
        if at is not None and at >= since  # None: it cannot be read
    ]
    found.sort(key=lambda it: it.at)  # a clock may have been set back
    return found[-MOST_CHANGES:], len(found) <= MOST_CHANGES


def _status(stored: str) -> str:
    """As the registry reads one that it does not know."""
    return stored if stored in Status.values else Status.PENDING


def _words(said: Sequence[Edit], since: datetime) -> list[Change]:
    """What operators said since then, oldest first."""
    found = [
        Change(it.at.astimezone(UTC), it.state[0], it.state[1], it.user)
        for it in reversed(said)
        if it.state is not None
    ]
    return [it for it in found if it.at >= since]


def silences(since: datetime, until: datetime) -> list[Span]:
    """When no check of any endpoint was stored: RouterDash did not run, or had no database. One query, which finds the
    first and the last check of each hour in the index of their moments.
    """
    hours = int((until - since) / timedelta(hours=1)) + 1
    bounds = [_bound(since + timedelta(hours=at)) for at in range(hours + 1)]
    end = (
        "(SELECT checked_at FROM endpoint_health_checks WHERE checked_at >= a AND checked_at < b ORDER BY 1 {} LIMIT 1)"
    )
    sql = (
        f"WITH hours (a, b) AS (VALUES {', '.join(['(%s, %s)'] * hours)}) "  # noqa: S608
        f"SELECT {end.format('ASC')}, {end.format('DESC')} FROM hours"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [it for pair in pairwise(bounds) for it in pair])
        rows = cursor.fetchall()
    checked = sorted(it for row in rows for value in row if value is not None and (it := moment(value)) is not None)
    marks = [since, *checked, until]
    return [Span(UNKNOWN, at, end) for at, end in pairwise(marks) if end - at > SILENCE]


def _bound(at: datetime) -> str | datetime:
    """Text is cut before its fraction: the reference writes 0 to 9 digits."""
    return at.strftime("%Y-%m-%dT%H:%M:%S") if connection.vendor == "sqlite" else at


def _merged(unknown: Sequence[Span]) -> list[Span]:
    """Apart from each other, in order."""
    found: list[Span] = []
    for it in sorted(unknown, key=lambda span: span.since):
        if found and it.since <= found[-1].until:
            found[-1] = Span(UNKNOWN, found[-1].since, max(found[-1].until, it.until))
        else:
            found.append(it)
    return found


def _day(of: date, since: datetime, end: datetime, found: list[Span], now: datetime) -> Day:
    until = min(end, now)
    worst = [0] * CELLS
    length = (end - since).total_seconds() / CELLS
    for it in found:
        if it.since < until and it.until > since:
            first = int((max(it.since, since) - since).total_seconds() / length)
            last = -(-(min(it.until, until) - since).total_seconds() // length)
            for cell in range(first, min(CELLS, int(last))):
                worst[cell] = max(worst[cell], STATES.index(it.state))
    return Day(of, since, until, seconds(found, since, until), tuple(_runs(worst)))


def _runs(cells: list[int]) -> Iterable[tuple[str, int, int]]:
    first = 0
    for at in range(1, len(cells) + 1):
        if at == len(cells) or cells[at] != cells[first]:
            yield STATES[cells[first]], first, at - first
            first = at
