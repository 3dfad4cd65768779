"""Each field of an endpoint reaches every place that endpoint_fields declares for it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.simulator import Simulator
from endpoints import connections, edit_log, sealer
from endpoints.admin.form import EndpointForm
from endpoints.endpoint_fields import (
    FIELDS,
    MAX_COST_WEIGHT,
    MIN_COST_WEIGHT,
    PUBLISHED_FIELDS,
    EndpointField,
    Shape,
)
from endpoints.models import NUMBER_OPTIONS, Endpoint, EndpointOptions
from endpoints.registry import Entry, registry
from endpoints.serializers import EndpointWriteSerializer
from gateway.base.config import load
from gateway.ipc.live_page import LivePage
from gateway.registry import folders, kinds, schema
from gateway.registry.store import RegistryStore
from metrics.memory.endpoint_events import CHANGED, endpoint_events
from routerdash.publication.publisher import Publisher
from tests.access.people import Api
from tests.endpoints.conftest import entry_of, make_endpoint

SECRET = "sk-upstream-secret"
EDITED = [field for field in FIELDS if field.edited]
OTHERS = {"operator_state", "api_key", "connection"}  # PATCH takes them, and writes them on their own
NAMED_VALUES = {"api_version": "2024-10-21"}
VALUES: dict[Shape | None, Any] = {
    Shape.TEXT: "edited",
    Shape.INTEGER: 7,
    Shape.NUMBER: 2.5,
    Shape.WORDS: ["embeddings"],
    Shape.FLAG: True,
    Shape.CLOUD: "openai",
}


# The classes that list the fields themselves


def test_the_entry_has_exactly_the_fields() -> None:
    assert {field.name for field in fields(Entry)} == {field.name for field in FIELDS} | {"models"}


def test_the_published_facts_have_exactly_the_fields() -> None:
    names = {field.name for field in msgspec.structs.fields(schema.EndpointFacts)}
    assert names == {attribute for _, attribute, _ in PUBLISHED_FIELDS} | {"slot"}


def test_the_tables_have_the_fields() -> None:
    for field in FIELDS:
        table: Any = EndpointOptions if field.is_option else Endpoint
        assert table._meta.get_field(field.column).name == field.column


def test_api_and_admin_edit_exactly_the_edited_fields() -> None:
    edited = {field.column for field in EDITED}
    assert set(EndpointWriteSerializer().fields) == edited | OTHERS
    assert set(EndpointForm.base_fields) == edited | {"api_key", "forget_api_key", *connections.FIELDS}


def test_numeric_options_may_be_null() -> None:
    for field in NUMBER_OPTIONS.values():
        assert (field.is_option, field.edited, field.nullable) == (True, True, True)
        assert field.shape in (Shape.INTEGER, Shape.NUMBER)


def test_numbers_that_gateways_compute_with_have_bounds() -> None:
    def stored(name: str, value: Any) -> Any:
        published = NUMBER_OPTIONS[name].published
        assert published is not None
        return published.store(value)

    assert [stored("tier", tier) for tier in (None, -3, 2, 99)] == [1, 1, 2, schema.LAST_TIER]
    assert [stored("cost_weight", weight) for weight in (None, 0.0, 2.5, 99.0)] == [
        1.0,
        MIN_COST_WEIGHT,
        2.5,
        MAX_COST_WEIGHT,
    ]


# From the JSON API to every place


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path)})
    made = Publisher(config, LivePage(config.live_page_path))
    made.synchronise()
    yield made
    made.close()


@pytest.fixture
def endpoint(publisher: Publisher) -> Endpoint:
    made = make_endpoint()
    registry.subscribe(publisher.publish_endpoints)
    registry.reload()
    endpoint_events.reset()
    endpoint_events.refresh()
    return made


def published(tmp_path: Path) -> schema.EndpointFacts:
    """The endpoint as a gateway reads it."""
    root = load({"ROUTERDASH_DATA_DIR": str(tmp_path)}).registry_dir
    store = RegistryStore(folders.folder(root, folders.current(root)))
    with closing(store), store.reading():
        ((_, facts),) = store.rows(kinds.ENDPOINTS)
    return facts


def edit(api: Api, endpoint: Endpoint, name: str, value: Any) -> dict[str, Any]:
    """Edit one field, and check that it is logged and that pages receive the event. Return the endpoint's JSON."""
    path = f"/api/endpoints/{endpoint.pk}"
    response = api.call("PATCH", path, {name: value})
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    assert body == api.call("GET", path).json()
    assert list(edit_log.latest(str(endpoint.pk))[0].values) == [name]
    version = endpoint_events.version
    endpoint_events.refresh()
    (event,) = endpoint_events.recent()
    assert (event.kind, event.by, endpoint_events.version) == (CHANGED, "ada", version + 1)
    return body


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("field", EDITED, ids=lambda field: field.name)
def test_an_edit_arrives_everywhere(
    as_admin: Api, endpoint: Endpoint, sim: Simulator, tmp_path: Path, field: EndpointField
) -> None:
    value = sim.add().url if field.name == "base_url" else NAMED_VALUES.get(field.name, VALUES.get(field.shape))
    assert edit(as_admin, endpoint, field.column, value)[field.column] == value
    held = getattr(entry_of(endpoint), field.name)
    assert held == field.read(value)
    if field.published is not None:
        stored = getattr(published(tmp_path), field.published_name)
        assert stored == (tuple(value) if isinstance(value, list) else value)
        assert field.published.load(stored) == held


@pytest.mark.django_db(transaction=True)
def test_an_operator_state_arrives_everywhere(as_admin: Api, endpoint: Endpoint, tmp_path: Path) -> None:
    assert edit(as_admin, endpoint, "operator_state", "draining")["operator_state"] == "draining"
    assert entry_of(endpoint).operator_state == published(tmp_path).operator_state == "draining"


@pytest.mark.django_db(transaction=True)
def test_an_api_key_arrives_everywhere(as_admin: Api, endpoint: Endpoint, tmp_path: Path) -> None:
    assert edit(as_admin, endpoint, "api_key", SECRET)["has_api_key"] is True
    sealed = published(tmp_path).sealed_key
    assert sealed is not None
    assert sealed == entry_of(endpoint).sealed_api_key
    assert sealer.sealer().open(sealed) == SECRET


@pytest.mark.django_db(transaction=True)
def test_the_end_of_an_adopted_api_key_arrives_everywhere(as_admin: Api, endpoint: Endpoint, tmp_path: Path) -> None:
    Endpoint.objects.update(api_key_encrypted=SECRET)
    registry.reload()
    endpoint_events.refresh()
    assert edit(as_admin, endpoint, "api_key", "")["has_api_key"] is False
    assert entry_of(endpoint).plain_api_key is None
    assert published(tmp_path).sealed_key is None
