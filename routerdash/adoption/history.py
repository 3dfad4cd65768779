"""Counting of requests that llmlb served: before the adoption, and whenever it has run again since.

llmlb adds rows to the history (with null in `outcome`), to the counters of endpoints and to daily rows. Each of its
history rows belongs to one time window between two checks. Sums and the end of the window are written in one
transaction, so each row is counted exactly once. Its counters are handled by routerdash.adoption.counters.

llmlb must not run at the same time. Rows with an unreadable moment, duration, type or model are not counted.
"""

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from endpoints.changes import counters as change_counters
from metrics import sql
from metrics.counting.fold import Fold
from metrics.counting.totals import ADOPTED, DURATIONS_BELOW, DURATIONS_US, PRUNED_ADOPTED
from metrics.models import AdoptedDay, AdoptedHistory, Installation
from metrics.storage import rollups
from routerdash.adoption import counters, llmlb_rows
from routerdash.adoption.counters import REQUESTS, SHARE_KEYS, SHARE_SUMS, TOKENS

log = logging.getLogger(__name__)

BATCH = 50_000  # rows in one transaction
PROGRESS_SECONDS = 2.0

_ADD_SHARE = sql.upsert("adopted_days", SHARE_KEYS, added=SHARE_SUMS)

Report = Callable[[str], None]  # receives lines about the progress


def catch_up(zone: ZoneInfo, report: Report, *, adopting: bool = False) -> int:
    """Count all requests that llmlb has served since the last check. Return the number of counted rows.

    Raises django.db.Error while the database is away. Completed batches stay counted.
    """
    until_us = time.time_ns() // 1000
    state = AdoptedHistory.objects.first()
    waiting = llmlb_rows.count(0 if state is None else state.counted_us, until_us)
    if not waiting and not adopting:
        never_adopted = not Installation.objects.exclude(adopted_at=None).exists()
        if never_adopted if state is None else not counters.has_grown():
            return 0
    state = counters.settle()
    counted, damaged, reported_at = 0, 0, time.monotonic()
    for end_us in _ends_of_batches(state, until_us):
        with _without_garbage_collection():
            batch_count, batch_damaged = _count(end_us, zone)
        counted, damaged = counted + batch_count, damaged + batch_damaged
        if time.monotonic() - reported_at > PROGRESS_SECONDS:
            report(f"counted {counted:,} of {waiting:,} requests of llmlb")
            reported_at = time.monotonic()
    AdoptedDay.objects.filter(total_requests=0, successful_requests=0, failed_requests=0).delete()
    if counted or damaged:
        report(f"counted {counted:,} requests of llmlb in clients, usage and totals")
    if damaged:
        log.warning("%d requests of llmlb are damaged and are not counted", damaged)
    return counted


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: a batch has many objects and no garbage, and searching it takes a quarter longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ends_of_batches(state: AdoptedHistory, until_us: int) -> Iterator[int]:
    """Yield the end of each batch. No batch extends over `base_us`: tokens before it are in the totals already."""
    since = state.counted_us
    for end in sorted({min(state.base_us, until_us), until_us}):
        while since < end:
            since = llmlb_rows.end_of_batch(since, end, BATCH)
            yield since


def _count(end_us: int, zone: ZoneInfo) -> tuple[int, int]:
    """Count the rows up to a moment in one transaction. Return the numbers of counted and of damaged rows."""
    with transaction.atomic():
        state = AdoptedHistory.objects.select_for_update().get()
        if state.counted_us >= end_us:
            return 0, 0  # another process has counted them
        rows = llmlb_rows.rows(state.counted_us, end_us)
        entries = [entry for row in rows if (entry := llmlb_rows.to_record(row)) is not None]
        fold = Fold(zone).add_all(entries)
        with connection.cursor() as cursor:
            _write(cursor, fold, state, in_base=end_us <= state.base_us)
        AdoptedHistory.objects.update(counted_us=end_us)
        if entries:
            change_counters.bump(change_counters.FIGURES)
    return len(entries), len(rows) - len(entries)


def _write(cursor: Any, fold: Fold, state: AdoptedHistory, *, in_base: bool) -> None:
    """Add a fold to roll-ups and totals. The totals always contain its requests, and its tokens if `in_base`."""
    recent = {key: cell for key, cell in fold.cells.items() if key[0] >= state.minutes_since}
    rollups.upsert(cursor, rollups.MINUTES, recent)
    rollups.upsert_days(cursor, fold.days)
    rollups.upsert_clients(cursor, fold.clients)
    durations = (DURATIONS_BELOW, DURATIONS_US)
    totals = Counter({name: value for name, value in fold.totals.items() if name.startswith(durations)})
    for name in (*REQUESTS, *TOKENS):
        totals[PRUNED_ADOPTED + name] = fold.totals[name]
    for name in () if in_base else TOKENS:
        totals[name] = totals[ADOPTED + name] = fold.totals[name]
    counters.add_totals(cursor, totals)
    shares = [(*key, -daily.total, -daily.successful, -daily.failed) for key, daily in sorted(fold.daily.items())]
    if shares:
        cursor.executemany(_ADD_SHARE, shares)
