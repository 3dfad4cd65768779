"""Writing the work of requests at own hardware, inside the transaction of their history rows."""

from collections.abc import Iterable, Sequence
from typing import Any

from gateway.ipc.record import RequestRecord
from metrics import sql
from metrics.counting.hardware import HARDWARE_COLUMNS, HardwareSums, RatedWork, work_of
from metrics.prices.registry import price_registry
from metrics.storage.bulk import Upsert
from metrics.storage.database import storable

WORK, DUE, HOURS, DAYS = "hardware_work", "hardware_due", "hardware_hours", "rollup_hardware_days"
LINE = ("model", "kind", "api_key_id")
DAY_KEYS = ("date", "endpoint_id", "rate_id", "currency", *LINE)
HOUR_KEYS = ("start", "endpoint_id", *LINE)
_WORK_KEYS = ("hour", "endpoint_id", "request_id", "attempt")
_WRITE_WORK = Upsert(WORK, _WORK_KEYS, replaced=RatedWork._fields[len(_WORK_KEYS) :])
WRITE_DAYS = Upsert(DAYS, DAY_KEYS, added=HARDWARE_COLUMNS)
WRITE_HOURS = Upsert(HOURS, HOUR_KEYS, replaced=("date", "rate_id", "currency", *HARDWARE_COLUMNS))


def write(cursor: Any, entries: Iterable[RequestRecord]) -> int | None:
    """Store the work of these requests, and that their hours are due. Return the first of these hours, or None."""
    work = sorted(
        it if it.model.isprintable() else it._replace(model=storable(it.model))
        for it in work_of(entries, price_registry.hardware())
    )
    if not work:
        return None
    _WRITE_WORK.write(cursor, work)
    due = sorted({(it.hour, it.endpoint_id) for it in work})
    cursor.executemany(f"{sql.insert(DUE, ('hour', 'endpoint_id'))} ON CONFLICT DO NOTHING", due)
    return work[0].hour


def read_work(cursor: Any, hour: int, endpoint_id: str) -> list[RatedWork]:
    """Return the work of one hour at an endpoint."""
    where = sql.equal(("hour", "endpoint_id"))
    cursor.execute(sql.select(RatedWork._fields, WORK, where=where), (hour, endpoint_id))
    return [RatedWork(row[0], str(row[1]), str(row[2]), *row[3:]) for row in cursor.fetchall()]


def read_hour(cursor: Any, start: int, end: int, endpoint_id: str) -> dict[tuple[Any, ...], HardwareSums]:
    """Return the lines of the parts of an hour, by their key in HOURS, date, rate and currency."""
    columns = (*HOUR_KEYS, "date", "rate_id", "currency", *HARDWARE_COLUMNS)
    where = ("start >= %s", "start < %s", "endpoint_id = %s")
    cursor.execute(sql.select(columns, HOURS, where=where), (start, end, endpoint_id))
    found = {}
    for first, endpoint, *rest in cursor.fetchall():
        found[first, str(endpoint), *rest[:6]] = HardwareSums(*rest[6:])
    return found


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
