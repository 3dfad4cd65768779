"""Checks without a repair: L1 signs, L4 timeline, L6 refusals, uncounted requests of llmlb, duplicate ids."""

from collections.abc import Iterator
from datetime import datetime

from metrics import sql
from metrics.reconcile.comparison import Comparison, FigureDifference, Query, where
from metrics.reconcile.history import minute_of, readable
from metrics.reconcile.scope import Scope, bound, exact, sqlite
from metrics.reconcile.tables import TABLES, one_if


def timeline(scope: Scope) -> Comparison:
    """Express L4: the last 60 minutes are a GROUP BY over the history, by status, without cancelled requests."""
    adopted_condition, values = "", tuple[str | datetime, ...]()
    if scope.adopted is not None:
        adopted_condition, values = f" OR ({readable()} AND completed_at < %s)", (exact(scope.adopted.counted_us),)
    since = max(scope.history_minutes_since, int(scope.now // 60) - 60)
    return Comparison(
        law="L4",
        table="rollup_minutes",
        source="request_history",
        keys=("minute",),
        columns=("requests_ok", "requests_failed") if scope.every_row else ("requests_failed",),
        expected=Query(
            sql.select(
                [
                    f"{minute_of()} AS minute",
                    one_if("status = 'success'", "requests_ok"),
                    "CASE WHEN status = 'success' THEN 0 ELSE 1 END AS requests_failed",
                ],
                "request_history",
                where=["completed_at >= %s", f"(outcome <> 'cancelled'{adopted_condition})"],
            ),
            (bound(since), *values),
        ),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def refusals(scope: Scope) -> Comparison | None:
    """Express L6: refusals by reason are those of all day roll-ups, if these have counted them from the start."""
    if scope.narrow_date:
        return None
    return Comparison(
        law="L6",
        table="metric_totals",
        source="rollup_days",
        keys=("name",),
        columns=("value",),
        expected=Query("SELECT 'rejected:*' AS name, requests_rejected AS value FROM rollup_days"),
        found=Query("SELECT 'rejected:*' AS name, value FROM metric_totals WHERE name LIKE 'rejected:%%'"),
    )


def negative(scope: Scope) -> Iterator[FigureDifference]:
    """Check L1: no count is negative, in any table."""
    for table, (keys, columns) in TABLES.items():
        below = " OR ".join(f"{column} < 0" for column in columns)
        for row in Query(sql.select(keys + columns, table, where=below)).rows():
            for column, value in zip(columns, row[len(keys) :], strict=True):
                if value is not None and value < 0:
                    yield FigureDifference("L1", column, where(table, keys, row[: len(keys)]), "0 or more", value)


def uncounted(scope: Scope) -> Iterator[FigureDifference]:
    """Yield a difference if llmlb served requests that no total counts. The next start of RouterDash counts them."""
    counted_us = scope.adopted.counted_us if scope.adopted else 0
    conditions = [readable(), "completed_at >= %s", "completed_at < %s"]
    query = Query(
        sql.select("COUNT(*)", "request_history", where=conditions),
        (exact(counted_us), exact(round(scope.now * 1e6))),
    )
    for (count,) in query.rows():
        if count:
            yield FigureDifference("adoption", "requests of llmlb that no total counts", "request_history", 0, count)


def ids(scope: Scope) -> Iterator[FigureDifference]:
    """Check that no request is stored twice, and on SQLite the integrity of the file. Reads everything."""
    duplicates = Query("SELECT CAST(id AS text), count(*) FROM request_history GROUP BY id HAVING count(*) > 1")
    for request_id, count in duplicates.rows():
        yield FigureDifference("ids", "rows", f"request_history id={request_id}", 1, count)
    if sqlite():
        for (result,) in Query("PRAGMA integrity_check").rows():
            if result != "ok":
                yield FigureDifference("ids", "integrity_check", "the database file", "ok", result)
