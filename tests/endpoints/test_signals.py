from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from endpoints import changes
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from endpoints.signals import changed
from tests.endpoints.conftest import make_endpoint, make_model, rolled_back

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)


def counted() -> int:
    return changes.read().get(changes.ENDPOINTS, 0)


def rename(endpoint: Endpoint) -> None:
    endpoint.name = "renamed"
    endpoint.save()


EDITS: dict[str, Callable[[Endpoint], Any]] = {
    "a save": rename,
    "a save of one field": lambda endpoint: endpoint.save(update_fields=["endpoint_type"]),
    "a save of health and more": lambda endpoint: endpoint.save(update_fields=["status", "name"]),
    "a key": lambda endpoint: endpoint.set_api_key("sk-upstream"),
    "an operator's state": lambda endpoint: endpoint.set_operator_state("draining"),
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
def test_edits_are_counted_for_other_processes(endpoint: Endpoint, edit: Callable[[Endpoint], Any]) -> None:
    before = counted()
    edit(endpoint)
    assert counted() > before


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_that_roll_back_are_not_counted(endpoint: Endpoint, edit: Callable[[Endpoint], Any]) -> None:
    before = counted()
    with rolled_back():
        edit(endpoint)
    assert counted() == before


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_read_again_on_commit(
    endpoint: Endpoint, edit: Callable[[Endpoint], Any], django_capture_on_commit_callbacks: Any
) -> None:
    registry.all()
    version = registry.version
    with django_capture_on_commit_callbacks(execute=True):
        edit(endpoint)
        assert registry.version == version
    assert registry.version > version


def test_a_new_endpoint_is_counted() -> None:
    make_endpoint()
    assert counted() == 1


@pytest.mark.parametrize("success", [True, False])
def test_checks_are_not_counted(endpoint: Endpoint, success: bool) -> None:
    before = counted()
    Endpoint.record_check(endpoint.pk, success=success, latency_ms=80 if success else None, error=None, at=NOON)
    assert counted() == before


def test_checks_are_read_again_on_commit(endpoint: Endpoint, django_capture_on_commit_callbacks: Any) -> None:
    registry.all()
    with django_capture_on_commit_callbacks(execute=True):
        Endpoint.record_check(endpoint.pk, success=True, latency_ms=80, error=None, at=NOON)
    assert [entry.status for entry in registry.all()] == ["online"]


def test_a_bulk_edit_is_announced_by_hand(endpoint: Endpoint, django_capture_on_commit_callbacks: Any) -> None:
    registry.all()
    before = counted()
    with django_capture_on_commit_callbacks(execute=True):
        EndpointModel.objects.update(max_tokens=4096)
        changed(endpoint.pk)
    assert [model.max_tokens for entry in registry.all() for model in entry.models] == [4096]
    assert counted() == before + 1
