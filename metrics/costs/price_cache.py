"""The price book, the rates of currencies and those of own hardware in the memory of a process.

The process that edits a price reads the tables again on commit. Others, such as control while a command imports prices,
see a counter: see endpoints.changes.counters.
"""

import time
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from endpoints.cached_table import Refreshed
from endpoints.changes import counters
from endpoints.models import Endpoint
from gateway.prices import catalogue
from gateway.prices.book import PriceBook
from gateway.prices.rates import Rates
from metrics.costs.hardware_rates import HardwareRates
from metrics.costs.hardware_tables import HardwareRateRow, end_rates
from metrics.costs.tables import CurrencyRate, PriceRow

COUNTER = "prices"
MAX_AGE_SECONDS = 5.0  # less than metrics.costs.tables.NOTICE_SECONDS


class PriceCache(Refreshed[()]):
    """Cache of prices and rates. Listeners are called in the thread that has read them again."""

    def __init__(self) -> None:
        super().__init__("prices")
        self._loaded: tuple[PriceBook, Rates, HardwareRates] | None = None  # None: not read yet
        self._count: int | None = None  # of the edits that are read
        self._followed_at = 0.0  # time.monotonic() at which no edit was missing

    def book(self) -> PriceBook:
        """Return the price book. The first call reads the database. Raises django.db.Error."""
        return self._read()[0]

    def fresh_book(self) -> PriceBook:
        """Return the price book with each row that has begun to count. Raises django.db.Error.

        After an outage of the database, or if this process stood still, others may have added rows meanwhile.
        """
        if self._loaded is not None and time.monotonic() - self._followed_at > MAX_AGE_SECONDS:
            self.follow(counters.read().get(COUNTER, 0))
        return self.book()

    def rates(self) -> Rates:
        """Return the rates to the reporting currency. The first call reads the database. Raises django.db.Error."""
        return self._read()[1]

    def hardware(self) -> HardwareRates:
        """Return the rates of own hardware. The first call reads the database. Raises django.db.Error."""
        return self._read()[2]

    def reload(self) -> None:
        """Read prices and rates again. Raises django.db.Error, after which the old ones stay."""
        with self._writing:
            self._load()
        self.outdated = False
        self._notify()

    def follow(self, count: int) -> None:
        """Read prices and rates again if other processes have edited them. Raises django.db.Error.

        `count` is the value of COUNTER.
        """
        if self._loaded is not None and self._count != count:
            self.reload()
        else:
            self._followed_at = time.monotonic()

    def refresh(self) -> None:
        """Read prices and rates again on commit of an edit. After a database error, `follow` tries again."""
        if self._loaded is not None:
            self._try(self.reload)

    def forget(self) -> None:
        """Reset to the state before the first load; for tests."""
        self._loaded = self._count = None

    def _read(self) -> tuple[PriceBook, Rates, HardwareRates]:
        loaded = self._loaded
        if loaded is None:
            with self._writing:
                loaded = self._loaded or self._load()
        return loaded

    def _load(self) -> tuple[PriceBook, Rates, HardwareRates]:
        now = time.monotonic()
        count = counters.read().get(COUNTER, 0)  # before the rows: an edit in between is read again
        book = PriceBook([row.price() for row in PriceRow.objects.all()], catalogue.prices)
        rates = Rates(settings.ROUTERDASH.currency, [row.dated() for row in CurrencyRate.objects.all()])
        hardware = HardwareRates(row.rate() for row in HardwareRateRow.objects.all())
        self._loaded, self._count, self._followed_at = (book, rates, hardware), count, now
        return self._loaded


price_cache = PriceCache()


def changed() -> None:
    """Announce an edit of prices or rates. Call this inside the transaction of the edit."""
    counters.bump(COUNTER)
    transaction.on_commit(price_cache.refresh)


@receiver([post_save, post_delete], sender=PriceRow, dispatch_uid="metrics.price_changed")
@receiver([post_save, post_delete], sender=CurrencyRate, dispatch_uid="metrics.rate_changed")
@receiver([post_save, post_delete], sender=HardwareRateRow, dispatch_uid="metrics.hardware_rate_changed")
def row_changed(**kwargs: Any) -> None:
    changed()


@receiver(post_delete, sender=Endpoint, dispatch_uid="metrics.rates_of_endpoint_end")
def endpoint_deleted(instance: Endpoint, **kwargs: Any) -> None:
    """A deleted endpoint costs nothing from now on. What it cost stays."""
    end_rates(instance.pk)
