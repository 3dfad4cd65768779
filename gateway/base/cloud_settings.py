"""Settings that make endpoints of clouds: API keys, and addresses for those that have another one.

The variables are those that the clouds' own libraries and llmlb read.
"""

from dataclasses import dataclass
from typing import Any

from gateway.base import setting_parsers as parsers
from gateway.base.setting_parsers import setting


def _key(variable: str, label: str) -> Any:
    return setting(variable, "", parsers.text, f"API key of the endpoint `{label} (from {variable})`.", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    """Part of gateway.base.config.Config. endpoints.clouds.environment makes the endpoints."""

    env_endpoints: bool = setting(
        "ROUTERDASH_ENV_ENDPOINTS",
        "false",
        parsers.flag,
        "At a start, make an endpoint for each cloud whose API key is in the environment, once. No API key reaches it "
        "unless it may use external endpoints. `false`: *Discover* offers these clouds.",
    )
    openai_api_key: str = _key("OPENAI_API_KEY", "OpenAI")
    anthropic_api_key: str = _key("ANTHROPIC_API_KEY", "Anthropic")
    anthropic_auth_token: str = setting(
        "ANTHROPIC_AUTH_TOKEN", "", parsers.text, "The same, if `ANTHROPIC_API_KEY` is not set.", secret=True
    )
    gemini_api_key: str = _key("GEMINI_API_KEY", "Google Gemini")
    google_api_key: str = setting(
        "GOOGLE_API_KEY", "", parsers.text, "The same, if `GEMINI_API_KEY` is not set.", secret=True
    )
    azure_openai_api_key: str = setting(
        "AZURE_OPENAI_API_KEY",
        "",
        parsers.text,
        "API key of the endpoint `Azure OpenAI (from AZURE_OPENAI_API_KEY)`; it also needs `AZURE_OPENAI_ENDPOINT`. "
        "Enter the names of its deployments as allowed models.",
        secret=True,
    )
    openrouter_api_key: str = _key("OPENROUTER_API_KEY", "OpenRouter")
    groq_api_key: str = _key("GROQ_API_KEY", "Groq")
    mistral_api_key: str = _key("MISTRAL_API_KEY", "Mistral")
    deepseek_api_key: str = _key("DEEPSEEK_API_KEY", "DeepSeek")
    xai_api_key: str = _key("XAI_API_KEY", "xAI")
    together_api_key: str = _key("TOGETHER_API_KEY", "Together AI")
    openai_base_url: str = setting(
        "OPENAI_BASE_URL", "https://api.openai.com", parsers.public_url, "Address of the endpoint of `OPENAI_API_KEY`."
    )
    anthropic_base_url: str = setting(
        "ANTHROPIC_BASE_URL",
        "https://api.anthropic.com",
        parsers.public_url,
        "Address of the endpoint of `ANTHROPIC_API_KEY`.",
    )
    google_base_url: str = setting(
        "GOOGLE_BASE_URL",
        "https://generativelanguage.googleapis.com/v1beta",
        parsers.public_url,
        "Address of the endpoint of `GEMINI_API_KEY`, as llmlb has it: its OpenAI API is below it.",
    )
    azure_openai_endpoint: str = setting(
        "AZURE_OPENAI_ENDPOINT",
        "",
        parsers.public_url,
        "Address of the resource of `AZURE_OPENAI_API_KEY`, such as `https://name.openai.azure.com`.",
    )
    openai_api_version: str = setting(
        "OPENAI_API_VERSION",
        "",
        parsers.text,
        "API version of the endpoint of `AZURE_OPENAI_API_KEY`, a date such as 2024-10-21; empty: none.",
    )
