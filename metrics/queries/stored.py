"""Figures that only the database has. Callers write the waiting records first (`flushed`)."""

import time
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from django.db import connection

from endpoints.registry import registry
from metrics import sql
from metrics.memory.runtime import runtime
from metrics.models import DailyStat
from metrics.queries.payloads import DayStatsPayload, ModelStatsPayload
from metrics.sql import SqlRow
from metrics.storage.database import SaneSum


def run_sql(statement: str, values: Sequence[Any]) -> list[SqlRow]:
    """Run a statement on Django's database; return all rows. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        rows: list[SqlRow] = cursor.fetchall()
        return rows


def flushed() -> bool:
    """Write the waiting records. Return False, without a wait, while the database writer has a backlog."""
    writer = runtime.installation.writer
    if writer is None:
        return True
    return writer.backlog.late_since(time.time()) is None and writer.flush()


def daily_stats(endpoint_id: str, days: int, today: str) -> list[DayStatsPayload]:
    """Return the last `days` days, today included, that have rows, oldest first. One query."""
    since = (date.fromisoformat(today) - timedelta(days=days - 1)).isoformat()
    sums = (
        DailyStat.objects.filter(endpoint_id=endpoint_id, date__range=(since, today))
        .values("date")
        .annotate(total=SaneSum("total_requests"), ok=SaneSum("successful_requests"), failed=SaneSum("failed_requests"))
        .order_by("date")
    )
    return [
        {
            "date": row["date"],
            "total_requests": row["total"],
            "successful_requests": row["ok"],
            "failed_requests": row["failed"],
        }
        for row in sums
    ]


TOTALS = ("total_requests", "successful_requests", "failed_requests", "total_output_tokens", "total_duration_ms")


def model_stats(endpoint_id: str | None = None) -> list[ModelStatsPayload]:
    """Return all-time sums by model, busiest first: of one endpoint, or of all registered endpoints."""
    ids = {entry.id for entry in registry.all()} if endpoint_id is None else {endpoint_id}
    days = DailyStat.objects.all()
    if endpoint_id is not None or not counted_endpoints() <= ids:  # else a filter would cost a look-up per row
        days = days.filter(endpoint_id__in=ids)
    sums = days.values_list("model_id").annotate(*map(SaneSum, TOTALS))
    rows: list[ModelStatsPayload] = [
        {
            "model_id": model,
            "total_requests": total,
            "successful_requests": ok,
            "failed_requests": failed,
            "total_output_tokens": tokens,
            "total_duration_ms": duration,
        }
        for model, total, ok, failed, tokens, duration in sums
    ]
    return sorted(rows, key=lambda row: (-row["total_requests"], row["model_id"]))


def counted_endpoints() -> set[str]:
    """Return the ids of all endpoints with daily rows. An index leads from each to the next."""
    first = sql.select("endpoint_id", "endpoint_daily_stats", order_by="endpoint_id", limit=1)
    following = sql.select(
        "endpoint_id", "endpoint_daily_stats", where="endpoint_id > ids.id", order_by="endpoint_id", limit=1
    )
    steps = f"SELECT ({first}) UNION ALL {sql.select(f'({following})', 'ids', where='ids.id IS NOT NULL')}"
    rows = run_sql(f"WITH RECURSIVE ids (id) AS ({steps}) {sql.select('id', 'ids', where='id IS NOT NULL')}", ())
    return {str(endpoint_id) for (endpoint_id,) in rows}
