"""Hours of own hardware that are not counted yet: their costs so far, which are provisional."""

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from django.db import connection

from metrics.costs import hardware_rows
from metrics.costs.hardware_hours import read_positions, settled_hour
from metrics.costs.hardware_lines import HardwareSums, HourPart, lines_of, parts_of
from metrics.costs.hardware_rates import HOUR, HardwareRates
from metrics.costs.hardware_work import LineKey

MOST_HOURS = 3  # of an endpoint, until now: more are only waiting while RouterDash catches up after a stop
MOST_WORK = 200_000  # attempts that a page reads


@dataclass
class ProvisionalLines:
    """Lines of the hours since those that are counted."""

    parts: list[tuple[HourPart, dict[LineKey, HardwareSums]]] = field(default_factory=list)
    is_whole: bool = True  # False: there is too much work, or too many hours are waiting


def provisional(rates: HardwareRates, now: float, zone: ZoneInfo) -> ProvisionalLines:
    """Return the lines of all endpoints up to now. Five queries. Raises django.db.Error."""
    provisional_lines = ProvisionalLines()
    if not rates:
        return provisional_lines
    first, end = settled_hour(now) - MOST_HOURS + 1, int(now) // HOUR + 1
    with connection.cursor() as cursor:
        positions = read_positions(cursor)
        if hardware_rows.count_attempts(cursor, first, end) > MOST_WORK:
            return ProvisionalLines(is_whole=False)
        work = hardware_rows.read_work(cursor, first, end)
    for endpoint_id in rates.by_endpoint:
        since = positions.get(endpoint_id, 0)
        if rates.spans(endpoint_id, since * HOUR, first * HOUR):
            provisional_lines.is_whole = False
        for hour in range(max(since, first), end):
            for part in parts_of(rates, endpoint_id, hour * HOUR, min(int(now), (hour + 1) * HOUR), zone):
                provisional_lines.parts.append((part, lines_of(part, work.get((hour, endpoint_id), ()))))
    return provisional_lines
