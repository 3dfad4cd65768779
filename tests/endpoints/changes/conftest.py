from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from access.models import ApiKey
from endpoints.changes import triggers
from endpoints.changes.models import RegistryChange
from tests.endpoints.conftest import sql


@pytest.fixture
def logged(db: None) -> Iterator[None]:
    """Let the triggers of the change log exist during a test, and begin with an empty log."""
    triggers.ensure()
    RegistryChange.objects.all().delete()
    yield
    if not connection.in_atomic_block:  # else they vanish with the transaction of the test
        triggers.remove()


def changes() -> list[tuple[str, str]]:
    """Return kind and object of each entry of the log, and empty it."""
    found = sql("SELECT kind, object_id FROM registry_changes ORDER BY id")
    sql("DELETE FROM registry_changes")
    return found


def of(*objects: Any) -> list[tuple[str, str]]:
    """Return the entries for objects, one each."""
    kinds = {"Endpoint": "endpoint", "ApiKey": "key", "User": "user", "NamedModel": "model_name"}
    return [(kinds[type(it).__name__], it.key_hash if isinstance(it, ApiKey) else str(it.pk)) for it in objects]
