"""Building anew what is derived, in the order of truth: history, minutes, days, daily rows, counters, totals.

In one transaction, in which nobody else writes. No count is made smaller unless that is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import connection

from metrics.reconcile import averages, distributions, laws
from metrics.reconcile.comparison import Comparison, Row
from metrics.reconcile.scope import Scope


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that was made right."""

    law: str
    what: str
    where: str
    old: object
    new: object

    def __str__(self) -> str:
        smaller = isinstance(self.old, int) and isinstance(self.new, int) and self.new < self.old
        return f"{self.law}: {self.what} in {self.where}: {self.old} → {self.new}{' (smaller)' if smaller else ''}"


def lock() -> None:
    """Keep the database writer out, its tables in its order. On SQLite the transaction itself does."""
    if connection.vendor == "postgresql":
        tables = ("journal_positions", "request_history", *laws.TABLES, "moving_averages")
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")


def repair(scope: Scope, *, allow_decrease: bool) -> Iterator[Change]:
    disputed: set[str] = set()  # tables with a figure that stays wrong: nothing is made of these
    for comparison in _derived(scope):
        wrong = list(comparison.rows())
        if comparison.source not in disputed:
            for row in wrong:
                yield from _mend(comparison, row, allow_decrease=allow_decrease)
        if wrong and any(comparison.rows()):
            disputed.add(comparison.table)
    for average in list(averages.averages(scope)):
        if average.right.all and (differences := list(average.differences())):
            averages.store(average)
            for it in differences:
                yield Change(it.law, it.what, it.where, it.found, it.expected)


def _derived(scope: Scope) -> Iterator[Comparison]:
    for derive in laws.DERIVED:
        if (comparison := derive(scope)) is not None:
            yield comparison
    yield from distributions.derived(scope)  # behind the rows that they stand in


def _mend(comparison: Comparison, row: Row, *, allow_decrease: bool) -> Iterator[Change]:
    new = {
        column: row.expected[column]
        for column in row.differing
        if allow_decrease or row.expected[column] > row.found[column]
    }
    if not new:
        return
    if comparison.keys[-1] == "bucket":
        distributions.store(comparison, row.key[:-1], {int(row.key[-1]): count for count in new.values()})
    else:
        _write(comparison, row, new)
    for column, value in new.items():
        yield Change(comparison.law, column, comparison.where(row.key), row.found[column], value)


def _write(comparison: Comparison, row: Row, new: dict[str, int]) -> None:
    table, keys = comparison.table, comparison.keys
    at = " AND ".join(f"{key} = %s" for key in keys)
    figures = {**dict.fromkeys(laws.TABLES[table][1], 0), **new}
    names = (*keys, *figures)
    with connection.cursor() as cursor:
        setters = ", ".join(f"{column} = %s" for column in new)
        cursor.execute(f"UPDATE {table} SET {setters} WHERE {at}", (*new.values(), *row.key))  # noqa: S608
        if not cursor.rowcount:
            marks = ", ".join(["%s"] * len(names))
            sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608
            cursor.execute(sql, (*row.key, *figures.values()))
