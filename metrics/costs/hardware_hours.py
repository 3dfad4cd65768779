"""Counting the hours of own hardware: when they are over, and again when a late record has work in them.

Lines of an hour, the sums of its day, and the position of the endpoint are written in one transaction, so a process may
end at any point, and the next one continues. An hour is counted again as the difference to its stored lines.
"""

import logging
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction

from metrics import sql
from metrics.costs import hardware_rows
from metrics.costs.hardware_lines import HardwareSums, lines_of, parts_of
from metrics.costs.hardware_rates import HOUR, HardwareRates
from metrics.costs.hardware_rows import DUE, HOURS
from metrics.costs.hardware_totals import HardwareCosts, HardwareTotals
from metrics.costs.price_cache import price_cache
from metrics.storage import database
from metrics.storage.bulk import Upsert

log = logging.getLogger(__name__)

SETTLE_SECONDS = 300  # after the end of an hour, for requests that are still running
SLICE_HOURS = 200  # of all endpoints in one transaction
SLICE_WORK = 50_000  # attempts in one transaction
POSITIONS = "hardware_positions"
_MOVE = Upsert(POSITIONS, ["endpoint_id"], replaced=["hour"])

EndpointHour = tuple[int, str]  # hour since 1970 UTC, endpoint


class HardwareHours:
    """Counting in the thread of the database writer: between its steps, a slice at a time."""

    def __init__(self, zone: ZoneInfo, totals: HardwareTotals | None = None) -> None:
        self.zone = zone
        self._totals = totals or HardwareTotals()
        self._positions: dict[str, int] | None = None  # at which the totals are true; None: not read yet
        self._counted: tuple[int, HardwareRates] | None = None  # hour and rates up to which all is counted
        self._is_late = False

    def note(self, first_hour: int | None) -> None:
        """Note that work of this hour, and of later ones, was stored."""
        if first_hour is not None and self._counted is not None and first_hour < self._counted[0]:
            self._is_late = True

    def forget(self) -> None:
        """Look at the database again, for example after a backup was restored."""
        self._counted = self._positions = None

    def count(self, now: float) -> bool:
        """Count a slice of the hours that are over. Return True if more remain. Raises django.db.Error."""
        rates = price_cache.hardware()
        limit = settled_hour(now)
        counted = self._counted
        if counted is not None and counted[0] == limit and counted[1] is rates and not self._is_late:
            return False
        with transaction.atomic(), connection.cursor() as cursor:
            if database.vendor() == "postgresql":  # SQLite has one writer at a time
                cursor.execute(f"LOCK TABLE {POSITIONS} IN SHARE ROW EXCLUSIVE MODE")
            positions = read_positions(cursor)
            is_known = positions == self._positions  # else at the start, or another process has counted
            totals = None if is_known else self._read_totals()
            has_more, changes = self._count(cursor, rates, limit, positions)
        if not is_known:
            self._totals.install(totals)
        self._totals.add(changes)
        self._positions = positions
        if not has_more:
            self._counted, self._is_late = (limit, rates), False
            self._prune(limit - settings.ROUTERDASH.history_retention_days * 24)
        return has_more

    @staticmethod
    def _read_totals() -> HardwareCosts | None:
        """Return the costs of all days; None if they cannot be read, so that a damaged table stops nothing else."""
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                return hardware_rows.read_totals(cursor)
        except Exception as error:
            if database.is_away(error):
                raise
            log.warning("the totals of own hardware cannot be read, and stay unknown: %s", error)
            return None

    def _count(
        self, cursor: Any, rates: HardwareRates, limit: int, positions: dict[str, int]
    ) -> tuple[bool, HardwareCosts]:
        """Count a slice and move `positions`. Return whether more remains, and the changes of the totals."""
        moved: dict[str, int] = {}
        changes = HardwareCosts()
        rows = 0
        has_more = False
        for counted, (hour, endpoint_id) in enumerate(_waiting(cursor, rates, positions, limit)):
            if counted >= SLICE_HOURS or rows >= SLICE_WORK:
                has_more = True
                break
            is_new = hour >= positions.get(endpoint_id, 0)
            attempts, changed = self._count_hour(cursor, rates, (hour, endpoint_id), again=not is_new)
            rows += attempts
            changes.update(changed)  # adds
            if is_new:
                moved[endpoint_id] = hour + 1
        _MOVE.write(cursor, sorted(moved.items()))
        positions |= moved
        return has_more, changes

    def _count_hour(
        self, cursor: Any, rates: HardwareRates, place: EndpointHour, *, again: bool
    ) -> tuple[int, HardwareCosts]:
        """Count one hour of an endpoint. Return the number of its attempts, and the changes of the totals."""
        hour, endpoint_id = place
        start, end = hour * HOUR, (hour + 1) * HOUR
        cursor.execute(sql.delete(DUE, " AND ".join(sql.equal(("hour", "endpoint_id")))), place)
        old = hardware_rows.read_hour(cursor, start, end, endpoint_id) if again else {}
        if again and not old:
            log.warning("work of an hour that is older than the history is left out: %s, hour %d", endpoint_id, hour)
            hardware_rows.delete_work(cursor, " AND ".join(sql.equal(("hour", "endpoint_id"))), place)
            return 0, HardwareCosts()
        work = hardware_rows.read_work(cursor, hour, hour + 1, endpoint_id).get(place, [])
        new: dict[tuple[Any, ...], HardwareSums] = {}
        for part in parts_of(rates, endpoint_id, start, end, self.zone):
            for line, sums in lines_of(part, work).items():
                new[part.start, endpoint_id, *line, part.date, part.rate.id, part.rate.currency] = sums
        if old:
            where = ("start >= %s", "start < %s", "endpoint_id = %s")
            cursor.execute(sql.delete(HOURS, " AND ".join(where)), (start, end, endpoint_id))
        hardware_rows.write_hour(cursor, new)
        changes = [*((key, sums, -1) for key, sums in old.items()), *((key, sums, 1) for key, sums in new.items())]
        hardware_rows.add_to_days(cursor, changes)
        return sum(len(line_work.times) for line_work in work), hardware_rows.changed_totals(changes)

    def _prune(self, oldest: int) -> None:
        """Delete work and lines of older hours, one hour in a transaction."""
        while True:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(sql.select("MIN(start)", HOURS))
                ((first,),) = cursor.fetchall()
                if first is None or first >= oldest * HOUR:
                    return
                end = min(oldest, first // HOUR + 1)
                hardware_rows.delete_work(cursor, "hour < %s", [end])
                cursor.execute(sql.delete(HOURS, "start < %s"), [end * HOUR])


def _waiting(cursor: Any, rates: HardwareRates, positions: dict[str, int], limit: int) -> Iterator[EndpointHour]:
    """Yield the hours that are over and not counted yet, then the counted ones with work that came later."""
    for endpoint_id in sorted(rates.by_endpoint):
        for hour in _hours_since(rates, endpoint_id, positions.get(endpoint_id, 0), limit):
            yield hour, endpoint_id
    columns = ("hour", "endpoint_id")
    late = sql.select(columns, DUE, where="hour < %s", order_by=", ".join(columns), limit=SLICE_HOURS + 1)
    cursor.execute(late, [limit])
    for hour, endpoint_id in cursor.fetchall():
        yield int(hour), str(endpoint_id)


def settled_hour(now: float) -> int:
    """Return the hour that is not settled at this moment; all before it are."""
    return int(now - SETTLE_SECONDS) // HOUR


def read_positions(cursor: Any) -> dict[str, int]:
    """Return the hour up to which the cost of each endpoint is counted."""
    cursor.execute(sql.select(("endpoint_id", "hour"), POSITIONS))
    return {str(endpoint_id): int(hour) for endpoint_id, hour in cursor.fetchall()}


def _hours_since(rates: HardwareRates, endpoint_id: str, first: int, limit: int) -> Iterator[int]:
    """Yield the hours with a rate from one hour to another, each once."""
    for span in rates.by_endpoint[endpoint_id]:
        end = limit if span.end is None else min(limit, -(-span.end // HOUR))
        yield from range(max(first, span.start // HOUR), end)
        first = max(first, end)
