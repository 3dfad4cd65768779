"""Context lengths, capabilities and slots, read from the engines' own APIs.

A server that does not report these is no failure. A server that does not respond is a separate case, in which stored
data stays.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard
from urllib.parse import quote

from endpoints import capabilities
from endpoints.models import Kind
from endpoints.probe import Probe, ProbeResponse, Unreachable
from gateway.base.request_kinds import CAN_CHAT, CAN_EMBED, CAN_RERANK, TOOLS, VISION

AT_ONCE = 8
QUERY_SECONDS = 60.0  # timeout of all requests about a server's models; models without one then stay NO_RESPONSE
MAX_SLOTS = 10_000
_IN_A_PATH = re.compile(r"(?:(?!\.+(?:/|$))[\w.:@+~ -]+(?:/|$))+(?<!/)")


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """Data of one model; None and empty values are not reported. `responded` is False if the server did not respond."""

    max_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    responded: bool = True
    lacks: tuple[str, ...] = ()  # of endpoints.capabilities.NEEDS
    features: tuple[str, ...] = ()  # of endpoints.capabilities.FEATURES


@dataclass(frozen=True, slots=True)
class ServerDetails:
    """Data of a server's models, and its requests at a time (0: not reported, None: no response)."""

    models: Mapping[str, ModelDetails] = field(default_factory=dict)
    slots: int | None = 0


NO_DETAILS = ModelDetails()
NO_RESPONSE = ModelDetails(responded=False)


async def query(probe: Probe, kind: str, models: list[str]) -> ServerDetails:
    """Query a server of this type for data of these models. Never raises."""
    if kind == Kind.LLAMACPP:
        return await _llamacpp(probe, models)
    if kind == Kind.LM_STUDIO and models:
        return ServerDetails(await _lm_studio(probe, models))
    query_model = {str(Kind.OLLAMA): _ollama, str(Kind.XLLM): _xllm}.get(kind)
    return ServerDetails(await _query_each(probe, query_model, models)) if query_model is not None else ServerDetails()


async def _query_each(probe: Probe, query_model: Any, models: list[str]) -> dict[str, ModelDetails]:
    details = dict.fromkeys(models, NO_RESPONSE)
    remaining = iter(models)

    async def query_some() -> None:
        for model in remaining:
            details[model] = await query_model(probe, model)

    try:
        async with asyncio.timeout(QUERY_SECONDS):
            await asyncio.gather(*(query_some() for _ in range(AT_ONCE)))
    except TimeoutError:
        pass
    return details


async def _get(probe: Probe, path: str) -> ProbeResponse:
    try:
        return await probe.get(path)
    except Unreachable:
        return ProbeResponse(0)


async def _post(probe: Probe, path: str, body: object) -> ProbeResponse:
    try:
        return await probe.post(path, body)
    except Unreachable:
        return ProbeResponse(0)


def _details(response: ProbeResponse, length: int | None, words: object) -> ModelDetails:
    """Return the data; NO_DETAILS if the API does not exist, NO_RESPONSE after any other failure, which may pass."""
    if response.ok:
        return ModelDetails(length, capabilities.normalise(words), features=capabilities.features(words))
    return NO_DETAILS if response.status in (404, 405, 501) else NO_RESPONSE


def _object(response: ProbeResponse) -> Mapping[str, Any]:
    return response.body if response.ok and isinstance(response.body, dict) else {}


