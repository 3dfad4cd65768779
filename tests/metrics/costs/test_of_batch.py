"""Costs of a fold, and their sums."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.ipc.record import RequestRecord
from gateway.prices.book import PriceBook
from gateway.prices.costs import Pricing
from gateway.registry.prices import Price
from metrics.costs.of_batch import costs_of
from metrics.costs.sums import CostKey, CostSums, Place, PlaceSums, cost_key, place_of
from metrics.counting.fold import Fold
from tests.gateway.prices.any_prices import any_price, any_request
from tests.metrics.world import UTC_ZONE


@given(
    st.lists(any_request(), max_size=30, unique_by=lambda entry: entry.id),
    st.lists(any_price(), max_size=6, unique_by=lambda price: price.id),
)
def test_costs_of_a_fold_are_those_of_each_request(entries: list[RequestRecord], prices: list[Price]) -> None:
    pricing = Pricing(PriceBook(prices), lambda endpoint_id: "")
    alone = {entry.id: charge for entry in entries if (charge := pricing.cost(entry)) is not None}
    sums: dict[CostKey, CostSums] = {}
    places: dict[Place, PlaceSums] = {}
    for entry in entries:
        if entry.id in alone:
            key = cost_key(entry, alone[entry.id], UTC_ZONE)
            sums.setdefault(key, CostSums()).count(alone[entry.id][2], estimated=entry.estimated)
    for key, added in sums.items():
        place = places.setdefault(place_of(key), PlaceSums())
        place.requests += added.requests
        place.cost += added.cost
    whole = costs_of(Fold(UTC_ZONE).add_all(entries), pricing)
    assert (whole.by_id, whole.sums, whole.places) == (alone, sums, places)
    parts = [Fold(UTC_ZONE).add_all(part) for part in (entries[:10], entries[10:])]
    assert costs_of(parts[0] + parts[1], pricing) == whole
