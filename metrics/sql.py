"""Text of SQL statements, and the differences between SQLite and PostgreSQL. Imports nothing of Django.

Names of tables and columns come from the code, never from a request. Values are always parameters (`%s`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

Vendor = Literal["sqlite", "postgresql"]
SqlRow = Sequence[Any]
RunSql = Callable[[str, Sequence[Any]], list[SqlRow]]  # runs a statement with these parameters


def select(
    columns: str | Iterable[str],
    source: str,
    *,
    where: str | Iterable[str] = (),
    group_by: str = "",
    order_by: str = "",
    limit: int | None = None,
    offset: int | None = None,
) -> str:
    """Return a SELECT. `source` follows FROM, `group_by` may end with HAVING; conditions are combined with AND."""
    conditions = where if isinstance(where, str) else " AND ".join(where)
    parts = ["SELECT", columns if isinstance(columns, str) else ", ".join(columns), "FROM", source]
    parts += ["WHERE", conditions] if conditions else []
    parts += ["GROUP BY", group_by] if group_by else []
    parts += ["ORDER BY", order_by] if order_by else []
    parts += ["LIMIT", str(limit)] if limit is not None else []
    parts += ["OFFSET", str(offset)] if offset else []
    return " ".join(parts)


def subquery(statement: str, name: str) -> str:
    """Return a source for `select`: the rows of another statement under a name."""
    return f"({statement}) AS {name}"


def placeholders(count: int) -> str:
    """Return a list for `IN`, with one parameter for each of `count` values."""
    return f"({', '.join(['%s'] * count)})"


def indexed(table: str, index: str, vendor: Vendor) -> str:
    """Return a source for `select` that SQLite reads by this index.

    An adopted database has indexes of llmlb, which SQLite would otherwise prefer. PostgreSQL has no such hint.
    """
    return f"{table} INDEXED BY {index}" if vendor == "sqlite" else table


def unindexed(column: str, vendor: Vendor) -> str:
    """Return an expression of a column that SQLite does not look up in an index of llmlb."""
    return f"+{column}" if vendor == "sqlite" else column


def contains(column: str, vendor: Vendor) -> str:
    """Return a condition with one parameter: the column contains this text in any case."""
    function = "instr" if vendor == "sqlite" else "strpos"
    return f"{function}(lower({column}), lower(%s)) > 0"


def listed(texts: Sequence[str], vendor: Vendor) -> tuple[str, list[Any]]:
    """Return a table `listed` with a column `value` of any number of texts, as a source, and its one parameter."""
    if vendor == "postgresql":
        return "unnest(CAST(%s AS text[])) AS listed (value)", [list(texts)]
    return "json_each(%s) AS listed", [json.dumps(list(texts))]


def with_rows(
    name: str, columns: Mapping[str, str], rows: Sequence[Sequence[Any]], vendor: Vendor
) -> tuple[str, list[Any]]:
    """Return the beginning of a statement that may read any number of distinct rows as a table, and its parameters.

    `columns` maps names to types.
    """
    values: list[Any]
    if vendor == "postgresql":
        statement, values = (
            select("*", unnested(list(columns.values()))),
            [list(each) for each in zip(*rows, strict=True)],
        )
    else:
        # With types and in groups, SQLite joins them by an index. Else it compares each row with all of them.
        extracted = [
            f"CAST(json_extract(value, '$[{position}]') AS {type_})" for position, type_ in enumerate(columns.values())
        ]
        groups = ", ".join(str(number) for number in range(1, len(columns) + 1))
        statement = select(extracted, "json_each(%s)", group_by=groups)
        values = [json.dumps(list(map(list, rows)))]
    return f"WITH {name} ({', '.join(columns)}) AS MATERIALIZED ({statement})", values


def unnested(types: Sequence[str]) -> str:
    """Return a source of rows for PostgreSQL, with one parameter for each column: an array of its values as text."""
    return f"unnest({', '.join([f'CAST(%s AS {type_}[])' for type_ in types])})"


def starts_with(column: str, prefix: str, vendor: Vendor) -> tuple[str, list[Any]]:
    """Return a condition for a prefix without wildcards, and its parameters. SQLite uses an index of the column."""
    if vendor == "postgresql":
        return f"{column} LIKE %s", [f"{prefix}%"]
    return f"{column} >= %s AND {column} < %s", [prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)]


def union_all(statements: Iterable[str]) -> str:
    """Return a statement with the rows of all these statements, duplicates included."""
    return " UNION ALL ".join(statements)


def insert(table: str, columns: Sequence[str], source: str = "") -> str:
    """Return an INSERT of one row with a parameter for each column, or of all rows of the statement `source`."""
    return " ".join(["INSERT INTO", table, f"({', '.join(columns)})", source or f"VALUES {placeholders(len(columns))}"])


def upsert(
    table: str,
    keys: Sequence[str],
    *,
    added: Sequence[str] = (),
    replaced: Sequence[str] = (),
    expressions: Mapping[str, str] | None = None,
    where: str = "",
    source: str = "",
) -> str:
    """Return an INSERT of one row, or of the rows of `source`, that updates rows with the same keys instead.

    `added` columns are increased by the new value, `replaced` ones take it. `expressions` has the new values of other
    columns. Parameters are the values of all columns in this order.
    """
    expressions = expressions or {}
    updates = [f"{name} = {table}.{name} + excluded.{name}" for name in added]
    updates += [f"{name} = excluded.{name}" for name in replaced]
    updates += [f"{name} = {expression}" for name, expression in expressions.items()]
    parts = [insert(table, (*keys, *added, *replaced, *expressions), source)]
    parts += ["ON CONFLICT", f"({', '.join(keys)})", "DO UPDATE SET", ", ".join(updates)]
    parts += ["WHERE", where] if where else []
    return " ".join(parts)


def update(table: str, assignments: str | Iterable[str], where: str | Iterable[str]) -> str:
    """Return an UPDATE. An assignment is `column = expression`; several conditions are combined with AND."""
    changes = assignments if isinstance(assignments, str) else ", ".join(assignments)
    conditions = where if isinstance(where, str) else " AND ".join(where)
    return " ".join(["UPDATE", table, "SET", changes, "WHERE", conditions])


def delete(table: str, where: str, returning: Iterable[str] = ()) -> str:
    """Return a DELETE, which returns these columns of the deleted rows."""
    names = ", ".join(returning)
    return " ".join(["DELETE FROM", table, "WHERE", where, *(["RETURNING", names] if names else [])])


def equal(columns: Iterable[str]) -> list[str]:
    """Return a condition, or an assignment, with one parameter for each column."""
    return [f"{column} = %s" for column in columns]


def whole_number(column: str, maximum: int, vendor: Vendor) -> str:
    """Return an expression of a count that llmlb wrote: 0 instead of a value that is no number or cannot be true."""
    is_integer = f"typeof({column}) = 'integer' AND " if vendor == "sqlite" else ""
    return f"CASE WHEN {is_integer}ABS({column} / 2) <= {maximum} THEN {column} ELSE 0 END"
