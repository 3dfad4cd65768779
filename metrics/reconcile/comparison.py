"""One set of figures against another, by key, in the database: a row that is missing on one side is zero there."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not what it must be."""

    law: str
    what: str
    where: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.law}: {self.what} in {self.where}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Query:
    sql: str
    parameters: tuple[Any, ...] = ()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(self.sql, self.parameters)
            yield from cursor

    @staticmethod
    def union(queries: list["Query"]) -> "Query":
        return Query(
            " UNION ALL ".join(query.sql for query in queries),
            tuple(value for query in queries for value in query.parameters),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One key under which some figure differs."""

    key: tuple[Any, ...]
    expected: dict[str, int]
    found: dict[str, int]

    @property
    def differing(self) -> tuple[str, ...]:
        return tuple(column for column in self.expected if self.expected[column] != self.found[column])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`expected` yields rows with the keys and columns that `table` must have; several of one key are summed.

    `found` is the part of the table that is looked at; `source` the table that `expected` is made of.
    """

    law: str
    table: str
    source: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    expected: Query
    found: Query

    def rows(self) -> Iterator[Row]:
        count = len(self.columns)
        for row in self._query().rows():
            key, figures = row[: len(self.keys)], [int(value) for value in row[len(self.keys) :]]
            yield Row(
                key,
                dict(zip(self.columns, figures[:count], strict=True)),
                dict(zip(self.columns, figures[count:], strict=True)),
            )

    def differences(self) -> Iterator[Difference]:
        for row in self.rows():
            for column in row.differing:
                yield Difference(self.law, column, self.where(row.key), row.expected[column], row.found[column])

    def where(self, key: tuple[Any, ...]) -> str:
        return where(self.table, self.keys, key)

    def _query(self) -> Query:
        keys = ", ".join(self.keys)
        numbered = list(enumerate(self.columns))
        expected = ", ".join(f"{column} AS e{at}, 0 AS f{at}" for at, column in numbered)
        found = ", ".join(f"0 AS e{at}, {column} AS f{at}" for at, column in numbered)
        sums = [f"SUM(COALESCE({side}{at}, 0))" for side in "ef" for at, _ in numbered]
        differ = " OR ".join(f"{sums[at]} <> {sums[at + len(numbered)]}" for at, _ in numbered)
        sql = (
            f"SELECT {keys}, {', '.join(sums)} FROM (SELECT {keys}, {expected} FROM ({self.expected.sql}) AS one "  # noqa: S608
            f"UNION ALL SELECT {keys}, {found} FROM ({self.found.sql}) AS other) AS sides "
            f"GROUP BY {keys} HAVING {differ} ORDER BY {keys}"
        )
        return Query(sql, self.expected.parameters + self.found.parameters)


def where(table: str, keys: tuple[str, ...], key: tuple[Any, ...]) -> str:
    """`rollup_minutes minute=2026-11-25T01:02Z model=tiny`, without what is empty."""
    parts = (f"{name}={_shown(name, value)}" for name, value in zip(keys, key, strict=True) if value != "")
    return " ".join((table, *parts))


def _shown(name: str, value: object) -> object:
    if name == "minute":
        return datetime.fromtimestamp(int(str(value)) * 60, UTC).strftime("%Y-%m-%dT%H:%MZ")
    if name == "hour":
        return datetime.fromtimestamp(int(str(value)) * 3600, UTC).strftime("%Y-%m-%dT%HZ")
    if name == "day":
        return datetime.fromtimestamp(int(str(value)) * 86_400, UTC).date().isoformat()
    return value
