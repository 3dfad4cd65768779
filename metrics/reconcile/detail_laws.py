"""L3: tokens that only some servers report, and requests by the model that served them, are those of the history."""

from collections.abc import Iterator

from metrics import sql
from metrics.reconcile.comparison import Comparison, FigureDifference, Query, where
from metrics.reconcile.history import last_attempt, minute_of, text
from metrics.reconcile.scope import Scope, bound
from metrics.reconcile.tables import DETAILS, DIMENSIONS, OUTCOMES, SERVED_DAY, SERVED_SUMS, one_if

_REPORTED = ("cached", "written", "reasoning")


def _details() -> list[str]:
    """Return the columns of DETAILS for one row of `_requests`."""
    return [
        "COALESCE(cached, 0) AS cached_tokens",
        "CASE WHEN cached IS NULL THEN 0 ELSE input_tokens END AS cached_of_tokens",
        one_if("cached IS NOT NULL", "cache_reports"),
        one_if("cached > 0", "cache_hits"),
        "COALESCE(written, 0) AS cache_write_tokens",
        one_if("written IS NOT NULL", "cache_write_reports"),
        "COALESCE(reasoning, 0) AS reasoning_tokens",
        "CASE WHEN reasoning IS NULL THEN 0 ELSE output_tokens END AS reasoning_of_tokens",
        one_if("reasoning IS NOT NULL", "reasoning_reports"),
    ]


def _requests(since: int) -> Query:
    """Return the requests of the history from a minute on, with the facts that only their last attempt has."""
    columns = [
        f"{minute_of()} AS minute", "endpoint_id", "model", "kind", f"{text('api_key_id')} AS api_key_id", "outcome",
        "duration_us", "COALESCE(input_tokens, 0) AS input_tokens", "COALESCE(output_tokens, 0) AS output_tokens",
        f"{last_attempt('cached_tokens', 'bigint')} AS cached",
        f"{last_attempt('cache_write_tokens', 'bigint')} AS written",
        f"{last_attempt('reasoning_tokens', 'bigint')} AS reasoning",
        f"COALESCE({last_attempt('served', 'text')}, model) AS served",
        f"COALESCE({last_attempt('canonical', 'text')}, {last_attempt('served', 'text')}, model) AS canonical",
        f"COALESCE({last_attempt('step', 'integer')}, 0) AS step",
    ]  # fmt: skip
    conditions = ["outcome IS NOT NULL", "completed_at >= %s"]
    return Query(sql.select(columns, "request_history", where=conditions), (bound(since),))


def minutes(scope: Scope) -> Comparison | None:
    """Express L3: details of minute roll-ups are those of the history, since a release that counts them."""
    if not scope.every_row:
        return None
    since = max(scope.history_minutes_since, scope.details_since)
    any_reported = " OR ".join(f"{name} IS NOT NULL" for name in _REPORTED)
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=("minute", *DIMENSIONS),
        columns=DETAILS,
        expected=_requests(since).select(["minute", *DIMENSIONS, *_details()], where=any_reported),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def served(scope: Scope) -> Comparison | None:
    """Express L3: days by served model are the requests of the history that another model than the asked one served.

    A request that ended in the queue was served by none.
    """
    if not scope.every_row:
        return None
    dates = scope.days(max(scope.history_since, scope.details_since))
    columns = [
        "CAST(%s AS text) AS date", *SERVED_DAY[1:], *OUTCOMES, "input_tokens", "output_tokens",
        "CASE WHEN outcome = 'ok' THEN duration_us ELSE 0 END AS ok_duration_us", *_details(),
    ]  # fmt: skip
    conditions = [
        "outcome <> 'queue'", "(served <> model OR canonical <> model OR step > 0)", "minute < %s"
    ]  # fmt: skip
    parts = []
    for date, (first, end) in dates.items():
        rows = _requests(first).select(columns, where=conditions)
        parts.append(Query(rows.sql, (date, *rows.parameters, end)))
    if not parts:
        return None
    return Comparison(
        law="L3",
        table="rollup_served_days",
        source="request_history",
        keys=SERVED_DAY,
        columns=SERVED_SUMS + DETAILS,
        expected=Query.union(parts),
        found=Query(
            sql.select("*", "rollup_served_days", where=f"date IN {sql.placeholders(len(dates))}"), tuple(dates)
        ),
    )


def served_is_part(scope: Scope) -> Iterator[FigureDifference]:
    """Check L1: requests by served model are part of the day roll-up of their asked name, on days of any age.

    Otherwise usage by served model would show less than nothing for the asked name.
    """
    keys, columns = SERVED_DAY[:5], SERVED_SUMS + DETAILS
    parts = sql.select([*keys, *[f"SUM({name}) AS {name}" for name in columns]], "rollup_served_days",
                       group_by=", ".join(keys))  # fmt: skip
    same = " AND ".join(f"day.{key} = part.{key}" for key in keys)
    source = f"{sql.subquery(parts, 'part')} LEFT JOIN rollup_days AS day ON {same}"
    pairs = [f"COALESCE({table}.{name}, 0)" for name in columns for table in ("part", "day")]
    more = " OR ".join(f"COALESCE(part.{name}, 0) > COALESCE(day.{name}, 0)" for name in columns)
    statement = sql.select([*[f"part.{key}" for key in keys], *pairs], source, where=more)
    for row in Query(statement).rows():
        figures = row[len(keys) :]
        for column, part, whole in zip(columns, figures[::2], figures[1::2], strict=True):
            if part > whole:
                place = where("rollup_served_days", keys, row[: len(keys)])
                yield FigureDifference("L1", column, place, f"at most {whole}", int(part))
