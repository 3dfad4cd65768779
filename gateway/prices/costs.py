"""Cost of a request at the price book. Control and gateways compute it from the same fields of the record.

A request costs what its last attempt does, because that is the attempt whose tokens were counted. Cancelled and
truncated requests are included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.prices.book import PriceBook, PricedUsage, cost
from gateway.prices.counts import part_of, plausible
from gateway.registry.prices import Price

# Id of the row of the price book, currency, and the cost of one request in 10⁻⁹ of it. Plain tuples take a third of the
# time of objects with names, and control makes one for each request.
RequestCost = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Pricing:
    """The price book, and the type of each endpoint by its id."""

    book: PriceBook
    provider: Callable[[str], str]

    def rows(self, model: str, endpoint_id: str, served: str | None, canonical: str | None) -> Sequence[Price]:
        """Return the prices that a request to this model at this endpoint may have, the most specific first."""
        return self.book.rows_for(
            served=model if served is None else served,
            canonical=canonical or "",
            endpoint_id=endpoint_id,
            provider=self.provider(endpoint_id),
        )

    def price_of(self, entry: RequestRecord) -> Price | None:
        """Return the price of a request with attempts; None if it has none."""
        last = entry.attempts[-1]
        return self.book.price(
            served=entry.model if last.served is None else last.served,
            canonical=last.canonical or "",
            endpoint_id=last.endpoint_id,
            provider=self.provider(last.endpoint_id),
            completed_at=entry.completed_us / 1e6,
            prompt=plausible(entry.input_tokens) or 0,
            tier=entry.service_tier or "",
        )

    def cost(self, entry: RequestRecord) -> RequestCost | None:
        """Return the cost of a request; None if it has no price, or nothing of it was counted."""
        attempts, tokens_in, tokens_out = entry.attempts, plausible(entry.input_tokens), plausible(entry.output_tokens)
        images, audio_ms = plausible(entry.images), plausible(entry.audio_ms)
        is_counted = tokens_in is not None or tokens_out is not None
        has_media = images is not None or audio_ms is not None
        if not attempts or entry.outcome == record.QUEUE or not (is_counted or has_media or entry.outcome == record.OK):
            return None
        price = self.price_of(entry)
        if price is None:
            return None
        is_counted = is_counted or price.request is not None
        is_counted = is_counted or (images is not None and price.image is not None)
        is_counted = is_counted or (audio_ms is not None and price.minute is not None)
        if not is_counted:
            return None
        return price.id, price.currency, cost_at(price, entry)


def cost_at(price: Price, entry: RequestRecord) -> int:
    """Return the cost of a request at this price, in 10⁻⁹ of its currency."""
    tokens_in, tokens_out = plausible(entry.input_tokens), plausible(entry.output_tokens)
    written = part_of(entry.cache_write_tokens, tokens_in)
    long = part_of(entry.long_write_tokens, written) or 0
    usage = PricedUsage(
        input=tokens_in,
        cached=part_of(entry.cached_tokens, tokens_in),
        write_short=None if written is None else written - long,
        write_long=long,
        output=tokens_out,
        reasoning=part_of(entry.reasoning_tokens, tokens_out),
        images=plausible(entry.images),
        audio_ms=plausible(entry.audio_ms),
    )
    return cost(price, usage)
