"""What a request costs at own hardware: its share of the hours in which it ran. Imports nothing of Django.

Shares are those of metrics.costs.hardware_lines, so that those of all requests of a line add up to its cost.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict

from gateway.prices.amounts import text_of
from metrics import sql
from metrics.costs.hardware_rates import HOUR, HOUR_US, HardwareRate
from metrics.costs.hardware_work import times_of
from metrics.counting.plausibility import MAX_DURATION_US
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.queries.requests.rows import COLUMNS
from metrics.sql import RunSql, SqlRow
from metrics.times import parse_time

MOST_HOURS = 24  # of one attempt; a longer one is shown without its cost
_KEPT_HOURS = 1000  # facts in memory
_COMPLETED, _DURATION, _ATTEMPTS = (COLUMNS.index(name) for name in ("completed_at", "duration_us", "attempts"))


class RatedPart(NamedTuple):
    """A part of an hour at an endpoint, in seconds since 1970 UTC, and what ran in it."""

    start: int
    end: int
    rate: HardwareRate
    busy_us: int
    all_us: int  # sum of the times of all attempts


PartsOf = Callable[[int, str], Sequence[RatedPart] | None]  # by hour and endpoint; None: not known


class ExportedHardwareCost(TypedDict):
    """Cost of a request at one endpoint. An amount is decimal text in units of the currency."""

    endpoint_id: str
    currency: str
    cost: str


def hardware_costs(row: SqlRow, rated: Iterable[str], parts_of: PartsOf) -> list[ExportedHardwareCost] | None:
    """Return what a row of the history costs at these endpoints. None: an hour of it is not known."""
    moment, duration_us = parse_time(row[_COMPLETED]), row[_DURATION]
    if moment is None or duration_us is None:
        return []
    completed_us = round(moment.timestamp() * 1e6)
    costs: dict[tuple[str, str], int] = {}
    for attempt in stored_attempts(row[_ATTEMPTS]):
        if attempt.endpoint_id in rated:
            attempt_costs = _costs_of(attempt, completed_us, duration_us, parts_of)
            if attempt_costs is None:
                return None
            for currency, cost in attempt_costs.items():
                place = (attempt.endpoint_id, currency)
                costs[place] = costs.get(place, 0) + cost
    return [
        {"endpoint_id": endpoint_id, "currency": currency, "cost": text_of(cost)}
        for (endpoint_id, currency), cost in costs.items()
    ]


def _costs_of(
    attempt: StoredAttempt, completed_us: int, duration_us: int, parts_of: PartsOf
) -> Mapping[str, int] | None:
    if not (0 <= duration_us <= MAX_DURATION_US and 0 <= attempt.duration_us <= MAX_DURATION_US):
        return {}
    start, end = times_of(completed_us, duration_us, attempt.at_us, attempt.duration_us)
    first, last = start // HOUR_US, max(start, end - 1) // HOUR_US
    costs: dict[str, int] = {}
    if last - first >= MOST_HOURS:
        return None
    for hour in range(first, last + 1):
        parts = parts_of(hour, attempt.endpoint_id)
        if parts is None:
            return None
        for part in parts:
            own = min(end, part.end * 1_000_000) - max(start, part.start * 1_000_000)
            if own >= 0 and start < part.end * 1_000_000:
                currency = part.rate.currency
                costs[currency] = costs.get(currency, 0) + part.rate.share(part.busy_us, own, part.all_us)
    return costs


class CountedHours:
    """The parts of hours that are counted. Each hour at an endpoint is read once, with one query."""

    def __init__(self, run: RunSql, rates: Iterable[HardwareRate]) -> None:
        self._run = run
        self._rates = {rate.id: rate for rate in rates}
        self.rated = {rate.endpoint_id for rate in self._rates.values()}
        self._parts: dict[tuple[int, str], list[RatedPart] | None] = {}
        self._positions: dict[str, int] | None = None

    def parts(self, hour: int, endpoint_id: str) -> Sequence[RatedPart] | None:
        """Return the parts of an hour with a rate; None if it is not counted yet, or too long ago."""
        place = (hour, endpoint_id)
        if place not in self._parts:
            if len(self._parts) >= _KEPT_HOURS:
                self._parts.clear()
            self._parts[place] = self._read(hour, endpoint_id)
        return self._parts[place]

    def costs(self, row: SqlRow) -> list[ExportedHardwareCost] | None:
        """Return `hardware_costs` of a row; without a query if there are no rates."""
        return hardware_costs(row, self.rated, self.parts) if self.rated else []

    def _read(self, hour: int, endpoint_id: str) -> list[RatedPart] | None:
        if not any(self._counts_in(rate, hour) for rate in self._rates.values() if rate.endpoint_id == endpoint_id):
            return []
        if self._positions is None:
            rows = self._run(sql.select(("endpoint_id", "hour"), "hardware_positions"), ())
            self._positions = {str(endpoint): int(until) for endpoint, until in rows}
        if hour >= self._positions.get(endpoint_id, 0):
            return None
        sums = ("start", "rate_id", "MAX(seconds)", "MAX(busy_us)", "SUM(work_us)")
        where = ("start >= %s", "start < %s", "endpoint_id = %s")
        statement = sql.select(sums, "hardware_hours", where=where, group_by="start, rate_id", order_by="start")
        rows = self._run(statement, (hour * HOUR, (hour + 1) * HOUR, endpoint_id))
        parts = [
            RatedPart(int(start), int(start) + int(seconds), self._rates[int(rate)], int(busy_us), int(all_us))
            for start, rate, seconds, busy_us, all_us in rows
            if int(rate) in self._rates
        ]
        return parts or None

    @staticmethod
    def _counts_in(rate: HardwareRate, hour: int) -> bool:
        ended = rate.valid_until is not None and rate.valid_until <= hour * HOUR
        return rate.valid_from < (hour + 1) * HOUR and not ended
