"""Costs of requests as budgets of money count them: in the reporting currency, and equal to what Usage shows.

Usage converts each row of `rollup_cost_days` and rounds once. So a request whose price is in another currency adds the
difference that it makes to its row. A gateway cannot know the row: in an epoch that is not included, the converted cost
of the request itself counts. Costs in a currency without a rate count nothing, as Usage never adds them.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from gateway.ipc.record import RequestRecord
from gateway.prices.costs import RequestCost
from gateway.prices.rates import Rates, moment_of
from metrics import sql
from metrics.counting.costs import CostKey, cost_key
from metrics.models import CostDayRollUp
from metrics.prices.registry import price_registry
from metrics.queries.costs.conversion import DAY_RATES, MATCHED, converted, rates_of_days
from metrics.storage.cost_rows import KEYS
from metrics.texts import storable

MAX_ROWS = 100_000  # whose sums are remembered


class Amount(NamedTuple):
    """What a request adds to Usage, and what a gateway counts for it. 10⁻⁹ of the reporting currency."""

    added: int = 0
    counted: int = 0


NOTHING = Amount()


class Money:
    """Costs in the reporting currency, after they were committed. One thread uses it."""

    def __init__(self, zone: ZoneInfo, rates: Callable[[], Rates]) -> None:
        """`rates`: returns the present ones. Raises django.db.Error."""
        self._zone = zone
        self._rates = rates
        self._rows: dict[CostKey, int] = {}  # sums of rows in other currencies, as they are in the database

    def forget(self) -> None:
        """Read the rows again when they are needed: they may have changed in another way than by `begin`."""
        self._rows.clear()

    def begin(self, entries: Iterable[RequestRecord], costs: Mapping[str, RequestCost]) -> None:
        """Prepare for the requests of a committed batch. Raises django.db.Error."""
        reporting = self._rates().reporting
        batch: dict[CostKey, int] = defaultdict(int)
        for entry in entries:
            found = costs.get(entry.id)
            if found is not None:
                _, currency, cost = found
                if currency != reporting:
                    batch[self._key(entry, found)] += cost
        if len(self._rows) > MAX_ROWS:
            self._rows.clear()
        missing = batch.keys() - self._rows.keys()
        if missing:
            self._rows |= {key: sum_ - batch[key] for key, sum_ in _stored(missing)}

    def add(self, entry: RequestRecord, found: RequestCost | None) -> Amount:
        """Return the amount of a request, which is added to its row."""
        if found is None:
            return NOTHING
        _, currency, cost = found
        counted = self.counted(entry, found)
        if currency == self._rates().reporting:
            return Amount(counted, counted)
        key = self._key(entry, found)
        before = self._rows.get(key, 0)
        self._rows[key] = before + cost
        return Amount(self._converted(before + cost, key) - self._converted(before, key), counted)

    def counted(self, entry: RequestRecord, found: RequestCost | None) -> int:
        """Return what a gateway counts for a request."""
        if found is None:
            return 0
        _, currency, cost = found
        return cost if currency == self._rates().reporting else self._converted(cost, self._key(entry, found))

    def _converted(self, cost: int, key: CostKey) -> int:
        return self._rates().converted(cost, key[-1], moment_of(key[0], self._zone)) or 0

    def _key(self, entry: RequestRecord, found: RequestCost) -> CostKey:
        key = cost_key(entry, found, self._zone)
        names = [storable(name) for name in key[1:7]]
        return (key[0], *names, *key[7:])  # type: ignore[return-value]


def _stored(keys: Collection[CostKey]) -> Iterator[tuple[CostKey, int]]:
    """Yield the sums of those of these rows that are stored."""
    columns = ("date", "api_key_id", "price_id", "currency")
    values = [{key[KEYS.index(name)] for key in keys} for name in columns]
    conditions = {f"{name}__in": sorted(found, key=str) for name, found in zip(columns, values, strict=True)}
    for *row, cost in CostDayRollUp.objects.filter(**conditions).values_list(*KEYS, "cost"):
        row[1] = str(row[1])  # the endpoint's id
        key: Any = tuple(row)
        if key in keys:
            yield key, int(cost)


def converted_sums(since: date | None, keys: Collection[str] | None) -> Iterator[tuple[date | None, str, int]]:
    """Yield day, API key and the sum of costs in other currencies, for each day from one on; None: for all time.

    Those without a rate are left out. `keys`: of these only. Raises django.db.Error.
    """
    rates = price_registry.rates()
    if not rates.foreign:
        return
    of_keys = [] if keys is None else [f"api_key_id IN {sql.placeholders(len(keys))}"]
    chosen = list(keys or ())
    where = ["currency <> %s", *([] if since is None else ["date >= %s"]), *of_keys]
    values = [rates.reporting, *([] if since is None else [since.isoformat()]), *chosen]
    group = "api_key_id" if since is None else "date, api_key_id"
    days = sql.select(("DISTINCT date", "currency"), "rollup_cost_days", where=where)
    found = rates_of_days((str(day), str(currency)) for day, currency in _rows(days, values))
    if found is None:
        return
    beginning, rated = found
    columns = ("NULL" if since is None else "date", "api_key_id", f"SUM({converted('cost')})")
    source = f"rollup_cost_days JOIN {DAY_RATES} ON {MATCHED}"
    statement = sql.select(columns, source, where=where, group_by=group)
    for day, key, total in _rows(f"{beginning} {statement}", [*rated, *values]):
        yield None if day is None else date.fromisoformat(str(day)), str(key), int(total or 0)


def _rows(statement: str, values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        yield from cursor.fetchall()
