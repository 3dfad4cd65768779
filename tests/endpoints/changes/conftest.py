from typing import Any

from access.models import ApiKey
from tests.endpoints.conftest import sql


def changes() -> list[tuple[str, str]]:
    """Return kind and object of each entry of the log, and empty it."""
    entries = sql("SELECT kind, object_id FROM registry_changes ORDER BY id")
    sql("DELETE FROM registry_changes")
    return entries


def of(*objects: Any) -> list[tuple[str, str]]:
    """Return the entries for objects, one each."""
    kinds = {"Endpoint": "endpoint", "ApiKey": "key", "User": "user", "NamedModel": "model_name"}
    return [
        (kinds[type(changed).__name__], changed.key_hash if isinstance(changed, ApiKey) else str(changed.pk))
        for changed in objects
    ]