def is_length(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _length(body: Mapping[str, Any]) -> int | None:
    return next((body[key] for key in ("max_context_length", "context_length") if is_length(body.get(key))), None)


def _fits_a_path(model: str) -> bool:
    """Return True if a path with this model name leads nowhere else.

    A reverse proxy may decode the path and resolve its dots.
    """
    return _IN_A_PATH.fullmatch(model) is not None


# xLLM and Ollama: one request for each model


async def _xllm(probe: Probe, model: str) -> ModelDetails:
    if not _fits_a_path(model):
        return NO_DETAILS
    response = await _get(probe, f"/api/models/{quote(model, safe='')}/info")
    return _details(response, _length(_object(response)), _object(response).get("capabilities"))


async def _ollama(probe: Probe, model: str) -> ModelDetails:
    response = await _post(probe, "/api/show", {"model": model})
    words = _object(response).get("capabilities")
    details = _details(response, _ollama_length(_object(response)), words)
    if CAN_CHAT in details.capabilities and TOOLS not in details.features:
        return replace(details, lacks=(TOOLS,))  # an Ollama refuses tools then
    return details


def _ollama_length(body: Mapping[str, Any]) -> int | None:
    """Return the context of a model: that of its training, or that of its Modelfile if it is less."""
    info = body.get("model_info")
    trained = (
        int(value)
        for key, value in (info.items() if isinstance(info, dict) else ())
        if (key == "context_length" or key.endswith(".context_length")) and is_length(value)
    )
    lengths = (next(trained, None), _set_length(str(body.get("parameters", ""))))
    return min((length for length in lengths if length is not None), default=None)


def _set_length(parameters: str) -> int | None:
    """Return the context in the parameters of a Modelfile: lines of a name and a value."""
    for line in parameters.splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if name in ("num_ctx", "context_length", "n_ctx") and value.isascii() and value.isdigit():
            return int(value) if is_length(int(value)) else None
    return None


# LM Studio: its own list with the type of each model; releases before 0.4 use another path


async def _lm_studio(probe: Probe, models: list[str]) -> dict[str, ModelDetails]:
    response = await _get(probe, "/api/v1/models")
    if response.status == 404:
        response = await _get(probe, "/api/v0/models")
    items = _lm_studio_items(_object(response))
    details = {
        model: _details(
            response, _lm_studio_length(model, items.get(model, {})), _lm_studio_words(items.get(model, {}))
        )
        for model in models
    }
    without_length = [model for model in models if details[model].responded and details[model].max_tokens is None]
    for model, extra in (await _query_each(probe, _lm_studio_model, without_length)).items():
        details[model] = replace(details[model], max_tokens=extra.max_tokens)
    return details


def _lm_studio_length(model: str, item: Mapping[str, Any]) -> int | None:
    """Return the context with which a model is loaded, the least of its instances, else the most that it can have."""
    loaded = [item.get("loaded_context_length")]
    for instance in _lm_studio_instances(item):
        config = instance.get("config")
        if instance.get("id") == model or item.get("key") == model:
            loaded.append(config.get("context_length") if isinstance(config, dict) else None)
    return min((length for length in loaded if is_length(length)), default=_length(item))


def _lm_studio_instances(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    loaded = item.get("loaded_instances")
    return [instance for instance in loaded if isinstance(instance, dict)] if isinstance(loaded, list) else []


def _lm_studio_words(item: Mapping[str, Any]) -> list[object]:
    """Return the type of a model and its features, which are a list of words, or flags in releases since 0.4."""
    able = item.get("capabilities")
    if isinstance(able, dict):
        able = [word for word, value in able.items() if value is True or isinstance(value, dict)]
    return [item.get("type"), *(able if isinstance(able, list) else ())]


def _lm_studio_items(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the items by each name that the OpenAI list may use: the model's key and its loaded instances."""
    lists = [body[key] for key in ("models", "data") if isinstance(body.get(key), list)]
    items: dict[str, Mapping[str, Any]] = {}
    for item in (item for entries in lists for item in entries if isinstance(item, dict)):
        instances = [instance.get("id") for instance in _lm_studio_instances(item)]
        items |= {name: item for name in (item.get("key"), item.get("id"), *instances) if isinstance(name, str)}
    return items


async def _lm_studio_model(probe: Probe, model: str) -> ModelDetails:
    if not _fits_a_path(model):
        return NO_DETAILS
    return ModelDetails(_length(_object(await _get(probe, f"/api/v1/models/{quote(model, safe='')}"))))


# llama.cpp: one model, its slots, and the APIs that the server was started for


# Its list reports the completion capability for every model. It rejects requests to an API that it was not started for
# with 501 before it reads the body. The requests are empty and cost nothing.
_STARTED_FOR = (
    ("/v1/chat/completions", CAN_CHAT),
    ("/v1/embeddings", CAN_EMBED),
    ("/v1/rerank", CAN_RERANK),
)


async def _llamacpp(probe: Probe, models: list[str]) -> ServerDetails:
    response = await _get(probe, "/props")
    props = _object(response)
    if not response.ok:
        slots = None if _details(response, None, None) is NO_RESPONSE else 0
    else:
        slots = next((value for value in (props.get("total_slots"),) if _is_slots(value)), 0)
    if props.get("role") == "router":  # it starts a server for each model on request
        return ServerDetails({}, slots)
    started_for = await _started_for(probe)
    return ServerDetails(
        {
            model: NO_RESPONSE
            if started_for is None
            else ModelDetails(
                _llamacpp_length(props), _narrowed(started_for, model), features=_llamacpp_features(props)
            )
            for model in models
        },
        slots,
    )


def _llamacpp_length(props: Mapping[str, Any]) -> int | None:
    """Return the context of a slot. The list of models has that for which the model was trained, too."""
    settings = props.get("default_generation_settings")
    length = settings.get("n_ctx") if isinstance(settings, dict) else None
    return length if is_length(length) else None


def _llamacpp_features(props: Mapping[str, Any]) -> tuple[str, ...]:
    """Return whether the model reads images. Any model may have tools: the server has a format for all others."""
    able = props.get("modalities")
    return (VISION,) if isinstance(able, dict) and able.get("vision") is True else ()


def _is_slots(value: object) -> bool:
    return is_length(value) and isinstance(value, int) and value <= MAX_SLOTS


async def _started_for(probe: Probe) -> tuple[str, ...] | None:
    """Return the capabilities that the server was started for; None if its responses leave this open."""
    started_for = []
    for path, word in _STARTED_FOR:
        response = await _post(probe, path, {})
        if response.status in (400, 422):
            started_for.append(word)
        elif response.status not in (404, 405, 501):
            return None
    return tuple(started_for)


def _narrowed(started_for: tuple[str, ...], model: str) -> tuple[str, ...]:
    """Return the capabilities of a model.

    A server started for embeddings or reranking accepts chats as well, even if the model cannot chat.
    """
    if CAN_RERANK in started_for:
        return (CAN_RERANK,)  # its embeddings are scores
    by_name = capabilities.guess(model)
    return by_name if CAN_CHAT not in by_name and set(by_name) <= set(started_for) else started_for
