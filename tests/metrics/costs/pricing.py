"""Prices for tests: two currencies, and a change in the middle."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from gateway.prices.book import NANO
from metrics.costs.price_cache import price_cache
from metrics.costs.rollups import CostKey, CostSum
from metrics.costs.tables import PriceRow
from tests.metrics.records import NOW, A

CHANGE = NOW - timedelta(minutes=30)
EARLIER = NOW - timedelta(days=100)


def add_price(pattern: str, *, since: datetime = EARLIER, currency: str = "USD", **fields: Any) -> PriceRow:
    """Create a row of the price book. Amounts are in 10⁻⁹."""
    return PriceRow.objects.create(pattern=pattern, valid_from=since, currency=currency, **fields)


def count_cost(row: PriceRow) -> None:
    """Store that a request had this price."""
    number = CostKey.objects.count()
    CostKey.objects.create(
        number=number, date=f"{NOW:%Y-%m-%d}", endpoint_id=A, model="m", kind="chat_completions", api_key_id="",
        served="m", canonical="m", step=0, price_id=row.pk, currency=row.currency,
    )  # fmt: skip
    CostSum.objects.create(number=number, requests=1, estimated_requests=0, cost=NANO, estimated_cost=0)


@contextmanager
def price_rows() -> Iterator[list[PriceRow]]:
    """Price `tiny` in dollars, with a change at CHANGE, and `large*` in euros."""
    price_cache.forget()
    yield [
        add_price("tiny", input=NANO // 4, cached=NANO // 40, output=2 * NANO),
        add_price("tiny", since=CHANGE, input=NANO // 2 + 1, output=3 * NANO, reasoning=7),
        add_price("large*", currency="EUR", input=3 * NANO, output=15 * NANO, request=11),
    ]
    price_cache.forget()
