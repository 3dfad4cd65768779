"""Which prices and rates are published for gateways, as rows of the registry store. Pure: no I/O."""

from collections.abc import Iterable

from gateway.registry.prices import DatedRate, Price, PriceFacts
from gateway.registry.schema import RATES, price_key

KEPT_SECONDS = 172_800  # for which what has ended is published: requests may last, and rates count for whole days


def rows_of(prices: Iterable[Price], reporting: str, rates: Iterable[DatedRate], now: float) -> dict[bytes, PriceFacts]:
    """Return the rows by their keys. `reporting` is the currency of budgets, `now` in seconds since 1970."""
    by_pattern: dict[str, list[Price]] = {}
    for price in prices:
        if price.valid_until is None or price.valid_until > now - KEPT_SECONDS:
            by_pattern.setdefault(price.pattern.casefold(), []).append(price)
    rows = {
        price_key(pattern): PriceFacts(tuple(sorted(of_pattern, key=lambda price: price.id)))
        for pattern, of_pattern in by_pattern.items()
    }
    rows[RATES] = PriceFacts(reporting=reporting, rates=tuple(_recent(rates, reporting, now - KEPT_SECONDS)))
    return rows


def _recent(rates: Iterable[DatedRate], reporting: str, since: float) -> list[DatedRate]:
    """Return the rates that begin after a moment, and of each currency the one that counts then, in a fixed order."""
    latest: dict[str, DatedRate] = {}
    later_rates: list[DatedRate] = []
    for rate in rates:
        if rate.reporting != reporting:
            continue
        if rate.valid_from > since:
            later_rates.append(rate)
        elif rate.currency not in latest or latest[rate.currency].valid_from < rate.valid_from:
            latest[rate.currency] = rate
    return sorted([*latest.values(), *later_rates], key=lambda rate: (rate.currency, rate.valid_from))
