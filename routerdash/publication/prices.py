"""Prices and rates for gateways. They are published while there is a budget of money, and cost nothing otherwise."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from access.limits.tables import BudgetRow
from gateway.prices.rows import rows_of
from gateway.registry.limits import MONEY, LimitFacts
from gateway.registry.prices import PriceFacts
from gateway.registry.writer import Changes, RegistryWriter
from metrics.prices.registry import price_registry


def price_rows() -> dict[bytes, PriceFacts]:
    """Return all rows of the table `prices`; none without a budget of money. Raises django.db.Error."""
    if not BudgetRow.objects.filter(unit=MONEY).exists():
        return {}
    rates = price_registry.rates()
    return rows_of(price_registry.book().rows, rates.reporting, rates.rates, time.time())


def needs_prices(limits: LimitFacts | None) -> bool:
    """Return True if these limits have a budget of money."""
    return limits is not None and any(budget.unit == MONEY for budget in limits.budgets)


class LearnedPublisher(Protocol):
    """The part of the publisher that is needed here."""

    def publish_learned(self, changes: Changes) -> None: ...

    def read(self, read: Callable[[RegistryWriter], bool]) -> bool: ...


class PricePublication:
    """Publishes prices and rates. Its method may be called in any thread."""

    def __init__(self, publisher: LearnedPublisher) -> None:
        self._publisher = publisher
        self._lock = threading.Lock()

    def publish(self) -> None:
        """Publish what has changed. Without a budget of money, remove everything. Raises django.db.Error."""
        with self._lock:  # what one thread has read must not replace what another one has read later
            rows = price_rows()
            if rows or self._publisher.read(RegistryWriter.has_prices):
                self._publisher.publish_learned(Changes(prices=rows))
