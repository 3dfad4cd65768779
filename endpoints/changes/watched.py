"""The tables and columns whose changes the log names: all that gateways and the caches of control must follow.

Health checks, counters and logins change other columns, so they write nothing into the log.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Model

from endpoints.endpoint_fields import FIELDS
from endpoints.model_names.tables import NamedModel, NameStep, NameTarget
from endpoints.models import HEALTH_FIELDS, EndpointOptions

ENDPOINT, KEY, USER, NAME = "endpoint", "key", "user", "model_name"


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A table. `id_column` identifies the object of this kind that has changed with a row."""

    name: str
    kind: str
    id_column: str
    columns: tuple[str, ...]  # an update of another column is no change
    unique: tuple[tuple[str, ...], ...] = ()  # besides the id: SQLite's REPLACE deletes rows with the same values


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
        ("endpoint_id", "model_id", "capabilities", "max_tokens", "canonical_name", "max_output_tokens", "lacks"),
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
    ),
    WatchedTable(
        "users",
        USER,
        "id",
        ("id", "username", "password_hash", "role", "created_at", "must_change_password", "view_bodies"),
        (("username",),),
    ),
    WatchedTable("model_names", NAME, "id", _columns(NamedModel), (("name",),)),
    WatchedTable("model_name_steps", NAME, "named_id", _columns(NameStep)),
    WatchedTable("model_name_targets", NAME, "named_id", _columns(NameTarget)),
)
