"""Bulk access to tables: many rows by key in one query, upserts of many rows, grouped inserts of many similar rows."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import msgspec
from django.apps import apps
from django.db import connection

from metrics import sql

# For each value that is no number or text, sqlite3 searches three places for an adapter, and handles an exception if it
# finds none: for most columns of most rows. A registered adapter is in the first of these places.
sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type]  # returns None for None without Python code
sqlite3.register_adapter(bool, int)

ROWS_PER_STATEMENT = (64, 8)  # rows of one group; each is a multiple of the next
REST_PER_STATEMENT = (32, 1)  # rows of groups that are too small for that
ROWS_PER_UPSERT = 8  # more rows take more time to find their parameters than they save


def find(
    cursor: Any, table: str, keys: Sequence[str], columns: Sequence[str], key_values: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return these columns of the rows with these keys, by key, for existing rows only. Runs one query."""
    if not key_values:
        return {}
    if connection.vendor == "postgresql":
        source = f"{sql.unnested(_types(table, keys))} WITH ORDINALITY AS listed ({', '.join(keys)}, number)"
        number, same = "listed.number - 1", [f"stored.{key} = listed.{key}" for key in keys]
        parameters = _arrays(key_values)
    else:
        source, number = "json_each(%s) AS listed", "listed.key"
        same = [f"stored.{key} = listed.value ->> '{key}'" for key in keys]
        parameters = [msgspec.json.encode([dict(zip(keys, key, strict=True)) for key in key_values]).decode()]
    # CROSS JOIN: SQLite starts with the first table, and finds each key in the index of the second one.
    columns = [number, *(f"stored.{column}" for column in columns)]
    cursor.execute(sql.select(columns, f"{source} CROSS JOIN {table} AS stored", where=same), parameters)
    return {key_values[number]: tuple(row) for number, *row in cursor.fetchall()}


def add(
    cursor: Any, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]], *, new_only: bool = False
) -> None:
    """Insert a few rows; `new_only`: without those that exist already. PostgreSQL gets them in one statement."""
    if not rows:
        return
    end = " ON CONFLICT DO NOTHING" if new_only else ""
    if connection.vendor == "postgresql":
        source = sql.select("*", sql.unnested(_types(table, columns)))
        cursor.execute(sql.insert(table, columns, source) + end, _arrays(rows))
    else:
        cursor.executemany(sql.insert(table, columns) + end, rows)


class Upsert:
    """Statement that adds rows to a table, or to the rows with the same keys. See `metrics.sql.upsert`.

    SQLite gets a few rows with each run of it. For PostgreSQL, planning a statement is more work than writing a row, so
    that it gets all rows in one statement: each column as an array.
    """

    def __init__(
        self,
        table: str,
        keys: Sequence[str],
        *,
        added: Sequence[str] = (),
        replaced: Sequence[str] = (),
        expressions: Mapping[str, str] | None = None,
    ) -> None:
        self.table = table
        self.columns = (*keys, *added, *replaced, *(expressions or {}))
        self._keys = len(keys)
        self._upsert = partial(sql.upsert, table, keys, added=added, replaced=replaced, expressions=expressions)

    def write(self, cursor: Any, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write the rows, in this order. Does nothing without rows."""
        rows = list(rows)
        if not rows:
            return
        # PostgreSQL refuses a statement that writes one row twice.
        if connection.vendor == "postgresql" and len({row[: self._keys] for row in rows}) == len(rows):
            self._write_arrays(cursor, zip(*rows, strict=True))
        else:
            self._write_some(cursor, rows)

    def write_columns(self, cursor: Any, columns: Sequence[Sequence[Any]]) -> None:
        """Write rows that are given as their columns. No two of them may have the same keys."""
        if not columns[0]:
            return
        if connection.vendor == "postgresql":
            self._write_arrays(cursor, columns)
        else:
            self._write_some(cursor, list(zip(*columns, strict=True)))

    def _write_arrays(self, cursor: Any, columns: Iterable[Sequence[Any]]) -> None:
        source = sql.unnested(_types(self.table, self.columns))
        cursor.execute(self._upsert(source=sql.select("*", source)), [_array(column) for column in columns])

    def _write_some(self, cursor: Any, rows: list[tuple[Any, ...]]) -> None:
        """Write the rows in statements of ROWS_PER_UPSERT rows, and the last ones in statements of one row."""
        if connection.vendor != "sqlite":
            cursor.executemany(self._upsert(), rows)
            return
        end = len(rows) - len(rows) % ROWS_PER_UPSERT
        # Without Django's cursor, which looks for parameters in the text each time.
        with connection.wrap_database_errors:
            if end:
                starts = range(0, end, ROWS_PER_UPSERT)
                several = [tuple(chain.from_iterable(rows[start : start + ROWS_PER_UPSERT])) for start in starts]
                statement = _for_sqlite(self._upsert, len(self.columns), ROWS_PER_UPSERT)
                connection.connection.executemany(statement, several)
            if end < len(rows):
                connection.connection.executemany(_for_sqlite(self._upsert, len(self.columns), 1), rows[end:])


@lru_cache(maxsize=256)
def _for_sqlite(upsert: Callable[..., str], columns: int, count: int) -> str:
    """Return the statement for `count` rows with so many columns."""
    return upsert(source=f"VALUES {', '.join([sql.placeholders(columns)] * count)}").replace("%s", "?")


@lru_cache(maxsize=64)
def _types(table: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the types of these columns in PostgreSQL."""
    model = next(model for model in apps.get_models() if model._meta.db_table == table)
    types = {field.column: field.db_type(connection) for field in model._meta.local_concrete_fields}
    return tuple([str(types[column]) for column in columns])


def _arrays(rows: Collection[tuple[Any, ...]]) -> list[str]:
    """Return each column of the rows as the text of an array in PostgreSQL."""
    return [_array(column) for column in zip(*rows, strict=True)]


def _array(values: Sequence[Any]) -> str:
    kinds = set(map(type, values))
    if kinds == {int}:
        # A tenth of the instructions that `str` takes for each of them.
        return f"{{{msgspec.json.encode(values)[1:-1].decode()}}}"
    if kinds == {str}:
        # Quoted all at once: no text that may be stored contains the separator.
        text = "\0".join(values)
        if text.count("\0") != len(values) - 1:
            raise ValueError("PostgreSQL cannot store a text with NUL")
        return f'{{"{_escaped(text).replace(_NUL, _QUOTED_COMMA)}"}}'
    return f"{{{','.join(map(_element, values))}}}"


_NUL, _QUOTED_COMMA = "\0", '","'


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    return f'"{_escaped(str(value))}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class Columns:
    """Column layout of a grouped insert: `common` is bound once per group, `own` per row.

    `copies` names further columns and the own column that each repeats.
    """

    common: tuple[str, ...]
    own: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)


