"""The reference system's database as facts: which tables and columns it has, and whether a file really is one."""

import json
import re
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

# The tables that our models map. The others are the reference's own affair.
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
    """Columns, keys and indexes of every table, after all of its migrations (version 5.7.1)."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("reference_schema.json").read_text())
    return found


def is_reference(tables: Iterable[str]) -> bool:
    return set(tables) >= _MARKS


def tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def is_half_adopted(connection: sqlite3.Connection) -> bool:
    """Did `adopt` begin with it and not come to its end? Files of ours lack the reference's table of migrations."""
    found = tables(connection)
    if not {"_sqlx_migrations", "django_migrations"} <= found:
        return False
    if "installation" not in found:
        return True
    return not connection.execute("SELECT count(*) FROM installation WHERE adopted_at IS NOT NULL").fetchone()[0]


def differences(connection: sqlite3.Connection) -> list[str]:
    """Every way in which the mapped tables differ from what we expect, a sentence each; empty when they are right."""
    found: list[str] = []
    for table in MAPPED:
        expected = {column["name"]: column for column in schema()[table]["columns"]}
        actual = {row[1]: row for row in connection.execute(f'PRAGMA table_info("{table}")')}
        if not actual:
            found.append(f"table {table} is missing")
            continue
        found += [f"{table}.{name} is missing" for name in expected if name not in actual]
        for name, row in actual.items():
            if name in expected:
                found += [f"{table}.{name} {text}" for text in _compare(expected[name], row)]
            elif row[3] and row[4] is None:
                found.append(f"{table}.{name} is not known to us and must have a value: our rows could not be stored")
    return found


def _compare(expected: dict[str, Any], row: tuple[Any, ...]) -> list[str]:
    _, _, kind, not_null, default, key = row
    texts = []
    if kind.upper() != expected["type"]:
        texts.append(f"has type {kind or 'none'}, not {expected['type']}")
    # A primary key of one column is NOT NULL by itself in some declarations and not in others.
    if bool(not_null) != expected["notnull"] and not expected["pk"]:
        texts.append("may be empty" if expected["notnull"] else "must not be empty")
    if _plain(default) != _plain(expected["default"]):
        texts.append(f"has default {default}, not {expected['default']}")
    if bool(key) != bool(expected["pk"]):
        texts.append("is part of the primary key" if key else "is not part of the primary key")
    return texts


def _plain(default: str | None) -> str | None:
    """A default without the brackets that SQLite keeps as they were written."""
    if default is None:
        return None
    while (match := re.fullmatch(r"\s*\((.*)\)\s*", default, re.DOTALL)) is not None:
        default = match[1]
    number = re.fullmatch(r"-?\d+(\.0*)?", default.strip())
    return default.strip().split(".")[0] if number else default.strip()
