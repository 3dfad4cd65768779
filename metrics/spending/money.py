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

from gateway.ipc.record import RequestRecord
from gateway.prices.costs import RequestCost
from gateway.prices.rates import Rates
from metrics import sql
from metrics.costs.conversion import DAY_RATES, MATCHED, converted, rates_of_days
from metrics.costs.price_cache import price_cache
from metrics.costs.rows import KEYS
from metrics.costs.sums import CostKey, cost_key
from metrics.counting.cells import MINUTE_US, local_date
from metrics.models import CostDayRollUp
from metrics.queries.stored import run_sql
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
            request_cost = costs.get(entry.id)
            if request_cost is not None:
                _, currency, cost = request_cost
                if currency != reporting:
                    batch[self._key(entry, request_cost)] += cost
        if len(self._rows) > MAX_ROWS:
            self._rows.clear()
        missing = batch.keys() - self._rows.keys()
        if missing:
            self._rows |= {key: sum_ - batch[key] for key, sum_ in _stored(missing)}

    def add(self, entry: RequestRecord, request_cost: RequestCost | None) -> Amount:
        """Return the amount of a request, which is added to its row."""
        if request_cost is None:
            return NOTHING
        _, currency, cost = request_cost
        counted = self.counted(entry, request_cost)
        if currency == self._rates().reporting:
            return Amount(counted, counted)
        key = self._key(entry, request_cost)
        before = self._rows.get(key, 0)
        self._rows[key] = before + cost
        day = key[0]
        added = self._converted(day, before + cost, currency) - self._converted(day, before, currency)
        return Amount(added, counted)

    def counted(self, entry: RequestRecord, request_cost: RequestCost | None) -> int:
        """Return what a gateway counts for a request."""
        if request_cost is None:
            return 0
        _, currency, cost = request_cost
        return self._converted(local_date(entry.completed_us // MINUTE_US, self._zone), cost, currency)

    def _converted(self, day: str, cost: int, currency: str) -> int:
        return self._rates().converted_on(day, cost, currency, self._zone) or 0

    def _key(self, entry: RequestRecord, request_cost: RequestCost) -> CostKey:
        key = cost_key(entry, request_cost, self._zone)
        names = [storable(name) for name in key[1:7]]
        return (key[0], *names, *key[7:])  # type: ignore[return-value]


def _stored(keys: Collection[CostKey]) -> Iterator[tuple[CostKey, int]]:
    """Yield the sums of those of these rows that are stored."""
    columns = ("date", "api_key_id", "price_id", "currency")
    values = [{key[KEYS.index(name)] for key in keys} for name in columns]
    conditions = {
        f"{name}__in": sorted(column_values, key=str) for name, column_values in zip(columns, values, strict=True)
    }
    for *row, cost in CostDayRollUp.objects.filter(**conditions).values_list(*KEYS, "cost"):
        row[1] = str(row[1])  # the endpoint's id
        key: Any = tuple(row)
        if key in keys:
            yield key, int(cost)


def converted_sums(since: date | None, keys: Collection[str] | None) -> Iterator[tuple[date | None, str, int]]:
    """Yield day, API key and the sum of costs in other currencies, for each day from one on; None: for all time.

    Those without a rate are left out. `keys`: of these only. Raises django.db.Error.
    """
    rates = price_cache.rates()
    if not rates.foreign:
        return
    of_keys = [] if keys is None else [f"api_key_id IN {sql.placeholders(len(keys))}"]
    chosen = list(keys or ())
    where = ["currency <> %s", *([] if since is None else ["date >= %s"]), *of_keys]
    values = [rates.reporting, *([] if since is None else [since.isoformat()]), *chosen]
    group = "api_key_id" if since is None else "date, api_key_id"
    days = sql.select(("DISTINCT date", "currency"), "rollup_cost_days", where=where)
    day_rates = rates_of_days((str(day), str(currency)) for day, currency in run_sql(days, values))
    if day_rates is None:
        return
    beginning, rated = day_rates
    columns = ("NULL" if since is None else "date", "api_key_id", f"SUM({converted('cost')})")
    source = f"rollup_cost_days JOIN {DAY_RATES} ON {MATCHED}"
    statement = sql.select(columns, source, where=where, group_by=group)
    for day, key, total in run_sql(f"{beginning} {statement}", [*rated, *values]):
        yield None if day is None else date.fromisoformat(str(day)), str(key), int(total or 0)
