"""Costs of requests: computed once, when the database writer folds their records. See docs/concepts/counting.md.

A request costs what its last attempt does, because that is the attempt whose tokens were counted. Cancelled and
truncated requests are included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import msgspec

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.counting.cells import MINUTE_US, local_date
from metrics.counting.fold import GroupKey
from metrics.counting.plausibility import plausible
from metrics.counting.token_details import part_of
from metrics.prices.book import Price, PriceBook, PricedUsage, cost

# Local date, endpoint, asked model, kind, API key; served model, canonical name, step; id of the price, currency.
CostKey = tuple[str, str, str, str, str, str, str, int, int, str]


class RequestCost(msgspec.Struct, frozen=True, gc=False):
    """Cost of one request, in 10⁻⁹ of the currency, and the row of the price book it was computed from."""

    price_id: int
    currency: str
    cost: int


class CostSums(msgspec.Struct, gc=False):
    """Sums over the requests of one key: the columns of the roll-ups by cost."""

    requests: int = 0
    estimated_requests: int = 0  # whose tokens were estimated
    cost: int = 0  # 10⁻⁹ of the currency
    estimated_cost: int = 0  # of the requests whose tokens were estimated

    def add(self, other: "CostSums") -> None:
        self.requests += other.requests
        self.estimated_requests += other.estimated_requests
        self.cost += other.cost
        self.estimated_cost += other.estimated_cost

    def count(self, cost: int, *, estimated: bool, sign: int = 1) -> None:
        """Add one request, or subtract one that was added."""
        self.requests += sign
        self.cost += sign * cost
        if estimated:
            self.estimated_requests += sign
            self.estimated_cost += sign * cost


COST_COLUMNS = CostSums.__struct_fields__


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
        attempts, tokens_in, tokens_out = entry.attempts, plausible(entry.input_tokens), plausible(entry.output_tokens)
        images, audio_ms = plausible(entry.images), plausible(entry.audio_ms)
        is_counted = tokens_in is not None or tokens_out is not None
        has_media = images is not None or audio_ms is not None
        if not attempts or entry.outcome == record.QUEUE or not (is_counted or has_media or entry.outcome == record.OK):
            return None
        last = attempts[-1]
        price = self.book.price(
            served=entry.model if last.served is None else last.served,
            canonical=last.canonical or "",
            endpoint_id=last.endpoint_id,
            provider=self.provider(last.endpoint_id),
            completed_at=entry.completed_us / 1e6,
            prompt=tokens_in or 0,
            tier=entry.service_tier or "",
        )
        if price is None:
            return None
        is_counted = is_counted or price.request is not None
        is_counted = is_counted or (images is not None and price.image is not None)
        is_counted = is_counted or (audio_ms is not None and price.minute is not None)
        if not is_counted:
            return None
        return RequestCost(price.id, price.currency, cost_of(price, entry))


def cost_of(price: Price, entry: RequestRecord) -> int:
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


def cost_key(entry: RequestRecord, found: RequestCost, zone: ZoneInfo) -> CostKey:
    """Return the key of the sums that a request with attempts counts in."""
    last = entry.attempts[-1]
    minute, key_id = entry.completed_us // MINUTE_US, entry.api_key_id or ""
    group = (minute, last.endpoint_id, entry.model, entry.kind, key_id, None, last.served, last.canonical, last.step)
    return group_key(group, found.price_id, found.currency, zone)


def group_key(group: GroupKey, price_id: int, currency: str, zone: ZoneInfo) -> CostKey:
    """Return the key of the sums that a group of requests counts in."""
    minute, endpoint_id, model, kind, api_key_id, _, served, canonical, step = group
    if served is None:
        served = model
    return (
        local_date(minute, zone), endpoint_id, model, kind, api_key_id, served,
        served if canonical is None else canonical, step, price_id, currency,
    )  # fmt: skip


NO_COSTS: Mapping[str, RequestCost] = {}
