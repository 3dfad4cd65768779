"""Writing sums of costs, inside the transaction of the history rows that they sum."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from endpoints.registry import registry
from gateway.prices.costs import Pricing
from metrics.counting.costs import COST_COLUMNS, CostKey, CostSums
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
    return Pricing(price_registry.fresh_book(), provider_of)


def provider_of(endpoint_id: str) -> str:
    """Return the type of an endpoint; empty for a deleted one."""
    entry = registry.get(endpoint_id)
    return "" if entry is None else entry.cloud_type or entry.kind


def upsert(cursor: Any, sums: Mapping[CostKey, CostSums]) -> None:
    """Add sums to the rows with their keys, in the order of keys, so that two writers cannot deadlock."""
    if not "".join({name for key in sums for name in key[1:7]}).isprintable():
        sums = _storable(sums)
    _WRITE.write(cursor, [(*key, *_sums(sums[key])) for key in sorted(sums)])


def _storable(sums: Mapping[CostKey, CostSums]) -> Mapping[CostKey, CostSums]:
    """Return sums by the keys as they are stored. Different names may become the same one."""
    rows: dict[CostKey, CostSums] = {}
    for (date, endpoint_id, model, kind, key_id, served, canonical, *rest), added in sums.items():
        names = map(storable, (endpoint_id, model, kind, key_id, served, canonical))
        rows.setdefault((date, *names, *rest), CostSums()).add(added)  # type: ignore[arg-type]
    return rows
