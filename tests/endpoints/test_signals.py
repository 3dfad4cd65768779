from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from endpoints.changes import triggers
from endpoints.changes.models import RegistryChange
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from endpoints.signals import changed
from tests.endpoints.conftest import make_endpoint, make_model, rolled_back

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _triggers() -> None:
    triggers.ensure()


def logged() -> set[str]:
    """Ids of the endpoints that the change log names, for other processes."""
    ids = set(RegistryChange.objects.filter(kind="endpoint").values_list("object_id", flat=True))
    RegistryChange.objects.all().delete()
    return ids


def rename(endpoint: Endpoint) -> None:
    endpoint.name = "renamed"
    endpoint.save()


def save(endpoint: Endpoint, **fields: str) -> None:
    for name, value in fields.items():
        setattr(endpoint, name, value)
    endpoint.save(update_fields=list(fields))


EDITS: dict[str, Callable[[Endpoint], Any]] = {
    "a save": rename,
    "a save of one field": lambda endpoint: save(endpoint, endpoint_type="vllm"),
    "a save of health and more": lambda endpoint: save(endpoint, status="online", name="renamed"),
    "a key": lambda endpoint: endpoint.set_api_key("sk-upstream"),
    "an administrative state": lambda endpoint: endpoint.set_operator_state("draining"),
    "a model": lambda endpoint: make_model(endpoint, "new"),
    "a model's end": lambda endpoint: endpoint.models.get(model_id="tiny").delete(),
    "a deletion": lambda endpoint: endpoint.delete(),
}


@pytest.fixture
def endpoint() -> Endpoint:
    endpoint = make_endpoint()
    make_model(endpoint)
    return endpoint


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_logged_for_other_processes(endpoint: Endpoint, edit: Callable[[Endpoint], Any]) -> None:
    endpoint_id = str(endpoint.pk)
    logged()
    edit(endpoint)
    assert logged() == {endpoint_id}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_rolled_back_edits_are_not_logged(endpoint: Endpoint, edit: Callable[[Endpoint], Any]) -> None:
    logged()
    with rolled_back():
        edit(endpoint)
    assert logged() == set()


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_reloaded_on_commit(
    endpoint: Endpoint, edit: Callable[[Endpoint], Any], django_capture_on_commit_callbacks: Any
) -> None:
    registry.all()
    version = registry.version
    with django_capture_on_commit_callbacks(execute=True):
        edit(endpoint)
        assert registry.version == version
    assert registry.version > version


def test_a_save_without_a_difference_changes_nothing(
    endpoint: Endpoint, django_capture_on_commit_callbacks: Any
) -> None:
    registry.all()
    version = registry.version
    logged()
    with django_capture_on_commit_callbacks(execute=True):
        endpoint.save()
    assert (registry.version, logged()) == (version, set())


def test_a_new_endpoint_is_logged() -> None:
    assert logged() == set()
    endpoint = make_endpoint()
    assert logged() == {str(endpoint.pk)}


@pytest.mark.parametrize("success", [True, False])
def test_checks_are_not_logged(endpoint: Endpoint, success: bool) -> None:
    logged()
    Endpoint.record_check(endpoint.pk, success=success, latency_ms=80 if success else None, error=None, checked_at=NOON)
    assert logged() == set()


def test_checks_are_reloaded_on_commit(endpoint: Endpoint, django_capture_on_commit_callbacks: Any) -> None:
    registry.all()
    with django_capture_on_commit_callbacks(execute=True):
        Endpoint.record_check(endpoint.pk, success=True, latency_ms=80, error=None, checked_at=NOON)
    assert [entry.status for entry in registry.all()] == ["online"]


def test_a_bulk_edit_is_announced_explicitly(endpoint: Endpoint, django_capture_on_commit_callbacks: Any) -> None:
    registry.all()
    logged()
    with django_capture_on_commit_callbacks(execute=True):
        EndpointModel.objects.update(max_tokens=4096)
        changed(endpoint.pk)
    assert [model.max_tokens for entry in registry.all() for model in entry.models] == [4096]
    assert logged() == {str(endpoint.pk)}
