"""Costs of requests in a gateway, in the reporting currency, by the published prices and rates.

Control computes the same integers when it folds the record. It converts sums, so that its total may differ from that of
a gateway by half of 10⁻⁹ for each request whose price is in another currency.
"""

from collections.abc import Callable, Iterable, Sequence
from zoneinfo import ZoneInfo

from gateway.ipc.record import RequestRecord
from gateway.prices import catalogue
from gateway.prices.book import PriceBook, first
from gateway.prices.costs import Pricing
from gateway.prices.evaluation import PricedUsage, cost
from gateway.prices.most import most_at
from gateway.prices.rates import Rates, day_of
from gateway.registry.prices import Price
from gateway.registry.reader import RegistryReader
from gateway.registry.schema import RATES, price_key

DAY_SECONDS = 86_400


class PublishedPrices:
    """Prices of one gateway. All methods raise StoreUnreadable if rows that are not in memory cannot be read."""

    def __init__(self, reader: RegistryReader, provider: Callable[[str], str], zone: ZoneInfo) -> None:
        """`provider`: returns the type of an endpoint by its id; empty: unknown."""
        self._reader = reader
        self._provider = provider
        self._zone = zone
        self._version = -1  # of the prices in memory
        self._pricing = Pricing(PriceBook(()), provider)
        self._rates = Rates("", ())

    def cost_of(self, entry: RequestRecord) -> int | None:
        """Return the cost of a finished request in 10⁻⁹ of the reporting currency.

        None: it has no price, nothing of it was counted, or its currency has no rate.
        """
        request_cost = self._follow().cost(entry)
        if request_cost is None:
            return None
        _, currency, cost = request_cost
        return self._converted(cost, currency, entry.completed_us / 1e6)

    def expected_cost(
        self,
        rows: Sequence[Price],
        moment: float,
        tokens_in: int,
        tokens_out: int,
        tier: str = "",
        images: int = 0,
        audio_ms: int = 0,
    ) -> int | None:
        """Return what a request is expected to cost that ends at a moment; None: no price, or no rate.

        `moment` is in seconds since 1970, `rows` are those of `rows_for`. `tier` is the service tier that the client
        asks for.
        """
        price = first((row for row in rows if row.counts_at(moment)), tokens_in, tier)
        if price is None:
            return None
        usage = PricedUsage(input=tokens_in, output=tokens_out, images=images, audio_ms=audio_ms)
        return self._converted(cost(price, usage), price.currency, moment)

    def most_cost(
        self,
        rows: Sequence[Price],
        moment: float,
        tokens_in: int,
        tokens_out: int,
        images: int = 0,
        audio_ms: int = 0,
    ) -> int | None:
        """Return the most that a request can cost that ends within a day of a moment; None: no price, or no rate.

        It holds for any service tier, hour, use of caches and share of reasoning. The numbers of tokens and images, and
        the duration of audio, are the most that it can have.
        """
        most: int | None = None
        until = moment + DAY_SECONDS
        for currency, amount in most_at(rows, moment, until, tokens_in, tokens_out, images, audio_ms).items():
            for completed_at in (moment, until):  # a rate counts for a whole day
                converted = self._converted(amount, currency, completed_at)
                if converted is not None and (most is None or converted > most):
                    most = converted
        return most

    def rows_for(self, served: str, canonical: str | None, endpoint_id: str) -> Sequence[Price]:
        """Return the prices that requests to a model at an endpoint may have, the most specific first."""
        return self._follow().rows(served, endpoint_id, None, canonical)

    def _follow(self) -> Pricing:
        """Return the pricing of the present version."""
        reader = self._reader
        if self._version != reader.prices_version:
            patterns = (price for facts in reader.price_patterns() for price in facts.prices)
            rates = reader.prices(RATES)
            self._pricing = Pricing(PriceBook(patterns, catalogue.prices, self._named), self._provider)
            self._rates = Rates(rates.reporting, rates.rates)
            self._version = reader.prices_version  # reading may have followed a change
        return self._pricing

    def _named(self, name: str) -> Iterable[Price]:
        return () if "*" in name else self._reader.prices(price_key(name)).prices

    def _converted(self, amount: int, currency: str, moment: float) -> int | None:
        self._follow()
        return self._rates.converted_on(day_of(moment, self._zone), amount, currency, self._zone)
