"""States of an endpoint during the last days, and the share of time it was online.

The sources are changes of status (the few rows of an index) and edits of the administrative state. In hours without a
stored check of any endpoint, the state is unknown. docs/reference/figures.md has the definition.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Annotated, TypedDict, cast

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.utils import timezone

from endpoints import edit_log
from endpoints.edit_log import Edit
from endpoints.models import HealthCheck, OperatorState, Status
from endpoints.openapi.payload_fields import Choices, DateText, Help, TimeText, UuidText
from endpoints.registry import Entry
from metrics import sql
from metrics.queries.stored import run_sql
from metrics.times import json_time, parse_time, sql_time

MAX_DAYS = 30  # retention of checks
MAX_CHANGES = 5000  # that one response reads; before the oldest of them the state is unknown
MAX_SPANS = 200  # in a payload
MAX_CHECK_GAP = timedelta(minutes=70)  # endpoints are checked at least once an hour, give or take a tenth
CELLS = 96  # of one day in the grid

UNKNOWN = "unknown"
LATER = "later"  # the rest of today
# A cell of the grid shows the last of these that falls into it.
STATES = (
    LATER, Status.ONLINE.value, Status.PENDING.value, UNKNOWN, OperatorState.DRAINING.value,
    OperatorState.DISABLED.value, Status.ERROR.value, Status.OFFLINE.value,
)  # fmt: skip
KNOWN_STATES = STATES[1:]
MEASURED = (Status.ONLINE.value, Status.ERROR.value, Status.OFFLINE.value)


class SecondsPayload(TypedDict):
    """Seconds in each state."""

    online: float
    pending: float
    unknown: float
    draining: float
    disabled: float
    error: float
    offline: float


class HealthDayPayload(TypedDict):
    date: Annotated[DateText, Help("Local day in the server's time zone.")]
    uptime: float | None
    seconds: SecondsPayload


class HealthSpanPayload(TypedDict):
    state: Annotated[str, Choices(KNOWN_STATES)]
    since: TimeText
    until: Annotated[TimeText, Help("End of the state; the present time for the first one.")]
    duration_secs: float
    cause: Annotated[str | None, Help("The result of a check, or the user who changed the state.")]


# States of an endpoint over some days.
class HealthPayload(TypedDict):
    endpoint_id: UuidText
    days: int
    since: Annotated[TimeText, Help("Midnight of the first local day.")]
    until: Annotated[TimeText, Help("The present time.")]
    uptime: Annotated[
        float | None,
        Help("Share of time online, among online, error and offline: 0 to 1; null if nothing was measured."),
    ]
    seconds: SecondsPayload
    by_day: Annotated[list[HealthDayPayload], Help("Days, oldest first.")]
    spans: Annotated[list[HealthSpanPayload], Help("Successive states, newest first, at most 200.")]
    spans_total: int
    latencies_ms: Annotated[
        list[int | None],
        Help("Latencies of the last 120 checks, oldest first; null if a check failed or traffic replaced it."),
    ]


@dataclass(frozen=True, slots=True)
class StatusChange:
    """Change of a state. `cause` is the result of a check, or the user who changed it."""

    at: datetime
    before: str
    after: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class StateSpan:
    """A state from one moment to another. `began` is False if it began before the known time."""

    state: str
    since: datetime
    until: datetime
    cause: str | None = None
    began: bool = True

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


@dataclass(frozen=True, slots=True)
class StateTrack:
    """Consecutive states without a gap."""

    times: tuple[datetime, ...]
    states: tuple[str, ...]
    causes: tuple[str | None, ...]

    @classmethod
    def of(cls, changes: Sequence[StatusChange], now: str, since: datetime) -> "StateTrack":
        """Build a track of changes, oldest first. `now` is the present state, which counts if there are no changes."""
        first = changes[0].before if changes else now
        return cls(
            (since, *(change.at for change in changes)),
            (first, *(change.after for change in changes)),
            (None, *(change.cause for change in changes)),
        )

    def at(self, moment: datetime) -> tuple[str, str | None]:
        place = max(0, bisect_right(self.times, moment) - 1)
        return self.states[place], self.causes[place]


def spans(
    checks: StateTrack, administrative: StateTrack, unknown: Sequence[StateSpan], since: datetime, until: datetime
) -> list[StateSpan]:
    """Return the states, oldest first: unknown, else the administrative state unless it is enabled, else the status."""
    edges = {since, until, *checks.times, *administrative.times}
    edges.update(moment for span in unknown for moment in (span.since, span.until))
    cuts = sorted(edge for edge in edges if since <= edge <= until)
    starts = [span.since for span in unknown]
    merged: list[StateSpan] = []
    for start, end in pairwise(cuts):
        state, cause = _state(start, checks, administrative, unknown, starts)
        if merged and merged[-1].state == state:
            merged[-1] = StateSpan(state, merged[-1].since, end, merged[-1].cause, merged[-1].began)
        else:
            merged.append(StateSpan(state, start, end, cause, began=start > since))
    return merged


def _state(
    moment: datetime,
    checks: StateTrack,
    administrative: StateTrack,
    unknown: Sequence[StateSpan],
    starts: list[datetime],
) -> tuple[str, str | None]:
    place = bisect_right(starts, moment) - 1
    if place >= 0 and moment < unknown[place].until:
        return UNKNOWN, unknown[place].cause
    state, user = administrative.at(moment)
    return checks.at(moment) if state == OperatorState.ENABLED else (state, user)


def seconds(spans: Iterable[StateSpan], since: datetime, until: datetime) -> dict[str, float]:
    """Return the seconds in each state between two moments."""
    sums = dict.fromkeys(KNOWN_STATES, 0.0)
    for span in spans:
        if span.since < until and span.until > since:
            sums[span.state] += (min(span.until, until) - max(span.since, since)).total_seconds()
    return sums


def uptime(sums: dict[str, float]) -> float | None:
    """Return the share of the measured time that was online; None if nothing was measured."""
    measured = sum(sums[state] for state in MEASURED)
    return sums[Status.ONLINE.value] / measured if measured else None


@dataclass(frozen=True, slots=True)
class HealthDay:
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
class HealthTimeline:
    since: datetime
    until: datetime
    spans: list[StateSpan]  # oldest first
    days: list[HealthDay]  # oldest first

    @property
    def seconds(self) -> dict[str, float]:
        return seconds(self.spans, self.since, self.until)

    @property
    def uptime(self) -> float | None:
        return uptime(self.seconds)

    @property
    def latest(self) -> list[StateSpan]:
        """The newest spans, newest first."""
        return self.spans[::-1][:MAX_SPANS]


def timeline(entry: Entry, days: int, edits: Sequence[Edit] | None = None) -> HealthTimeline:
    """Return the timeline of `days` local days up to now. Two queries, and one for edits unless they are given."""
    now = timezone.now().astimezone(UTC)
    zone = settings.ROUTERDASH.zone
    today = now.astimezone(zone).date()
    dates = [today - timedelta(days=ago) for ago in range(days - 1, -1, -1)]
    edges = [datetime.combine(day, time(), zone).astimezone(UTC) for day in (*dates, today + timedelta(days=1))]
    since = edges[0]
    changes, all_read = _changes(entry.id, since)
    unknown = gaps_without_checks(since, now)
    known_since = max([since] + ([entry.registered_at.astimezone(UTC)] if entry.registered_at else []))
    if not all_read:
        known_since = max(known_since, changes[0].at)
    if known_since > since:
        unknown = [StateSpan(UNKNOWN, since, known_since), *(span for span in unknown if span.until > known_since)]
    administrative = _administrative_changes(edit_log.latest(entry.id) if edits is None else edits, since)
    states = spans(
        StateTrack.of(changes, entry.status, since),
        StateTrack.of(administrative, entry.operator_state, since),
        _merged(unknown),
        since,
        now,
    )
    return HealthTimeline(
        since,
        now,
        states,
        [_day(day, edges[position], edges[position + 1], states, now) for position, day in enumerate(dates)],
    )


def health_payload(entry: Entry, days: int) -> HealthPayload:
    health = timeline(entry, days)
    return {
        "endpoint_id": entry.id,
        "days": days,
        "since": json_time(health.since),
        "until": json_time(health.until),
        "uptime": health.uptime,
        "seconds": _seconds_payload(health.seconds),
        "by_day": [
            {"date": day.date.isoformat(), "uptime": day.uptime, "seconds": _seconds_payload(day.seconds)}
            for day in health.days
        ],
        "spans": [
            {
                "state": span.state,
                "since": json_time(span.since),
                "until": json_time(span.until),
                "duration_secs": span.seconds,
                "cause": span.cause,
            }
            for span in health.latest
        ],
        "spans_total": len(health.spans),
        "latencies_ms": latencies(entry.id),
    }


def _seconds_payload(of: Mapping[str, float]) -> SecondsPayload:
    """Return sums with each of KNOWN_STATES as a payload."""
    return cast(SecondsPayload, dict(of))


def latencies(endpoint_id: str, limit: int = 120) -> list[int | None]:
    """Return the latencies of the last checks, oldest first; None for a failed check, or one that was not needed."""
    checks = HealthCheck.objects.filter(endpoint_id=endpoint_id).order_by("-id")
    return list(checks.values_list("latency_ms", flat=True)[:limit])[::-1]


def _changes(endpoint_id: str, since: datetime) -> tuple[list[StatusChange], bool]:
    """Return changes of status, oldest first, and True if these are all. They have a separate index."""
    rows = HealthCheck.objects.filter(endpoint_id=endpoint_id).exclude(status_before=F("status_after"))
    columns = rows.order_by("-id").values_list("checked_at", "status_before", "status_after", "error_message")
    changes = [
        StatusChange(checked_at.astimezone(UTC), _status(before), _status(after), error)
        for checked_at, before, after, error in columns[: MAX_CHANGES + 1]
        if checked_at is not None and checked_at >= since  # None: a damaged value
    ]
    changes.sort(key=lambda change: change.at)  # a clock may have been set back
    return changes[-MAX_CHANGES:], len(changes) <= MAX_CHANGES


def _status(stored: str) -> str:
    """Return a status that the registry has; an unknown one is pending, as in the registry."""
    return stored if stored in Status.values else Status.PENDING


def _administrative_changes(edits: Sequence[Edit], since: datetime) -> list[StatusChange]:
    """Return changes of the administrative state, oldest first."""
    changes = [
        StatusChange(edit.at.astimezone(UTC), edit.state[0], edit.state[1], edit.user)
        for edit in reversed(edits)
        if edit.state is not None
    ]
    return [change for change in changes if change.at >= since]


def gaps_without_checks(since: datetime, until: datetime) -> list[StateSpan]:
    """Return the times without a stored check of any endpoint: RouterDash was down, or had no database.

    One query finds the first and the last check of each hour in their index by time.
    """
    hours = int((until - since) / timedelta(hours=1)) + 1
    bounds = [sql_time(since + timedelta(hours=hour), connection.vendor) for hour in range(hours + 1)]
    first, last = (
        sql.select(
            "checked_at",
            "endpoint_health_checks",
            where="checked_at >= a AND checked_at < b",
            order_by=f"1 {order}",
            limit=1,
        )
        for order in ("ASC", "DESC")
    )
    hours_table = f"WITH hours (a, b) AS (VALUES {', '.join(['(%s, %s)'] * hours)})"
    values = [bound for pair in pairwise(bounds) for bound in pair]
    rows = run_sql(f"{hours_table} {sql.select((f'({first})', f'({last})'), 'hours')}", values)
    checked = sorted(
        moment for row in rows for value in row if value is not None and (moment := parse_time(value)) is not None
    )
    marks = [since, *checked, until]
    return [StateSpan(UNKNOWN, start, end) for start, end in pairwise(marks) if end - start > MAX_CHECK_GAP]


def _merged(unknown: Sequence[StateSpan]) -> list[StateSpan]:
    """Return disjoint spans, in order."""
    merged: list[StateSpan] = []
    for span in sorted(unknown, key=lambda span: span.since):
        if merged and span.since <= merged[-1].until:
            merged[-1] = StateSpan(UNKNOWN, merged[-1].since, max(merged[-1].until, span.until))
        else:
            merged.append(span)
    return merged


def _day(of: date, since: datetime, end: datetime, spans: list[StateSpan], now: datetime) -> HealthDay:
    until = min(end, now)
    worst = [0] * CELLS
    length = (end - since).total_seconds() / CELLS
    for span in spans:
        if span.since < until and span.until > since:
            first = int((max(span.since, since) - since).total_seconds() / length)
            last = -(-(min(span.until, until) - since).total_seconds() // length)
            for cell in range(first, min(CELLS, int(last))):
                worst[cell] = max(worst[cell], STATES.index(span.state))
    return HealthDay(of, since, until, seconds(spans, since, until), tuple(_runs(worst)))


def _runs(cells: list[int]) -> Iterable[tuple[str, int, int]]:
    first = 0
    for position in range(1, len(cells) + 1):
        if position == len(cells) or cells[position] != cells[first]:
            yield STATES[cells[first]], first, position - first
            first = position
