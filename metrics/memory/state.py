"""State of the figures in memory: sums read from the database, plus each record behind the journal positions."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from gateway.ipc.journal import Position
from metrics.costs.totals import CostTotalsNow
from metrics.counting.cells import Cell, Counters, Daily, EndpointUsage, local_date
from metrics.counting.fold import Fold
from metrics.counting.speeds import Sample, SpeedKey, current_speed, merge_samples, runs_ahead
from metrics.counting.totals import INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS_FAILED, REQUESTS_OK
from metrics.memory.client_hours import RecentClients
from metrics.memory.figures import Point
from metrics.memory.last_hour import LastHour

AVERAGE_MINUTES = 24 * 60
CLOCK_SLACK_SECONDS = 3 * 3600.0  # the clock may be set back by so much without a loss of figures


@dataclass(slots=True)
class Today:
    """Sums of one local date, by endpoint, model and kind."""

    attempts: defaultdict[SpeedKey, Daily] = field(default_factory=lambda: defaultdict(Daily))
    answered: defaultdict[SpeedKey, Cell] = field(default_factory=lambda: defaultdict(Cell))
    totals: Counter[str] = field(default_factory=Counter)  # requests and tokens, by names of metrics.counting.totals


@dataclass(slots=True)
class Speed:
    """Samples and moving average of one model at one endpoint."""

    samples: list[Sample] = field(default_factory=list)
    _value: float | None = None
    _stale: bool = True

    def add(self, samples: list[Sample]) -> None:
        self.samples = merge_samples(self.samples, samples)
        self._stale = True

    def changes_with_time(self, now: float) -> bool:
        """Return True if the value changes without a new sample, because a clock ran ahead."""
        return runs_ahead(self.samples, now)

    def value(self, now: float) -> float | None:
        """Return tokens per second, or None without a sample."""
        ahead = runs_ahead(self.samples, now)
        if self._stale or ahead:
            self._value = current_speed(self.samples, now)
            self._stale = ahead  # the value then changes with time
        return self._value


@dataclass(slots=True)
class Touched:
    """Keys of sums that were added to since they were last copied (metrics.memory.copies)."""

    endpoints: set[str] = field(default_factory=set)
    models: set[SpeedKey] = field(default_factory=set)

    def clear(self) -> None:
        self.endpoints.clear()
        self.models.clear()


@dataclass(slots=True)
class FiguresState:
    """All figures, up to and including the journal positions. Minutes count from 1970, UTC."""

    zone: ZoneInfo
    missing: tuple[str, ...] = ()  # parts that could not be read from a damaged table
    positions: dict[str, Position] = field(default_factory=dict)  # by writer
    endpoints: dict[str, Counters] = field(default_factory=dict)
    usage: dict[str, EndpointUsage] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    minutes: dict[int, Cell] = field(default_factory=dict)  # as many as any figure needs
    points: dict[int, Point] = field(default_factory=dict)  # cached points of the timeline
    hour: LastHour = field(default_factory=LastHour)
    clients: RecentClients = field(default_factory=RecentClients)
    recent: Cell = field(default_factory=Cell)  # sum of the minutes after `since`
    since: int = 0
    latest_day: tuple[str, Cell] | None = None  # the last local date with a successful request
    speeds: dict[SpeedKey, Speed] = field(default_factory=dict)
    days: dict[str, Today] = field(default_factory=dict)  # by local date; a clock that ran ahead adds later dates
    advanced_to: int = -1  # minute of the last `advance`
    read_at: float = 0.0
    touched: Touched = field(default_factory=Touched)
    finished: Counter[str] = field(default_factory=Counter)  # requests by endpoint, as they were read, for `costs`
    costs: CostTotalsNow | None = None  # as they were read; None: they could not be read
    repairs: int = 0  # change counter of repaired figures in the database, when it was read

    def add(self, fold: Fold) -> None:
        for endpoint_id, counters in fold.endpoints.items():
            self.endpoints.setdefault(endpoint_id, Counters()).add(counters)
            self.touched.endpoints.add(endpoint_id)
        for endpoint_id, usage in fold.usage.items():
            self.usage.setdefault(endpoint_id, EndpointUsage()).add(usage)
            self.touched.endpoints.add(endpoint_id)
        self.totals.update(fold.totals)
        self.clients.add_all(fold.clients)
        self.hour.add_all(fold.cells)
        for (endpoint_id, model, date, kind), cell in fold.models.items():
            if cell.requests_ok:
                self.day(date).answered[endpoint_id, model, kind].add(cell)
                self.touched.models.add((endpoint_id, model, kind))
        for minute, cell in fold.minutes.items():
            self.add_minute(minute, cell)
            if cell.requests_ok:
                self._add_to_latest_day(local_date(minute, self.zone), cell)
        for key, samples in fold.samples.items():
            self.speeds.setdefault(key, Speed()).add(samples)
            self.touched.models.add(key)
        for (endpoint_id, model, date, kind), daily in fold.daily.items():
            self.day(date).attempts[endpoint_id, model, kind].add(daily)
            self.touched.models.add((endpoint_id, model, kind))

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

    def advance(self, now: float) -> None:
        """Remove sums that no figure needs any more, even if the clock is set back by CLOCK_SLACK_SECONDS."""
        if self.advanced_to == (this := int(now // 60)):
            return
        self.advanced_to = this
        self._sum_since(this - AVERAGE_MINUTES)
        self.hour.advance(this)
        self.clients.advance(this // 60)
        minute = earliest_minute(now)
        for old in [summed_minute for summed_minute in self.minutes if summed_minute <= minute - AVERAGE_MINUTES]:
            del self.minutes[old]
        date = local_date(minute, self.zone)
        for past in [day for day in self.days if day < date]:
            del self.days[past]

    def _sum_since(self, since: int) -> None:
        """Move the start of `recent`. Only minutes that enter or leave the range are added or subtracted."""
        if since == self.since:
            return
        for minute, cell in self.minutes.items():
            if self.since < minute <= since:
                self.recent.subtract(cell)
            elif since < minute <= self.since:
                self.recent.add(cell)
        self.since = since

    def _add_to_latest_day(self, date: str, cell: Cell) -> None:
        if self.latest_day is None or date > self.latest_day[0]:
            self.latest_day = (date, Cell())
        if date == self.latest_day[0]:
            self.latest_day[1].add(cell)


def earliest_minute(now: float) -> int:
    """Return the earliest minute that the clock may be set back to without a loss of figures."""
    return int((now - CLOCK_SLACK_SECONDS) // 60)
