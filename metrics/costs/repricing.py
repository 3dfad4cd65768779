"""Repricing: costs of stored requests are computed again with the present price book. Only the command does so.

Rows of the history and sums of costs change by the same amounts. Requests whose rows were deleted keep their costs, and
so do those of deleted endpoints, whose type is not known any more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection

from endpoints.changes import counters as change_counters
from endpoints.registry import registry
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.prices.amounts import text_of
from gateway.prices.costs import RequestCost
from metrics import sql
from metrics.costs import rows as cost_rows
from metrics.costs.sums import CostKey, CostSums, cost_key
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.storage import history_rows
from metrics.times import parse_time, sql_time

CHUNK = 1000
_COLUMNS = (
    "id", "completed_at", "kind", "model", "outcome", "status_code", "input_tokens", "output_tokens",
    "tokens_estimated", "api_key_id", "attempts",
)  # fmt: skip


@dataclass(slots=True)
class PriceChange:
    """Requests of one model that have another cost, by their old and new price. None: no price."""

    model: str
    old_price: int | None
    new_price: int | None
    old_currency: str | None
    new_currency: str | None
    requests: int = 0
    old_cost: int = 0
    new_cost: int = 0

    def __str__(self) -> str:
        old = _described(self.old_price, self.old_cost, self.old_currency)
        return f"{self.model}: {self.requests} requests, {old} → " + _described(
            self.new_price, self.new_cost, self.new_currency
        )


def _described(price_id: int | None, cost: int, currency: str | None) -> str:
    return "no price" if price_id is None else f"{text_of(cost)} {currency} (price {price_id})"


def reprice(since: datetime, zone: ZoneInfo, *, apply: bool) -> list[PriceChange]:
    """Return what the present prices change of requests that completed at `since` or later, and change it if `apply`.

    Call this in a transaction that locks out the database writer. Raises django.db.Error.
    """
    pricing = cost_rows.pricing()
    changes: dict[tuple[Any, ...], PriceChange] = {}
    sums: dict[CostKey, CostSums] = {}
    for rows in _chunks(since):
        updates: list[tuple[str, Any]] = []
        for row in rows:
            attempts = stored_attempts(row[-1])
            if not attempts:
                continue
            entry, last = _record(row, attempts[-1]), attempts[-1]
            old = _old_cost(last)
            if old is not None and registry.get(last.endpoint_id) is None:
                continue
            new = pricing.cost(entry)
            if old == new:
                continue
            _count(changes, last.served or entry.model, old, new)
            for request_cost, sign in ((old, -1), (new, 1)):
                if request_cost is not None:
                    key = cost_key(entry, request_cost, zone)
                    sums.setdefault(key, CostSums()).count(request_cost[2], estimated=entry.estimated, sign=sign)
            price_id, currency, amount = (None, None, None) if new is None else new
            attempts[-1] = msgspec.structs.replace(last, price_id=price_id, currency=currency, cost=amount)
            updates.append((history_rows.attempts_text(attempts), row[0]))
        if apply and updates:
            with connection.cursor() as cursor:
                cursor.executemany(sql.update("request_history", "attempts = %s", "id = %s"), updates)
    if apply and sums:
        with connection.cursor() as cursor:
            cost_rows.CostRows().add(cursor, sums)
        change_counters.bump(change_counters.FIGURES)  # control reads its totals of costs again
    return [changes[key] for key in sorted(changes, key=str)]


def _chunks(since: datetime) -> Iterator[list[tuple[Any, ...]]]:
    """Yield RouterDash's own rows, in the order of their ids."""
    last: Any = None
    while True:
        conditions, values = ["completed_at >= %s", "outcome IS NOT NULL"], [sql_time(since, connection.vendor)]
        if last is not None:
            conditions.append("id > %s")
            values.append(last)
        with connection.cursor() as cursor:
            cursor.execute(
                sql.select(_COLUMNS, "request_history", where=conditions, order_by="id", limit=CHUNK), values
            )
            rows = cursor.fetchall()
        if not rows:
            return
        yield rows
        last = rows[-1][0]


def _record(row: tuple[Any, ...], last: StoredAttempt) -> RequestRecord:
    """Return what the cost of a row depends on as a record."""
    request_id, completed_at, kind, model, outcome, status, tokens_in, tokens_out, estimated, key, _ = row
    moment = parse_time(completed_at)
    attempt = AttemptRecord(
        last.endpoint_id, last.outcome, last.status, last.duration_us, served=last.served, canonical=last.canonical,
        step=last.step,
    )  # fmt: skip
    return RequestRecord(
        str(request_id), 0 if moment is None else round(moment.timestamp() * 1e6), kind, model, outcome, status or 0, 1,
        attempts=(attempt,), input_tokens=tokens_in, output_tokens=tokens_out, estimated=bool(estimated),
        api_key_id=None if key is None else str(key), cached_tokens=last.cached_tokens,
        cache_write_tokens=last.cache_write_tokens, reasoning_tokens=last.reasoning_tokens,
        long_write_tokens=last.long_write_tokens, service_tier=last.service_tier,
        images=last.images, audio_ms=last.audio_ms,
    )  # fmt: skip


def _old_cost(last: StoredAttempt) -> RequestCost | None:
    if last.cost is None or last.currency is None or last.price_id is None:
        return None
    return last.price_id, last.currency, last.cost


def _count(
    changes: dict[tuple[Any, ...], PriceChange], model: str, old: RequestCost | None, new: RequestCost | None
) -> None:
    (old_id, old_currency), (new_id, new_currency) = (
        (None, None) if request_cost is None else request_cost[:2] for request_cost in (old, new)
    )
    key = (model, old_id, new_id, old_currency, new_currency)
    change = changes.setdefault(key, PriceChange(*key))
    change.requests += 1
    change.old_cost += 0 if old is None else old[2]
    change.new_cost += 0 if new is None else new[2]
