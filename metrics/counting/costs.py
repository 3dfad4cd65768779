"""Costs of requests: computed once, when the database writer folds their records. See docs/concepts/counting.md.

A request costs what its last attempt does, because that is the attempt whose tokens were counted. Cancelled and
truncated requests are included.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.counting.cells import MINUTE_US, local_date
from metrics.counting.plausibility import plausible
from metrics.counting.token_details import part_of
from metrics.prices.book import Price, PriceBook, PricedUsage, cost

# Local date, endpoint, asked model, kind, API key; served model, canonical name, step; id of the price, currency.
CostKey = tuple[str, str, str, str, str, str, str, int, int, str]


class RequestCost(NamedTuple):
    """Cost of one request, in 10⁻⁹ of the currency, and the row of the price book it was computed from."""

    price_id: int
    currency: str
    cost: int


@dataclass(slots=True)
class CostSums:
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


COST_COLUMNS = tuple(item.name for item in fields(CostSums))


@dataclass(frozen=True, slots=True)
class Pricing:
    """The price book, and the type of each endpoint by its id."""

    book: PriceBook
    provider: Callable[[str], str]

    def has_rows(self, model: str, endpoint_id: str, served: str | None, canonical: str | None) -> bool:
        """Return False if no request to this model at this endpoint can have a price."""
        served = model if served is None else served
        provider = self.provider(endpoint_id)
        return bool(
            self.book.rows_for(served=served, canonical=canonical or "", endpoint_id=endpoint_id, provider=provider)
        )

    def cost(self, entry: RequestRecord) -> RequestCost | None:
        """Return the cost of a request; None if it has no price, or nothing of it was counted."""
        attempts, tokens_in, tokens_out = entry.attempts, plausible(entry.input_tokens), plausible(entry.output_tokens)
        is_counted = tokens_in is not None or tokens_out is not None
        if not attempts or entry.outcome == record.QUEUE or not (is_counted or entry.outcome == record.OK):
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
        if price is None or not (is_counted or price.request is not None):
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
    )
    return cost(price, usage)


@dataclass(slots=True)
class Costs:
    """Costs of a batch of requests, by id, and their sums."""

    by_id: dict[str, RequestCost] = field(default_factory=dict)
    sums: dict[CostKey, CostSums] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[RequestRecord], pricing: Pricing, zone: ZoneInfo) -> "Costs":
        costs = cls()
        priced: dict[tuple[str, str, str | None, str | None], bool] = {}  # most models have no price: skipped at once
        for entry in entries:
            if not entry.attempts:
                continue
            last = entry.attempts[-1]
            model = (entry.model, last.endpoint_id, last.served, last.canonical)
            may_cost = priced.get(model)
            if may_cost is None:
                may_cost = priced[model] = pricing.has_rows(*model)
            if not may_cost:
                continue
            found = pricing.cost(entry)
            if found is not None:
                costs.by_id[entry.id] = found
                key = cost_key(entry, found, zone)
                sums = costs.sums.get(key)
                if sums is None:
                    sums = costs.sums[key] = CostSums()
                sums.count(found.cost, estimated=entry.estimated)
        return costs


def cost_key(entry: RequestRecord, found: RequestCost, zone: ZoneInfo) -> CostKey:
    """Return the key of the sums that a request with attempts counts in."""
    last, model = entry.attempts[-1], entry.model
    served = model if last.served is None else last.served
    return (
        local_date(entry.completed_us // MINUTE_US, zone), last.endpoint_id, model, entry.kind, entry.api_key_id or "",
        served, served if last.canonical is None else last.canonical, last.step, found.price_id, found.currency,
    )  # fmt: skip


NO_COSTS: Mapping[str, RequestCost] = {}
