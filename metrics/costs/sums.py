"""Sums of the costs of requests, which are computed when the database writer folds their records.

See gateway.prices.costs and docs/concepts/counting.md.
"""

from collections.abc import Mapping
from zoneinfo import ZoneInfo

import msgspec

from gateway.ipc.record import RequestRecord
from gateway.prices.costs import RequestCost
from metrics.counting.cells import MINUTE_US, local_date

# Local date, endpoint, asked model, kind, API key; served model, canonical name, step; id of the price, currency.
CostKey = tuple[str, str, str, str, str, str, str, int, int, str]
Place = tuple[str, str, str]  # endpoint, served model, currency


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


class PlaceSums(msgspec.Struct, gc=False):
    """Sums over the requests of one place."""

    requests: int = 0
    cost: int = 0  # 10⁻⁹ of the currency


def cost_key(entry: RequestRecord, request_cost: RequestCost, zone: ZoneInfo) -> CostKey:
    """Return the key of the sums that a request with attempts counts in."""
    last = entry.attempts[-1]
    served = entry.model if last.served is None else last.served
    return (
        local_date(entry.completed_us // MINUTE_US, zone), last.endpoint_id, entry.model, entry.kind,
        entry.api_key_id or "", served, served if last.canonical is None else last.canonical, last.step,
        *request_cost[:2],
    )  # fmt: skip


def place_of(key: CostKey) -> Place:
    """Return the place of a key."""
    return key[1], key[5], key[9]


NO_COSTS: Mapping[str, RequestCost] = {}
