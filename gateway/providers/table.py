"""The cloud providers, and what a request to each of them needs. Self-hosted servers have no provider (None).

Base URLs are stored without `/v1`, as those of every endpoint (endpoints.base_url), so the paths begin with it. Only
what the providers document is here; docs/how-to/clouds.md says when it was read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

from gateway.base.request_kinds import (
    BY_NAME,
    CHAT,
    COMPACTIONS,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    MESSAGES,
    MODERATIONS,
    RERANK,
    RESPONSES,
    SPEECH,
    STORED,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)

# Types of endpoints, as in their field `kind`.
OPENAI, ANTHROPIC, GEMINI, AZURE, OPENROUTER = "openai", "anthropic", "gemini", "azure", "openrouter"
GROQ, MISTRAL, DEEPSEEK, XAI, TOGETHER = "groq", "mistral", "deepseek", "xai", "together"

# Header that takes the API key.
BEARER, X_API_KEY, API_KEY = "authorization", "x-api-key", "api-key"

ANTHROPIC_VERSION: Final = "2023-06-01"  # it takes sampling parameters, which 2026-10-21 refuses


@dataclass(frozen=True, slots=True)
class Rename:
    """A parameter that models of a provider refuse under its usual name."""

    kind: str  # of the request
    models: re.Pattern[str]  # found anywhere in their id
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Provider:
    """A cloud provider: addresses, authentication and dialect of its API."""

    kind: str  # type of the endpoint
    label: str  # its name, in every language
    base_url: str  # default, without `/v1`; empty: each customer has a host of their own
    hosts: tuple[str, ...]  # these hosts, and those below them, are the provider's
    paths: Mapping[str, str]  # by name of the request kind, after the base URL; a kind without a path is not offered
    list_path: str = "/v1/models"
    auth: str = BEARER  # name of the header that takes the key
    headers: tuple[tuple[str, str], ...] = ()  # that each request needs, unless the client has sent its own
    env_keys: tuple[str, ...] = ()  # variables that may contain the API key; the first one set counts
    prefix: str | None = None  # of model names by which clients of llmlb chose the provider
    takes_usage_option: bool = True  # `stream_options.include_usage`; else usage comes without it
    chat_as_messages: bool = False  # chat completions are sent as Anthropic Messages
    lists_deployments: bool = True  # else the list of models names what exists, not what may be used
    renames: tuple[Rename, ...] = ()
    finish_reasons: tuple[tuple[str, str], ...] = ()  # its own names of them, and those of OpenAI that clients receive
    dated_paths: Mapping[str, str] = field(default_factory=dict)  # with an API version; `{model}` stands for the id
    dated_list_path: str = ""
    price_sources: tuple[str, ...] = ()  # its names in genai-prices; later ones count where the first has no price
    litellm_names: tuple[str, ...] = ()  # its names in LiteLLM's list of prices

    def auth_header(self, key: str) -> tuple[str, str]:
        """Return name and value of the header with the API key."""
        return self.auth, f"Bearer {key}" if self.auth == BEARER else key

    def path(self, kind: str, model: str = "", api_version: str | None = None) -> str | None:
        """Return path and query of a request; None: the provider does not offer its kind.

        `model`: the provider's id of the model. Stored responses have the path to which their id is added.
        """
        if not (api_version and self.dated_paths):
            return self.paths.get(kind)
        path = self.dated_paths.get(kind)
        if path is None:
            return None
        path = path.replace("{model}", quote(model, safe=""))
        return path if kind == STORED else path + self.version_query(api_version)

    def models_path(self, api_version: str | None = None) -> str:
        """Return path and query of the list of models."""
        if not (api_version and self.dated_list_path):
            return self.list_path
        return self.dated_list_path + self.version_query(api_version)

    @staticmethod
    def version_query(api_version: str) -> str:
        """Return the query that names an API version."""
        return f"?api-version={quote(api_version, safe='')}"

    def offers(self, kind: str) -> bool:
        """Return True if requests of this kind have a path, or are sent to another one in its dialect."""
        return kind in self.paths or (kind == CHAT and self.chat_as_messages)


def _usual(*kinds: str, base: str = "/v1") -> dict[str, str]:
    """Return the usual paths of these kinds, below another base than `/v1`."""
    return {kind: base + BY_NAME[kind].path.removeprefix("/v1") for kind in kinds}


def _deployment(*kinds: str) -> dict[str, str]:
    return _usual(*kinds, base="/deployments/{model}")


_OPENAI_KINDS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, STORED, TRANSCRIPTIONS, TRANSLATIONS, SPEECH, IMAGES)
# Reasoning models, by a word of their ids: also of fine-tuned ones (`ft:o4-mini:…`), and in the name of a deployment at
# Azure, which its customer chooses. Other models of chat completions get what the client has sent.
_REASONING = re.compile(r"(?<![a-z0-9])(?:o[1-9](?![a-z])|gpt-?[5-9](?![0-9]))", re.IGNORECASE)
_MAX_TOKENS = Rename(CHAT, _REASONING, "max_tokens", "max_completion_tokens")

PROVIDERS: Final[Mapping[str, Provider]] = {
    provider.kind: provider
    for provider in (
        Provider(
            OPENAI,
            "OpenAI",
            "https://api.openai.com",
            ("api.openai.com",),
            _usual(*_OPENAI_KINDS, COMPACTIONS, IMAGE_EDITS, IMAGE_VARIATIONS, MODERATIONS),
            env_keys=("OPENAI_API_KEY",),
            prefix="openai:",
            renames=(_MAX_TOKENS,),
            price_sources=("openai",),
            litellm_names=("openai", "text-completion-openai"),
        ),
        Provider(
            ANTHROPIC,
            "Anthropic",
            "https://api.anthropic.com",
            ("api.anthropic.com",),
            _usual(MESSAGES, COUNT_TOKENS),
            auth=X_API_KEY,
            headers=(("anthropic-version", ANTHROPIC_VERSION),),
            env_keys=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
            prefix="anthropic:",
            chat_as_messages=True,
            price_sources=("anthropic",),
            litellm_names=("anthropic",),
        ),
        Provider(
            GEMINI,
            "Google Gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            ("generativelanguage.googleapis.com",),
            _usual(CHAT, EMBEDDINGS, IMAGES, base=""),
            list_path="/models",
            env_keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            prefix="google:",
            price_sources=("google",),
            litellm_names=("gemini",),
        ),
        Provider(
            AZURE,
            "Azure OpenAI",
            "",
            ("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com"),
            _usual(*_OPENAI_KINDS, IMAGE_EDITS),
            auth=API_KEY,
            env_keys=("AZURE_OPENAI_API_KEY",),
            lists_deployments=False,
            renames=(_MAX_TOKENS,),
            dated_paths={
                **_deployment(CHAT, COMPLETIONS, EMBEDDINGS, TRANSCRIPTIONS, TRANSLATIONS, SPEECH, IMAGES, IMAGE_EDITS),
                **_usual(RESPONSES, STORED, base=""),
            },
            dated_list_path="/models",
            price_sources=("azure", "openai", "anthropic", "deepseek", "x-ai"),
            litellm_names=("azure", "azure_ai"),
        ),
        Provider(
            OPENROUTER,
            "OpenRouter",
            "https://openrouter.ai/api",
            ("openrouter.ai",),
            _usual(CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES),
            env_keys=("OPENROUTER_API_KEY",),
            price_sources=("openrouter",),
            litellm_names=("openrouter",),
        ),
        Provider(
            GROQ,
            "Groq",
            "https://api.groq.com/openai",
            ("api.groq.com",),
            _usual(CHAT, EMBEDDINGS, RESPONSES, TRANSCRIPTIONS, TRANSLATIONS, SPEECH),
            env_keys=("GROQ_API_KEY",),
            price_sources=("groq",),
            litellm_names=("groq",),
        ),
        Provider(
            MISTRAL,
            "Mistral",
            "https://api.mistral.ai",
            ("api.mistral.ai",),
            _usual(CHAT, EMBEDDINGS, TRANSCRIPTIONS, MODERATIONS),
            env_keys=("MISTRAL_API_KEY",),
            takes_usage_option=False,
            price_sources=("mistral",),
            litellm_names=("mistral",),
        ),
        Provider(
            DEEPSEEK,
            "DeepSeek",
            "https://api.deepseek.com",
            ("api.deepseek.com",),
            {**_usual(CHAT, RESPONSES), MESSAGES: "/anthropic/v1/messages"},
            env_keys=("DEEPSEEK_API_KEY",),
            price_sources=("deepseek",),
            litellm_names=("deepseek",),
        ),
        Provider(
            XAI,
            "xAI",
            "https://api.x.ai",
            ("api.x.ai",),
            _usual(CHAT, RESPONSES, STORED, MESSAGES, IMAGES),
            env_keys=("XAI_API_KEY",),
            price_sources=("x-ai",),
            litellm_names=("xai",),
        ),
        Provider(
            TOGETHER,
            "Together AI",
            "https://api.together.ai",
            ("api.together.ai", "api.together.xyz"),
            _usual(CHAT, COMPLETIONS, EMBEDDINGS, IMAGES, RERANK, TRANSCRIPTIONS, TRANSLATIONS, SPEECH),
            env_keys=("TOGETHER_API_KEY",),
            finish_reasons=(("eos", "stop"),),
            price_sources=("together",),
            litellm_names=("together_ai",),
        ),
    )
}


def provider_of(kind: str) -> Provider | None:
    """Return the provider of an endpoint's type; None for a self-hosted server."""
    return PROVIDERS.get(kind)


def provider_at(url: str) -> Provider | None:
    """Return the provider that has the host of a URL; None if none of them has, or the URL is invalid."""
    try:
        host = (urlsplit(url.strip()).hostname or "").rstrip(".")
    except ValueError:
        return None
    for provider in PROVIDERS.values():
        if any(host == own or host.endswith(f".{own}") for own in provider.hosts):
            return provider
    return None


def complete_url(provider: Provider, url: str) -> str:
    """Return a normalised base URL with the path of the provider's API, if it has the provider's host and no path.

    So `https://openrouter.ai` may be entered as well as `https://openrouter.ai/api/v1`.
    """
    if provider_at(url) is not provider or urlsplit(url).path.strip("/"):
        return url
    own_path = "/openai" if provider.kind == AZURE else urlsplit(provider.base_url).path
    return url.rstrip("/") + own_path
