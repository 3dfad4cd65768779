"""Writing sums of costs, inside the transaction of the history rows that they sum."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from endpoints.registry import registry
from metrics.counting.costs import COST_COLUMNS, CostKey, CostSums, Pricing
from metrics.prices.registry import price_registry
from metrics.storage.bulk import Upsert
from metrics.storage.database import storable

COST_DAYS = "rollup_cost_days"
KEYS = (
    "date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency",
)  # fmt: skip
_WRITE = Upsert(COST_DAYS, KEYS, added=COST_COLUMNS)
_sums = attrgetter(*COST_COLUMNS)


def pricing() -> Pricing:
    """Return the present price book. Its first call reads the database. Raises django.db.Error."""
    return Pricing(price_registry.book(), provider_of)


def provider_of(endpoint_id: str) -> str:
    """Return the type of an endpoint; empty for a deleted one."""
    entry = registry.get(endpoint_id)
    return "" if entry is None else entry.cloud_type or entry.kind


def upsert(cursor: Any, sums: Mapping[CostKey, CostSums]) -> None:
    """Add sums to the rows with their keys, in the order of keys, so that two writers cannot deadlock."""
    rows: dict[tuple[Any, ...], CostSums] = {}
    for key in sorted(sums):
        date, *names, step, price_id, currency = key
        stored_as = (date, *map(storable, names), step, price_id, currency)
        rows.setdefault(stored_as, CostSums()).add(sums[key])
    _WRITE.write(cursor, [(*key, *_sums(row)) for key, row in rows.items()])
