"""Settings of Ollama's own API."""

from dataclasses import dataclass

from gateway.base import setting_parsers as parsers
from gateway.base.connecting.proxy_settings import ProxySettings
from gateway.base.setting_parsers import setting

IGNORE, PASS = "ignore", "pass"  # what becomes of a client's keep_alive


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaSettings(ProxySettings):
    """Part of gateway.base.config.Config."""

    ollama_port: int = setting(
        "ROUTERDASH_OLLAMA_PORT",
        "0",
        parsers.WholeNumber(0, 65535),
        "Port on which RouterDash serves Ollama's own API, such as 11434, at the address of `ROUTERDASH_HOST`; 0: only "
        "below `/ollama` on its usual port.",
    )
    ollama_keep_alive: str = setting(
        "ROUTERDASH_OLLAMA_KEEP_ALIVE",
        IGNORE,
        parsers.OneOf((IGNORE, PASS)),
        "What becomes of `keep_alive` in requests of Ollama's own API: `ignore` leaves it out, because it would unload "
        "models that others use; `pass` sends it to endpoints that are an Ollama.",
    )
