"""From records to figures. docs/figures.md holds the table of what is counted where; this is its only implementation.

Every fold here is commutative, so the order in which the journals of several workers are read never shows. Counts are
sums. A moving average depends on order by nature; its state is therefore the last WINDOW samples ordered by completion,
merged as a set: any order, any grouping, even twice, gives the same bits. What lies further back would weigh
0.8 ** 128 = 4e-13 of its own size.
"""

import logging
import re
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from zoneinfo import ZoneInfo

import msgspec

from gateway import record
from gateway.openai import CHAT, COMPLETIONS, RESPONSES
from gateway.record import Attempt, Entry, RequestRecord, Unrecorded
from metrics import histogram
from metrics.histogram import Histogram

log = logging.getLogger(__name__)

ALPHA = 0.2
MAX_TOKENS = 1 << 40
MAX_DURATION_US = 365 * 86_400_000_000
MAX_COMPLETED_US = 4_102_444_800_000_000  # 2100-01-01
CLOCK_SLACK_US = 60_000_000
WINDOW = 128

NO_ENDPOINT = "00000000-0000-0000-0000-000000000000"
MINUTE_US = 60_000_000

# Names in metric_totals; refusals add one each under "rejected:" and their code.
REQUESTS_OK, REQUESTS_FAILED, REQUESTS_CANCELLED = "requests_ok", "requests_failed", "requests_cancelled"
INPUT_TOKENS, OUTPUT_TOKENS = "input_tokens", "output_tokens"
UNRECORDED, DAMAGED = "unrecorded", "damaged_bytes"
REJECTED = "rejected:"
# Beside them, what they were at the adoption, and what went from adopted rows into day roll-ups since: with these two,
# a total can be computed again from the roll-ups.
ADOPTED, PRUNED_ADOPTED = "adopted:", "pruned_adopted:"

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FAILED_ATTEMPTS = {record.REFUSED, record.FAILED, record.TRUNCATED}
_KINDS_WITH_SPEED = {CHAT, COMPLETIONS, RESPONSES}

Sample = tuple[int, int, float]  # completed_us, tie-break from the id, tokens per second
SpeedKey = tuple[str, str, str]  # endpoint, model, kind
CellKey = tuple[int, str, str, str, str]  # minute, endpoint, model, kind, API key
DailyKey = tuple[str, str, str, str]  # endpoint, model, local date, kind


@dataclass(slots=True)
class Cell:
    """What is summed over any span of time, endpoint, model, kind and key: the columns of a roll-up."""

    requests_ok: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0
    attempts_ok: int = 0
    attempts_failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    ok_duration_us: int = 0
    requests_rejected: int = 0
    first_token_us: int = 0  # the sum over the answered streams
    durations: Histogram = field(default_factory=dict)  # of the answered requests, in µs
    first_tokens: Histogram = field(default_factory=dict)

    def add(self, other: "Cell") -> None:
        for name in CELL_COLUMNS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        histogram.add(self.durations, other.durations)
        histogram.add(self.first_tokens, other.first_tokens)

    def copy(self) -> "Cell":
        return replace(self, durations=dict(self.durations), first_tokens=dict(self.first_tokens))

    def subtract(self, other: "Cell") -> None:
        """Take away what was added before."""
        for name in CELL_COLUMNS:
            setattr(self, name, getattr(self, name) - getattr(other, name))
        histogram.subtract(self.durations, other.durations)
        histogram.subtract(self.first_tokens, other.first_tokens)

    def answered(self, duration_us: int, first_token_us: int | None) -> None:
        """One whole answer."""
        self.requests_ok += 1
        self.ok_duration_us += duration_us
        histogram.add(self.durations, {histogram.bucket(duration_us): 1})
        if first_token_us is not None:
            self.first_token_us += first_token_us
            histogram.add(self.first_tokens, {histogram.bucket(first_token_us): 1})

    @property
    def average_ms(self) -> float | None:
        """Mean duration of the answered requests."""
        return self.ok_duration_us / self.requests_ok / 1000 if self.requests_ok else None


# The sums; histograms are added in another way.
CELL_COLUMNS = tuple(item.name for item in fields(Cell) if item.name not in ("durations", "first_tokens"))


