"""Endpoint counters and daily rows that llmlb increased, compared with their values at the last check.

RouterDash's own additions since then are in the roll-ups, and are subtracted.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from endpoints.changes import counters as change_counters
from endpoints.fields import MAX_INTEGER
from metrics import sql
from metrics.counting.totals import (
    ADOPTED,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    PRUNED_ADOPTED,
    REQUESTS_FAILED,
    REQUESTS_OK,
)
from metrics.models import AdoptedDay, AdoptedHistory, Baseline, Installation, Total
from metrics.storage import database
from routerdash.adoption import llmlb_rows

TOKENS = (INPUT_TOKENS, OUTPUT_TOKENS)
REQUESTS = (REQUESTS_OK, REQUESTS_FAILED)
MINUTES_HOURS = 48  # hours before the last row that get minute roll-ups; no figure needs older minutes

SHARE_KEYS = ("endpoint_id", "model_id", "date", "api_kind")
SHARE_SUMS = ("total_requests", "successful_requests", "failed_requests")
_ADD_TOTAL = sql.upsert("metric_totals", ["name"], added=["value"])

Attempts = tuple[int, int]  # successful, failed


@dataclass(frozen=True, slots=True)
class LlmlbAttempts:
    """Attempts that llmlb counted at one endpoint since the last check. Negative if a count was reduced."""

    by_counters: Attempts | None  # None: the endpoint was deleted
    by_days: Attempts

    @property
    def for_totals(self) -> Attempts:
        """Numbers to add to the totals, which never shrink."""
        ok, failed = self.by_days if self.by_counters is None else self.by_counters
        return max(0, ok), max(0, failed)

    @property
    def is_plausible(self) -> bool:
        """Return True if counters and daily rows both grew. If only one did, it was edited by hand or is damaged."""
        return sum(self.by_days) > 0 and (self.by_counters is None or sum(self.by_counters) > 0)


def has_grown() -> bool:
    """Return True if llmlb has counted requests since the last check."""
    return any(attempts.is_plausible for attempts in new_attempts().values())


def new_attempts() -> dict[str, LlmlbAttempts]:
    """Return the attempts that llmlb counted since the last check, by endpoint id. Reads short tables only."""
    rolled_up = _sums("rollup_months", "attempts_ok", "attempts_failed")
    shares = _sums("adopted_days", "successful_requests", "failed_requests")
    days = _sums("endpoint_daily_stats", "successful_requests", "failed_requests")
    counters = _sums("endpoints", "successful_requests", "failed_requests", key="id")
    base = _sums("endpoint_baselines", "successful_requests", "failed_requests")
    base_days = _sums("endpoint_baselines", "daily_successful", "daily_failed")
    result: dict[str, LlmlbAttempts] = {}
    for endpoint_id in sorted({*counters, *days}):
        counted, share = rolled_up.get(endpoint_id, (0, 0)), shares.get(endpoint_id, (0, 0))
        by_days = _subtract(days.get(endpoint_id, (0, 0)), counted, share)
        by_counters = None
        if endpoint_id in counters:
            # At the last check, the roll-ups contained the daily rows of that time without llmlb's share.
            counted_since = _subtract(counted, _subtract(base_days.get(endpoint_id, (0, 0)), share))
            by_counters = _subtract(counters[endpoint_id], base.get(endpoint_id, (0, 0)), counted_since)
        if any(by_days) or any(by_counters or ()):
            result[endpoint_id] = LlmlbAttempts(by_counters, by_days)
    return result


def _subtract(one: Attempts, *others: Attempts) -> Attempts:
    return one[0] - sum(other[0] for other in others), one[1] - sum(other[1] for other in others)


def _sums(table: str, ok: str, failed: str, key: str = "endpoint_id") -> dict[str, Attempts]:
    columns = [key, f"SUM({_sane(ok)})", f"SUM({_sane(failed)})"]
    with connection.cursor() as cursor:
        cursor.execute(sql.select(columns, table, group_by=key))
        return {str(endpoint_id): (int(ok), int(failed)) for endpoint_id, ok, failed in cursor.fetchall()}


def _sane(column: str) -> str:
    """Return an expression of a count that is 0 if it is damaged, so that it does not spoil a sum."""
    return sql.whole_number(column, MAX_INTEGER, database.vendor())


def add_totals(cursor: Any, totals: Counter[str]) -> None:
    """Add to totals. Zeros are written too: that a name exists shows that its total is maintained."""
    if totals:
        cursor.executemany(_ADD_TOTAL, sorted(totals.items()))


def settle() -> AdoptedHistory:
    """Add new attempts of llmlb to the totals, and store its current counts as the new base, in one transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        state = AdoptedHistory.objects.select_for_update().first()
        adopted_at = Installation.objects.exclude(adopted_at=None).values_list("adopted_at", flat=True).first()
        if state is None and adopted_at is not None:
            requests = _since_adoption()
            _keep_base(cursor)
        else:
            for_totals = [attempts.for_totals for attempts in new_attempts().values()]
            requests = [sum(attempts[index] for attempts in for_totals) for index in (0, 1)]
        totals = {
            f"{prefix}{name}": count for name, count in zip(REQUESTS, requests, strict=True) for prefix in ("", ADOPTED)
        }
        add_totals(cursor, Counter(totals))
        if any(requests):
            change_counters.bump(change_counters.FIGURES)  # control has read its totals already
        _store_base(cursor)
        return state or _begin(adopted_at)


