"""What kind of server an endpoint is. The first of these that matches wins: xLLM, LM Studio, Ollama, vLLM, llama.cpp,
anything with an OpenAI model list.
"""

import re
from itertools import pairwise
from typing import Any

from endpoints.models import Kind
from endpoints.probe import Answer, Probe, Unreachable

_LM_STUDIO_MARKS = ("state", "loaded_instances", "key", "display_name", "format", "compatibility_type")


class Unsupported(Exception):
    """Something answers there, but it is no inference server that we know."""


class Locked(Unsupported):
    """A server that says nothing without its key: which one it is, nobody can tell yet."""


async def detect(probe: Probe) -> Kind:
    """Raises Unreachable when nothing answers, Unsupported when nothing matches."""
    models = await _ask(probe, "/v1/models")
    system = await _ask(probe, "/api/system")
    if _is_xllm(system):
        return Kind.XLLM
    if _is_lm_studio(await _ask(probe, "/api/v1/models"), models):
        return Kind.LM_STUDIO
    if _is_ollama(await _ask(probe, "/api/tags")):
        return Kind.OLLAMA
    if _names(models, "vllm"):
        return Kind.VLLM
    if "llama.cpp" in models.server.lower() or _is_llamacpp(await _ask(probe, "/v1/version")):
        return Kind.LLAMACPP
    if models.ok and isinstance(models.body, dict) and ("data" in models.body or "object" in models.body):
        return Kind.OPENAI_COMPATIBLE
    if models.status in (401, 403):
        raise Locked(f"it answers HTTP {models.status}: its API key is missing or wrong")
    raise Unsupported(f"GET /v1/models answers HTTP {models.status}, and no known server's own API is there")


async def _ask(probe: Probe, path: str) -> Answer:
    """The first question must be answered; of the others, silence is an answer too."""
    try:
        return await probe.get(path)
    except Unreachable:
        if path == "/v1/models":
            raise
        return Answer(0)


def _is_xllm(system: Answer) -> bool:
    return system.ok and isinstance(system.body, dict) and "xllm_version" in system.body


def _is_lm_studio(own: Answer, models: Answer) -> bool:
    if own.ok and any(_looks_lm_studio(item) for item in _items(own, "data", "models")):
        return True
    owners = (str(item.get("owned_by", "")) for item in _items(models, "data"))
    texts = (models.server, *owners) if models.ok else ()
    return any(_says_lm_studio(text) for text in texts)


def _looks_lm_studio(item: dict[str, Any]) -> bool:
    return (
        "publisher" in item
        and ("arch" in item or "architecture" in item)
        and any(mark in item for mark in _LM_STUDIO_MARKS)
    )


def _says_lm_studio(text: str) -> bool:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "lmstudio" in words or ("lm", "studio") in pairwise(words)


def _is_ollama(tags: Answer) -> bool:
    body = tags.body
    return tags.ok and isinstance(body, dict) and isinstance(body.get("models"), list) and "error" not in body


def _names(models: Answer, word: str) -> bool:
    if not models.ok:
        return False
    owners = (str(item.get("owned_by", "")) for item in _items(models, "data"))
    return any(word in text.lower() for text in (models.server, *owners))


def _is_llamacpp(version: Answer) -> bool:
    return version.ok and isinstance(version.body, dict) and "llama.cpp" in str(version.body.get("server", "")).lower()


def _items(answer: Answer, *keys: str) -> list[dict[str, Any]]:
    """The objects of the first list found under one of these keys."""
    if isinstance(answer.body, dict):
        for key in keys:
            if isinstance(found := answer.body.get(key), list):
                return [item for item in found if isinstance(item, dict)]
    return []
