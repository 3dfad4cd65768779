"""API keys of clouds in the environment: offered by *Discover*, followed at each start, made endpoints on request."""

from dataclasses import replace
from typing import Any

import pytest

from endpoints import edit_log
from endpoints.clouds.environment import endpoint_id, ensure_cloud_endpoints
from endpoints.models import Endpoint
from gateway.base.config import load
from gateway.providers.table import PROVIDERS
from tests.access.people import Api
from tests.endpoints.conftest import make_endpoint

pytestmark = pytest.mark.django_db


def start(**environ: str) -> None:
    """Start with ROUTERDASH_ENV_ENDPOINTS, as earlier releases did by default."""
    ensure_cloud_endpoints(load({"ROUTERDASH_ENV_ENDPOINTS": "true", **environ}))


def start_by_default(**environ: str) -> None:
    ensure_cloud_endpoints(load(environ))


def made() -> dict[str, Any]:
    return {row.name: (row.kind, row.base_url, row.api_key) for row in Endpoint.objects.select_related("options")}


def test_each_variable_of_the_table_is_a_secret_setting() -> None:
    config = load({})
    for provider in PROVIDERS.values():
        assert [getattr(config, name.lower()) for name in provider.env_keys] == [""] * len(provider.env_keys)


def test_without_keys_there_are_no_endpoints() -> None:
    start()
    assert made() == {}


def test_each_cloud_with_a_key_gets_an_endpoint() -> None:
    start(**{provider.env_keys[0]: f"key-{kind}" for kind, provider in PROVIDERS.items() if kind != "azure"})
    endpoints = made()
    assert endpoints["OpenAI (from OPENAI_API_KEY)"] == ("openai", "https://api.openai.com", "key-openai")
    assert endpoints["Google Gemini (from GEMINI_API_KEY)"] == (
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "key-gemini",
    )
    assert {kind for kind, _, _ in endpoints.values()} == set(PROVIDERS) - {"azure"}


def test_the_endpoint_is_external_and_its_key_is_sealed() -> None:
    start(OPENAI_API_KEY="sk-secret")
    row = Endpoint.objects.get()
    assert (row.options.external, row.health_check_interval_secs) == (True, 300)
    assert row.api_key_encrypted is None
    assert "sk-secret" not in str(row.options.sealed_api_key)


def test_a_second_start_makes_no_second_endpoint() -> None:
    start(XAI_API_KEY="a")
    start(XAI_API_KEY="a")
    assert len(made()) == 1


def test_another_key_is_stored_at_the_next_start() -> None:
    start(XAI_API_KEY="a")
    Endpoint.objects.update(name="renamed", base_url="https://proxy.example")
    start(XAI_API_KEY="b")
    assert made() == {"renamed": ("xai", "https://proxy.example", "b")}


def test_an_endpoint_that_an_administrator_has_deleted_stays_deleted(as_admin: Api) -> None:
    start(XAI_API_KEY="a")
    as_admin.call("DELETE", f"/api/endpoints/{endpoint_id('xai')}")
    assert edit_log.entries(str(endpoint_id("xai"))).exists()
    start(XAI_API_KEY="a")
    assert made() == {}


def test_the_first_of_two_variables_counts() -> None:
    start(GEMINI_API_KEY="first", GOOGLE_API_KEY="second")
    assert [key for _, _, key in made().values()] == ["first"]


def test_other_addresses_are_used() -> None:
    start(
        OPENAI_API_KEY="a",
        OPENAI_BASE_URL="http://10.0.0.1:1/v1",
        GOOGLE_API_KEY="b",
        GOOGLE_BASE_URL="http://10.0.0.2/v1beta",
    )
    assert sorted(url for _, url, _ in made().values()) == ["http://10.0.0.1:1", "http://10.0.0.2/v1beta/openai"]


def test_azure_needs_its_address() -> None:
    start(AZURE_OPENAI_API_KEY="a")
    assert made() == {}
    start(
        AZURE_OPENAI_API_KEY="a",
        AZURE_OPENAI_ENDPOINT="https://mine.openai.azure.com",
        OPENAI_API_VERSION="2024-10-21",
    )
    assert made() == {
        "Azure OpenAI (from AZURE_OPENAI_API_KEY)": ("azure", "https://mine.openai.azure.com/openai", "a")
    }
    assert Endpoint.objects.get().options.api_version == "2024-10-21"


def test_an_address_that_is_taken_is_no_second_endpoint() -> None:
    make_endpoint("mine", "https://api.x.ai")
    start(XAI_API_KEY="a")
    assert list(made()) == ["mine"]


