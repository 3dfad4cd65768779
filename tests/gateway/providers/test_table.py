"""The table of cloud providers: addresses, paths and keys as each of them documents."""

from urllib.parse import urlsplit

import pytest

from gateway.base.request_kinds import BY_NAME, CHAT, EMBEDDINGS, MESSAGES, RESPONSES, STORED
from gateway.providers import table
from gateway.providers.table import PROVIDERS, complete_url, provider_at, provider_of


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("openai", "https://api.openai.com/v1/chat/completions"),
        ("anthropic", None),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"),
        ("openrouter", "https://openrouter.ai/api/v1/chat/completions"),
        ("groq", "https://api.groq.com/openai/v1/chat/completions"),
        ("mistral", "https://api.mistral.ai/v1/chat/completions"),
        ("deepseek", "https://api.deepseek.com/v1/chat/completions"),
        ("xai", "https://api.x.ai/v1/chat/completions"),
        ("together", "https://api.together.ai/v1/chat/completions"),
    ],
)
def test_chat_completions_have_the_documented_address(kind: str, address: str | None) -> None:
    provider = PROVIDERS[kind]
    path = provider.path(CHAT)
    assert address == (None if path is None else provider.base_url + path)
    assert provider.offers(CHAT)


def test_azure_has_paths_of_two_forms() -> None:
    azure = PROVIDERS["azure"]
    assert azure.path(CHAT, "my gpt") == "/v1/chat/completions"
    assert azure.path(CHAT, "my gpt", "2024-10-21") == "/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    assert azure.path(RESPONSES, "gpt", "2025-03-01-preview") == "/responses?api-version=2025-03-01-preview"
    assert azure.path(STORED, "gpt", "2025-03-01-preview") == "/responses/"
    assert azure.models_path() == "/v1/models"
    assert azure.models_path("2024-10-21") == "/models?api-version=2024-10-21"


def test_an_api_version_matters_for_azure_only() -> None:
    assert PROVIDERS["openai"].path(CHAT, "gpt", "2024-10-21") == "/v1/chat/completions"


@pytest.mark.parametrize("kind", ["anthropic", "deepseek"])
def test_a_kind_without_a_path_is_not_offered(kind: str) -> None:
    provider = PROVIDERS[kind]
    assert provider.path(EMBEDDINGS) is None
    assert not provider.offers(EMBEDDINGS)
    assert provider.offers(MESSAGES)


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        ("openai", ("authorization", "Bearer k")),
        ("anthropic", ("x-api-key", "k")),
        ("azure", ("api-key", "k")),
        ("gemini", ("authorization", "Bearer k")),
    ],
)
def test_keys_have_the_header_of_their_provider(kind: str, header: tuple[str, str]) -> None:
    assert PROVIDERS[kind].auth_header("k") == header


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_the_table_is_complete(provider: table.Provider) -> None:
    assert provider.kind in PROVIDERS
    assert provider.env_keys
    assert set(provider.paths) <= set(BY_NAME)
    assert set(provider.dated_paths) <= set(provider.paths)
    if provider.base_url:
        parts = urlsplit(provider.base_url)
        assert parts.scheme == "https"
        assert not provider.base_url.endswith(("/", "/v1")), "the stored form has no /v1"
        assert provider_at(provider.base_url) is provider


def test_hosts_are_recognised() -> None:
    assert provider_at("https://eu.api.openai.com/v1") is PROVIDERS["openai"]
    assert provider_at("https://My.openai.azure.com./openai") is PROVIDERS["azure"]
    assert provider_at("https://notapi.openai.com.example.org") is None
    assert provider_at("https://evilapi.groq.com") is None
    assert provider_at("http://127.0.0.1:8000") is None
    assert provider_at("http://[") is None
    assert provider_of("vllm") is None


def test_the_path_of_the_api_is_added_to_a_bare_host() -> None:
    assert complete_url(PROVIDERS["openrouter"], "https://openrouter.ai") == "https://openrouter.ai/api"
    assert complete_url(PROVIDERS["azure"], "https://r.openai.azure.com") == "https://r.openai.azure.com/openai"
    assert complete_url(PROVIDERS["groq"], "https://api.groq.com/openai") == "https://api.groq.com/openai"
    assert complete_url(PROVIDERS["groq"], "http://127.0.0.1:9") == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("model", "renamed"),
    [("o3-mini", True), ("o1", True), ("gpt-5.5", True), ("gpt-6.2-sol", True), ("gpt-4o", False), ("omni", False)],
)
def test_reasoning_models_take_another_name_of_max_tokens(model: str, renamed: bool) -> None:
    (rename,) = PROVIDERS["openai"].renames
    assert bool(rename.models.search(model)) is renamed


def test_each_price_list_names_a_provider_once() -> None:
    """Otherwise the prices of one provider would be imported as those of another."""
    names = [name for provider in PROVIDERS.values() for name in provider.litellm_names]
    assert len(names) == len(set(names))
