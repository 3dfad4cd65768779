"""L1, L2, L3, L6: daily rows and counters of endpoints, and the totals over all time."""

from metrics import sql
from metrics.reconcile.comparison import Comparison, Query
from metrics.reconcile.history import HAS_SPEED, last_duration
from metrics.reconcile.scope import Scope, bound
from metrics.reconcile.tables import COUNTERS, DAILY, SPEED, TOTALS


def daily_attempts(scope: Scope) -> Comparison:
    """Express L3: daily rows are the attempts of day roll-ups, of deleted endpoints too, plus llmlb's share.

    If the share was not stored, only days after the adoption are compared.
    """
    since = scope.adopted_on if scope.adopted is None else ""
    attempts = Query(
        "SELECT endpoint_id, model AS model_id, date, kind AS api_kind, "
        "attempts_ok + attempts_failed AS total_requests, attempts_ok AS successful_requests, "
        "attempts_failed AS failed_requests FROM rollup_days WHERE date > %s",
        (since,),
    )
    adopted_attempts = Query(sql.select(DAILY + COUNTERS, "adopted_days", where="date > %s"), (since,))
    return Comparison(
        law="L3",
        table="endpoint_daily_stats",
        source="rollup_days",
        keys=DAILY,
        columns=COUNTERS,
        expected=Query.union([attempts, adopted_attempts]),
        found=Query("SELECT * FROM endpoint_daily_stats WHERE date > %s", (since,)),
    )


def daily_speeds(scope: Scope) -> Comparison | None:
    """Express L3: tokens and time of daily rows are those of requests with a speed, on days without llmlb."""
    adopted_dates = {date for (date,) in Query("SELECT DISTINCT date FROM adopted_days").rows()}
    dates = scope.days(scope.history_since) if scope.every_row else {}
    dates = {date: span for date, span in dates.items() if date > scope.adopted_on and date not in adopted_dates}
    statement = sql.select(
        [
            "endpoint_id",
            "model AS model_id",
            "CAST(%s AS text) AS date",
            "kind AS api_kind",
            "output_tokens AS total_output_tokens",
            f"{_milliseconds(last_duration())} AS total_duration_ms",
        ],
        "request_history",
        where=[HAS_SPEED, f"{last_duration()} > 0", "completed_at >= %s", "completed_at < %s"],
    )
    parts = [Query(statement, (date, bound(first), bound(end))) for date, (first, end) in dates.items()]
    if not parts:
        return None
    where = f"date IN {sql.placeholders(len(dates))}"
    return Comparison(
        law="L3",
        table="endpoint_daily_stats",
        source="request_history",
        keys=DAILY,
        columns=SPEED,
        expected=Query.union(parts),
        found=Query(sql.select("*", "endpoint_daily_stats", where=where), tuple(dates)),
    )


def _milliseconds(us: str) -> str:
    """Return the milliseconds of one attempt, rounded half to even, at least 1."""
    up = f"CASE WHEN {us} %% 1000 > 500 OR ({us} %% 1000 = 500 AND {us} / 1000 %% 2 = 1) THEN 1 ELSE 0 END"
    return f"CASE WHEN {us} < 1000 THEN 1 ELSE {us} / 1000 + {up} END"


def daily_sums(scope: Scope) -> Comparison:
    """Express L1: total = successful + failed, for each daily row."""
    return _total_is_sum("endpoint_daily_stats", DAILY)


def counters(scope: Scope) -> Comparison:
    """Express L2: an endpoint's counters minus its baseline are its daily rows minus those of the baseline."""
    figures = []
    for column, base_day in zip(COUNTERS, ("daily_total", "daily_successful", "daily_failed"), strict=True):
        base = sql.select(
            f"base.{column} - base.{base_day}", "endpoint_baselines AS base", where="base.endpoint_id = endpoints.id"
        )
        days = sql.select(f"SUM(day.{column})", "endpoint_daily_stats AS day", where="day.endpoint_id = endpoints.id")
        figures.append(f"COALESCE(({base}), 0) + COALESCE(({days}), 0) AS {column}")
    return Comparison(
        law="L2",
        table="endpoints",
        source="endpoint_daily_stats",
        keys=("id",),
        columns=COUNTERS,
        expected=Query(sql.select(["id", *figures], "endpoints")),
        found=Query("SELECT * FROM endpoints"),
    )


def counter_sums(scope: Scope) -> Comparison:
    """Express L1: total = successful + failed, for each endpoint."""
    return _total_is_sum("endpoints", ("id",))


def _total_is_sum(table: str, keys: tuple[str, ...]) -> Comparison:
    return Comparison(
        law="L1",
        table=table,
        source=table,
        keys=keys,
        columns=("total_requests",),
        expected=Query(sql.select([*keys, "successful_requests + failed_requests AS total_requests"], table)),
        found=Query(sql.select("*", table)),
    )


def totals(scope: Scope) -> Comparison | None:
    """Express L6: totals are their values at the adoption plus all day roll-ups, minus adopted rows that these contain.

    Neither deleted endpoints nor deleted old rows reduce a total.
    """
    if not has_base(scope):
        return None
    parts = []
    for name in TOTALS:
        parts.append(sql.select([f"'{name}' AS name", f"COALESCE(SUM({name}), 0) AS value"], "rollup_days"))
        base = f"CASE WHEN name = 'adopted:{name}' THEN value ELSE -value END"
        where = f"name IN ('adopted:{name}', 'pruned_adopted:{name}')"
        parts.append(sql.select([f"'{name}'", base], "metric_totals", where=where))
    where = f"name IN {sql.placeholders(len(TOTALS))}"
    return Comparison(
        law="L6",
        table="metric_totals",
        source="rollup_days",
        keys=("name",),
        columns=("value",),
        expected=Query(sql.union_all(parts)),
        found=Query(sql.select("*", "metric_totals", where=where), TOTALS),
    )


def has_base(scope: Scope) -> bool:
    """Return True if the totals of the adoption are stored. The first releases did not store them."""
    return not scope.adopted_on or any(Query("SELECT 1 FROM metric_totals WHERE name = 'adopted:requests_ok'").rows())