Group = tuple[tuple[Any, ...], list[tuple[Any, ...]]]  # common values, and the own values of each row


def insert(cursor: Any, table: str, columns: Columns, groups: Sequence[Group]) -> None:
    """Insert many rows as cheaply as the database allows. Raises IntegrityError if a row exists already."""
    with connection.wrap_database_errors:
        if connection.vendor == "postgresql":
            copied = [slice(position := columns.own.index(name), position + 1) for name in columns.copies.values()]
            names = ", ".join((*columns.common, *columns.own, *columns.copies))
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                # Rows are sorted by the first own column, as its index has them.
                all_rows = [(row, common) for common, rows in groups for row in rows]
                for row, common in sorted(all_rows, key=_first_of_row):
                    values = common + row
                    for one in copied:
                        values += row[one]
                    copy.write_row(values)
        else:
            _insert_sqlite(connection.connection, table, columns, groups)


def _first_of_row(item: tuple[tuple[Any, ...], tuple[Any, ...]]) -> Any:
    return item[0][0]


def _insert_sqlite(database: sqlite3.Connection, table: str, columns: Columns, groups: Sequence[Group]) -> None:
    """Insert many rows per statement, with the common values bound once. What is left of groups is written together.

    Most of the cost of a row is binding its values, and beginning and ending a statement.
    """
    copies = tuple(columns.copies.items())
    larger = 0
    for count in ROWS_PER_STATEMENT:
        statement = _statement(table, columns.common, columns.own, copies, count)
        database.executemany(statement, _parameters(groups, count, larger))
        larger = count
    # Sorted as the table's index is, by the first own column.
    rest = [(row, common) for common, rows in groups for row in rows[len(rows) - len(rows) % larger :]]
    rest.sort(key=_first_of_row)
    start = 0
    for count in REST_PER_STATEMENT:
        statement = _statement(table, (), columns.common + columns.own, copies, count)
        end = len(rest) - (len(rest) - start) % count
        database.executemany(statement, _parameters_of_rest(rest[start:end], count))
        start = end


def _parameters(groups: Sequence[Group], count: int, larger: int) -> Iterator[tuple[Any, ...]]:
    """Yield the parameters of statements with `count` rows, for the rows that are too few for `larger` statements."""
    for common, rows in groups:
        size = len(rows)
        for start in range(size - size % larger if larger else 0, size - size % count, count):
            yield (*common, *chain.from_iterable(rows[start : start + count]))


def _parameters_of_rest(
    rest: Sequence[tuple[tuple[Any, ...], tuple[Any, ...]]], count: int
) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(rest), count):
        yield tuple(chain.from_iterable([common + own for own, common in rest[start : start + count]]))


@lru_cache(maxsize=32)
def _statement(
    table: str, common: tuple[str, ...], own: tuple[str, ...], copies: tuple[tuple[str, str], ...], count: int
) -> str:
    """Return an INSERT of `count` rows. OR FAIL: the statement need not be undone alone, the transaction is."""
    shared = [f"?{number}" for number in range(1, len(common) + 1)]
    values = []
    for row in range(count):
        first = len(common) + row * len(own) + 1
        parameters = {name: f"?{first + position}" for position, name in enumerate(own)}
        values.append(", ".join((*shared, *parameters.values(), *[parameters[source] for _, source in copies])))
    names = ", ".join((*common, *own, *[name for name, _ in copies]))
    return " ".join(["INSERT OR FAIL INTO", table, f"({names})", "VALUES", f"({'), ('.join(values)})"])
