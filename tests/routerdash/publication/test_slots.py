"""Slots of endpoints in the live page: kept over changes and restarts, and reused last."""

import pytest

from endpoints.changes.models import RegistryPosition
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.base.config import Config
from gateway.registry.schema import EndpointFacts
from routerdash.publication import slots as slots_module
from routerdash.publication.publisher import Publisher
from routerdash.publication.slots import Slots
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint
from tests.routerdash.publication import store
from tests.routerdash.publication.conftest import Start

pytestmark = pytest.mark.every_database

C = "cccccccc-0000-4000-8000-000000000009"


def facts(endpoint_id: str, slot: int) -> EndpointFacts:
    return EndpointFacts(id=endpoint_id, slot=slot, name=endpoint_id, base_url="http://a", kind="vllm", status="online")


@pytest.fixture
def three_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "MAX_ENDPOINTS", 3)


def test_each_endpoint_has_its_own_slot_and_keeps_it() -> None:
    slots = Slots([facts("a", 1)])
    assert [slots.of(name, name) for name in ("b", "c", "a", "b")] == [0, 2, 1, 0]


def test_a_slot_of_a_deleted_endpoint_is_its_own_again() -> None:
    slots = Slots()
    for name in ("a", "b"):
        slots.of(name, name)
    slots.release("a")
    assert (dict(slots.by_id), slots.of("c", "c"), slots.of("a", "a")) == ({"b": 1}, 2, 0)


@pytest.mark.usefixtures("three_slots")
def test_the_slot_that_was_given_back_first_is_reused_first() -> None:
    slots = Slots()
    for name in ("a", "b", "c"):
        slots.of(name, name)
    for name in ("b", "a"):
        slots.release(name)
    assert [slots.of(name, name) for name in ("d", "e")] == [1, 0]


@pytest.mark.usefixtures("three_slots")
def test_without_a_free_slot_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    slots = Slots([facts(name, slot) for slot, name in enumerate("abc")])
    assert slots.of("d", "the fourth") is None
    assert "more than 3 endpoints: the fourth is not served" in caplog.text
    slots.release("b")
    assert slots.of("d", "the fourth") == 1


def test_to_release_an_unknown_endpoint_changes_nothing() -> None:
    slots = Slots([facts("a", 0)])
    slots.release("b")
    assert dict(slots.by_id) == {"a": 0}


@pytest.mark.usefixtures("three_slots")
def test_no_slot_is_given_twice_after_the_store_was_built_anew() -> None:
    slots = Slots()
    for name in ("a", "b"):
        slots.of(name, name)
    slots.release("a")
    slots.take_over([facts("b", 1)])
    assert [slots.of(name, name) for name in ("c", "a")] == [2, 0]  # a deleted endpoint's slot is still reused last


def test_a_slot_in_use_is_not_kept_for_a_deleted_endpoint() -> None:
    slots = Slots([facts("a", 0)])
    slots.release("a")
    slots.take_over([facts("b", 0)])
    assert slots.of("a", "a") == 1


# In the store


@pytest.mark.django_db
def test_slots_stay_when_other_endpoints_are_added_and_deleted(publisher: Publisher, config: Config) -> None:
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    assert store.read(config).slots == {A: 0, B: 1}
    Endpoint.objects.filter(pk=A).delete()
    add_endpoint(C, "c")
    assert store.read(config).slots == publisher.slots.by_id == {B: 1, C: 2}


@pytest.mark.django_db
def test_slots_stay_over_a_restart(start: Start, config: Config) -> None:
    start()
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    Endpoint.objects.filter(pk=A).delete()
    assert start().slots.by_id == store.read(config).slots == {B: 1}
    add_endpoint(C, "c")
    assert store.read(config).slots == {B: 1, C: 0}


@pytest.mark.django_db
def test_slots_stay_when_the_store_is_built_anew(start: Start, config: Config) -> None:
    start()
    for endpoint_id, name in ((A, "a"), (B, "b")):
        add_endpoint(endpoint_id, name)
    Endpoint.objects.filter(pk=A).delete()
    version = store.read(config).state.version
    RegistryPosition.objects.update(token="of another state")
    assert start().slots.by_id == store.read(config).slots == {B: 1}
    assert store.read(config).state.version > version


@pytest.mark.django_db
@pytest.mark.usefixtures("three_slots")
def test_an_endpoint_without_a_slot_is_served_when_one_is_free(publisher: Publisher, config: Config) -> None:
    for number in range(4):
        add_endpoint(f"aaaaaaaa-0000-4000-8000-00000000000{number}", f"a{number}")
    assert store.read(config).names == ["a0", "a1", "a2"]
    Endpoint.objects.filter(name="a1").delete()
    registry.reload()
    publisher.publish_endpoints()
    assert store.read(config).names == ["a0", "a2", "a3"]
