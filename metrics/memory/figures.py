"""Figures: a read-only copy of all sums in memory, with averages and percentiles computed from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from metrics.counting import histogram
from metrics.counting.cells import Cell, Counters, Daily, EndpointUsage
from metrics.counting.histogram import Histogram
from metrics.counting.speeds import SpeedKey
from metrics.memory.last_hour import HourKey

TIMELINE_MINUTES = 60


@dataclass(frozen=True, slots=True)
class Slot:
    """One minute of the timeline: successful and failed requests. `minute` counts from 1970, UTC."""

    minute: int
    success: int
    error: int


@dataclass(frozen=True, slots=True)
class Point:
    """Further values of one minute of the timeline. Times are in milliseconds, None without a successful request."""

    minute: int
    answered: int
    input_tokens: int
    output_tokens: int
    average_ms: float | None
    p95_ms: float | None
    first_token_ms: float | None  # median

    @classmethod
    def from_cell(cls, minute: int, cell: Cell) -> "Point":
        p95, median = _quantile_ms(cell.durations, 0.95), _quantile_ms(cell.first_tokens, 0.5)
        return cls(minute, cell.requests_ok, cell.input_tokens, cell.output_tokens, cell.average_ms, p95, median)

    def describes(self, cell: Cell) -> bool:
        """Return True if no request has been added to the cell since this point was computed."""
        return (self.answered, self.input_tokens, self.output_tokens) == (
            cell.requests_ok,
            cell.input_tokens,
            cell.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class DurationSummary:
    """Average and percentiles of durations in milliseconds; None without durations."""

    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def from_histogram(cls, average: float | None, counts: Histogram) -> "DurationSummary":
        values = histogram.quantiles(counts, (0.5, 0.95, 0.99))
        return cls(average, *(value / 1000 for value in values)) if values else cls(average, None, None, None)


@dataclass(frozen=True, slots=True)
class EndpointSpeed:
    """Today's sums over the models of one endpoint that have a speed."""

    keys: tuple[SpeedKey, ...]  # sorted; its models with a speed or requests today
    models: int  # number of names with a speed
    output_tokens: int
    duration_ms: int
    successful: int

    @property
    def tokens_per_second(self) -> float | None:
        """Today's tokens divided by today's time; None without tokens."""
        return self.output_tokens / (self.duration_ms / 1000) if self.output_tokens and self.duration_ms else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A copy of all figures at one moment, all of one version."""

    version: int
    at: float
    endpoints: Mapping[str, Counters]
    usage: Mapping[str, EndpointUsage]
    totals: Mapping[str, int]  # by names of metrics.counting.totals
    timeline: tuple[Slot, ...]  # 60 whole minutes, oldest first
    points: tuple[Point, ...]  # the same minutes
    hour: Mapping[HourKey, int]  # sums over the same minutes
    clients: tuple[tuple[str, int], ...]  # the busiest of the current and the previous hour, with their requests
    answered: Cell  # the base of averages and percentiles: see Trackers.figures
    speeds: Mapping[SpeedKey, float]  # tokens per second
    today: Mapping[SpeedKey, Daily]
    average_today_ms: Mapping[SpeedKey, float]  # durations of whole requests, only where one succeeded
    endpoint_speeds: Mapping[str, EndpointSpeed]  # of endpoints with a speed or requests today
    totals_today: Mapping[str, int]  # requests and tokens
    date: str
    seeded: bool  # True if all figures were restored from the database

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of requests that ended in the current or the previous minute, divided by that time."""
        one, other = self.points[-2:]
        return (one.output_tokens + other.output_tokens) / (self.at - one.minute * 60)

    @property
    def average_response_time_ms(self) -> float | None:
        """Mean duration of successful requests, or None if there was none ever."""
        return self.answered.average_ms

    @property
    def durations(self) -> DurationSummary:
        """Durations of successful requests."""
        return DurationSummary.from_histogram(self.answered.average_ms, self.answered.durations)

    @property
    def first_tokens(self) -> DurationSummary:
        """Times from the request to its first token, of successful streams."""
        streams = sum(self.answered.first_tokens.values())
        average = self.answered.first_token_us / streams / 1000 if streams else None
        return DurationSummary.from_histogram(average, self.answered.first_tokens)


def _quantile_ms(counts: Histogram, share: float) -> float | None:
    values = histogram.quantiles(counts, (share,))
    return values[0] / 1000 if values else None


def iso_minute(minute: int) -> str:
    """Return a minute since 1970 as `2026-11-25T01:02:00Z`."""
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M:00Z")