def _begin(adopted_at: object) -> AdoptedHistory:
    """Create the state, at the adoption or in the first release that counts the history from before it."""
    now = time.time()
    last_us = llmlb_rows.last_completed_us(time.time_ns() // 1000)
    last_minute = int(now // 60) if last_us is None else last_us // 60_000_000
    return AdoptedHistory.objects.create(
        id=1,
        counted_us=0,
        base_us=0 if adopted_at is None else llmlb_rows.microseconds(adopted_at) or 0,
        minutes_since=(last_minute // 60 - MINUTES_HOURS) * 60,
        days_since=0 if adopted_at is None else int(now // 60),
        clients_since=0 if adopted_at is None else _own_clients_since(),
    )


def _own_clients_since() -> int:
    """Return the hour from which on RouterDash's own requests are counted by client, according to the history."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT MIN(hour) FROM rollup_client_hours")
        ((first,),) = cursor.fetchall()
        if first is None:
            return int(time.time() // 3600) + 1
        where = ["outcome IS NOT NULL", "client_ip IS NOT NULL", "completed_at < %s"]
        end = llmlb_rows.bound((int(first) + 1) * 3_600_000_000)
        cursor.execute(sql.select("COUNT(*)", "request_history", where=where), (end,))
        ((rows,),) = cursor.fetchall()
        requests = "SUM(requests_ok + requests_failed + requests_cancelled)"
        cursor.execute(sql.select(requests, "rollup_client_hours", where="hour = %s"), (first,))
        ((counted,),) = cursor.fetchall()
    return 0 if not rows or int(rows) == int(counted) else int(first) + 1


def _since_adoption() -> list[int]:
    """Return llmlb's requests since an adoption by a release that stored no shares of daily rows: one sum for all rows.

    Returns zeros if the release did not store the totals of the adoption either, as the first releases did not.
    """
    stored = dict(Total.objects.values_list("name", "value"))
    if ADOPTED + REQUESTS_OK not in stored:
        return [0, 0]
    base = _all("endpoint_baselines", "successful_requests", "failed_requests")
    base_days = _all("endpoint_baselines", "daily_successful", "daily_failed")
    days = _all("endpoint_daily_stats", "successful_requests", "failed_requests")
    attempts = _all("rollup_months", "attempts_ok", "attempts_failed")
    requests = []
    for index, name in enumerate(REQUESTS):
        deleted = stored[ADOPTED + name] - base[index]  # of endpoints that llmlb had deleted
        counted = attempts[index] - stored.get(PRUNED_ADOPTED + name, 0)
        requests.append(max(0, days[index] - base_days[index] - deleted - counted))
    return requests


def _all(table: str, ok: str, failed: str) -> Attempts:
    sums = _sums(table, ok, failed).values()
    return sum(attempts[0] for attempts in sums), sum(attempts[1] for attempts in sums)


def _keep_base(cursor: Any) -> None:
    """Store the totals of the adoption if its release did not: the totals minus the roll-ups."""
    if Total.objects.filter(name=ADOPTED + REQUESTS_OK).exists():
        return
    names = (*REQUESTS, *TOKENS)
    cursor.execute(sql.select([f"COALESCE(SUM({name}), 0)" for name in names], "rollup_months"))
    stored = dict(Total.objects.values_list("name", "value"))
    base = {
        ADOPTED + name: stored.get(name, 0) - int(summed) + stored.get(PRUNED_ADOPTED + name, 0)
        for name, summed in zip(names, cursor.fetchone(), strict=True)
    }
    add_totals(cursor, Counter(base))


def _store_base(cursor: Any) -> None:
    """Store the counters of each endpoint with the sum of its daily rows, and llmlb's share of each daily row."""
    own = [_sane(f"endpoints.{name}") for name in SHARE_SUMS]
    sums = [f"COALESCE(SUM({_sane('day.' + name)}), 0)" for name in SHARE_SUMS]
    Baseline.objects.all().delete()
    base = sql.select(
        ["endpoints.id", *own, *sums],
        "endpoints LEFT JOIN endpoint_daily_stats AS day ON day.endpoint_id = endpoints.id",
        group_by="endpoints.id",
    )
    columns = ("endpoint_id", *SHARE_SUMS, "daily_total", "daily_successful", "daily_failed")
    cursor.execute(sql.insert("endpoint_baselines", columns, base))
    AdoptedDay.objects.all().delete()
    days = sql.select([*SHARE_KEYS, *(f"{_sane(name)} AS {name}" for name in SHARE_SUMS)], "endpoint_daily_stats")
    attempts = ["-(attempts_ok + attempts_failed)", "-attempts_ok", "-attempts_failed"]
    rolled_up = sql.select(["endpoint_id", "model", "date", "kind", *attempts], "rollup_days")
    shares = sql.select(
        [*SHARE_KEYS, *(f"SUM({name}) AS {name}" for name in SHARE_SUMS)],
        sql.subquery(sql.union_all([days, rolled_up]), "both_sides"),
        group_by=f"{', '.join(SHARE_KEYS)} HAVING {' OR '.join(f'SUM({name}) <> 0' for name in SHARE_SUMS)}",
    )
    cursor.execute(sql.insert("adopted_days", (*SHARE_KEYS, *SHARE_SUMS), shares))
