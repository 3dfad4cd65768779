"""Costs of the requests of a fold, and their sums."""

from dataclasses import dataclass, field

from gateway.prices.costs import Pricing, RequestCost
from metrics.costs.sums import CostKey, CostSums, Place, PlaceSums, cost_key, place_of
from metrics.counting.fold import Fold


@dataclass(slots=True)
class Costs:
    """Costs of a batch of requests by id, and their sums: the same ones by key, and by place."""

    by_id: dict[str, RequestCost] = field(default_factory=dict)
    sums: dict[CostKey, CostSums] = field(default_factory=dict)
    places: dict[Place, PlaceSums] = field(default_factory=dict)


def costs_of(fold: Fold, pricing: Pricing) -> Costs:
    """Return the costs of the requests of a fold."""
    costs = Costs()
    for entry in fold.counted:
        request_cost = pricing.cost(entry)
        if request_cost is None:
            continue
        costs.by_id[entry.id] = request_cost
        key = cost_key(entry, request_cost, fold.zone)
        sums = costs.sums.get(key)
        if sums is None:
            sums = costs.sums[key] = CostSums()
        sums.count(request_cost[2], estimated=entry.estimated)
    for key, sums in costs.sums.items():
        place = costs.places.setdefault(place_of(key), PlaceSums())
        place.requests += sums.requests
        place.cost += sums.cost
    return costs
