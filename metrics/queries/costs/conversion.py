"""Conversion of sums into the reporting currency, inside the database.

A rate counts for whole local days: for the day on which it starts, and those after. Each row of the roll-up is
converted once and rounded half up to 10⁻⁹, so sums over any groups of rows add up to the same total.
"""

from collections.abc import Iterator
from typing import Any

from django.conf import settings

from gateway.prices.book import NANO
from gateway.prices.rates import moment_of
from metrics import sql
from metrics.prices.registry import price_registry
from metrics.queries.usage_periods import Period
from metrics.storage.database import vendor

DAY_RATES = "day_rates"
MATCHED = f"{DAY_RATES}.of_currency = currency AND {DAY_RATES}.of_date = date"


def day_rates(period: Period) -> tuple[str, list[Any]] | None:
    """Return the rates of each day as a table expression to begin a statement with, and its parameters.

    Return None if no other currency has a rate. Raises django.db.Error.
    """
    rows = list(_rates(period))
    if not rows:
        return None
    columns = {"of_currency": "text", "of_date": "text", "rate": "bigint"}
    return sql.with_rows(DAY_RATES, columns, rows, vendor())


def _rates(period: Period) -> Iterator[tuple[str, str, int]]:
    rates = price_registry.rates()
    for currency in rates.foreign:
        for day in period.dates():
            rate = rates.rate(currency, moment_of(day, settings.ROUTERDASH.zone))
            if rate is not None:
                yield currency, day, rate


def converted(column: str) -> str:
    """Return an expression for an amount in the reporting currency, the same integer as Rates.converted has.

    The product of an amount and a rate exceeds 64 bits: whole units and the rest are converted apart.
    """
    rest, rate_rest = f"({column} %% {NANO})", f"(rate %% {NANO})"
    return f"{column} / {NANO} * rate + {rest} * (rate / {NANO}) + (2 * {rest} * {rate_rest} + {NANO}) / {2 * NANO}"