@dataclass(slots=True)
class Daily:
    """Columns of endpoint_daily_stats: attempts; tokens and time of those that had a speed."""

    total: int = 0
    successful: int = 0
    failed: int = 0
    output_tokens: int = 0
    duration_ms: int = 0

    @property
    def has_speed(self) -> bool:
        """Rows with no tokens or no time say nothing of speed (scenarios, S4)."""
        return self.output_tokens > 0 and self.duration_ms > 0

    def add(self, other: "Daily") -> None:
        self.total += other.total
        self.successful += other.successful
        self.failed += other.failed
        self.output_tokens += other.output_tokens
        self.duration_ms += other.duration_ms


@dataclass(slots=True)
class Counters:
    """An endpoint's attempts over all time. Those of clients who left are in `cancelled` alone."""

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
class Fold:
    """The figures of a batch of entries."""

    zone: ZoneInfo
    cells: dict[CellKey, Cell] = field(default_factory=dict)
    daily: dict[DailyKey, Daily] = field(default_factory=dict)
    endpoints: dict[str, Counters] = field(default_factory=dict)
    samples: dict[SpeedKey, list[Sample]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    refused_connections: set[str] = field(default_factory=set)  # endpoints to look at now

    def add_all(self, entries: Iterable[Entry]) -> "Fold":
        for entry in entries:
            if isinstance(entry, RequestRecord):
                if sound(entry):
                    self.add(entry)
                else:
                    log.error("record %r makes no sense and is set aside", entry.id[:40])
                    self.totals[UNRECORDED] += 1
            elif isinstance(entry, Unrecorded):
                self.totals[UNRECORDED] += entry.count
        return self

    def add(self, entry: RequestRecord) -> None:
        minute = entry.completed_us // MINUTE_US
        if entry.outcome == record.REJECTED:
            self.totals[REJECTED + (entry.error or "")] += 1
            # Not by model: anybody can make up names.
            self.cells.setdefault((minute, NO_ENDPOINT, "", "", entry.api_key_id or ""), Cell()).requests_rejected += 1
            return
        date = local_date(minute, self.zone)
        for attempt in entry.attempts:
            self._add_attempt(entry, attempt, minute, date)
        self._add_request(entry, minute)
        self._add_speed(entry, date)

    def _add_attempt(self, entry: RequestRecord, attempt: Attempt, minute: int, date: str) -> None:
        if attempt.outcome == record.CANCELLED:
            return
        ok, failed = attempt.outcome == record.OK, attempt.outcome in _FAILED_ATTEMPTS
        self.endpoints.setdefault(attempt.endpoint_id, Counters()).add(Counters(1, ok, failed))
        self.daily.setdefault((attempt.endpoint_id, entry.model, date, entry.kind), Daily()).add(Daily(1, ok, failed))
        cell = self._cell(entry, attempt.endpoint_id, minute)
        cell.attempts_ok += ok
        cell.attempts_failed += failed
        if failed and attempt.status == 0 and attempt.error == record.CONNECTION_REFUSED:
            self.refused_connections.add(attempt.endpoint_id)

    def _add_request(self, entry: RequestRecord, minute: int) -> None:
        cell = self._cell(entry, entry.endpoint_id or NO_ENDPOINT, minute)
        if entry.outcome == record.OK:
            cell.answered(entry.duration_us, entry.first_token_us)
            self.totals[REQUESTS_OK] += 1
        elif entry.outcome == record.CANCELLED:
            cell.requests_cancelled += 1
            self.totals[REQUESTS_CANCELLED] += 1
            if entry.endpoint_id is not None:
                self.endpoints.setdefault(entry.endpoint_id, Counters()).cancelled += 1
        else:
            cell.requests_failed += 1
            self.totals[REQUESTS_FAILED] += 1
        tokens_in, tokens_out = plausible(entry.input_tokens) or 0, plausible(entry.output_tokens) or 0
        cell.input_tokens += tokens_in
        cell.output_tokens += tokens_out
        self.totals[INPUT_TOKENS] += tokens_in
        self.totals[OUTPUT_TOKENS] += tokens_out

    def _add_speed(self, entry: RequestRecord, date: str) -> None:
        """Output tokens over the whole duration of the attempt that made them."""
        if entry.outcome != record.OK or entry.kind not in _KINDS_WITH_SPEED or not entry.attempts:
            return
        attempt, tokens = entry.attempts[-1], plausible(entry.output_tokens)
        if not tokens or attempt.duration_us <= 0:
            return
        daily = self.daily[attempt.endpoint_id, entry.model, date, entry.kind]
        daily.output_tokens += tokens
        daily.duration_ms += milliseconds(attempt.duration_us)
        key = (attempt.endpoint_id, entry.model, entry.kind)
        speed = tokens / (attempt.duration_us / 1e6)
        self.samples.setdefault(key, []).append((entry.completed_us, int(entry.id[-12:], 16), speed))

    def _cell(self, entry: RequestRecord, endpoint_id: str, minute: int) -> Cell:
        key = (minute, endpoint_id, entry.model, entry.kind, entry.api_key_id or "")
        return self.cells.setdefault(key, Cell())

    def days(self) -> dict[tuple[str, str, str, str, str], Cell]:
        """The cells summed by local date."""
        days: dict[tuple[str, str, str, str, str], Cell] = {}
        for (minute, *rest), cell in self.cells.items():
            endpoint, model, kind, key = rest
            days.setdefault((local_date(minute, self.zone), endpoint, model, kind, key), Cell()).add(cell)
        return days


def sound(entry: RequestRecord) -> bool:
    """Can it be counted? One that cannot (a damaged or hand-made journal) must not take its neighbours along."""
    durations = (entry.duration_us, entry.first_token_us or 0, *(attempt.duration_us for attempt in entry.attempts))
    return (
        _ID.fullmatch(entry.id) is not None
        and 0 <= entry.completed_us < MAX_COMPLETED_US
        and all(0 <= duration <= MAX_DURATION_US for duration in durations)
    )


def plausible(tokens: int | None) -> int | None:
    """A count of tokens as an upstream told it; None for what no answer can have had."""
    return tokens if tokens is not None and 0 <= tokens <= MAX_TOKENS else None


def milliseconds(microseconds: int) -> int:
    """As the reference's integer columns hold a duration: never 0."""
    return max(1, round(microseconds / 1000))


@lru_cache(maxsize=4096)
def local_date(minute: int, zone: ZoneInfo) -> str:
    """The date at a minute since 1970. Offsets are whole minutes, so a minute never spans two dates."""
    return datetime.fromtimestamp(minute * 60, zone).date().isoformat()


def merge_samples(kept: list[Sample], new: list[Sample]) -> list[Sample]:
    """The last WINDOW of both; `kept` is sorted, as this returns it.

    What a clock that ran ahead left behind is kept beside them, for the time when its moment has come. It takes no
    place from those whose moment is now, and never depends on when it was merged.
    """
    new = sorted({*new})
    after = kept and new and new[0] > kept[-1]  # nearly always
    merged = [*kept, *new] if after else sorted({*kept, *new})
    now = time.time()
    if not runs_ahead(merged, now):
        return merged[-WINDOW:]
    come = _come(merged, now)
    return [*come[-WINDOW:], *merged[len(come) :][-WINDOW:]]


def runs_ahead(samples: list[Sample], now: float) -> bool:
    return bool(samples) and samples[-1][0] > _horizon(now)


def _come(samples: list[Sample], now: float) -> list[Sample]:
    return samples[: bisect_right(samples, _horizon(now), key=itemgetter(0))]


def _horizon(now: float) -> int:
    return round(now * 1e6) + CLOCK_SLACK_US


def learned_speed(samples: list[Sample], now: float) -> float | None:
    """The moving average of those whose moment has come; of what a clock that ran ahead left, if there is no other."""
    return moving_average((_come(samples, now) or samples)[-WINDOW:])


def moving_average(samples: list[Sample]) -> float | None:
    """Exponential, first sample as it is (contract: α = 0.2)."""
    value: float | None = None
    for _, _, speed in samples:
        value = speed if value is None else ALPHA * speed + (1 - ALPHA) * value
    return value


pack_samples = msgspec.msgpack.Encoder().encode
_decode_samples = msgspec.msgpack.Decoder(list[Sample]).decode


def unpack_samples(packed: bytes) -> list[Sample]:
    """Damaged ones are none: a speed is learned again sooner than a batch is written without its average."""
    try:
        return _decode_samples(packed)
    except msgspec.DecodeError as error:
        log.error("a moving average in the database is damaged and begins anew: %s", error)
        return []
