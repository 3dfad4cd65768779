"""Repair: computes derived figures again, in the order history, minutes, days, daily rows, counters, totals.

It runs in one transaction that locks out all other writers. Counts are reduced only if that is allowed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connection

from metrics import sql
from metrics.reconcile import averages, distributions, laws
from metrics.reconcile.comparison import Comparison, DifferingRow
from metrics.reconcile.scope import Scope
from metrics.reconcile.tables import DETAILS, TABLES


@dataclass(frozen=True, slots=True)
class RepairedFigure:
    """A figure that was corrected."""

    law: str
    what: str
    where: str
    old: object
    new: object

    def __str__(self) -> str:
        smaller = isinstance(self.old, int) and isinstance(self.new, int) and self.new < self.old
        return f"{self.law}: {self.what} in {self.where}: {self.old} → {self.new}{' (smaller)' if smaller else ''}"


def lock() -> None:
    """Lock out the database writer, in the order of its tables. On SQLite the transaction does so by itself."""
    if connection.vendor == "postgresql":
        tables = ("journal_positions", "request_history", *TABLES, "moving_averages")
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")


def repair(scope: Scope, *, allow_decrease: bool) -> Iterator[RepairedFigure]:
    """Correct figures and yield each of them."""
    disputed: set[str] = set()  # tables with a figure that stays wrong: no figure is computed from these
    for comparison in _derived(scope):
        wrong = list(comparison.rows())
        if comparison.source not in disputed:
            for row in wrong:
                yield from _repair_row(comparison, row, allow_decrease=allow_decrease)
        if wrong and any(comparison.rows()):
            disputed.add(comparison.table)
    for average in list(averages.averages(scope)):
        if average.right.all and (differences := list(average.differences())):
            averages.store(average)
            for difference in differences:
                yield RepairedFigure(
                    difference.law, difference.what, difference.where, difference.found, difference.expected
                )


def _derived(scope: Scope) -> Iterator[Comparison]:
    for law in laws.derived():
        if (comparison := law(scope)) is not None:
            yield comparison
    yield from distributions.derived(scope)  # after the rows that contain them


def _repair_row(comparison: Comparison, row: DifferingRow, *, allow_decrease: bool) -> Iterator[RepairedFigure]:
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
        yield RepairedFigure(comparison.law, column, comparison.where(row.key), row.found[column], value)


def _write(comparison: Comparison, row: DifferingRow, new: dict[str, int]) -> None:
    table, keys = comparison.table, comparison.keys
    nullable = DETAILS if {*DETAILS} <= {*TABLES[table][1]} else ()
    if new.keys() & {*nullable}:  # they are all null, or none of them
        new = {**{column: value for column, value in row.found.items() if column in nullable}, **new}
    others = dict.fromkeys((column for column in TABLES[table][1] if column not in nullable), 0)
    figures = {**others, **new}
    with connection.cursor() as cursor:
        if table == "rollup_cost_days":  # a view: the sums are in a table of their own
            table, row_key, keys = "rollup_cost_sums", _number_of_costs(cursor, keys, row.key), ("number",)
        else:
            row_key = row.key
        cursor.execute(sql.update(table, sql.equal(new), sql.equal(keys)), (*new.values(), *row_key))
        if not cursor.rowcount:
            cursor.execute(sql.insert(table, (*keys, *figures)), (*row_key, *figures.values()))


def _number_of_costs(cursor: Any, keys: tuple[str, ...], key: tuple[Any, ...]) -> tuple[int]:
    """Return the number of a key of costs, which is stored if it is new."""
    cursor.execute(sql.select("number", "rollup_cost_keys", where=sql.equal(keys)), key)
    row = cursor.fetchone()
    if row is None:
        used = sql.union_all(sql.select("number", table) for table in ("rollup_cost_keys", "rollup_cost_sums"))
        cursor.execute(sql.select("COALESCE(MAX(number), 0) + 1", sql.subquery(used, "used")))
        row = cursor.fetchone()
        cursor.execute(sql.insert("rollup_cost_keys", (*keys, "number")), (*key, *row))
    return (int(row[0]),)
