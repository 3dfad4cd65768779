"""Triggers of the change log on SQLite. They use built-in SQL only, because they run in the writer's connection."""

from collections.abc import Iterable, Iterator
from string import Template

from django.db import connection

from endpoints.changes.watched import LIMIT_TABLES, WATCHED, WatchedTable

# Text of the form in which SQLite stores it, so that it can be compared. A damaged id never makes the write fail.
_INSERT = Template(
    "CREATE TRIGGER routerdash_${table}_insert AFTER INSERT ON $table BEGIN "
    "INSERT INTO registry_changes (kind, object_id) VALUES ('$kind', ifnull(CAST($new_id AS TEXT), '')); END"
)
_DELETE = Template(
    "CREATE TRIGGER routerdash_${table}_delete AFTER DELETE ON $table BEGIN "
    "INSERT INTO registry_changes (kind, object_id) VALUES ('$kind', ifnull(CAST($old_id AS TEXT), '')); "
    "${limits}${keys}END"
)
_LIMITS = Template("DELETE FROM $table WHERE level = '$level' AND subject_id = CAST(OLD.id AS TEXT); ")
_KEYS = {  # by table: what becomes of the deleted API keys of users
    "api_keys": "INSERT OR REPLACE INTO deleted_keys (id, user_id) SELECT CAST(OLD.id AS TEXT), "
    "CAST(OLD.created_by AS TEXT) WHERE OLD.id IS NOT NULL "
    "AND EXISTS (SELECT 1 FROM users WHERE id = OLD.created_by); ",
    "users": "DELETE FROM deleted_keys WHERE user_id = CAST(OLD.id AS TEXT); ",
}
_UPDATE = Template(
    "CREATE TRIGGER routerdash_${table}_update AFTER UPDATE OF $columns ON $table WHEN $differs BEGIN "
    "INSERT INTO registry_changes (kind, object_id) VALUES ('$kind', ifnull(CAST($new_id AS TEXT), '')); "
    "INSERT INTO registry_changes (kind, object_id) SELECT '$kind', ifnull(CAST($old_id AS TEXT), '') "
    "WHERE $old_id IS NOT $new_id; END"
)
# INSERT OR REPLACE and UPDATE OR REPLACE delete conflicting rows without a delete trigger.
_REPLACED_BY_INSERT = Template(
    "CREATE TRIGGER routerdash_${table}_replaced_by_insert BEFORE INSERT ON $table BEGIN "
    "INSERT INTO registry_changes (kind, object_id) SELECT '$kind', ifnull(CAST($id AS TEXT), '') FROM $table "
    "WHERE ($conflicts) AND $id IS NOT $new_id; END"
)
_REPLACED_BY_UPDATE = Template(
    "CREATE TRIGGER routerdash_${table}_replaced_by_update BEFORE UPDATE OF $unique ON $table WHEN $unique_differs "
    "BEGIN INSERT INTO registry_changes (kind, object_id) SELECT '$kind', ifnull(CAST($id AS TEXT), '') FROM $table "
    "WHERE ($conflicts) AND $id IS NOT $old_id; END"
)


def find_outdated() -> list[str]:
    """Return the names of triggers that are missing, different or unknown; none if all are as they should be."""
    expected, stored = dict(_definitions()), _stored()
    return [name for name in {**expected, **stored} if expected.get(name) != stored.get(name)]


def create(names: list[str]) -> None:
    """Create these triggers again. One that is unknown is only dropped."""
    expected, stored = dict(_definitions()), _stored()
    with connection.cursor() as cursor:
        for name in names:
            if name in stored:
                cursor.execute(_drop(name))
            if name in expected:
                cursor.execute(expected[name])


def remove() -> None:
    """Drop all triggers of ours."""
    with connection.cursor() as cursor:
        for name in _stored():
            cursor.execute(_drop(name))


def wait_for_others() -> None:
    """Let no other process create triggers until the end of the transaction: each transaction has the write lock."""


def _drop(name: str) -> str:
    return f'DROP TRIGGER "{name}"'


def _stored() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'routerdash_*'")
        return dict(cursor.fetchall())


def _definitions() -> Iterator[tuple[str, str]]:
    for table in WATCHED:
        for template in (
            _INSERT,
            _DELETE,
            _UPDATE,
            *((_REPLACED_BY_INSERT, _REPLACED_BY_UPDATE) if table.unique else ()),
        ):
            statement = template.substitute(_values(table))
            yield statement.split()[2], statement


def _values(table: WatchedTable) -> dict[str, str]:
    unique = sorted({column for columns in table.unique for column in columns})
    conflicts = (" AND ".join(f"{column} = NEW.{column}" for column in columns) for columns in table.unique)
    return {
        "table": table.name,
        "kind": table.kind,
        "id": table.identity(),
        "new_id": table.identity("NEW"),
        "old_id": table.identity("OLD"),
        "limits": "".join(
            _LIMITS.substitute(table=name, level=table.limited_level) for name in LIMIT_TABLES if table.limited_level
        ),
        "keys": _KEYS.get(table.name, ""),
        "columns": ", ".join(table.columns),
        "differs": _any_differs(table.columns),
        "conflicts": " OR ".join(conflicts),
        "unique": ", ".join(unique),
        "unique_differs": _any_differs(unique),
    }


def _any_differs(columns: Iterable[str]) -> str:
    return " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns)
