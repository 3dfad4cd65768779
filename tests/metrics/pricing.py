"""Prices for tests: two currencies, and a change in the middle."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from gateway.prices.book import NANO
from metrics.prices.registry import price_registry
from metrics.prices.tables import PriceRow
from tests.metrics.records import NOW

CHANGE = NOW - timedelta(minutes=30)
EARLIER = NOW - timedelta(days=100)


def add_price(pattern: str, *, since: datetime = EARLIER, currency: str = "USD", **fields: Any) -> PriceRow:
    """Create a row of the price book. Amounts are in 10⁻⁹."""
    return PriceRow.objects.create(pattern=pattern, valid_from=since, currency=currency, **fields)


@contextmanager
def price_rows() -> Iterator[list[PriceRow]]:
    """Price `tiny` in dollars, with a change at CHANGE, and `large*` in euros."""
    price_registry.forget()
    yield [
        add_price("tiny", input=NANO // 4, cached=NANO // 40, output=2 * NANO),
        add_price("tiny", since=CHANGE, input=NANO // 2 + 1, output=3 * NANO, reasoning=7),
        add_price("large*", currency="EUR", input=3 * NANO, output=15 * NANO, request=11),
    ]
    price_registry.forget()
