"""Own hardware: hours at their rate are the sums of shares and idle time, and days are the sums of their hours.

This repeats the rules of docs/concepts/counting.md on purpose, and shares no code with metrics.counting.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby, pairwise
from math import ceil, floor
from typing import Any, NamedTuple

import msgspec

from metrics import sql
from metrics.reconcile.comparison import Comparison, FigureDifference, Query, where
from metrics.reconcile.scope import Scope, moment
from metrics.reconcile.tables import HARDWARE_DAY, HARDWARE_SUMS

_HOUR = 3600
_KEYS = ("start", "endpoint_id")
_LINE = ("model", "kind", "api_key_id")
_Line = tuple[str, str, str]


class _Rate(NamedTuple):
    """Amounts are exact: 10⁻⁹ of the currency in a second."""

    endpoint_id: str
    start: int
    end: int | None
    idle: Fraction
    busy: Fraction


class _Work(NamedTuple):
    """What ran in an hour: the times of attempts, and the moments at which requests are counted. All in µs."""

    attempts: list[tuple[int, int, _Line]]
    counts: list[tuple[int, _Line, tuple[int, ...]]]  # requests, input tokens, output tokens


def days(scope: Scope) -> Comparison | None:
    """Express L3: days of own hardware are the sums of the hours that are kept."""
    dates = tuple(scope.days(scope.history_since))
    if not dates:
        return None
    listed = f"date IN {sql.placeholders(len(dates))}"
    columns = [*HARDWARE_DAY, *HARDWARE_SUMS]
    return Comparison(
        law="L3",
        table="rollup_hardware_days",
        source="hardware_hours",
        keys=HARDWARE_DAY,
        columns=HARDWARE_SUMS,
        expected=Query(sql.select(columns, "hardware_hours", where=listed), dates),
        found=Query(sql.select(columns, "rollup_hardware_days", where=listed), dates),
    )


def hours(scope: Scope) -> Iterator[FigureDifference]:
    """Check L3: each kept hour costs its rate, shared over its requests by busy time; the rest is its idle line."""
    rates = _rates()
    due = {(int(hour), str(endpoint)) for hour, endpoint in Query("SELECT hour, endpoint_id FROM hardware_due").rows()}
    columns = (*_KEYS, *_LINE, "rate_id", "seconds", "busy_us", "work_us", "requests", "input_tokens",
               "output_tokens", "cost")  # fmt: skip
    lines = Query(sql.select(columns, "hardware_hours", order_by="start, endpoint_id")).rows()
    for (start, endpoint), part in groupby(lines, key=lambda row: (int(row[0]), str(row[1]))):
        stored_lines = {tuple(row[2:5]): [int(value) for value in row[5:]] for row in part}
        if (start // _HOUR, endpoint) not in due:
            yield from _of_hour(start, endpoint, stored_lines, rates)


def _of_hour(
    start: int, endpoint: str, stored_lines: dict[tuple[Any, ...], list[int]], rates: dict[int, _Rate]
) -> Iterator[FigureDifference]:
    idle = next((line for line in stored_lines if line[1] == "idle"), None)
    place = where("hardware_hours", _KEYS, (start, endpoint))
    rate = rates.get(stored_lines[idle][0]) if idle else None
    if idle is None or rate is None:
        yield FigureDifference("L3", "idle line with a rate", place, 1, 0)
        return
    seconds = stored_lines[idle][1]
    expected = _expected(start, seconds, rate, _work(start // _HOUR, endpoint))
    for line in sorted({*expected, *stored_lines}):
        names = ("seconds", "busy_us", "work_us", "requests", "input_tokens", "output_tokens", "cost")
        one, other = expected.get(line, [0] * 7), stored_lines.get(line, [0] * 8)[1:]
        for name, right, stored in zip(names, one, other, strict=True):
            if right != stored:
                key = (start, endpoint, *line)
                yield FigureDifference("L3", name, where("hardware_hours", (*_KEYS, *_LINE), key), right, stored)


def _expected(start: int, seconds: int, rate: _Rate, work: _Work) -> dict[tuple[Any, ...], list[int]]:
    begin, end = start * 1_000_000, (start + seconds) * 1_000_000
    inside = [
        (max(first, begin), min(last, end), line)
        for first, last, line in work.attempts
        if first < end and (last > begin or first >= begin)
    ]
    # Busy time: between two neighbouring edges, something runs or nothing does.
    edges = sorted({edge for first, last, _ in inside for edge in (first, last)})
    starts, ends = sorted(first for first, _, _ in inside), sorted(last for _, last, _ in inside)
    busy = running = begun = over = 0
    for edge, following in pairwise(edges):
        while begun < len(starts) and starts[begun] <= edge:
            begun += 1
        while over < len(ends) and ends[over] <= edge:
            over += 1
        running = begun - over
        busy += following - edge if running else 0
    own = sum(last - first for first, last, _ in inside)
    whole = floor(rate.idle * (start + seconds - rate.start)) - floor(rate.idle * (start - rate.start))
    whole += ceil((rate.busy - rate.idle) * Fraction(busy, 1_000_000))
    lines: dict[tuple[Any, ...], list[int]] = {}
    for first, last, line in inside:
        share = floor(rate.busy * Fraction(busy, 1_000_000) * Fraction(last - first, own)) if own else 0
        _add(lines, line, (0, 0, last - first, 0, 0, 0, share))
    for moment_us, line, request in work.counts:
        if begin <= moment_us < end:
            _add(lines, line, (0, 0, 0, *request, 0))
    lines["", "idle", ""] = [seconds, busy, 0, 0, 0, 0, whole - sum(counts[-1] for counts in lines.values())]
    return lines


def _add(lines: dict[tuple[Any, ...], list[int]], line: _Line, values: tuple[int, ...]) -> None:
    counts = lines.setdefault(line, [0] * 7)
    for position, value in enumerate(values):
        counts[position] += value


def _work(hour: int, endpoint: str) -> _Work:
    """Return the packed work of an hour, and the rows of earlier versions."""
    work = _Work([], [])
    here = ["hour = %s", "endpoint_id = %s"]
    start = hour * _HOUR * 1_000_000
    for (packed,) in Query(sql.select("work", "hardware_batches", where=here), (hour, endpoint)).rows():
        for *line, times, counts in msgspec.msgpack.decode(bytes(packed)):
            of = (line[0], line[1], line[2])
            work.attempts.extend((start + both % 2**32, start + both // 2**32, of) for both in times)
            work.counts.extend((start + moment, of, tuple(values[:3])) for moment, values in counts)
    columns = ("start_us", "end_us", *_LINE, "requests", "input_tokens", "output_tokens")
    for first, last, *each in Query(sql.select(columns, "hardware_work", where=here), (hour, endpoint)).rows():
        of, request = (each[0], each[1], each[2]), tuple(map(int, each[3:]))
        work.attempts.append((int(first), int(last), of))
        if request[0]:
            work.counts.append((max(int(first), int(last) - 1), of, request))
    return work


def rates(scope: Scope) -> Iterator[FigureDifference]:
    """Check, for days of any age: time at a rate has no gap, and costs its rate with the energy of its busy time."""
    counted = {str(endpoint): int(hour) * _HOUR
               for endpoint, hour in Query("SELECT endpoint_id, hour FROM hardware_positions").rows()}  # fmt: skip
    sums = ("SUM(seconds)", "SUM(busy_us)", "SUM(cost)", "COUNT(DISTINCT date)")
    stored = {int(rate_id): [int(value) for value in each] for rate_id, *each in Query(
        sql.select(("rate_id", *sums), "rollup_hardware_days", group_by="rate_id")).rows()}  # fmt: skip
    for rate_id, rate in _rates().items():
        end = counted.get(rate.endpoint_id, 0)
        end = end if rate.end is None else min(end, rate.end)
        time = max(0, end - rate.start)
        seconds, busy, cost, dates = stored.get(rate_id, [0, 0, 0, 0])
        place = where("rollup_hardware_days", ("endpoint_id", "rate_id"), (rate.endpoint_id, rate_id))
        if seconds != time:
            yield FigureDifference("L3", "seconds", place, time, seconds)
        least = floor(rate.idle * time)
        energy = (rate.busy - rate.idle) * Fraction(busy, 1_000_000)
        # The energy of busy time is rounded up in each hour, and in each part of one.
        most = least + floor(energy + (27 * dates + 2 if energy else 0))
        least += ceil(energy)
        if seconds == time and not least <= cost <= most:
            yield FigureDifference("L3", "cost", place, least if least == most else f"{least} to {most}", cost)


def requests(scope: Scope) -> Iterator[FigureDifference]:
    """Check L1: requests and tokens of own hardware are part of all those of their endpoint, model, kind and key."""
    keys = ("endpoint_id", *_LINE)
    whole = {
        "requests": "requests_ok + requests_failed + requests_cancelled",
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
    }
    group_by = ", ".join(keys)
    part = sql.select([*keys, *(f"SUM({name}) AS {name}" for name in whole)], "rollup_hardware_days",
                      where="kind <> 'idle'", group_by=group_by)  # fmt: skip
    day = sql.select([*keys, *(f"SUM({of}) AS {name}" for name, of in whole.items())], "rollup_days",
                     group_by=group_by)  # fmt: skip
    same = " AND ".join(f"day.{key} = part.{key}" for key in keys)
    source = f"{sql.subquery(part, 'part')} LEFT JOIN {sql.subquery(day, 'day')} ON {same}"
    for name in whole:
        most = f"COALESCE(day.{name}, 0)"
        columns = [*(f"part.{key}" for key in keys), f"part.{name}", most]
        for *key, count, limit in Query(sql.select(columns, source, where=f"part.{name} > {most}")).rows():
            yield FigureDifference("L1", name, where("rollup_hardware_days", keys, tuple(key)), f"at most {int(limit)}",
                                   int(count))  # fmt: skip


def _rates() -> dict[int, _Rate]:
    columns = ("id", "endpoint_id", "valid_from", "valid_until", "per_hour", "idle_watts", "busy_watts", "per_kwh")
    rates_by_id: dict[int, _Rate] = {}
    later: dict[str, int] = {}  # start of the endpoint's next rate
    rows = Query(sql.select(columns, "hardware_rates", order_by="valid_from DESC, id DESC")).rows()
    for rate_id, endpoint, begins, ends, *amounts in rows:
        per_hour, idle, busy, per_kwh = (int(amount or 0) for amount in amounts)
        start = int(moment(begins).timestamp())
        limits = [] if ends is None else [int(moment(ends).timestamp())]
        limits += [later[str(endpoint)]] if str(endpoint) in later else []
        later[str(endpoint)] = start
        of_energy = Fraction(per_kwh, 3_600_000 * 10**9)
        rates_by_id[int(rate_id)] = _Rate(
            str(endpoint),
            start,
            min(limits, default=None),
            Fraction(per_hour, _HOUR) + idle * of_energy,
            Fraction(per_hour, _HOUR) + busy * of_energy,
        )
    return rates_by_id
