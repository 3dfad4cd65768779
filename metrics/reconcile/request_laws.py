"""L3: roll-ups by minute, day and month are the requests of the history and their attempts."""

from metrics import sql
from metrics.reconcile.comparison import Comparison, Query
from metrics.reconcile.history import NIL, cell_key, counted, of_llmlb
from metrics.reconcile.scope import Scope, bound, sqlite
from metrics.reconcile.tables import CELL, DETAILS, DIMENSIONS, NEWER, OUTCOMES, one_if

_MINUTE_KEY = ("minute", *DIMENSIONS)
_AS_CELL = (
    *OUTCOMES, "0 AS attempts_ok", "0 AS attempts_failed", "input_tokens", "output_tokens",
    "CASE WHEN outcome = 'ok' THEN duration_us ELSE 0 END AS ok_duration_us",
)  # fmt: skip


def _attempts() -> tuple[str, str, str]:
    """Return a join that gives a row for each attempt, and the expressions of its endpoint and outcome."""
    if sqlite():
        joined = ", json_each(CASE WHEN json_valid(attempts) THEN attempts ELSE '[]' END) AS attempt"
        return joined, "json_extract(attempt.value, '$.endpoint_id')", "json_extract(attempt.value, '$.outcome')"
    joined = " CROSS JOIN LATERAL jsonb_array_elements(attempts) AS attempt(value)"
    return joined, "CAST(attempt.value->>'endpoint_id' AS uuid)", "attempt.value->>'outcome'"


def _as_attempt(ok: str, failed: str) -> list[str]:
    """Return the columns of CELL for one attempt with these conditions."""
    return ["0", "0", "0", one_if(ok), one_if(failed), "0", "0", "0"]


def minutes(scope: Scope) -> Comparison:
    """Express L3: minute roll-ups are the requests of the history, and each attempt of these under its endpoint."""
    since = scope.history_minutes_since
    rows = counted(scope, since)
    joined, endpoint, outcome = _attempts()
    requests = rows.select([*_MINUTE_KEY, *_AS_CELL])
    attempts = Query(
        sql.select(
            [cell_key(endpoint), *_as_attempt(f"{outcome} = 'ok'", f"{outcome} IN ('refused', 'failed', 'truncated')")],
            f"request_history{joined}",
            where=["outcome IS NOT NULL", "completed_at >= %s"],
        ),
        (bound(since),),
    )
    parts = [requests, attempts]
    if scope.adopted is not None:  # each row of llmlb is one attempt, if an endpoint was chosen
        adopted = of_llmlb(scope.adopted, since)
        as_attempt = _as_attempt("outcome = 'ok'", "outcome <> 'ok'")
        parts.append(adopted.select([*_MINUTE_KEY, *as_attempt], where=f"endpoint_id <> '{NIL}'"))
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=_MINUTE_KEY,
        # If successes have no rows, they and the attempts before a success cannot be compared.
        columns=CELL if scope.every_row else ("requests_failed", "requests_cancelled"),
        expected=Query.union(parts),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def first_tokens(scope: Scope) -> Comparison | None:
    """Express L3: the times to first token of minute roll-ups are those of the successful requests in the history."""
    since = max(scope.history_minutes_since, scope.narrow_minute + 1)
    if not scope.every_row:
        return None
    where = ["outcome = 'ok'", "first_token_us IS NOT NULL", "completed_at >= %s"]
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=_MINUTE_KEY,
        columns=("first_token_us",),
        expected=Query(
            sql.select([cell_key("endpoint_id"), "first_token_us"], "request_history", where=where), (bound(since),)
        ),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def days(scope: Scope) -> Comparison | None:
    """Express L3: day roll-ups are the sums of their minutes, for local days with all minutes."""
    return _days(scope.days(scope.minutes_since), CELL + DETAILS)


def days_of_requests(scope: Scope) -> Comparison | None:
    """Express L3: day roll-ups are the requests of the history, for whole days with incomplete minutes."""
    if not scope.every_row:
        return None
    dates = {date: span for date, span in scope.days(scope.history_since).items() if span[0] < scope.minutes_since}
    parts = []
    for date, (first, end) in dates.items():
        rows = counted(scope, first).select(["CAST(%s AS text) AS date", *DIMENSIONS, *_AS_CELL], where="minute < %s")
        parts.append(Query(rows.sql, (date, *rows.parameters, end)))
    if not parts:
        return None
    columns = tuple(name for name in CELL if not name.startswith("attempts"))
    return _compare_days("request_history", parts, dates, columns)


def newer_columns_of_days(scope: Scope) -> Comparison | None:
    """Express L3: refusals and times to first token of day roll-ups are the sums of their minutes.

    It applies from the first day on that counted them completely.
    """
    return _days(dates_with_newer_columns(scope), NEWER)


def dates_with_newer_columns(scope: Scope) -> dict[str, tuple[int, int]]:
    """Return the dates on which all rows have newer columns, with their first minute and the one after their last."""
    dates = scope.days(max(scope.minutes_since, scope.narrow_minute + 1))
    return {date: span for date, span in dates.items() if date > scope.narrow_date}


def _days(dates: dict[str, tuple[int, int]], columns: tuple[str, ...]) -> Comparison | None:
    statement = sql.select(
        ["CAST(%s AS text) AS date", *DIMENSIONS, *columns], "rollup_minutes", where=["minute >= %s", "minute < %s"]
    )
    parts = [Query(statement, (date, first, end)) for date, (first, end) in dates.items()]
    return _compare_days("rollup_minutes", parts, dates, columns) if parts else None


def _compare_days(
    source: str, parts: list[Query], dates: dict[str, tuple[int, int]], columns: tuple[str, ...]
) -> Comparison:
    return Comparison(
        law="L3",
        table="rollup_days",
        source=source,
        keys=("date", *DIMENSIONS),
        columns=columns,
        expected=Query.union(parts),
        found=Query(sql.select("*", "rollup_days", where=f"date IN {sql.placeholders(len(dates))}"), tuple(dates)),
    )


def months(scope: Scope) -> Comparison:
    """Express L3: month roll-ups are the sums of all day roll-ups."""
    columns = CELL + NEWER + DETAILS
    return Comparison(
        law="L3",
        table="rollup_months",
        source="rollup_days",
        keys=("month", *DIMENSIONS),
        columns=columns,
        expected=Query(sql.select(["substr(date, 1, 7) AS month", *DIMENSIONS, *columns], "rollup_days")),
        found=Query("SELECT * FROM rollup_months"),
    )
