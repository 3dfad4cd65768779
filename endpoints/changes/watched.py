"""The tables and columns whose changes the log names: all that gateways and the caches of control must follow.

Health checks, counters and logins change other columns, so they write nothing into the log.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Model

from endpoints.endpoint_fields import FIELDS
from endpoints.model_names.tables import NamedModel, NameStep, NameTarget
from endpoints.models import HEALTH_FIELDS, EndpointOptions
from gateway.registry.limits import KEY_LEVEL, LEVELS, USER_LEVEL, Subject

LIMIT_TABLES = ("limits", "budgets")
ENDPOINT, KEY, USER, NAME, LIMIT = "endpoint", "key", "user", "model_name", "limit"


def _uuid(text: str) -> str:
    """Return the id of a row; an unreadable one is the nil UUID, as in TextUUIDField."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return str(uuid.UUID(int=0))


def _subject(text: str) -> Subject | None:
    """Return the subject of `level:id`; None for a level that this release does not know."""
    level, _, subject_id = text.partition(":")
    return (level, subject_id) if level in LEVELS else None


# By kind of entry: what the id of an object is, made of its text in the log; None: the entry is ignored.
LOGGED: Mapping[str, Callable[[str], Any]] = {ENDPOINT: _uuid, KEY: str, USER: _uuid, NAME: _uuid, LIMIT: _subject}


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A table. `id_column` identifies the object of this kind that has changed with a row."""

    name: str
    kind: str
    id_column: str
    columns: tuple[str, ...]  # an update of another column is no change
    unique: tuple[tuple[str, ...], ...] = ()  # besides the id: SQLite's REPLACE deletes rows with the same values
    second_id_column: str = ""  # the object is identified by both columns, with a colon in between
    limited_level: str = ""  # a deleted row takes the limits of this level with its `id` with it

    def identity(self, row: str = "") -> str:
        """Return the SQL expression of the object's id. `row`: NEW or OLD in a trigger."""
        prefix = f"{row}." if row else ""
        first = f"{prefix}{self.id_column}"
        return f"{first} || ':' || {prefix}{self.second_id_column}" if self.second_id_column else first


def _endpoint_columns() -> Iterable[str]:
    return (field.column for field in FIELDS if not field.is_option and field.column not in HEALTH_FIELDS)


def _columns(model: type[Model]) -> tuple[str, ...]:
    return tuple(str(field.column) for field in model._meta.concrete_fields)


WATCHED = (
    WatchedTable("endpoints", ENDPOINT, "id", tuple(_endpoint_columns()), (("name",), ("base_url",))),
    WatchedTable(
        "endpoint_options",
        ENDPOINT,
        "endpoint_id",
        _columns(EndpointOptions),
    ),
    WatchedTable(
        "endpoint_models",
        ENDPOINT,
        "endpoint_id",
        (
            *("endpoint_id", "model_id", "capabilities", "max_tokens", "canonical_name", "max_output_tokens", "lacks"),
            "features",
        ),
    ),
    WatchedTable(
        "api_keys",
        KEY,
        "key_hash",  # by which requests find a key; a deleted row has no other trace in the registry store
        (
            *("id", "key_hash", "name", "created_by", "created_at", "expires_at", "key_prefix", "permissions"),
            *("external", "enabled", "rules", "bulk", "replaced_hash", "replaced_until"),
        ),
        (("key_hash",), ("created_by", "name")),
        limited_level=KEY_LEVEL,
    ),
    WatchedTable(
        "users",
        USER,
        "id",
        ("id", "username", "password_hash", "role", "created_at", "must_change_password", "view_bodies"),
        (("username",),),
        limited_level=USER_LEVEL,
    ),
    WatchedTable(
        "limits",
        LIMIT,
        "level",
        ("level", "subject_id", "concurrency", "requests", "tokens", "waiting"),
        (("id",),),
        second_id_column="subject_id",
    ),
    WatchedTable(
        "budgets",
        LIMIT,
        "level",
        ("id", "level", "subject_id", "unit", "period", "amount", "hard", "refuses_unpriced", "instead"),
        (("id",),),
        second_id_column="subject_id",
    ),
    WatchedTable("model_names", NAME, "id", _columns(NamedModel), (("name",),)),
    WatchedTable("model_name_steps", NAME, "named_id", _columns(NameStep)),
    WatchedTable("model_name_targets", NAME, "named_id", _columns(NameTarget)),
)
