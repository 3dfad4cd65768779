"""Comparison of two sets of figures by key, in the database. A row that is missing on one side counts as zeros."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from metrics import sql


@dataclass(frozen=True, slots=True)
class FigureDifference:
    """A figure that differs from its expected value."""

    law: str
    what: str
    where: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.law}: {self.what} in {self.where}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Query:
    """A SQL statement with its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(self.sql, self.parameters)
            yield from cursor

    def select(self, columns: str | Iterable[str], *, where: str | Iterable[str] = ()) -> "Query":
        """Return a query over the rows of this one, with the same parameters."""
        return Query(sql.select(columns, sql.subquery(self.sql, "counted"), where=where), self.parameters)

    @staticmethod
    def union(queries: list["Query"]) -> "Query":
        """Return a query for the rows of all these queries, duplicates included."""
        parameters = tuple(value for query in queries for value in query.parameters)
        return Query(sql.union_all(query.sql for query in queries), parameters)


@dataclass(frozen=True, slots=True)
class DifferingRow:
    """One key with at least one figure that differs, and all its figures on both sides."""

    key: tuple[Any, ...]
    expected: dict[str, int]
    found: dict[str, int]

    @property
    def differing(self) -> tuple[str, ...]:
        return tuple(column for column in self.expected if self.expected[column] != self.found[column])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Figures of a table, compared with the figures that its source leads to.

    `expected` yields rows with the keys and columns of `table`; rows with the same key are summed. `found` yields the
    compared part of the table. `source` is the table that `expected` is computed from.
    """

    law: str
    table: str
    source: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    expected: Query
    found: Query

    def rows(self) -> Iterator[DifferingRow]:
        count = len(self.columns)
        for row in self._query().rows():
            key, figures = row[: len(self.keys)], [int(value) for value in row[len(self.keys) :]]
            yield DifferingRow(
                key,
                dict(zip(self.columns, figures[:count], strict=True)),
                dict(zip(self.columns, figures[count:], strict=True)),
            )

    def differences(self) -> Iterator[FigureDifference]:
        for row in self.rows():
            for column in row.differing:
                yield FigureDifference(self.law, column, self.where(row.key), row.expected[column], row.found[column])

    def where(self, key: tuple[Any, ...]) -> str:
        return where(self.table, self.keys, key)

    def _query(self) -> Query:
        """Return the rows of both sides, summed by key, where any sum differs."""
        keys, numbered = ", ".join(self.keys), list(enumerate(self.columns))
        expected = [part for number, column in numbered for part in (f"{column} AS e{number}", f"0 AS f{number}")]
        stored = [part for number, column in numbered for part in (f"0 AS e{number}", f"{column} AS f{number}")]
        sums = [f"SUM(COALESCE({side}{number}, 0))" for side in "ef" for number, _ in numbered]
        differ = " OR ".join(f"{sums[number]} <> {sums[number + len(numbered)]}" for number, _ in numbered)
        both = [
            sql.select([*self.keys, *expected], sql.subquery(self.expected.sql, "one")),
            sql.select([*self.keys, *stored], sql.subquery(self.found.sql, "other")),
        ]
        statement = sql.select(
            [*self.keys, *sums],
            sql.subquery(sql.union_all(both), "sides"),
            group_by=f"{keys} HAVING {differ}",
            order_by=keys,
        )
        return Query(statement, self.expected.parameters + self.found.parameters)


def where(table: str, keys: tuple[str, ...], key: tuple[Any, ...]) -> str:
    """Return `rollup_minutes minute=2026-11-25T01:02Z model=tiny`, without empty values."""
    parts = (f"{name}={_readable(name, value)}" for name, value in zip(keys, key, strict=True) if value != "")
    return " ".join((table, *parts))


def _readable(name: str, value: object) -> object:
    if name == "minute":
        return datetime.fromtimestamp(int(str(value)) * 60, UTC).strftime("%Y-%m-%dT%H:%MZ")
    if name == "hour":
        return datetime.fromtimestamp(int(str(value)) * 3600, UTC).strftime("%Y-%m-%dT%HZ")
    if name == "start":
        return datetime.fromtimestamp(int(str(value)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if name == "day":
        return datetime.fromtimestamp(int(str(value)) * 86_400, UTC).date().isoformat()
    return value
