"""Endpoints at clouds: types, addresses, model lists and checks, against the simulated providers."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.providers import DIALECTS, Cloud, add
from benchmarks.simulator import Simulator
from endpoints import clouds, operations, tasks
from endpoints.base_url import normalise
from endpoints.checks import model_lists
from endpoints.checks.model_lists import ListedModel
from endpoints.clouds.kinds import CLOUD_CHOICES, CLOUDS
from endpoints.models import Endpoint, EndpointModel, Status
from endpoints.probe import ProbeResponse
from endpoints.registry import registry
from endpoints.sync import store
from gateway.providers.table import ANTHROPIC, AZURE, GEMINI, GROQ, MISTRAL, OPENAI, OPENROUTER, PROVIDERS, TOGETHER
from routerdash.publication.facts import endpoint_models
from tests.access.people import Api
from tests.endpoints.conftest import Server, entry_of, make_endpoint

pytestmark = pytest.mark.django_db

AZURE_MODELS = ["gpt-4o"]


@pytest.fixture
def cloud(simulator: Simulator) -> Callable[..., Cloud]:
    started: list[Cloud] = []

    def start(name: str, **behaviour: Any) -> Cloud:
        started.append(add(simulator, name, **behaviour))
        return started[-1]

    return start


def add_endpoint(cloud: Cloud, kind: str, key: str | None = None, **options: Any) -> Endpoint:
    """An endpoint at a simulated cloud."""
    endpoint = make_endpoint(kind, normalise(cloud.base_url))
    endpoint.set_api_key(cloud.key if key is None else key)
    endpoint.set_options(cloud_type=kind, **options)
    return endpoint


def names(endpoint: Endpoint) -> list[str]:
    return sorted(EndpointModel.objects.filter(endpoint=endpoint).values_list("model_id", flat=True))


# Types and addresses


def test_each_provider_is_a_type_with_its_own_name() -> None:
    assert {str(kind): str(label) for kind, label in CLOUD_CHOICES} == {
        provider.kind: provider.label for provider in PROVIDERS.values()
    }
    assert set(CLOUDS) == set(PROVIDERS)


@pytest.mark.parametrize(
    ("entered", "kind", "stored"),
    [
        ("https://api.openai.com/v1", OPENAI, "https://api.openai.com"),
        ("https://eu.api.openai.com", OPENAI, "https://eu.api.openai.com"),
        ("https://api.anthropic.com/v1/", ANTHROPIC, "https://api.anthropic.com"),
        (
            "https://generativelanguage.googleapis.com",
            GEMINI,
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        (
            "https://generativelanguage.googleapis.com/v1beta",
            GEMINI,
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        ("https://my.openai.azure.com/", AZURE, "https://my.openai.azure.com/openai"),
        ("https://my.openai.azure.com/openai/v1", AZURE, "https://my.openai.azure.com/openai"),
        ("https://openrouter.ai", OPENROUTER, "https://openrouter.ai/api"),
        ("https://api.groq.com/openai/v1", GROQ, "https://api.groq.com/openai"),
        ("http://192.168.1.5:8000", None, "http://192.168.1.5:8000"),
        ("https://openai.example.com", None, "https://openai.example.com"),
        ("https://api.openai.com.example.com", None, "https://api.openai.com.example.com"),
    ],
)
def test_a_cloud_is_recognised_by_its_host(entered: str, kind: str | None, stored: str) -> None:
    url = clouds.complete(normalise(entered))
    assert (clouds.recognise(url), url) == (kind, stored)


def test_a_cloud_offers_its_address(manager: Api) -> None:
    response = manager.call("POST", "/api/endpoints", {"name": "ai", "cloud_type": "mistral", "api_key": "k"})
    assert response.status_code == 201
    body = response.json()
    assert (body["endpoint_type"], body["base_url"]) == ("mistral", "https://api.mistral.ai")
    assert (body["external"], body["is_external"], body["has_api_key"]) == (None, True, True)
    assert body["health_check_interval_secs"] == 300
    assert Endpoint.objects.get().endpoint_type == "openai_compatible"  # as llmlb knows it


def test_a_known_address_makes_the_endpoint_a_cloud(manager: Api) -> None:
    """Without that, requests would leave the network through an endpoint that is not external."""
    sent = {"name": "ai", "base_url": "https://api.openai.com/v1", "cloud_type": None}
    body = manager.call("POST", "/api/endpoints", sent).json()
    assert (body["endpoint_type"], body["is_external"]) == ("openai", True)


@pytest.mark.parametrize(
    ("sent", "field", "text"),
    [
        ({"cloud_type": "azure"}, "base_url", "Enter the address of the resource."),
        ({}, "base_url", "This field is required."),
        ({"cloud_type": "nowhere"}, "cloud_type", '"nowhere" is not a valid choice.'),
        (
            {"cloud_type": "azure", "base_url": "https://a.openai.azure.com", "api_version": "latest"},
            "api_version",
            "Enter a date such as 2024-10-21 or 2025-03-01-preview.",
        ),
    ],
)
def test_bad_input_is_one_clear_error(manager: Api, sent: dict[str, Any], field: str, text: str) -> None:
    response = manager.call("POST", "/api/endpoints", {"name": "ai", **sent})
    assert response.status_code == 400
    assert response.json()["fields"][field] == [text]


def test_a_cloud_that_moves_stays_a_cloud(manager: Api, cloud: Callable[..., Cloud]) -> None:
    """A proxy in front of it is still the way out."""
    endpoint = add_endpoint(cloud("openai"), "openai")
    moved = cloud("openai")
    path = f"/api/endpoints/{endpoint.pk}"
    body = manager.call("PATCH", path, {"base_url": moved.base_url}).json()
    assert (body["endpoint_type"], body["is_external"], body["has_api_key"]) == ("openai", True, False)


def test_a_cloud_that_becomes_a_server_is_detected(manager: Api, sim: Simulator) -> None:
    endpoint = make_endpoint("box", sim.add(kind="vllm").url)
    endpoint.set_options(cloud_type="openai")
    body = manager.call("PATCH", f"/api/endpoints/{endpoint.pk}", {"cloud_type": None}).json()
    assert (body["endpoint_type"], body["is_external"]) == ("vllm", False)


def test_an_administrator_marks_a_server_as_external(manager: Api, sim: Simulator) -> None:
    sent = {"name": "rented", "base_url": sim.add().url, "external": True}
    body = manager.call("POST", "/api/endpoints", sent).json()
    assert (body["external"], body["is_external"]) == (True, True)


# Model lists


def offered(dialect: str) -> list[str]:
    return sorted(name.removeprefix("models/") for name in DIALECTS[dialect]().models)


@pytest.mark.parametrize("kind", [kind for kind in CLOUDS if kind != AZURE])
def test_the_list_of_each_provider_is_read(cloud: Callable[..., Cloud], kind: str) -> None:
    endpoint = add_endpoint(cloud(kind), kind)
    assert "added" in tasks.sync_models(str(endpoint.pk), detect=True)
    assert names(endpoint) == offered(kind)
    assert Endpoint.objects.get().endpoint_type == "openai_compatible"


@pytest.mark.parametrize("kind", [ANTHROPIC, OPENROUTER])
def test_all_pages_are_read(cloud: Callable[..., Cloud], kind: str) -> None:
    models = [f"model-{number:02}" for number in range(25)]
    there = cloud(kind, models=models, page=3)
    endpoint = add_endpoint(there, kind)
    operations.sync_models(endpoint)
    assert names(endpoint) == models


def test_context_lengths_and_capabilities_are_read(cloud: Callable[..., Cloud]) -> None:
    for kind in (ANTHROPIC, OPENROUTER, MISTRAL, GROQ, TOGETHER):
        endpoint = add_endpoint(cloud(kind), kind)
        operations.sync_models(endpoint)
        rows = EndpointModel.objects.filter(endpoint=endpoint)
        assert all(row.max_tokens for row in rows), kind
        assert all(row.capabilities for row in rows), kind


@pytest.mark.parametrize(
    ("listed", "most", "lacks"),
    [
        ({}, None, ()),
        ({"max_input_tokens": 200_000, "max_tokens": 64_000}, 64_000, ()),  # Anthropic
        ({"capabilities": {"image_input": {"supported": False}}}, None, ("vision",)),
        ({"capabilities": {"image_input": {"supported": True}}}, None, ()),
        ({"max_tokens": 4096}, None, ()),  # of a context, or of nothing known
        ({"outputTokenLimit": 8192}, 8192, ()),  # Gemini
        ({"max_completion_tokens": 32_768}, 32_768, ()),  # Groq
        ({"top_provider": {"max_completion_tokens": 16_384}}, 16_384, ()),  # OpenRouter
        ({"top_provider": {"max_completion_tokens": None}, "supported_parameters": []}, None, ()),
        ({"supported_parameters": ["max_tokens"]}, None, ("tools",)),
        ({"supported_parameters": ["tools"], "architecture": {"input_modalities": ["text"]}}, None, ("vision",)),
        ({"architecture": {"input_modalities": ["text", "image"]}}, None, ()),
        ({"capabilities": {"function_calling": False, "vision": False}}, None, ("tools", "vision")),  # Mistral
        ({"capabilities": {"function_calling": True, "vision": True}}, None, ()),
        ({"input_modalities": ["text"]}, None, ("vision",)),  # xAI
        ({"max_completion_tokens": -1, "top_provider": 5, "architecture": [], "capabilities": "x"}, None, ()),
        ({"supported_parameters": {"tools": 1}, "input_modalities": "image"}, None, ()),
    ],
)
def test_the_most_output_and_what_a_model_lacks_are_read(
    listed: dict[str, Any], most: int | None, lacks: tuple[str, ...]
) -> None:
    page = ProbeResponse(200, {"data": [{"id": "m", **listed}]})
    for is_cloud in (True, False):
        ((model,), _) = model_lists.read([page], is_cloud=is_cloud)
        assert (model.max_output_tokens, model.lacks) == (most, lacks if is_cloud else ())


def test_what_a_list_tells_is_stored_and_follows_the_list(manager: Api, cloud: Callable[..., Cloud]) -> None:
    endpoint = add_endpoint(cloud(OPENROUTER), OPENROUTER)
    for listed in (
        ListedModel("m", max_output_tokens=9, lacks=("tools",), features=("vision", "thinking")),
        ListedModel("m"),
    ):
        store(endpoint, [listed])
        registry.reload()
        (model,) = manager.call("GET", f"/api/endpoints/{endpoint.pk}/models").json()["models"]
        assert (model["max_output_tokens"], model["lacks"]) == (listed.max_output_tokens, list(listed.lacks))
        assert model["features"] == list(listed.features)
        (published,) = endpoint_models(registry.all()[0])
        assert (published.max_output_tokens, published.lacks) == (listed.max_output_tokens, listed.lacks)
        assert published.features == listed.features


@pytest.mark.parametrize(
    ("listed", "features"),
    [
        ({"capabilities": {"function_calling": True, "vision": True, "reasoning": False}}, ("tools", "vision")),
        ({"capabilities": {"image_input": {"supported": True}}}, ("vision",)),  # Anthropic
        ({"capabilities": {"thinking": {"supported": True}}}, ("thinking",)),
        ({"supported_parameters": ["tools", "reasoning"], "input_modalities": ["text"]}, ("tools", "thinking")),
        ({}, ()),
    ],
)
def test_what_a_model_can_do_is_read(listed: dict[str, Any], features: tuple[str, ...]) -> None:
    ((model,), _) = model_lists.read([ProbeResponse(200, {"data": [{"id": "m", **listed}]})], is_cloud=True)
    assert model.features == features


def test_what_a_server_reported_stays_while_it_does_not_respond() -> None:
    endpoint = make_endpoint()
    store(endpoint, [ListedModel("m", lacks=("tools",), features=("vision",))])
    store(endpoint, [ListedModel("m", responded=False)])
    row = EndpointModel.objects.get(endpoint=endpoint)
    assert (row.lacks, row.features) == (["tools"], ["vision"])


def test_only_allowed_models_are_stored(cloud: Callable[..., Cloud]) -> None:
    there = cloud("openai", models=["gpt-5-mini", "gpt-5", "o3", "whisper-1"])
    endpoint = add_endpoint(there, "openai", allowed_models=["gpt-5*", "O3"])
    operations.sync_models(endpoint)
    assert names(endpoint) == ["gpt-5", "gpt-5-mini", "o3"]


def test_a_narrower_list_of_allowed_models_is_in_effect_at_once(manager: Api, cloud: Callable[..., Cloud]) -> None:
    endpoint = add_endpoint(cloud("openai", models=["gpt-5", "o3"]), "openai")
    operations.sync_models(endpoint)
    manager.call("PATCH", f"/api/endpoints/{endpoint.pk}", {"allowed_models": ["o*"]})
    assert names(endpoint) == ["o3"]


def test_deployments_of_azure_are_entered(cloud: Callable[..., Cloud]) -> None:
    endpoint = add_endpoint(cloud("azure"), "azure", allowed_models=["chat-prod", "embed-*"])
    operations.sync_models(endpoint)
    assert names(endpoint) == ["chat-prod"]


def test_azure_without_deployments_says_what_to_do(manager: Api, cloud: Callable[..., Cloud]) -> None:
    endpoint = add_endpoint(cloud("azure"), "azure")
    response = manager.call("POST", f"/api/endpoints/{endpoint.pk}/sync")
    assert response.status_code == 502
    assert "enter their names as allowed models" in response.json()["error"]


# Health checks


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_check_lists_models_and_spends_no_tokens(cloud: Callable[..., Cloud], kind: str) -> None:
    there = cloud(kind)
    endpoint = add_endpoint(there, kind)
    result = operations.test(endpoint)
    assert (result.success, result.error) == (True, None)
    assert (entry_of(endpoint).status, there.tally) == (Status.ONLINE, [])
    assert there.seen.probes > 0


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_refused_key_is_no_outage(cloud: Callable[..., Cloud], kind: str) -> None:
    endpoint = add_endpoint(cloud(kind), kind, key="sk-wrong")
    operations.test(endpoint)
    entry = entry_of(endpoint)
    assert (entry.status, entry.last_error) == (Status.ONLINE, clouds.KEY_REFUSED)


@pytest.mark.parametrize("kind", CLOUDS)
def test_an_empty_balance_is_no_outage(cloud: Callable[..., Cloud], kind: str) -> None:
    endpoint = add_endpoint(cloud(kind, health_fault="money"), kind)
    operations.test(endpoint)
    entry = entry_of(endpoint)
    assert entry.status == Status.ONLINE
    # Azure has one status for a quota that is used up and for rules of the network.
    assert entry.last_error == (clouds.NOT_PERMITTED if kind == AZURE else clouds.NO_CREDIT)


def test_a_remark_goes_with_its_cause(cloud: Callable[..., Cloud]) -> None:
    there = cloud("deepseek", health_fault="money")
    endpoint = add_endpoint(there, "deepseek")
    operations.test(endpoint)
    there.set(health_fault="")
    operations.test(endpoint)
    assert entry_of(endpoint).last_error is None


def test_a_cloud_that_fails_is_offline_after_two_checks(cloud: Callable[..., Cloud]) -> None:
    endpoint = add_endpoint(cloud("xai", health_fault="server"), "xai")
    operations.test(endpoint)
    operations.test(endpoint)
    assert entry_of(endpoint).status == Status.OFFLINE


def test_no_redirect_is_followed(cloud: Callable[..., Cloud], serve: Callable[..., Server]) -> None:
    elsewhere = serve({})
    endpoint = add_endpoint(cloud("openai", redirect=elsewhere.url), "openai")
    assert operations.test(endpoint).success is False
    assert elsewhere.requests == []


def test_a_dated_address_of_azure_names_the_version(cloud: Callable[..., Cloud]) -> None:
    there = cloud("azure")
    endpoint = make_endpoint("azure", there.url + "/openai")
    endpoint.set_api_key(there.key)
    endpoint.set_options(cloud_type="azure", api_version="2024-10-21")
    assert operations.test(endpoint).success


# Adding by page and detection before


def test_detect_reads_the_list_of_a_cloud(manager: Api, cloud: Callable[..., Cloud]) -> None:
    there = cloud("anthropic")
    sent = {"base_url": there.base_url, "cloud_type": "anthropic", "api_key": there.key}
    body = manager.call("POST", "/api/endpoints/detect", sent).json()
    assert (body["endpoint_type"], body["problem"]) == ("anthropic", None)
    assert [model["model_id"] for model in body["models"]] == list(DIALECTS["anthropic"]().models)


def test_detect_says_that_a_cloud_refuses_the_key(manager: Api, cloud: Callable[..., Cloud]) -> None:
    there = cloud("gemini")
    sent = {"base_url": there.base_url, "cloud_type": "gemini", "api_key": "wrong"}
    body = manager.call("POST", "/api/endpoints/detect", sent).json()
    assert body["problem"] == clouds.KEY_REFUSED
