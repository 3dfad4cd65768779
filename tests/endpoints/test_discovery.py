"""Discovery of servers on this machine: results per port, and ports that are never probed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings

from benchmarks.process import free_port
from benchmarks.simulator import Simulator
from endpoints import discovery
from endpoints.discovery import Place, discover
from tests.endpoints.conftest import Serve, hang, make_endpoint

pytestmark = pytest.mark.django_db

Look = Callable[..., list[Place]]


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    """Discover at these ports instead of the default ones."""

    def discover_at(*ports: int, own: int = 32768) -> list[Place]:
        config = replace(settings.ROUTERDASH, discover_ports=ports, port=own)
        monkeypatch.setattr(settings, "ROUTERDASH", config)
        return discover()

    return discover_at


def test_a_server_is_listed_with_its_models(look: Look, sim: Simulator) -> None:
    url = sim.add(kind="ollama", models=["qwen3:8b", "gemma3:12b"]).url
    (place,) = look(port_of(url))
    assert (place.endpoint_type, place.base_url, place.listens, place.problem) == ("ollama", url, True, None)
    assert [model.id for model in place.models] == ["qwen3:8b", "gemma3:12b"]
    assert (place.name, place.registered) == ("ollama", None)


def test_a_closed_port_is_listed_without_a_server(look: Look) -> None:
    (place,) = look(free_port())
    assert (place.listens, place.endpoint_type, place.problem) == (False, None, "connection refused")


def test_a_server_that_requires_a_key_is_marked(look: Look, sim: Simulator) -> None:
    (place,) = look(port_of(sim.add(api_key="secret").url))
    assert (place.listens, place.endpoint_type, place.locked) == (True, None, True)
    assert "HTTP 401" in str(place.problem)


def test_a_server_that_is_added_is_marked(look: Look, sim: Simulator) -> None:
    port = port_of(sim.add().url)
    endpoint = make_endpoint("mine", f"http://localhost:{port}")
    (place,) = look(port)
    assert place.registered is not None
    assert place.registered.id == str(endpoint.pk)


def test_an_endpoint_on_another_machine_does_not_mark_the_same_port(look: Look, sim: Simulator) -> None:
    port = port_of(sim.add().url)
    make_endpoint("other", f"http://192.0.2.7:{port}")
    assert look(port)[0].registered is None


def test_routerdash_does_not_discover_itself(look: Look, sim: Simulator) -> None:
    port = port_of(sim.add().url)
    assert look(port, own=port) == []


def test_no_key_is_sent(look: Look, serve: Serve) -> None:
    server = serve({})
    make_endpoint("mine", server.url).set_api_key("sk-stored")
    look(port_of(server.url))
    assert server.requests
    assert {authorization for *_, authorization in server.requests} == {""}


def test_slow_ports_are_probed_concurrently_and_time_out(
    look: Look, serve: Serve, monkeypatch: pytest.MonkeyPatch, sim: Simulator
) -> None:
    monkeypatch.setattr(discovery, "REQUEST_SECONDS", 0.1)
    silent = [port_of(serve({"/v1/models": hang}).url) for _ in range(3)]
    places = look(*silent, port_of(sim.add().url))
    assert [place.problem for place in places] == [*["no answer within 0.1 s"] * 3, None]
    assert [(place.listens, place.locked) for place in places] == [(True, False)] * 4


def test_default_ports_have_names() -> None:
    assert [Place(port).usual for port in settings.ROUTERDASH.discover_ports] == list(discovery.USUAL_PORTS.values())


def test_the_api_returns_the_discovered_servers(as_admin: Any, look: Look, sim: Simulator) -> None:
    port = port_of(sim.add(kind="vllm", models=["tiny"]).url)
    look(port)
    (place,) = as_admin.call("POST", "/api/endpoints/discover").json()["places"]
    assert (place["port"], place["endpoint_type"], place["listens"], place["usual"]) == (port, "vllm", True, None)
    assert place["models"][0]["model_id"] == "tiny"


def test_discover_needs_a_post(as_admin: Any) -> None:
    assert as_admin.call("GET", "/api/endpoints/discover").status_code == 405
