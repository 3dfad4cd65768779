"""Detection of an endpoint's type.

The first match wins: xLLM, LM Studio, Ollama, vLLM, llama.cpp, any server with an OpenAI model list.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from endpoints.models import Kind
from endpoints.probe import Probe, ProbeResponse, Unreachable
from gateway.base import causes

_LM_STUDIO_MARKS = ("state", "loaded_instances", "key", "display_name", "format", "compatibility_type")


class Unsupported(Exception):
    """The server responded, but its type is not supported."""


class KeyRequired(Unsupported):
    """The server requires its API key, so its type cannot be detected yet."""


async def detect(probe: Probe) -> Kind:
    """Return the type of the server.

    Raises Unreachable if it does not respond, Unsupported if no type matches.
    """
    models = await _get(probe, "/v1/models")
    system = await _get(probe, "/api/system")
    if _is_xllm(system):
        return Kind.XLLM
    if _is_lm_studio(await _get(probe, "/api/v1/models"), models):
        return Kind.LM_STUDIO
    if _is_ollama(await _get(probe, "/api/tags")):
        return Kind.OLLAMA
    if _names(models, "vllm"):
        return Kind.VLLM
    if "llama.cpp" in models.server.lower() or _is_llamacpp(await _get(probe, "/v1/version")):
        return Kind.LLAMACPP
    if models.ok and isinstance(models.body, dict) and ("data" in models.body or "object" in models.body):
        return Kind.OPENAI_COMPATIBLE
    if models.status in (401, 403):
        raise KeyRequired(causes.KEY_MISSING.format(status=models.status))
    raise Unsupported(causes.NO_KNOWN_SERVER.format(status=models.status))


async def _get(probe: Probe, path: str) -> ProbeResponse:
    """Return the response, or one with status 0 if there is none. Raises Unreachable only for `/v1/models`."""
    try:
        return await probe.get(path)
    except Unreachable:
        if path == "/v1/models":
            raise
        return ProbeResponse(0)


def _is_xllm(system: ProbeResponse) -> bool:
    return system.ok and isinstance(system.body, dict) and "xllm_version" in system.body


def _is_lm_studio(own: ProbeResponse, models: ProbeResponse) -> bool:
    if own.ok and any(_is_lm_studio_item(item) for item in _items(own, "data", "models")):
        return True
    owners = (str(item.get("owned_by", "")) for item in _items(models, "data"))
    texts = (models.server, *owners) if models.ok else ()
    return any(_names_lm_studio(text) for text in texts)


def _is_lm_studio_item(item: Mapping[str, Any]) -> bool:
    return (
        "publisher" in item
        and ("arch" in item or "architecture" in item)
        and any(mark in item for mark in _LM_STUDIO_MARKS)
    )


def _names_lm_studio(text: str) -> bool:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "lmstudio" in words or ("lm", "studio") in pairwise(words)


def _is_ollama(tags: ProbeResponse) -> bool:
    body = tags.body
    return tags.ok and isinstance(body, dict) and isinstance(body.get("models"), list) and "error" not in body


def _names(models: ProbeResponse, word: str) -> bool:
    if not models.ok:
        return False
    owners = (str(item.get("owned_by", "")) for item in _items(models, "data"))
    return any(word in text.lower() for text in (models.server, *owners))


def _is_llamacpp(version: ProbeResponse) -> bool:
    return version.ok and isinstance(version.body, dict) and "llama.cpp" in str(version.body.get("server", "")).lower()


def _items(response: ProbeResponse, *keys: str) -> list[Mapping[str, Any]]:
    """Return the objects of the first list under one of these keys."""
    if isinstance(response.body, dict):
        for key in keys:
            if isinstance(items := response.body.get(key), list):
                return [item for item in items if isinstance(item, dict)]
    return []
