"""API keys of clouds in the environment make endpoints, once."""

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
    found = made()
    assert found["OpenAI (from OPENAI_API_KEY)"] == ("openai", "https://api.openai.com", "key-openai")
    assert found["Google Gemini (from GEMINI_API_KEY)"] == (
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "key-gemini",
    )
    assert {kind for kind, _, _ in found.values()} == set(PROVIDERS) - {"azure"}


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


def test_an_endpoint_that_staff_has_deleted_stays_deleted(as_admin: Api) -> None:
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


def test_the_setting_turns_it_off() -> None:
    start(OPENAI_API_KEY="a", ROUTERDASH_ENV_ENDPOINTS="false")
    assert made() == {}
