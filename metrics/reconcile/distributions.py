"""Histograms in the roll-ups, bucket by bucket: JSON objects, from a bucket's number to its count."""

import json
from collections.abc import Iterator
from typing import Any

from django.db import connection

from metrics.reconcile.comparison import Comparison, Query
from metrics.reconcile.history import counted, sqlite
from metrics.reconcile.laws import DIMENSIONS, marks, wide_dates
from metrics.reconcile.scope import Scope

HISTOGRAMS = {"durations": "duration_us", "first_tokens": "first_token_us"}  # and what is counted in them
LONGEST_BITS = 45  # a year, in microseconds

_OBJECT = r'^\{("\d+":\d+(,"\d+":\d+)*)?\}$'


def derived(scope: Scope) -> Iterator[Comparison]:
    for column in HISTOGRAMS:
        if scope.every_row:
            yield minutes(scope, column)
        if dates := wide_dates(scope):
            yield days(dates, column)


def minutes(scope: Scope, column: str) -> Comparison:
    """L3: histograms of minutes are those of the history's answers."""
    since = max(scope.history_minutes_since, scope.narrow_minute + 1)
    value, rows = HISTOGRAMS[column], counted(scope, since)
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=("minute", *DIMENSIONS, "bucket"),
        columns=(column,),
        expected=Query(
            f"SELECT minute, {', '.join(DIMENSIONS)}, {_bucket(value)} AS bucket, 1 AS {column} "  # noqa: S608
            f"FROM ({rows.sql}) AS counted WHERE outcome = 'ok' AND {value} IS NOT NULL",
            rows.parameters,
        ),
        found=_opened("rollup_minutes", "minute", column, Query("minute >= %s", (since,))),
    )


def days(dates: dict[str, tuple[int, int]], column: str) -> Comparison:
    """L3: histograms of days are the sums of those of their minutes."""
    parts = [
        _opened(
            "rollup_minutes",
            "CAST(%s AS text) AS date",
            column,
            Query("minute >= %s AND minute < %s", (date, first, end)),
        )
        for date, (first, end) in dates.items()
    ]
    return Comparison(
        law="L3",
        table="rollup_days",
        source="rollup_minutes",
        keys=("date", *DIMENSIONS, "bucket"),
        columns=(column,),
        expected=Query.union(parts),
        found=_opened("rollup_days", "date", column, Query(f"date IN ({marks(dates)})", tuple(dates))),
    )


def sums(scope: Scope) -> Iterator[Comparison]:
    """L3: a row's histogram of durations counts its answers, however old the row."""
    for table, span, since in (
        ("rollup_minutes", "minute", scope.narrow_minute),
        ("rollup_days", "date", scope.narrow_date),
    ):
        behind = Query(f"{span} > %s", (since,))
        opened = _opened(table, span, "durations", behind)
        yield Comparison(
            law="L3",
            table=table,
            source=table,
            keys=(span, *DIMENSIONS),
            columns=("counted",),
            expected=Query(
                f"SELECT {span}, {', '.join(DIMENSIONS)}, requests_ok AS counted FROM {table} WHERE {behind.sql}",  # noqa: S608
                behind.parameters,
            ),
            found=Query(f"SELECT opened.*, durations AS counted FROM ({opened.sql}) AS opened", opened.parameters),  # noqa: S608
        )


def _opened(table: str, span: str, column: str, where: Query) -> Query:
    """A row for each bucket of each histogram. What is no histogram has none."""
    if sqlite():
        opened = f"json_each(CASE WHEN json_valid({column}) THEN {column} ELSE '{{}}' END) AS pair"
        bucket, count = "CAST(pair.key AS INTEGER)", "pair.value"
    else:
        readable = f"CASE WHEN {column} ~ '{_OBJECT}' THEN {column} ELSE '{{}}' END"
        opened = f"LATERAL json_each_text(CAST({readable} AS json)) AS pair(key, value)"
        bucket, count = "CAST(pair.key AS bigint)", "CAST(pair.value AS bigint)"
    return Query(
        f"SELECT {span}, {', '.join(DIMENSIONS)}, {bucket} AS bucket, {count} AS {column} "  # noqa: S608
        f"FROM {table} CROSS JOIN {opened} WHERE {where.sql}",
        where.parameters,
    )


def _bucket(value: str) -> str:
    """Whole numbers up to 31 each have their own, from there on every power of two is cut into 16."""
    shifts = " ".join(f"WHEN {value} < {1 << bits} THEN {bits - 5}" for bits in range(6, LONGEST_BITS))
    shift = f"(CASE WHEN {value} < 32 THEN 0 {shifts} ELSE {LONGEST_BITS - 5} END)"
    return f"{shift} * 16 + ({value} >> {shift})"


def store(comparison: Comparison, key: tuple[Any, ...], counts: dict[int, int]) -> None:
    """Replace counts of some buckets of one cell."""
    (column,) = comparison.columns
    at = " AND ".join(f"{name} = %s" for name in comparison.keys[:-1])
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM {comparison.table} WHERE {at}", key)  # noqa: S608
        found = cursor.fetchone()
        merged = {**_read(found[0] if found else None), **counts}
        packed = json.dumps({str(at): merged[at] for at in sorted(merged) if merged[at]}, separators=(",", ":"))
        cursor.execute(f"UPDATE {comparison.table} SET {column} = %s WHERE {at}", (packed, *key))  # noqa: S608


def _read(packed: str | None) -> dict[int, int]:
    try:
        return {int(bucket): int(count) for bucket, count in json.loads(packed or "{}").items()}
    except (ValueError, AttributeError, TypeError):
        return {}
