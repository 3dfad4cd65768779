"""The figures in memory: what the database said when it was last read whole, and every record behind that.

One instance lives in control. Readers hold the lock for as long as they copy; the folder while it adds a batch.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from gateway.journal import Position
from metrics import histogram, hour
from metrics.client_hours import ClientHours
from metrics.fold import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REQUESTS_FAILED,
    REQUESTS_OK,
    Cell,
    Counters,
    Daily,
    Fold,
    Sample,
    SpeedKey,
    Usage,
    learned_speed,
    local_date,
    merge_samples,
    runs_ahead,
)
from metrics.histogram import Histogram
from metrics.hour import Hour

TIMELINE_MINUTES = 60
AVERAGE_MINUTES = 24 * 60
CLOCK_SLACK_SECONDS = 3 * 3600.0  # so far back a clock may be set, and nothing is missed


@dataclass(slots=True)
class Today:
    """One local date, by models on endpoints."""

    attempts: defaultdict[SpeedKey, Daily] = field(default_factory=lambda: defaultdict(Daily))
    answered: defaultdict[SpeedKey, Cell] = field(default_factory=lambda: defaultdict(Cell))
    totals: Counter[str] = field(default_factory=Counter)  # requests and tokens, under their names in metrics.fold


@dataclass(slots=True)
class Speed:
    """The samples of one model on one endpoint."""

    samples: list[Sample] = field(default_factory=list)
    _value: float | None = None
    _stale: bool = True

    def add(self, samples: list[Sample]) -> None:
        self.samples = merge_samples(self.samples, samples)
        self._stale = True

    def value(self, now: float) -> float | None:
        """Tokens per second."""
        ahead = runs_ahead(self.samples, now)
        if self._stale or ahead:
            self._value = learned_speed(self.samples, now)
            self._stale = ahead  # then it changes as time goes by
        return self._value


@dataclass(slots=True)
class State:
    """All figures, up to and including the positions."""

    zone: ZoneInfo
    missing: tuple[str, ...] = ()  # what a damaged table did not tell
    positions: dict[str, Position] = field(default_factory=dict)
    endpoints: dict[str, Counters] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)  # by endpoint
    totals: Counter[str] = field(default_factory=Counter)
    minutes: dict[int, Cell] = field(default_factory=dict)  # as far as any figure looks back
    points: dict[int, "Point"] = field(default_factory=dict)  # told of the last ones before
    hour: Hour = field(default_factory=Hour)
    clients: ClientHours = field(default_factory=ClientHours)
    recent: Cell = field(default_factory=Cell)  # the sum of those after `since`
    since: int = 0
    latest_day: tuple[str, Cell] | None = None  # the last local date on which anything was answered
    speeds: dict[SpeedKey, Speed] = field(default_factory=dict)
    days: dict[str, Today] = field(default_factory=dict)  # by local date; of a clock that ran ahead, later ones too
    turned: int = -1  # at which minute
    read_at: float = 0.0
    repairs: int = 0  # of figures in the database, up to that

    def add(self, fold: Fold) -> None:
        for endpoint_id, counters in fold.endpoints.items():
            self.endpoints.setdefault(endpoint_id, Counters()).add(counters)
        for endpoint_id, usage in fold.usage.items():
            self.usage.setdefault(endpoint_id, Usage()).add(usage)
        self.totals.update(fold.totals)
        self.clients.add_all(fold.clients)
        minutes: defaultdict[int, Cell] = defaultdict(Cell)
        for (minute, endpoint_id, model, kind, api_key_id), cell in fold.cells.items():
            minutes[minute].add(cell)
            self.hour.add(minute, endpoint_id, model, api_key_id, cell)
            if cell.requests_ok:
                self.day(local_date(minute, self.zone)).answered[endpoint_id, model, kind].add(cell)
        for minute, cell in minutes.items():
            self.add_minute(minute, cell)
            if cell.requests_ok:
                self._answered(local_date(minute, self.zone), cell)
        for key, samples in fold.samples.items():
            self.speeds.setdefault(key, Speed()).add(samples)
        for (endpoint_id, model, date, kind), daily in fold.daily.items():
            self.day(date).attempts[endpoint_id, model, kind].add(daily)

    def day(self, date: str) -> Today:
        if date not in self.days:
            self.days[date] = Today()
        return self.days[date]

    def add_minute(self, minute: int, cell: Cell) -> None:
        self.minutes.setdefault(minute, Cell()).add(cell)
        if minute > self.since:
            self.recent.add(cell)
        totals = self.day(local_date(minute, self.zone)).totals
        totals[REQUESTS_OK] += cell.requests_ok
        totals[REQUESTS_FAILED] += cell.requests_failed
        totals[INPUT_TOKENS] += cell.input_tokens
        totals[OUTPUT_TOKENS] += cell.output_tokens

    def turn(self, now: float) -> None:
        """Let go of what no figure looks back to any more, not even when the clock is set back a little."""
        if self.turned == (this := int(now // 60)):
            return
        self.turned = this
        self._look_back_to(this - AVERAGE_MINUTES)
        self.hour.turn(this)
        self.clients.turn(this // 60)
        minute = earliest_minute(now)
        for old in [at for at in self.minutes if at <= minute - AVERAGE_MINUTES]:
            del self.minutes[old]
        date = local_date(minute, self.zone)
        for past in [at for at in self.days if at < date]:
            del self.days[past]

    def _look_back_to(self, since: int) -> None:
        """Only what changes sides is added or taken away: a sum over 24 hours costs as much as one over a minute."""
        if since == self.since:
            return
        for minute, cell in self.minutes.items():
            if self.since < minute <= since:
                self.recent.subtract(cell)
            elif since < minute <= self.since:
                self.recent.add(cell)
        self.since = since

    def _answered(self, date: str, cell: Cell) -> None:
        if self.latest_day is None or date > self.latest_day[0]:
            self.latest_day = (date, Cell())
        if date == self.latest_day[0]:
            self.latest_day[1].add(cell)


@dataclass(frozen=True, slots=True)
class Slot:
    """One minute of the timeline."""

    minute: int
    success: int
    error: int


@dataclass(frozen=True, slots=True)
class Point:
    """What is told of one minute beside its slot; milliseconds, None where nothing was answered."""

    minute: int
    answered: int
    input_tokens: int
    output_tokens: int
    average_ms: float | None
    p95_ms: float | None
    first_token_ms: float | None  # the median


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
    usage: Mapping[str, Usage]
    totals: Mapping[str, int]
    timeline: tuple[Slot, ...]  # 60 whole minutes, oldest first
    points: tuple[Point, ...]  # of the same minutes
    hour: Mapping[hour.Summed, int]  # sums over them
    clients: tuple[tuple[str, int], ...]  # the busiest in this hour and the one before, with their requests
    answered: Cell  # what averages and percentiles are told of
    speeds: Mapping[SpeedKey, float]
    today: Mapping[SpeedKey, Daily]
    average_today_ms: Mapping[SpeedKey, float]  # of whole requests, where any was answered
    totals_today: Mapping[str, int]  # requests and tokens
    date: str
    seeded: bool  # all of it is restored

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of the requests that ended in this minute and the one before it, over the time since then."""
        one, other = self.points[-2:]
        return (one.output_tokens + other.output_tokens) / (self.at - one.minute * 60)

    @property
    def average_response_time_ms(self) -> float | None:
        """None: nothing was ever served."""
        return self.answered.average_ms

    @property
    def durations(self) -> Spread:
        """Of answered requests."""
        return _spread(self.answered.average_ms, self.answered.durations)

    @property
    def first_tokens(self) -> Spread:
        """From the request to its first token, where an answer was streamed."""
        streams = sum(self.answered.first_tokens.values())
        return _spread(self.answered.first_token_us / streams / 1000 if streams else None, self.answered.first_tokens)


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
            self._looked_at = state.read_at
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
            self._looked_at = max(self._looked_at, now)
            state.turn(now)
            date = local_date(int(now // 60), self.zone)
            today = state.days.get(date) or Today()
            return Figures(
                version=self.version,
                at=now,
                endpoints={key: Counters(it.total, it.successful, it.failed, it.cancelled)
                           for key, it in state.endpoints.items()},
                usage={key: Usage(it.answers, it.duration_us, it.input_tokens, it.output_tokens)
                       for key, it in state.usage.items()},
                totals=dict(state.totals),
                timeline=_timeline(state, now),
                points=_points(state, now),
                hour=dict(state.hour.sums),
                clients=state.clients.busiest(int(now // 3600), hour.BUSIEST),
                answered=_answered(state).copy(),
                speeds=_speeds(state, today, now),
                today={key: Daily(it.total, it.successful, it.failed, it.output_tokens, it.duration_ms)
                       for key, it in today.attempts.items()},
                average_today_ms={key: ms for key, day in today.answered.items() if (ms := day.average_ms)},
                totals_today=dict(today.totals),
                date=date,
                seeded=self.seeded and not state.missing,
            )  # fmt: skip


def earliest_minute(now: float) -> int:
    """The minute that it may be after all, if the clock is set back."""
    return int((now - CLOCK_SLACK_SECONDS) // 60)


def _speeds(state: State, today: Today, now: float) -> dict[SpeedKey, float]:
    """What was learned; where nothing was, today's tokens over today's time."""
    speeds = {key: it.output_tokens / (it.duration_ms / 1000) for key, it in today.attempts.items() if it.has_speed}
    return speeds | {key: value for key, it in state.speeds.items() if (value := it.value(now)) is not None}


_NOTHING = Cell()


def _timeline(state: State, now: float) -> tuple[Slot, ...]:
    last = int(now // 60)
    minutes = range(last - TIMELINE_MINUTES + 1, last + 1)
    found = (state.minutes.get(minute, _NOTHING) for minute in minutes)
    return tuple(Slot(minute, it.requests_ok, it.requests_failed) for minute, it in zip(minutes, found, strict=True))


def _points(state: State, now: float) -> tuple[Point, ...]:
    """Percentiles take a while: those of a minute in which nothing has ended since are told as before."""
    last = int(now // 60)
    found: dict[int, Point] = {}
    for minute in range(last - TIMELINE_MINUTES + 1, last + 1):
        cell, known = state.minutes.get(minute, _NOTHING), state.points.get(minute)
        of = (cell.requests_ok, cell.input_tokens, cell.output_tokens)
        if known is None or (known.answered, known.input_tokens, known.output_tokens) != of:
            known = Point(minute, *of, cell.average_ms, _at(cell.durations, 0.95), _at(cell.first_tokens, 0.5))
        found[minute] = known
    state.points = found
    return tuple(found.values())


def _at(counts: Histogram, share: float) -> float | None:
    found = histogram.quantiles(counts, (share,))
    return found[0] / 1000 if found else None


def _answered(state: State) -> Cell:
    """What averages and percentiles are told of: the last 24 hours; if nothing was answered in them, the latest day on
    which anything was.
    """
    if state.recent.requests_ok or state.latest_day is None:
        return state.recent
    return state.latest_day[1]


def _spread(average: float | None, counts: Histogram) -> Spread:
    found = histogram.quantiles(counts, (0.5, 0.95, 0.99))
    return Spread(average, *(value / 1000 for value in found)) if found else Spread(average, None, None, None)


def iso_minute(minute: int) -> str:
    """`2026-11-25T01:02:00Z`"""
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:00Z")
