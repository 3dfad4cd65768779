"""Rates of currencies to the reporting currency of the installation. Pure: no I/O."""

from bisect import bisect_right
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gateway.prices.book import NANO
from gateway.registry.prices import DatedRate


class Rates:
    """Rates of all currencies to one."""

    def __init__(self, reporting: str, rates: Iterable[DatedRate]) -> None:
        self.reporting = reporting
        self.rates = tuple(rates)
        self._rates: dict[str, list[tuple[int, int]]] = {reporting: [(0, NANO)]}
        for it in self.rates:
            if it.reporting == reporting and it.currency != reporting:
                self._rates.setdefault(it.currency, []).append((it.valid_from, it.rate))
        for dated in self._rates.values():
            dated.sort()

    @property
    def foreign(self) -> list[str]:
        """Return the other currencies that have a rate."""
        return sorted(self._rates.keys() - {self.reporting})

    def rate(self, currency: str, moment: float) -> int | None:
        """Return the worth of one unit in 10⁻⁹ of the reporting currency; None if there is no rate at this moment."""
        dated = self._rates.get(currency, [])
        at = bisect_right(dated, moment, key=lambda it: it[0])
        return dated[at - 1][1] if at else None

    def converted(self, amount: int, currency: str, moment: float) -> int | None:
        """Return an amount in 10⁻⁹ of the reporting currency, rounded half up; None if there is no rate."""
        rate = self.rate(currency, moment)
        return None if rate is None else (2 * amount * rate + NANO) // (2 * NANO)


def moment_of(day: str, zone: ZoneInfo) -> float:
    """Return the moment whose rate counts for the costs of a local day: its end.

    So a rate counts for the day on which it starts, and those after.
    """
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(), zone).timestamp() - 1
