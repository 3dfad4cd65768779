"""Schema of the database of llmlb, and comparison of a file with it."""

import json
import re
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

# Tables that models of RouterDash map. Only llmlb uses the others.
MAPPED = (
    "users",
    "api_keys",
    "settings",
    "endpoints",
    "endpoint_models",
    "endpoint_health_checks",
    "endpoint_daily_stats",
    "request_history",
)
_MARKS = {"endpoints", "endpoint_models", "endpoint_daily_stats", "request_history"}


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """Return the columns, keys and indexes of every table, after all migrations of llmlb 5.7.1."""
    contents: dict[str, Any] = json.loads(Path(__file__).with_name("llmlb_schema.json").read_text())
    return contents


def is_reference(tables: Iterable[str]) -> bool:
    return set(tables) >= _MARKS


def tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def is_half_adopted(connection: sqlite3.Connection) -> bool:
    """Return True if `adopt` started with this database but did not finish.

    Databases that RouterDash created lack llmlb's table of migrations.
    """
    present = tables(connection)
    if not {"_sqlx_migrations", "django_migrations"} <= present:
        return False
    if "installation" not in present:
        return True
    return not connection.execute("SELECT count(*) FROM installation WHERE adopted_at IS NOT NULL").fetchone()[0]


def differences(connection: sqlite3.Connection) -> list[str]:
    """Return the differences of the mapped tables from the schema, one text each; empty if there are none."""
    texts: list[str] = []
    for table in MAPPED:
        expected = {column["name"]: column for column in schema()[table]["columns"]}
        actual = {row[1]: row for row in connection.execute(f'PRAGMA table_info("{table}")')}
        if not actual:
            texts.append(f"table {table} is missing")
            continue
        texts += [f"{table}.{name} is missing" for name in expected if name not in actual]
        for name, row in actual.items():
            if name in expected:
                texts += [f"{table}.{name} {text}" for text in _compare(expected[name], row)]
            elif row[3] and row[4] is None:
                texts.append(f"{table}.{name} is unknown to RouterDash and requires a value, so no rows could be added")
    return texts


def _compare(expected: dict[str, Any], row: tuple[Any, ...]) -> list[str]:
    _, _, kind, not_null, default, key = row
    texts = []
    if kind.upper() != expected["type"]:
        texts.append(f"has type {kind or 'none'}, not {expected['type']}")
    # A primary key of one column is NOT NULL in some declarations and not in others.
    if bool(not_null) != expected["notnull"] and not expected["pk"]:
        texts.append("may be empty" if expected["notnull"] else "must not be empty")
    if _plain(default) != _plain(expected["default"]):
        texts.append(f"has default {default}, not {expected['default']}")
    if bool(key) != bool(expected["pk"]):
        texts.append("is part of the primary key" if key else "is not part of the primary key")
    return texts


def _plain(default: str | None) -> str | None:
    """Return a default value without a fraction of zeros and without the brackets, which SQLite stores as written."""
    if default is None:
        return None
    while (match := re.fullmatch(r"\s*\((.*)\)\s*", default, re.DOTALL)) is not None:
        default = match[1]
    number = re.fullmatch(r"-?\d+(\.0*)?", default.strip())
    return default.strip().split(".")[0] if number else default.strip()
