"""Hours of own hardware that are not counted yet: their costs so far, which are provisional."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection

from metrics import sql
from metrics.counting.hardware import HardwareSums, HourPart, LineKey, RatedWork, lines_of, parts_of
from metrics.prices.hardware import HOUR, HardwareRates
from metrics.queries.stored import run_sql
from metrics.storage.hardware_hours import read_positions, settled_hour
from metrics.storage.hardware_rows import WORK

MOST_HOURS = 3  # of an endpoint, until now: more are only waiting while RouterDash catches up after a stop
MOST_WORK = 200_000  # rows of work that a page reads


@dataclass
class ProvisionalLines:
    """Lines of the hours since those that are counted."""

    parts: list[tuple[HourPart, dict[LineKey, HardwareSums]]] = field(default_factory=list)
    is_whole: bool = True  # False: there is too much work, or too many hours are waiting


def provisional(rates: HardwareRates, now: float, zone: ZoneInfo) -> ProvisionalLines:
    """Return the lines of all endpoints up to now. Two queries. Raises django.db.Error."""
    found = ProvisionalLines()
    if not rates:
        return found
    with connection.cursor() as cursor:
        positions = read_positions(cursor)
    first = settled_hour(now) - MOST_HOURS + 1
    work = _work_since(first)
    if work is None:
        return ProvisionalLines(is_whole=False)
    for endpoint_id in rates.by_endpoint:
        since = positions.get(endpoint_id, 0)
        if rates.spans(endpoint_id, since * HOUR, first * HOUR):
            found.is_whole = False
        for hour in range(max(since, first), int(now) // HOUR + 1):
            for part in parts_of(rates, endpoint_id, hour * HOUR, min(int(now), (hour + 1) * HOUR), zone):
                found.parts.append((part, lines_of(part, work.get((hour, endpoint_id), ()))))
    return found


def _work_since(hour: int) -> dict[tuple[int, str], list[RatedWork]] | None:
    """Return the work of these hours by hour and endpoint; None if there is too much."""
    rows = run_sql(sql.select(RatedWork._fields, WORK, where="hour >= %s", limit=MOST_WORK + 1), [hour])
    if len(rows) > MOST_WORK:
        return None
    found: dict[tuple[int, str], list[RatedWork]] = {}
    for row in _works(rows):
        found.setdefault((row.hour, row.endpoint_id), []).append(row)
    return found


def _works(rows: list[Any]) -> Iterator[RatedWork]:
    return (RatedWork(row[0], str(row[1]), str(row[2]), *row[3:]) for row in rows)
