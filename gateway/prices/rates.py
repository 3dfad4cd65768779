"""Rates of currencies to the reporting currency of the installation. Pure: no I/O."""

from bisect import bisect_right
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateway.prices.book import NANO
from gateway.registry.prices import DatedRate


class Rates:
    """Rates of all currencies to one."""

    def __init__(self, reporting: str, rates: Iterable[DatedRate]) -> None:
        self.reporting = reporting
        self.rates = tuple(rates)
        self._rates: dict[str, list[tuple[int, int]]] = {reporting: [(0, NANO)]}
        for rate in self.rates:
            if rate.reporting == reporting and rate.currency != reporting:
                self._rates.setdefault(rate.currency, []).append((rate.valid_from, rate.rate))
        for dated in self._rates.values():
            dated.sort()

    @property
    def foreign(self) -> list[str]:
        """Return the other currencies that have a rate."""
        return sorted(self._rates.keys() - {self.reporting})

    def rate(self, currency: str, moment: float) -> int | None:
        """Return the worth of one unit in 10⁻⁹ of the reporting currency; None if there is no rate at this moment."""
        dated = self._rates.get(currency, [])
        position = bisect_right(dated, moment, key=lambda dated_rate: dated_rate[0])
        return dated[position - 1][1] if position else None

    def converted(self, amount: int, currency: str, moment: float) -> int | None:
        """Return an amount in 10⁻⁹ of the reporting currency, rounded half up; None if there is no rate."""
        rate = self.rate(currency, moment)
        return None if rate is None else (2 * amount * rate + NANO) // (2 * NANO)

    def converted_on(self, day: str, amount: int, currency: str, zone: ZoneInfo) -> int | None:
        """Return a cost of a local day in 10⁻⁹ of the reporting currency, rounded half up; None if it has no rate."""
        return amount if currency == self.reporting else self.converted(amount, currency, moment_of(day, zone))


def day_of(moment: float, zone: ZoneInfo) -> str:
    """Return the local day of a moment in seconds since 1970, as `2026-11-28`."""
    return datetime.fromtimestamp(moment, zone).date().isoformat()


@lru_cache(maxsize=4096)
def moment_of(day: str, zone: ZoneInfo) -> float:
    """Return the moment whose rate counts for the costs of a local day: its end.

    So a rate counts for the day on which it starts, and those after.
    """
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(), zone).timestamp() - 1
