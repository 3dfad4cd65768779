"""Cost of a request at the price book. Control and gateways compute it from the same fields of the record.

A request costs what its last attempt does, because that is the attempt whose tokens were counted. Cancelled and
truncated requests are included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.prices.book import PriceBook
from gateway.prices.evaluation import ReportedCounts, cost, usage_of
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

    def cost(self, entry: RequestRecord) -> RequestCost | None:
        """Return the cost of a request; None if it has no price, or nothing of it was counted."""
        if not entry.attempts or entry.outcome == record.QUEUE:
            return None
        usage = usage_of(
            ReportedCounts(
                input_tokens=entry.input_tokens,
                output_tokens=entry.output_tokens,
                cached_tokens=entry.cached_tokens,
                cache_write_tokens=entry.cache_write_tokens,
                long_write_tokens=entry.long_write_tokens,
                reasoning_tokens=entry.reasoning_tokens,
                images=entry.images,
                audio_ms=entry.audio_ms,
            )
        )
        has_tokens = usage.input is not None or usage.output is not None
        has_media = usage.images is not None or usage.audio_ms is not None
        if not (has_tokens or has_media or entry.outcome == record.OK):
            return None
        last = entry.attempts[-1]
        price = self.book.price(
            served=entry.model if last.served is None else last.served,
            canonical=last.canonical or "",
            endpoint_id=last.endpoint_id,
            provider=self.provider(last.endpoint_id),
            completed_at=entry.completed_us / 1e6,
            prompt=usage.input or 0,
            tier=entry.service_tier or "",
        )
        if price is None:
            return None
        is_counted = (
            has_tokens
            or price.request is not None
            or (usage.images is not None and price.image is not None)
            or (usage.audio_ms is not None and price.minute is not None)
        )
        return (price.id, price.currency, cost(price, usage)) if is_counted else None
