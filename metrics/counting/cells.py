"""Sums of a fold: one class per kind of row that is added up, and the keys of these rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import lru_cache
from operator import attrgetter, neg
from zoneinfo import ZoneInfo

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.counting import histogram
from metrics.counting.histogram import Histogram
from metrics.counting.token_details import TokenDetails

MINUTE_US = 60_000_000

CellKey = tuple[int, str, str, str, str]  # minute, endpoint, model, kind, API key
DayKey = tuple[str, str, str, str, str]  # local date, endpoint, model, kind, API key
DailyKey = tuple[str, str, str, str]  # endpoint, model, local date, kind
# Local date, endpoint, asked model, kind, API key; then the served model, its canonical name, and the step.
ServedKey = tuple[str, str, str, str, str, str, str, int]
ClientKey = tuple[int, str, str, str]  # hour since 1970, UTC; client address, API key, model


@dataclass(slots=True)
class Cell:
    """Sums over one span of time, endpoint, model, kind and API key: the columns of a roll-up."""

    requests_ok: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0
    attempts_ok: int = 0
    attempts_failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    ok_duration_us: int = 0
    requests_rejected: int = 0
    first_token_us: int = 0  # sum over successful streams
    durations: Histogram = field(default_factory=dict)  # successful requests, µs
    first_tokens: Histogram = field(default_factory=dict)  # successful streams, µs
    details: TokenDetails | None = None  # None: no request reported any

    def add(self, other: "Cell") -> None:
        self.requests_ok += other.requests_ok
        self.requests_failed += other.requests_failed
        self.requests_cancelled += other.requests_cancelled
        self.attempts_ok += other.attempts_ok
        self.attempts_failed += other.attempts_failed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.ok_duration_us += other.ok_duration_us
        self.requests_rejected += other.requests_rejected
        self.first_token_us += other.first_token_us
        histogram.add(self.durations, other.durations)
        histogram.add(self.first_tokens, other.first_tokens)
        if other.details is not None:
            self.add_details(other.details)

    def add_details(self, details: TokenDetails) -> None:
        self.details = details.plus(self.details)

    def __add__(self, other: "Cell") -> "Cell":
        return Cell.sum([self, other])

    @classmethod
    def sum(cls, cells: Sequence["Cell"]) -> "Cell":
        """Return the sum of one or more cells: the cell itself if there is one, so the result must not be changed."""
        if len(cells) == 1:
            return cells[0]
        total = cls(*[sum(column) for column in zip(*map(_sums, cells), strict=True)])
        durations, first_tokens = total.durations, total.first_tokens
        for cell in cells:
            for index, count in cell.durations.items():
                durations[index] = durations.get(index, 0) + count
            for index, count in cell.first_tokens.items():
                first_tokens[index] = first_tokens.get(index, 0) + count
        details = [cell.details for cell in cells if cell.details is not None]
        if details:
            total.details = TokenDetails._make(map(sum, zip(*details, strict=True)))
        return total

    def copy(self) -> "Cell":
        copied = Cell()
        copied.add(self)
        return copied

    def subtract(self, other: "Cell") -> None:
        """Remove a cell that was added before."""
        for name in CELL_COLUMNS:
            setattr(self, name, getattr(self, name) - getattr(other, name))
        histogram.subtract(self.durations, other.durations)
        histogram.subtract(self.first_tokens, other.first_tokens)
        if other.details is not None:
            self.add_details(TokenDetails._make(map(neg, other.details)))

    def add_success(self, duration_us: int, first_token_us: int | None) -> None:
        """Count one successful request. `first_token_us` is None if its response was no stream."""
        self.requests_ok += 1
        self.ok_duration_us += duration_us
        histogram.count(self.durations, duration_us)
        if first_token_us is not None:
            self.first_token_us += first_token_us
            histogram.count(self.first_tokens, first_token_us)

    @property
    def average_ms(self) -> float | None:
        """Mean duration of successful requests; None without any."""
        return self.ok_duration_us / self.requests_ok / 1000 if self.requests_ok else None


# Columns that are plain sums. Histograms are added bucket by bucket, and details may be null.
CELL_COLUMNS = tuple(item.name for item in fields(Cell) if item.name not in ("durations", "first_tokens", "details"))
_sums = attrgetter(*CELL_COLUMNS)


@dataclass(slots=True)
class Daily:
    """Columns of endpoint_daily_stats: attempts, and the tokens and time of those that have a speed."""

    total: int = 0
    successful: int = 0
    failed: int = 0
    output_tokens: int = 0
    duration_ms: int = 0

    @property
    def has_speed(self) -> bool:
        """Return True if a speed can be computed: rows without tokens or time have none."""
        return self.output_tokens > 0 and self.duration_ms > 0

    def add(self, other: "Daily") -> None:
        self.total += other.total
        self.successful += other.successful
        self.failed += other.failed
        self.output_tokens += other.output_tokens
        self.duration_ms += other.duration_ms


@dataclass(slots=True)
class Counters:
    """Attempts at an endpoint over all time. Requests that clients disconnected from count as `cancelled` only."""

    total: int = 0
    successful: int = 0
    failed: int = 0
    cancelled: int = 0

    def add(self, other: "Counters") -> None:
        self.total += other.total
        self.successful += other.successful
        self.failed += other.failed
        self.cancelled += other.cancelled


@dataclass(slots=True)
class EndpointUsage:
    """Successful requests and tokens of an endpoint over all time: the sums of its day roll-ups."""

    requests_ok: int = 0
    duration_us: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "EndpointUsage") -> None:
        self.requests_ok += other.requests_ok
        self.duration_us += other.duration_us
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


@dataclass(slots=True)
class SpeedSums:
    """Responses with a speed, of one model and kind at one endpoint on one day."""

    output_tokens: int = 0
    duration_ms: int = 0
    entries: list[RequestRecord] = field(default_factory=list)

    def __add__(self, other: "SpeedSums") -> "SpeedSums":
        tokens, duration_ms = self.output_tokens + other.output_tokens, self.duration_ms + other.duration_ms
        return SpeedSums(tokens, duration_ms, [*self.entries, *other.entries])


@dataclass(slots=True)
class ClientCell:
    """Sums over requests of a client: the columns of client roll-ups."""

    requests_ok: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    last_us: int = 0  # end of the latest of these requests

    def add(self, other: "ClientCell") -> None:
        self.requests_ok += other.requests_ok
        self.requests_failed += other.requests_failed
        self.requests_cancelled += other.requests_cancelled
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.last_us = max(self.last_us, other.last_us)

    def add_request(self, outcome: str, tokens_in: int, tokens_out: int, completed_us: int) -> None:
        if outcome == record.OK:
            self.requests_ok += 1
        elif outcome == record.CANCELLED:
            self.requests_cancelled += 1
        else:
            self.requests_failed += 1
        self.input_tokens += tokens_in
        self.output_tokens += tokens_out
        self.last_us = max(self.last_us, completed_us)

    def __add__(self, other: "ClientCell") -> "ClientCell":
        total = ClientCell()
        total.add(self)
        total.add(other)
        return total


@lru_cache(maxsize=4096)
def local_date(minute: int, zone: ZoneInfo) -> str:
    """Return the local date of a minute since 1970. Offsets are whole minutes, so no minute belongs to two dates."""
    return datetime.fromtimestamp(minute * 60, zone).date().isoformat()


def milliseconds(microseconds: int) -> int:
    """Return a duration as llmlb's integer columns store it: at least 1, and half to even.

    The expression takes a third of `round(microseconds / 1000)`.
    """
    return (microseconds + 499 + (microseconds // 1000 & 1)) // 1000 or 1
