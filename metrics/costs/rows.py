"""Writing sums of costs, inside the transaction of the history rows that they sum."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from django.db import connection

from endpoints.registry import registry
from gateway.prices.costs import Pricing
from metrics import sql
from metrics.costs.price_cache import price_cache
from metrics.costs.sums import COST_COLUMNS, CostKey, CostSums
from metrics.storage import bulk
from metrics.storage.bulk import Upsert
from metrics.texts import storable

COST_KEYS, COST_SUMS = "rollup_cost_keys", "rollup_cost_sums"
KEYS = (
    "date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency",
)  # fmt: skip
MAX_NUMBERS = 30_000  # that are remembered
_WRITE = Upsert(COST_SUMS, ("number",), added=COST_COLUMNS)


def pricing() -> Pricing:
    """Return the present price book. Its first call reads the database. Raises django.db.Error."""
    return Pricing(price_cache.fresh_book(), provider_of)


def provider_of(endpoint_id: str) -> str:
    """Return the type of an endpoint; empty for a deleted one."""
    entry = registry.get(endpoint_id)
    return "" if entry is None else entry.cloud_type or entry.kind


class CostRows:
    """Rows of sums, and the numbers of those that were written last: each batch has many of the same keys."""

    def __init__(self) -> None:
        self._numbers: dict[CostKey, int] = {}
        self._uncommitted: dict[CostKey, int] = {}

    def add(self, cursor: Any, sums: Mapping[CostKey, CostSums]) -> None:
        """Add sums to the rows with their keys, in the order of numbers, so that two writers cannot deadlock."""
        if len(self._numbers) > MAX_NUMBERS:
            self._numbers.clear()
        numbers = self._numbers_of(cursor, sums)
        by_number = dict(zip(numbers, sums.values(), strict=True))
        if len(by_number) < len(numbers):  # different keys are stored as the same one
            by_number = _joined(numbers, sums.values())
        ordered = sorted(by_number)
        rows = [by_number[number] for number in ordered]
        requests, estimated_requests = [row.requests for row in rows], [row.estimated_requests for row in rows]
        costs, estimated_costs = [row.cost for row in rows], [row.estimated_cost for row in rows]
        _WRITE.write_columns(cursor, [ordered, requests, estimated_requests, costs, estimated_costs])

    def _numbers_of(self, cursor: Any, keys: Collection[CostKey]) -> list[int]:
        """Return the number of each key: each is looked up once, because comparing ten columns takes time."""
        numbers = list(map(self._numbers.get, keys))
        self._uncommitted = {}
        if None in numbers:
            new = [key for key, number in zip(keys, numbers, strict=True) if number is None]
            self._uncommitted = new_numbers = _numbers(cursor, new)
            numbers = [
                new_numbers[key] if number is None else number for key, number in zip(keys, numbers, strict=True)
            ]
        return cast("list[int]", numbers)

    def committed(self) -> None:
        """Remember the numbers of the last call of `add`, which are in the database now."""
        self._numbers |= self._uncommitted

    def forget(self) -> None:
        """Forget all numbers: the database may be another one, or an older state of it."""
        self._numbers.clear()


def _numbers(cursor: Any, keys: Iterable[CostKey]) -> dict[CostKey, int]:
    """Return the numbers of keys, and store keys that are new."""
    stored_as = {key: _storable(key) for key in keys}
    wanted = sorted(set(stored_as.values()))
    if not wanted:
        return {}
    if connection.vendor == "postgresql":  # another writer must not give out the same numbers
        cursor.execute(f"LOCK TABLE {COST_KEYS} IN SHARE ROW EXCLUSIVE MODE")
    numbers = {key: int(number) for key, (number,) in bulk.find(cursor, COST_KEYS, KEYS, ("number",), wanted).items()}
    new = [key for key in wanted if key not in numbers]
    if new:
        cursor.execute(sql.select("COALESCE(MAX(number), 0)", COST_SUMS))  # each key has a row of sums
        ((last,),) = cursor.fetchall()
        numbers |= {key: last + offset for offset, key in enumerate(new, 1)}
        bulk.add(cursor, COST_KEYS, (*KEYS, "number"), [(*key, numbers[key]) for key in new])
    return {key: numbers[stored] for key, stored in stored_as.items()}


def _joined(numbers: Iterable[int], sums: Iterable[CostSums]) -> dict[int, CostSums]:
    """Return the sums by number: those with the same number added up."""
    joined: dict[int, CostSums] = {}
    for number, added in zip(numbers, sums, strict=True):
        joined.setdefault(number, CostSums()).add(added)
    return joined


def _storable(key: CostKey) -> CostKey:
    """Return a key as it is stored. Different names may become the same one."""
    if "".join(key[1:7]).isprintable():
        return key
    return (key[0], *map(storable, key[1:7]), *key[7:])  # type: ignore[return-value]
