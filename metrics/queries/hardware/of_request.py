"""Own hardware's cost of one request, also in hours that are not counted yet: provisional until then."""

from collections.abc import Sequence

from django.conf import settings
from django.db import connection

from endpoints.registry import registry
from metrics.counting.hardware import busy_time, clipped, parts_of, within_hour
from metrics.counting.hardware_work import TIME_BITS, TIME_MASK
from metrics.prices.hardware import HOUR
from metrics.prices.registry import price_registry
from metrics.queries.hardware.hours import MOST_WORK
from metrics.queries.hardware.shares import CountedHours, RatedPart, hardware_costs
from metrics.queries.requests.payload import RequestHardwarePayload
from metrics.queries.stored import run_sql
from metrics.sql import SqlRow
from metrics.storage import hardware_rows


def request_hardware(row: SqlRow, now: float) -> list[RequestHardwarePayload]:
    """Return the costs of a row of the history; none for hours whose work is not kept, or is too much to read.

    Without rates no query, else one for positions and at most three for each hour. Raises django.db.Error.
    """
    rates = price_registry.hardware()
    if not rates:
        return []
    counted = CountedHours(run_sql, rates.all())
    waiting: set[str] = set()  # endpoints

    def parts(hour: int, endpoint_id: str) -> Sequence[RatedPart] | None:
        found = counted.parts(hour, endpoint_id)
        if found is None:
            waiting.add(endpoint_id)
            found = _so_far(hour, endpoint_id, now)
        return found

    costs = hardware_costs(row, counted.rated, parts) or []
    return [
        {
            "endpoint_id": it["endpoint_id"],
            "endpoint_name": registry.name(it["endpoint_id"]),
            "currency": it["currency"],
            "cost": it["cost"],
            "is_provisional": it["endpoint_id"] in waiting,
        }
        for it in costs
    ]


def _so_far(hour: int, endpoint_id: str, now: float) -> list[RatedPart] | None:
    """Return the parts of an hour from its work until now; None without any."""
    with connection.cursor() as cursor:
        if hardware_rows.count_attempts(cursor, hour, hour + 1, endpoint_id) not in range(1, MOST_WORK + 1):
            return None
        ((_, work),) = hardware_rows.read_work(cursor, hour, hour + 1, endpoint_id).items()
    found = []
    end = min(int(now) + 1, (hour + 1) * HOUR)
    for part in parts_of(price_registry.hardware(), endpoint_id, hour * HOUR, end, settings.ROUTERDASH.zone):
        inside = clipped(work, *within_hour(part))
        all_us = sum((both >> TIME_BITS) - (both & TIME_MASK) for it in inside for both in it.times)
        found.append(RatedPart(part.start, part.end, part.rate, busy_time(inside), all_us))
    return found
