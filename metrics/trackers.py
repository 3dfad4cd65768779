"""The figures in memory: what the database said when it was last read whole, and every record behind that.

One instance lives in control. Readers hold the lock for as long as they copy; the folder while it adds a batch.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from gateway.journal import Position
from metrics import histogram
from metrics.fold import (
    Cell,
    Counters,
    Daily,
    Fold,
    Sample,
    SpeedKey,
    local_date,
    merge_samples,
    moving_average,
)
from metrics.histogram import Histogram

TIMELINE_MINUTES = 60
AVERAGE_MINUTES = 24 * 60
CLOCK_SLACK_SECONDS = 60.0


@dataclass(slots=True)
class Speed:
    """The samples of one model on one endpoint, and the day's average as a stand-in while there are none."""

    samples: list[Sample] = field(default_factory=list)
    day_average: float | None = None
    _value: float | None = None
    _stale: bool = True

    def add(self, samples: list[Sample]) -> None:
        self.samples = merge_samples(self.samples, samples)
        self._stale = True

    @property
    def value(self) -> float | None:
        """Tokens per second."""
        if self._stale:
            self._value = moving_average(self.samples)
            self._stale = False
        return self.day_average if self._value is None else self._value


@dataclass(slots=True)
class State:
    """All figures, up to and including the positions."""

    zone: ZoneInfo
    missing: tuple[str, ...] = ()  # what a damaged table did not tell
    positions: dict[str, Position] = field(default_factory=dict)
    endpoints: dict[str, Counters] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    minutes: dict[int, Cell] = field(default_factory=dict)  # of the last 24 hours
    recent: Cell = field(default_factory=Cell)  # their sum
    latest_day: tuple[str, Cell] | None = None  # the last local date on which anything was answered
    speeds: dict[SpeedKey, Speed] = field(default_factory=dict)
    today: dict[SpeedKey, Daily] = field(default_factory=dict)  # of `date`
    answered_today: dict[SpeedKey, Cell] = field(default_factory=dict)  # of `date`, too
    date: str = ""

    def add(self, fold: Fold) -> None:
        for endpoint_id, counters in fold.endpoints.items():
            self.endpoints.setdefault(endpoint_id, Counters()).add(counters)
        self.totals.update(fold.totals)
        for (minute, endpoint_id, model, kind, _), cell in fold.cells.items():
            self.add_minute(minute, cell)
            if cell.requests_ok:
                self._answered(minute, (endpoint_id, model, kind), cell)
        for key, samples in fold.samples.items():
            self.speeds.setdefault(key, Speed()).add(samples)
        self._add_daily(fold)

    def add_minute(self, minute: int, cell: Cell) -> None:
        self.minutes.setdefault(minute, Cell()).add(cell)
        self.recent.add(cell)

    def turn(self, now: float) -> None:
        """Let go of what no figure looks back to any more."""
        minute = int(now // 60)
        for old in [at for at in self.minutes if at <= minute - AVERAGE_MINUTES]:
            self.recent.subtract(self.minutes.pop(old))
        date = local_date(minute, self.zone)
        self._turn_to(date)

    def _turn_to(self, date: str) -> None:
        if date > self.date:
            self.today.clear()
            self.answered_today.clear()
            self.date = date

    def _add_daily(self, fold: Fold) -> None:
        for (endpoint_id, model, date, kind), daily in fold.daily.items():
            self._turn_to(date)
            if date == self.date:
                self.today.setdefault((endpoint_id, model, kind), Daily()).add(daily)

    def _answered(self, minute: int, key: SpeedKey, cell: Cell) -> None:
        date = local_date(minute, self.zone)
        self._turn_to(date)
        if self.latest_day is None or date > self.latest_day[0]:
            self.latest_day = (date, Cell())
        if date == self.latest_day[0]:
            self.latest_day[1].add(cell)
        if date == self.date:
            self.answered_today.setdefault(key, Cell()).add(cell)


@dataclass(frozen=True, slots=True)
class Slot:
    """One minute of the timeline."""

    minute: int
    success: int
    error: int


@dataclass(frozen=True, slots=True)
class Spread:
    """How durations are spread, in milliseconds; None where there are none."""

    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A copy of every figure at one moment, all of one version."""

    version: int
    at: float
    endpoints: Mapping[str, Counters]
    totals: Mapping[str, int]
    timeline: tuple[Slot, ...]  # 60 whole minutes, oldest first
    durations: Spread  # of answered requests
    first_tokens: Spread  # from the request to its first token, where an answer was streamed
    speeds: Mapping[SpeedKey, float]
    today: Mapping[SpeedKey, Daily]
    average_today_ms: Mapping[SpeedKey, float]  # of whole requests, where any was answered
    date: str
    seeded: bool  # all of it is restored

    @property
    def average_response_time_ms(self) -> float | None:
        """None: nothing was ever served."""
        return self.durations.average


class Trackers:
    """The state, its lock, and what is told of it."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.lock = threading.RLock()
        self.zone = zone
        self.state = State(zone)
        self.seeded = False
        self.clock_went_back = False  # then what was let go of is needed again, from the database
        self.version = 0
        self._looked_at = 0.0

    def install(self, state: State) -> None:
        """Replace everything by what was read from the database."""
        with self.lock:
            self.state = state
            self.seeded = True
            self.clock_went_back = False
            self._looked_at = 0.0
            self.version += 1

    def add(self, fold: Fold) -> None:
        with self.lock:
            self.state.add(fold)
            self.version += 1

    def figures(self, now: float | None = None) -> Figures:
        now = time.time() if now is None else now
        with self.lock:
            state = self.state
            if now < self._looked_at - CLOCK_SLACK_SECONDS:
                self.clock_went_back = True
            self._looked_at = now
            state.turn(now)
            return Figures(
                version=self.version,
                at=now,
                endpoints={key: Counters(it.total, it.successful, it.failed, it.cancelled)
                           for key, it in state.endpoints.items()},
                totals=dict(state.totals),
                timeline=_timeline(state, now),
                durations=_durations(answered := _answered(state)),
                first_tokens=_first_tokens(answered),
                speeds={key: value for key, speed in state.speeds.items() if (value := speed.value) is not None},
                today={key: Daily(it.total, it.successful, it.failed, it.output_tokens, it.duration_ms)
                       for key, it in state.today.items()},
                average_today_ms={key: ms for key, day in state.answered_today.items() if (ms := day.average_ms)},
                date=state.date,
                seeded=self.seeded and not state.missing,
            )  # fmt: skip


def _timeline(state: State, now: float) -> tuple[Slot, ...]:
    last = int(now // 60)
    minutes = range(last - TIMELINE_MINUTES + 1, last + 1)
    found = (state.minutes.get(minute) or Cell() for minute in minutes)
    return tuple(Slot(minute, it.requests_ok, it.requests_failed) for minute, it in zip(minutes, found, strict=True))


def _answered(state: State) -> Cell:
    """What averages and percentiles are told of: the last 24 hours; if nothing was answered in them, the latest day on
    which anything was.
    """
    if state.recent.requests_ok or state.latest_day is None:
        return state.recent
    return state.latest_day[1]


def _durations(answered: Cell) -> Spread:
    return _spread(answered.average_ms, answered.durations)


def _first_tokens(answered: Cell) -> Spread:
    streams = sum(answered.first_tokens.values())
    return _spread(answered.first_token_us / streams / 1000 if streams else None, answered.first_tokens)


def _spread(average: float | None, counts: Histogram) -> Spread:
    median, p95, p99 = (histogram.quantile(counts, share) for share in (0.5, 0.95, 0.99))
    return Spread(average, *(None if value is None else value / 1000 for value in (median, p95, p99)))


def iso_minute(minute: int) -> str:
    """`2026-11-25T01:02:00Z`"""
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:00Z")
