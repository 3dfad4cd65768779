"""Own hardware: the work of requests at an endpoint, and the cost of its hours. See docs/concepts/counting.md.

The busy time of an endpoint is the union of the times of its attempts. Its cost is shared in proportion to the time of
each attempt, rounded down. The idle line of an hour takes the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from typing import NamedTuple
from zoneinfo import ZoneInfo

from metrics.costs.hardware_rates import HOUR, HOUR_US, HardwareRate, HardwareRates
from metrics.costs.hardware_work import TIME_BITS, TIME_MASK, Counts, LineKey, LineWork
from metrics.counting.cells import local_date

IDLE = "idle"  # kind of the line of idle time
_QUARTER = 900  # offsets of time zones are multiples of this, in seconds

IDLE_LINE: LineKey = ("", IDLE, "")


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


def lines_of(part: HourPart, work: Sequence[LineWork]) -> dict[LineKey, HardwareSums]:
    """Return the lines of a part of an hour. Their costs add up to what the endpoint costs in this time.

    `work` is that of the whole hour.
    """
    start, end = within_hour(part)
    inside = clipped(work, start, end)
    durations = [[(both >> TIME_BITS) - (both & TIME_MASK) for both in line_work.times] for line_work in inside]
    busy_us, all_us = busy_time(inside), sum(map(sum, durations))
    lines: dict[LineKey, HardwareSums] = {}
    shared = 0
    for line_work, own in zip(inside, durations, strict=True):
        sums = lines.get(line_work.line)
        if sums is None:
            sums = lines[line_work.line] = HardwareSums()
        share = part.rate.shares(busy_us, own, all_us)
        shared += share
        sums.work_us += sum(own)
        sums.cost += share
        for moment, counts in line_work.counts:
            if start <= moment < end:
                _count(sums, counts)
    cost = part.rate.cost(part.start, part.end, busy_us)
    lines[IDLE_LINE] = HardwareSums(part.end - part.start, busy_us, cost=cost - shared)
    return lines


def within_hour(part: HourPart) -> tuple[int, int]:
    """Return the start and the end of a part, in µs from the start of its hour."""
    hour = part.start // HOUR * HOUR
    return (part.start - hour) * 1_000_000, (part.end - hour) * 1_000_000


def clipped(work: Iterable[LineWork], start: int, end: int) -> list[LineWork]:
    """Return the attempts, and the parts of attempts, within a time; without lines that have none."""
    if start == 0 and end == HOUR_US:
        return [line_work for line_work in work if line_work.times]
    clipped_work = []
    for line_work in work:
        times = [
            min(last, end) << TIME_BITS | max(first, start)
            for both in line_work.times
            if (first := both & TIME_MASK) < end and ((last := both >> TIME_BITS) > start or first >= start)
        ]
        if times:
            clipped_work.append(
                LineWork(line_work.model, line_work.kind, line_work.api_key_id, times, line_work.counts)
            )
    return clipped_work


def busy_time(work: Iterable[LineWork]) -> int:
    """Return the time in µs in which at least one attempt runs."""
    times = list(chain.from_iterable([line_work.times for line_work in work]))
    if not times:
        return 0
    times.sort(reverse=True)  # by their ends, which are almost in order, so that this takes little time
    busy_us = 0
    begin = until = times[0] >> TIME_BITS
    least = begin << TIME_BITS  # of a time that ends at `begin` or later
    for both in times:
        start = both & TIME_MASK
        if both < least:
            busy_us += until - begin
            until, begin = both >> TIME_BITS, start
            least = begin << TIME_BITS
        elif start < begin:
            begin = start
            least = begin << TIME_BITS
    return busy_us + until - begin


def _count(sums: HardwareSums, counts: Counts) -> None:
    requests, tokens_in, tokens_out, cached, written, long_written, reasoning = counts
    sums.requests += requests
    sums.input_tokens += tokens_in
    sums.output_tokens += tokens_out
    sums.cached_tokens += cached
    sums.write_tokens += written
    sums.long_write_tokens += long_written
    sums.reasoning_tokens += reasoning
