"""Limits that are assumed for new endpoints: which get one, who ends it, and what existing endpoints keep."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.simulator import Simulator
from endpoints import tasks
from endpoints.checks import assumed_slots
from endpoints.models import Endpoint, Kind
from endpoints.registry import registry
from tests.access.people import Api
from tests.endpoints.admin.test_endpoint import ADD, LIST, form, page, saved
from tests.endpoints.conftest import entry_of, make_endpoint

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/api/endpoints"
ASSUMED = [("ollama", 4), ("lm_studio", 4), ("vllm", None), ("llamacpp", None), ("openai_compatible", None)]


def add(api: Api, sim: Simulator, kind: str = "ollama", **fields: Any) -> Endpoint:
    response = api.call("POST", PATH, {"name": kind, "base_url": sim.add(kind=kind).url, **fields})
    assert response.status_code == 201
    return Endpoint.objects.select_related("options").get()


# New endpoints


@pytest.mark.parametrize(("kind", "slots"), ASSUMED)
def test_a_new_endpoint_gets_what_is_assumed_for_its_type(
    manager: Api, sim: Simulator, kind: str, slots: int | None
) -> None:
    endpoint = add(manager, sim, kind)
    body = manager.get(f"{PATH}/{endpoint.pk}").json()
    assert (body["max_concurrency"], body["assumed_slots"]) == (None, slots)
    entry = entry_of(endpoint)
    assert (entry.slots, entry.has_assumed_slots) == (slots, slots is not None)


def test_a_new_endpoint_of_the_admin_gets_it_too(as_admin: Api, sim: Simulator) -> None:
    saved(as_admin.post(ADD, form(base_url=sim.add(kind="ollama").url)))
    endpoint = Endpoint.objects.get()
    assert endpoint.options.assumed_slots == 4
    assert 'placeholder="4 (assumed)"' in page(as_admin, f"{LIST}{endpoint.pk}/change/")


def test_a_number_of_an_administrator_applies_at_once(manager: Api, sim: Simulator) -> None:
    entry = entry_of(add(manager, sim, max_concurrency=2))
    assert (entry.assumed_slots, entry.slots, entry.has_assumed_slots) == (None, 2, False)


def test_add_and_discover_show_what_would_be_assumed(
    manager: Api, as_admin: Api, sim: Simulator, settings: Any
) -> None:
    server = sim.add(kind="ollama")
    body = manager.call("POST", f"{PATH}/detect", {"base_url": server.url}).json()
    assert (body["slots"], body["assumed_slots"]) == (None, 4)
    settings.ROUTERDASH = replace(settings.ROUTERDASH, discover_ports=(server.port,))
    (place,) = manager.call("POST", f"{PATH}/discover").json()["places"]
    html = " ".join(as_admin.post("/endpoints/discover").content.decode().split())
    assert (place["slots"], place["assumed_slots"]) == (None, 4)
    assert "up to 4 requests at a time (assumed)" in html
    shown = as_admin.post("/endpoints/add", {"base_url": server.url, "look": "yes"}).content.decode()
    assert "<span data-slots>4</span>" in shown
    assert "data-assumed>(assumed)" in shown


def test_the_endpoints_page_says_that_it_is_assumed(manager: Api, as_admin: Api, sim: Simulator) -> None:
    endpoint = add(manager, sim)
    html = as_admin.get(f"/endpoints/{endpoint.pk}").content.decode()
    assert "4 (assumed)" in html
    assert "assumed slots: 4" in html


# The end of an assumption


def test_an_administrators_own_number_ends_it_for_good(manager: Api, sim: Simulator) -> None:
    endpoint = add(manager, sim)
    for number, slots in ((9, 9), (None, None)):
        body = manager.call("PATCH", f"{PATH}/{endpoint.pk}", {"max_concurrency": number}).json()
        assert (body["max_concurrency"], body["assumed_slots"]) == (number, None)
        assert entry_of(endpoint).slots == slots


def test_another_edit_does_not_end_it(manager: Api, sim: Simulator) -> None:
    endpoint = add(manager, sim)
    body = manager.call("PATCH", f"{PATH}/{endpoint.pk}", {"notes": "n", "max_concurrency": None}).json()
    assert body["assumed_slots"] == 4


def test_another_server_at_the_endpoint_has_its_own(manager: Api, sim: Simulator) -> None:
    endpoint = add(manager, sim)
    for kind, slots in (("vllm", None), ("lm_studio", 4)):
        body = manager.call("PATCH", f"{PATH}/{endpoint.pk}", {"base_url": sim.add(kind=kind).url}).json()
        assert (body["endpoint_type"], body["assumed_slots"]) == (kind, slots)


def test_a_type_that_is_detected_later_counts(sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(kind="ollama").url, endpoint_type=Kind.OPENAI_COMPATIBLE)
    endpoint.set_options(assumed_slots=assumed_slots.NONE_YET)
    tasks.sync_models(str(endpoint.pk), detect=True)
    assert entry_of(endpoint).slots == 4


# Existing endpoints


def test_an_endpoint_of_an_earlier_release_keeps_what_it_has(manager: Api, sim: Simulator) -> None:
    server = sim.add(kind="ollama")
    endpoint = make_endpoint(base_url=server.url, endpoint_type=Kind.OPENAI_COMPATIBLE)
    endpoint.set_options(tags=["old"])
    tasks.sync_models(str(endpoint.pk), detect=True)
    manager.call("PATCH", f"{PATH}/{endpoint.pk}", {"base_url": f"{server.url}/v1", "notes": "n"})
    assert (entry_of(endpoint).kind, entry_of(endpoint).slots) == (Kind.OLLAMA, None)
    assert assumed_slots.learn(str(endpoint.pk), 7) is False
    assert entry_of(endpoint).slots is None


# Learned limits


def test_a_limit_is_learned_once(manager: Api, sim: Simulator) -> None:
    endpoint = add(manager, sim, "vllm")
    assert [assumed_slots.learn(str(endpoint.pk), slots) for slots in (7, 9)] == [True, False]
    (entry,) = registry.all()  # without a reload
    assert (entry.slots, entry.has_assumed_slots) == (7, True)


def test_no_limit_is_learned_where_an_administrator_has_entered_one(manager: Api, sim: Simulator) -> None:
    endpoint = add(manager, sim, "vllm", max_concurrency=3)
    assert assumed_slots.learn(str(endpoint.pk), 7) is False
    gone = str(endpoint.pk)
    endpoint.delete()
    assert assumed_slots.learn(gone, 7) is False
