"""Own hardware's cost of one request, also in hours that are not counted yet: provisional until then."""

from collections.abc import Sequence

from django.conf import settings
from django.db import connection

from endpoints.registry import registry
from metrics.costs import hardware_rows
from metrics.costs.hardware_lines import busy_time, clipped, parts_of, within_hour
from metrics.costs.hardware_rates import HOUR
from metrics.costs.hardware_shares import CountedHours, RatedPart, hardware_costs
from metrics.costs.hardware_work import TIME_BITS, TIME_MASK
from metrics.costs.price_cache import price_cache
from metrics.hardware.hours import MOST_WORK
from metrics.queries.requests.payload import HardwareCostPayload
from metrics.queries.stored import run_sql
from metrics.sql import SqlRow


def request_hardware(row: SqlRow, now: float) -> list[HardwareCostPayload]:
    """Return the costs of a row of the history; none for hours whose work is not kept, or is too much to read.

    Without rates no query, else one for positions and at most three for each hour. Raises django.db.Error.
    """
    rates = price_cache.hardware()
    if not rates:
        return []
    counted = CountedHours(run_sql, rates.all())
    waiting: set[str] = set()  # endpoints

    def parts(hour: int, endpoint_id: str) -> Sequence[RatedPart] | None:
        rated_parts = counted.parts(hour, endpoint_id)
        if rated_parts is None:
            waiting.add(endpoint_id)
            rated_parts = _so_far(hour, endpoint_id, now)
        return rated_parts

    costs = hardware_costs(row, counted.rated, parts) or []
    return [
        {
            "endpoint_id": cost["endpoint_id"],
            "endpoint_name": registry.name(cost["endpoint_id"]),
            "currency": cost["currency"],
            "cost": cost["cost"],
            "is_provisional": cost["endpoint_id"] in waiting,
        }
        for cost in costs
    ]


def _so_far(hour: int, endpoint_id: str, now: float) -> list[RatedPart] | None:
    """Return the parts of an hour from its work until now; None without any."""
    with connection.cursor() as cursor:
        if hardware_rows.count_attempts(cursor, hour, hour + 1, endpoint_id) not in range(1, MOST_WORK + 1):
            return None
        ((_, work),) = hardware_rows.read_work(cursor, hour, hour + 1, endpoint_id).items()
    rated_parts = []
    end = min(int(now) + 1, (hour + 1) * HOUR)
    for part in parts_of(price_cache.hardware(), endpoint_id, hour * HOUR, end, settings.ROUTERDASH.zone):
        inside = clipped(work, *within_hour(part))
        all_us = sum((both >> TIME_BITS) - (both & TIME_MASK) for line_work in inside for both in line_work.times)
        rated_parts.append(RatedPart(part.start, part.end, part.rate, busy_time(inside), all_us))
    return rated_parts
