"""Conversion of sums into the reporting currency, inside the database.

A rate counts for whole local days: for the day on which it starts, and those after. Each row of the roll-up is
converted once and rounded half up to 10⁻⁹, so sums over any groups of rows add up to the same total.
"""

from collections.abc import Iterable
from typing import Any

from django.conf import settings

from gateway.prices.book import NANO
from gateway.prices.rates import moment_of
from metrics import sql
from metrics.costs.price_cache import price_cache
from metrics.queries.usage_periods import Period
from metrics.storage.database import vendor

DAY_RATES = "day_rates"
MATCHED = f"{DAY_RATES}.of_currency = currency AND {DAY_RATES}.of_date = date"


def day_rates(period: Period) -> tuple[str, list[Any]] | None:
    """Return the rates of each day as a table expression to begin a statement with, and its parameters.

    Return None if no other currency has a rate. Raises django.db.Error.
    """
    days = period.dates()
    return rates_of_days((day, currency) for currency in price_cache.rates().foreign for day in days)


def rates_of_days(days: Iterable[tuple[str, str]]) -> tuple[str, list[Any]] | None:
    """Return the rates of different days and currencies as `day_rates` does; None if there are none."""
    rates, zone = price_cache.rates(), settings.ROUTERDASH.zone
    dated_rates = ((currency, day, rates.rate(currency, moment_of(day, zone))) for day, currency in days)
    rows = [row for row in dated_rates if row[2] is not None]
    if not rows:
        return None
    columns = {"of_currency": "text", "of_date": "text", "rate": "bigint"}
    return sql.with_rows(DAY_RATES, columns, rows, vendor())


def converted(column: str) -> str:
    """Return an expression for an amount in the reporting currency, the same integer as Rates.converted has.

    The product of an amount and a rate exceeds 64 bits: whole units and the rest are converted apart.
    """
    rest, rate_rest = f"({column} %% {NANO})", f"(rate %% {NANO})"
    return f"{column} / {NANO} * rate + {rest} * (rate / {NANO}) + (2 * {rest} * {rate_rest} + {NANO}) / {2 * NANO}"
