"""Own hardware: the work of requests at an endpoint, and the cost of its hours. See docs/concepts/counting.md.

The busy time of an endpoint is the union of the times of its attempts. Its cost is shared in proportion to the time of
each attempt, rounded down. The idle line of an hour takes the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.prices.counts import part_of, plausible
from metrics.counting.cells import local_date
from metrics.prices.hardware import HOUR, HOUR_US, HardwareRate, HardwareRates

IDLE = "idle"  # kind of the line of idle time
MOST_HOURS = 7 * 24  # of one attempt; a longer one has a damaged duration, of which the last hours count
_QUARTER = 900  # offsets of time zones are multiples of this, in seconds

LineKey = tuple[str, str, str]  # requested model, kind, API key
IDLE_LINE: LineKey = ("", IDLE, "")


class RatedWork(NamedTuple):
    """An attempt's part of one hour at one endpoint. Tokens are in the part in which the attempt ended."""

    hour: int  # since 1970 UTC
    endpoint_id: str
    request_id: str
    attempt: int
    start_us: int
    end_us: int
    model: str  # the requested name
    kind: str
    api_key_id: str  # empty: none
    requests: int = 0  # 1 where the request ended
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    write_tokens: int = 0  # written to a prefix cache, for any time
    long_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def line(self) -> LineKey:
        return self.model, self.kind, self.api_key_id


@dataclass(slots=True)
class HardwareSums:
    """Sums of one line: of requests, or of an idle endpoint. `seconds` and `busy_us` are in the idle line only."""

    seconds: int = 0
    busy_us: int = 0
    work_us: int = 0  # sum of the times of all attempts
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    write_tokens: int = 0
    long_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0  # 10⁻⁹ of the currency of the rate

    def add(self, other: "HardwareSums", sign: int = 1) -> None:
        for name in HARDWARE_COLUMNS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))

    @property
    def values(self) -> tuple[int, ...]:
        return astuple(self)


HARDWARE_COLUMNS = tuple(item.name for item in fields(HardwareSums))


class HourPart(NamedTuple):
    """Part of an hour with one rate and one local date, in seconds since 1970 UTC; `end` is excluded."""

    start: int
    end: int
    rate: HardwareRate
    date: str


_NO_TOKENS = (0,) * 7


def work_of(entries: Iterable[RequestRecord], rates: HardwareRates) -> Iterator[RatedWork]:
    """Yield the work of these requests at endpoints with a rate."""
    rated = rates.by_endpoint
    if not rated:
        return
    has_rate: dict[tuple[int, str], bool] = {}
    for entry in entries:
        for number, attempt in enumerate(entry.attempts):
            if attempt.endpoint_id in rated:
                yield from _hours_of(entry, number, attempt, rates, has_rate)


def _hours_of(
    entry: RequestRecord,
    number: int,
    attempt: AttemptRecord,
    rates: HardwareRates,
    has_rate: dict[tuple[int, str], bool],
) -> Iterator[RatedWork]:
    """Yield the parts of an attempt. `has_rate` is kept for the hours of a batch."""
    completed, endpoint_id = entry.completed_us, attempt.endpoint_id
    start = min(completed, completed - entry.duration_us + attempt.at_us)
    end = min(completed, start + attempt.duration_us)
    last = max(start, end - 1) // HOUR_US
    ended = number == len(entry.attempts) - 1 and entry.outcome != record.QUEUE
    line = (entry.model, entry.kind, entry.api_key_id or "")
    for hour in range(max(start // HOUR_US, last - MOST_HOURS + 1), last + 1):
        place = (hour, endpoint_id)
        if place not in has_rate:
            has_rate[place] = bool(rates.spans(endpoint_id, hour * HOUR, (hour + 1) * HOUR))
        if has_rate[place]:
            times = (max(start, hour * HOUR_US), min(end, (hour + 1) * HOUR_US))
            counts = _counts(entry) if ended and hour == last else _NO_TOKENS
            yield RatedWork._make((*place, entry.id, number, *times, *line, *counts))


def _counts(entry: RequestRecord) -> tuple[int, ...]:
    """Return a request and its tokens, as the last fields of its work."""
    tokens_in, tokens_out = plausible(entry.input_tokens), plausible(entry.output_tokens)
    cached, written, reasoning = entry.cached_tokens, entry.cache_write_tokens, entry.reasoning_tokens
    if cached is None and written is None and reasoning is None:
        return 1, tokens_in or 0, tokens_out or 0, 0, 0, 0, 0
    written = part_of(written, tokens_in)
    return (
        1,
        tokens_in or 0,
        tokens_out or 0,
        part_of(cached, tokens_in) or 0,
        written or 0,
        part_of(entry.long_write_tokens, written) or 0,
        part_of(reasoning, tokens_out) or 0,
    )


def parts_of(rates: HardwareRates, endpoint_id: str, start: int, end: int, zone: ZoneInfo) -> list[HourPart]:
    """Return the parts of a time within one hour, in seconds since 1970 UTC. Time without a rate has none."""
    parts = []
    for first, last, rate in rates.spans(endpoint_id, start, end):
        assert last is not None
        for begin, stop, date in _days(first, last, zone):
            parts.append(HourPart(begin, stop, rate, date))
    return parts


def _days(start: int, end: int, zone: ZoneInfo) -> Iterator[tuple[int, int, str]]:
    """Yield the local dates of a time of at most an hour: two if midnight is within it."""
    date = local_date(start // 60, zone)
    begin = start
    for moment in range(start // _QUARTER * _QUARTER + _QUARTER, end, _QUARTER):
        if (later := local_date(moment // 60, zone)) != date:
            yield begin, moment, date
            begin, date = moment, later
    yield begin, end, date


def lines_of(part: HourPart, work: Sequence[RatedWork]) -> dict[LineKey, HardwareSums]:
    """Return the lines of a part of an hour. Their costs add up to what the endpoint costs in this time."""
    start, end = part.start * 1_000_000, part.end * 1_000_000
    clipped = [
        (max(it.start_us, start), min(it.end_us, end), it)
        for it in work
        if it.start_us < end and (it.end_us > start or it.start_us >= start)
    ]
    busy_us = union(clipped)
    all_us = sum(last - first for first, last, _ in clipped)
    lines: dict[LineKey, HardwareSums] = {}
    shared = 0
    for first, last, it in clipped:
        sums = lines.get(it.line)
        if sums is None:
            sums = lines[it.line] = HardwareSums()
        share = part.rate.share(busy_us, last - first, all_us)
        shared += share
        sums.work_us += last - first
        sums.cost += share
        if it.requests and start <= max(it.start_us, it.end_us - 1) < end:
            _count(sums, it)
    cost = part.rate.cost(part.start, part.end, busy_us)
    lines[IDLE_LINE] = HardwareSums(part.end - part.start, busy_us, cost=cost - shared)
    return lines


def union(times: Iterable[tuple[int, int, object]]) -> int:
    """Return the time in which at least one of these is running; each has its start and its end first."""
    total = until = 0
    for start, end in sorted((start, end) for start, end, _ in times):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def _count(sums: HardwareSums, work: RatedWork) -> None:
    sums.requests += work.requests
    sums.input_tokens += work.input_tokens
    sums.output_tokens += work.output_tokens
    sums.cached_tokens += work.cached_tokens
    sums.write_tokens += work.write_tokens
    sums.long_write_tokens += work.long_write_tokens
    sums.reasoning_tokens += work.reasoning_tokens