def test_an_address_that_cannot_be_used_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    start(OPENAI_API_KEY="sk-secret", OPENAI_BASE_URL="http://169.254.169.254", XAI_API_KEY="a")
    assert list(made()) == ["xAI (from XAI_API_KEY)"]
    assert "OPENAI_API_KEY makes no endpoint" in caplog.text
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("setting", [{}, {"ROUTERDASH_ENV_ENDPOINTS": "false"}])
def test_by_default_no_key_makes_an_endpoint(setting: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    keys = {name: "sk-secret" for provider in PROVIDERS.values() for name in provider.env_keys}
    start_by_default(**keys, **setting)
    assert made() == {}
    assert caplog.text == ""


def test_an_endpoint_that_an_earlier_release_made_stays_and_follows_its_variable() -> None:
    start(XAI_API_KEY="a", GROQ_API_KEY="b")
    start_by_default(XAI_API_KEY="new")
    assert {kind: key for kind, _, key in made().values()} == {"xai": "new", "groq": "b"}


# Discover

KEYS = {"XAI_API_KEY": "sk-secret", "AZURE_OPENAI_API_KEY": "sk-azure"}


@pytest.fixture
def with_keys(settings: Any) -> None:
    config = load(KEYS)
    keys = {name: getattr(config, name) for name in ("xai_api_key", "azure_openai_api_key")}
    settings.ROUTERDASH = replace(settings.ROUTERDASH, discover_ports=(), **keys)


def discovered(api: Api) -> dict[str, Any]:
    response = api.call("POST", "/api/endpoints/discover")
    assert "sk-secret" not in response.content.decode()
    return {cloud["variable"]: cloud for cloud in response.json()["clouds"]}


@pytest.mark.usefixtures("with_keys")
def test_discover_offers_the_clouds_with_a_key_and_stores_nothing(as_admin: Api) -> None:
    clouds = discovered(as_admin)
    assert clouds["XAI_API_KEY"] == {
        "cloud_type": "xai",
        "variable": "XAI_API_KEY",
        "base_url": "https://api.x.ai",
        "problem": None,
        "name": "xAI (from XAI_API_KEY)",
        "registered": None,
    }
    assert "AZURE_OPENAI_ENDPOINT" in clouds["AZURE_OPENAI_API_KEY"]["problem"]
    assert made() == {}


@pytest.mark.usefixtures("with_keys")
@pytest.mark.django_db(transaction=True)  # the registry reads what is committed
def test_an_offered_cloud_is_added_with_its_key_and_follows_the_variable(as_admin: Api) -> None:
    response = as_admin.call("POST", "/api/endpoints/discover/cloud", {"cloud_type": "xai"})
    assert (response.status_code, response.json()["is_external"]) == (201, True)
    assert made() == {"xAI (from XAI_API_KEY)": ("xai", "https://api.x.ai", "sk-secret")}
    assert edit_log.entries(str(endpoint_id("xai"))).exists()
    assert discovered(as_admin)["XAI_API_KEY"]["registered"]["name"] == "xAI (from XAI_API_KEY)"
    assert as_admin.call("POST", "/api/endpoints/discover/cloud", {"cloud_type": "xai"}).status_code == 409
    start_by_default(XAI_API_KEY="new")
    assert [key for _, _, key in made().values()] == ["new"]


@pytest.mark.usefixtures("with_keys")
@pytest.mark.parametrize(("cloud", "status"), [("openai", 404), ("azure", 400), ("nonsense", 400)])
def test_a_cloud_without_a_usable_key_is_refused(as_admin: Api, cloud: str, status: int) -> None:
    assert as_admin.call("POST", "/api/endpoints/discover/cloud", {"cloud_type": cloud}).status_code == status
    assert made() == {}


@pytest.mark.usefixtures("with_keys")
def test_only_administrators_are_offered_a_cloud(as_viewer: Api, as_admin: Api) -> None:
    for path in ("/api/endpoints/discover/cloud", "/endpoints/discover/cloud"):
        assert as_viewer.post(path, {"cloud_type": "xai"}).status_code == 403
    assert made() == {}
    assert as_admin.get("/endpoints/discover/cloud").headers["Location"] == "/endpoints/discover"


@pytest.mark.usefixtures("with_keys")
@pytest.mark.django_db(transaction=True)  # the registry reads what is committed
def test_the_page_offers_the_cloud_and_adds_it_in_place(as_admin: Api) -> None:
    part = {"X-RouterDash-Part": "true"}
    shown = as_admin.post("/endpoints/discover", headers=part).content.decode()
    assert "XAI_API_KEY" in shown
    assert "AZURE_OPENAI_ENDPOINT" in shown
    assert "sk-secret" not in shown
    added = as_admin.post("/endpoints/discover/cloud", {"cloud_type": "xai"}, headers=part)
    assert f'data-just-added="{endpoint_id("xai")}"' in added.content.decode()
    refused = as_admin.post("/endpoints/discover/cloud", {"cloud_type": "xai"}, headers=part)
    assert (refused.status_code, "already exists" in refused.content.decode()) == (422, True)
    assert as_admin.post("/endpoints/discover/cloud", {"cloud_type": "xai"}).status_code == 302
    assert "This server is already registered." in as_admin.post("/endpoints/discover").content.decode()


def test_the_api_documents_the_offer(as_admin: Api) -> None:
    schema = as_admin.call("GET", "/api/schema/?format=json").json()
    assert "/api/endpoints/discover/cloud" in schema["paths"]
