"""Writing the work of requests at own hardware, inside the transaction of their history rows."""

from collections.abc import Sequence
from typing import Any

from metrics import sql
from metrics.costs.hardware_lines import HARDWARE_COLUMNS, IDLE, HardwareSums
from metrics.costs.hardware_rates import HOUR_US
from metrics.costs.hardware_totals import HardwareCosts
from metrics.costs.hardware_work import LineWork, Place, pack, unpack, work_of
from metrics.costs.price_cache import price_cache
from metrics.counting.fold import Fold
from metrics.storage import bulk
from metrics.storage.bulk import Columns, Upsert
from metrics.texts import storable

BATCHES, DUE, HOURS, DAYS = "hardware_batches", "hardware_due", "hardware_hours", "rollup_hardware_days"
OLD_WORK = "hardware_work"  # a row for each attempt, of earlier versions
LINE = ("model", "kind", "api_key_id")
DAY_KEYS = ("date", "endpoint_id", "rate_id", "currency", *LINE)
HOUR_KEYS = ("start", "endpoint_id", *LINE)
IS_IDLE = f"CASE WHEN kind = '{IDLE}' THEN 1 ELSE 0 END AS is_idle"
_BATCH = Columns((), ("hour", "endpoint_id", "attempts", "work"))
_OLD_COLUMNS = (
    "hour", "endpoint_id", "start_us", "end_us", *LINE, "requests", "input_tokens", "output_tokens", "cached_tokens",
    "write_tokens", "long_write_tokens", "reasoning_tokens",
)  # fmt: skip
WRITE_DAYS = Upsert(DAYS, DAY_KEYS, added=HARDWARE_COLUMNS)
WRITE_HOURS = Upsert(HOURS, HOUR_KEYS, replaced=("date", "rate_id", "currency", *HARDWARE_COLUMNS))


def write(cursor: Any, fold: Fold) -> int | None:
    """Store the work of these requests, and that their hours are due. Return the first of these hours, or None."""
    work_by_place = work_of(fold, price_cache.hardware())
    if not work_by_place:
        return None
    places = sorted(work_by_place)
    bulk.insert(cursor, BATCHES, _BATCH, [((), [(*place, *_packed(work_by_place[place])) for place in places])])
    bulk.add(cursor, DUE, ("hour", "endpoint_id"), places, new_only=True)
    return places[0][0]


def _packed(work: Sequence[LineWork]) -> tuple[int, bytes]:
    for line_work in work:
        if not line_work.model.isprintable():
            line_work.model = storable(line_work.model)
    return sum([len(line_work.times) for line_work in work]), pack(work)


def read_work(cursor: Any, first: int, end: int, endpoint_id: str = "") -> dict[Place, list[LineWork]]:
    """Return the work of the hours from `first` to `end`, without `end`; of one endpoint, or of all. Two queries."""
    where, values = _hours(first, end, endpoint_id)
    work_by_place: dict[Place, list[LineWork]] = {}
    cursor.execute(sql.select(("hour", "endpoint_id", "work"), BATCHES, where=where, order_by="id"), values)
    for hour, endpoint, work in cursor.fetchall():
        work_by_place.setdefault((int(hour), str(endpoint)), []).extend(unpack(bytes(work)))
    cursor.execute(sql.select(_OLD_COLUMNS, OLD_WORK, where=where), values)
    for hour, endpoint, start_us, end_us, model, kind, key, *counts in cursor.fetchall():
        work = LineWork(str(model), str(kind), str(key))
        work.add(start_us - hour * HOUR_US, end_us - hour * HOUR_US, tuple(counts) if counts[0] else None)
        work_by_place.setdefault((int(hour), str(endpoint)), []).append(work)
    return work_by_place


def count_attempts(cursor: Any, first: int, end: int, endpoint_id: str = "") -> int:
    """Return the number of attempts that `read_work` reads. Two queries."""
    total = 0
    where, values = _hours(first, end, endpoint_id)
    for columns, table in (("SUM(attempts)", BATCHES), ("COUNT(*)", OLD_WORK)):
        cursor.execute(sql.select(columns, table, where=where), values)
        total += int(cursor.fetchone()[0] or 0)
    return total


def _hours(first: int, end: int, endpoint_id: str) -> tuple[list[str], list[Any]]:
    """Return conditions and their parameters."""
    if endpoint_id:
        return ["hour >= %s", "hour < %s", "endpoint_id = %s"], [first, end, endpoint_id]
    return ["hour >= %s", "hour < %s"], [first, end]


def delete_work(cursor: Any, where: str, values: Sequence[Any]) -> None:
    """Delete work by a condition of `hour` and `endpoint_id`."""
    for table in (BATCHES, OLD_WORK):
        cursor.execute(sql.delete(table, where), values)


def read_hour(cursor: Any, start: int, end: int, endpoint_id: str) -> dict[tuple[Any, ...], HardwareSums]:
    """Return the lines of the parts of an hour, by their key in HOURS, date, rate and currency."""
    columns = (*HOUR_KEYS, "date", "rate_id", "currency", *HARDWARE_COLUMNS)
    where = ("start >= %s", "start < %s", "endpoint_id = %s")
    cursor.execute(sql.select(columns, HOURS, where=where), (start, end, endpoint_id))
    lines = {}
    for first, endpoint, *rest in cursor.fetchall():
        lines[first, str(endpoint), *rest[:6]] = HardwareSums(*rest[6:])
    return lines


def write_hour(cursor: Any, lines: dict[tuple[Any, ...], HardwareSums]) -> None:
    """Write lines, by the key of `read_hour`."""
    WRITE_HOURS.write(cursor, [(*key, *lines[key].values) for key in sorted(lines)])


def add_to_days(cursor: Any, lines: Sequence[tuple[tuple[Any, ...], HardwareSums, int]]) -> None:
    """Add lines to the days, or subtract them: each with the key of `read_hour` and its sign."""
    days: dict[tuple[Any, ...], HardwareSums] = {}
    for (_, endpoint_id, *line, date, rate_id, currency), sums, sign in lines:
        days.setdefault((date, endpoint_id, rate_id, currency, *line), HardwareSums()).add(sums, sign)
    changed = {key: sums for key, sums in days.items() if any(sums.values)}
    WRITE_DAYS.write(cursor, [(*key, *changed[key].values) for key in sorted(changed)])


def read_totals(cursor: Any) -> HardwareCosts:
    """Return the costs of all days."""
    columns = ("endpoint_id", "currency", IS_IDLE, "SUM(cost)")
    cursor.execute(sql.select(columns, DAYS, group_by="endpoint_id, currency, is_idle"))
    return HardwareCosts(
        {(str(endpoint), str(currency), bool(idle)): int(cost) for endpoint, currency, idle, cost in cursor.fetchall()}
    )


def changed_totals(lines: Sequence[tuple[tuple[Any, ...], HardwareSums, int]]) -> HardwareCosts:
    """Return the changes of `read_totals` by the lines of `add_to_days`."""
    changes = HardwareCosts()
    for (_, endpoint_id, _, kind, _, _, _, currency), sums, sign in lines:
        changes[endpoint_id, currency, kind == IDLE] += sign * sums.cost
    return changes
