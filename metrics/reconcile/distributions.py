"""L3: histograms in the roll-ups, bucket by bucket. They are JSON objects from the number of a bucket to its count."""

import json
from collections.abc import Iterator
from typing import Any

from django.db import connection

from metrics import sql
from metrics.reconcile.comparison import Comparison, Query
from metrics.reconcile.history import counted
from metrics.reconcile.request_laws import dates_with_newer_columns
from metrics.reconcile.scope import Scope, sqlite
from metrics.reconcile.tables import DIMENSIONS

HISTOGRAMS = {"durations": "duration_us", "first_tokens": "first_token_us"}  # and the value that each counts
LONGEST_BITS = 45  # one year, in µs

_OBJECT = r'^\{("\d+":\d+(,"\d+":\d+)*)?\}$'


def derived(scope: Scope) -> Iterator[Comparison]:
    """Yield the comparisons that a repair uses, in their order."""
    for column in HISTOGRAMS:
        if scope.every_row:
            yield minutes(scope, column)
        if dates := dates_with_newer_columns(scope):
            yield days(dates, column)


def minutes(scope: Scope, column: str) -> Comparison:
    """Express L3: histograms of minutes are those of the successful requests in the history."""
    since = max(scope.history_minutes_since, scope.narrow_minute + 1)
    value = HISTOGRAMS[column]
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=("minute", *DIMENSIONS, "bucket"),
        columns=(column,),
        expected=counted(scope, since).select(
            ["minute", *DIMENSIONS, f"{_bucket(value)} AS bucket", f"1 AS {column}"],
            where=["outcome = 'ok'", f"{value} IS NOT NULL"],
        ),
        found=_buckets("rollup_minutes", "minute", column, Query("minute >= %s", (since,))),
    )


def days(dates: dict[str, tuple[int, int]], column: str) -> Comparison:
    """Express L3: histograms of days are the sums of the histograms of their minutes."""
    date, within = "CAST(%s AS text) AS date", "minute >= %s AND minute < %s"
    parts = [
        _buckets("rollup_minutes", date, column, Query(within, (day, first, end)))
        for day, (first, end) in dates.items()
    ]
    where = Query(f"date IN {sql.placeholders(len(dates))}", tuple(dates))
    return Comparison(
        law="L3",
        table="rollup_days",
        source="rollup_minutes",
        keys=("date", *DIMENSIONS, "bucket"),
        columns=(column,),
        expected=Query.union(parts),
        found=_buckets("rollup_days", "date", column, where),
    )


def sums(scope: Scope) -> Iterator[Comparison]:
    """Express L3: the histogram of durations of a row counts its successful requests, in rows of any age."""
    for table, span, since in (
        ("rollup_minutes", "minute", scope.narrow_minute),
        ("rollup_days", "date", scope.narrow_date),
    ):
        newer = Query(f"{span} > %s", (since,))
        requests = sql.select([span, *DIMENSIONS, "requests_ok AS counted"], table, where=newer.sql)
        buckets = _buckets(table, span, "durations", newer)
        yield Comparison(
            law="L3",
            table=table,
            source=table,
            keys=(span, *DIMENSIONS),
            columns=("counted",),
            expected=Query(requests, newer.parameters),
            found=buckets.select("counted.*, durations AS counted"),
        )


def _buckets(table: str, span: str, column: str, where: Query) -> Query:
    """Return a row for each bucket of each histogram. A damaged histogram has none."""
    if sqlite():
        pairs = f"json_each(CASE WHEN json_valid({column}) THEN {column} ELSE '{{}}' END) AS pair"
        bucket, count = "CAST(pair.key AS INTEGER)", "pair.value"
    else:
        readable = f"CASE WHEN {column} ~ '{_OBJECT}' THEN {column} ELSE '{{}}' END"
        pairs = f"LATERAL json_each_text(CAST({readable} AS json)) AS pair(key, value)"
        bucket, count = "CAST(pair.key AS bigint)", "CAST(pair.value AS bigint)"
    columns = [span, *DIMENSIONS, f"{bucket} AS bucket", f"{count} AS {column}"]
    return Query(sql.select(columns, f"{table} CROSS JOIN {pairs}", where=where.sql), where.parameters)


def _bucket(value: str) -> str:
    """Return an expression of the bucket: one for each number up to 31, then 16 for each power of two."""
    shifts = " ".join(f"WHEN {value} < {1 << bits} THEN {bits - 5}" for bits in range(6, LONGEST_BITS))
    shift = f"(CASE WHEN {value} < 32 THEN 0 {shifts} ELSE {LONGEST_BITS - 5} END)"
    return f"{shift} * 16 + ({value} >> {shift})"


def store(comparison: Comparison, key: tuple[Any, ...], counts: dict[int, int]) -> None:
    """Replace the counts of some buckets in one row."""
    (column,) = comparison.columns
    where = sql.equal(comparison.keys[:-1])
    with connection.cursor() as cursor:
        cursor.execute(sql.select(column, comparison.table, where=where), key)
        row = cursor.fetchone()
        merged = {**_read(row[0] if row else None), **counts}
        packed = json.dumps(
            {str(bucket): merged[bucket] for bucket in sorted(merged) if merged[bucket]}, separators=(",", ":")
        )
        cursor.execute(sql.update(comparison.table, sql.equal([column]), where), (packed, *key))


def _read(packed: str | None) -> dict[int, int]:
    try:
        return {int(bucket): int(count) for bucket, count in json.loads(packed or "{}").items()}
    except (ValueError, AttributeError, TypeError):
        return {}
