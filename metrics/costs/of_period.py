"""Sums of costs of a period, from the roll-up by day and price."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, TypedDict

from endpoints.openapi.payload_fields import Help
from gateway.prices.amounts import text_of
from metrics import sql
from metrics.costs.conversion import DAY_RATES, MATCHED, converted, day_rates
from metrics.costs.price_cache import price_cache
from metrics.costs.sums import COST_COLUMNS, CostSums
from metrics.queries.stored import run_sql
from metrics.queries.usage_periods import Period

CurrencySums = dict[str, CostSums]  # by currency
_AMOUNTS = ("cost", "estimated_cost")


class CurrencyCostPayload(TypedDict):
    """Costs in one currency, of the requests that have a cost. Amounts in a currency with a rate are converted into
    the reporting currency, which is the first.
    """

    currency: Annotated[str, Help("ISO 4217 code.")]
    cost: Annotated[str, Help("In units of the currency, up to nine decimal places; exact.")]
    estimated_cost: Annotated[str, Help("The part of requests whose tokens were estimated.")]
    requests: int
    estimated_requests: int


def cost_sums(
    group: str, period: Period, where: Sequence[str] = (), values: Sequence[Any] = (), *, day_by_day: bool = False
) -> dict[str, CurrencySums]:
    """Return costs by the values of an expression, `group`, and by currency.

    Costs in a currency with a rate are in the reporting currency. `day_by_day`: one date after another, so that the
    table's key leads to the rows of one endpoint alone. One query. Raises django.db.Error.
    """
    dates = period.dates() if day_by_day else [period.since.isoformat(), period.until.isoformat()]
    span = f"date IN {sql.placeholders(len(dates))}" if day_by_day else "date >= %s AND date <= %s"
    columns = [f"{group} AS value", "currency", *(f"SUM({name})" for name in COST_COLUMNS)]
    rates = day_rates(period)
    if rates is None:
        statement = sql.select(columns, "rollup_cost_days", where=[span, *where], group_by="value, currency")
        rows = [(*row, None, None) for row in run_sql(statement, [*dates, *values])]
    else:
        beginning, rated = rates
        columns += [f"SUM({converted(name)})" for name in _AMOUNTS]
        source = f"rollup_cost_days LEFT JOIN {DAY_RATES} ON {MATCHED}"
        statement = sql.select(columns, source, where=[span, *where], group_by="value, currency, rate IS NULL")
        rows = [tuple(row) for row in run_sql(f"{beginning} {statement}", [*rated, *dates, *values])]
    return _by_value(rows)


def _by_value(rows: Iterable[tuple[Any, ...]]) -> dict[str, CurrencySums]:
    reporting = price_cache.rates().reporting
    sums_by_value: dict[str, CurrencySums] = {}
    for value, currency, requests, estimated_requests, *amounts, cost, estimated_cost in rows:
        if cost is not None:
            currency, amounts = reporting, [cost, estimated_cost]
        sums = CostSums(int(requests), int(estimated_requests), *map(int, amounts))
        sums_by_value.setdefault(str(value), {}).setdefault(str(currency), CostSums()).add(sums)
    return sums_by_value


def total_of(sums: Iterable[CurrencySums]) -> CurrencySums:
    """Return the sums of all these groups."""
    total: CurrencySums = {}
    for by_currency in sums:
        for currency, each in by_currency.items():
            total.setdefault(currency, CostSums()).add(each)
    return total


def costs_payload(sums: Mapping[str, CostSums]) -> list[CurrencyCostPayload]:
    """Return sums as the API has them: the reporting currency first, then those without a rate."""
    reporting = price_cache.rates().reporting
    return [
        {
            "currency": currency,
            "cost": text_of(each.cost),
            "estimated_cost": text_of(each.estimated_cost),
            "requests": each.requests,
            "estimated_requests": each.estimated_requests,
        }
        for currency, each in sorted(sums.items(), key=lambda item: (item[0] != reporting, item[0]))
    ]


class CostsPayload(TypedDict):
    """Costs of some requests, and the number of those without one."""

    costs: Annotated[list[CurrencyCostPayload], Help("By currency; empty if no request has a price.")]
    requests_without_cost: int


def costs_of(requests: int, sums: CurrencySums) -> CostsPayload:
    """Return the costs of a group. `requests`: all that count, cancelled ones included; rejected ones never do."""
    return {
        "costs": costs_payload(sums),
        "requests_without_cost": max(0, requests - sum(each.requests for each in sums.values())),
    }


def last_days(today: str, days: int) -> Period:
    """Return local days up to and including today."""
    last = date.fromisoformat(today)
    return Period(date.fromordinal(last.toordinal() - days + 1), last)
