"""What engines tell of themselves and their models by APIs of their own: context lengths, capabilities, slots.

A server that tells nothing is no failure; one that gives no answer now is told apart, so that nothing known is lost.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from endpoints import capabilities
from endpoints.models import Kind
from endpoints.probe import Answer, Probe, Unreachable
from gateway.kinds import CAN_CHAT, CAN_EMBED, CAN_RERANK

AT_ONCE = 8
ASKING_SECONDS = 60.0  # for the questions about all models of a server; what is not answered by then is left open
MAX_SLOTS = 10_000
_IN_A_PATH = re.compile(r"(?:(?!\.+(?:/|$))[\w.:@+~ -]+(?:/|$))+(?<!/)")


@dataclass(frozen=True, slots=True)
class Told:
    """Of one model; None and empty where nothing is told. Not `answered`: there was no answer, as against none."""

    max_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """Of models, and how many requests it takes at a time: 0 if it does not tell, None without an answer."""

    models: Mapping[str, Told] = field(default_factory=dict)
    slots: int | None = 0


NOTHING = Told()
SILENCE = Told(answered=False)


async def ask(probe: Probe, kind: str, models: list[str]) -> Server:
    """Ask a server of this type about these models of its. Never raises."""
    if kind == Kind.LLAMACPP:
        return await _llamacpp(probe, models)
    if kind == Kind.LM_STUDIO and models:
        return Server(await _lm_studio(probe, models))
    question = {Kind.OLLAMA: _ollama, Kind.XLLM: _xllm}.get(Kind(kind)) if kind in Kind.values else None
    return Server(await _each(probe, question, models)) if question is not None else Server()


async def _each(probe: Probe, question: Any, models: list[str]) -> dict[str, Told]:
    told = dict.fromkeys(models, SILENCE)
    left = iter(models)

    async def ask_some() -> None:
        for model in left:
            told[model] = await question(probe, model)

    try:
        async with asyncio.timeout(ASKING_SECONDS):
            await asyncio.gather(*(ask_some() for _ in range(AT_ONCE)))
    except TimeoutError:
        pass
    return told


async def _get(probe: Probe, path: str) -> Answer:
    try:
        return await probe.get(path)
    except Unreachable:
        return Answer(0)


async def _post(probe: Probe, path: str, body: object) -> Answer:
    try:
        return await probe.post(path, body)
    except Unreachable:
        return Answer(0)


def _told(answer: Answer, length: int | None, words: object) -> Told:
    """An API that is not there tells nothing; any other failure may be over by the next time."""
    if answer.ok:
        return Told(length, capabilities.normalise(words))
    return NOTHING if answer.status in (404, 405, 501) else SILENCE


def _object(answer: Answer) -> dict[str, Any]:
    return answer.body if answer.ok and isinstance(answer.body, dict) else {}


def is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _length(body: Mapping[str, Any]) -> int | None:
    return next((body[key] for key in ("max_context_length", "context_length") if is_length(body.get(key))), None)


def _fits_a_path(model: str) -> bool:
    """May a path name this model, and lead nowhere else? A server in front may decode it, and resolve its dots."""
    return _IN_A_PATH.fullmatch(model) is not None


# xLLM and Ollama: a question for each model


async def _xllm(probe: Probe, model: str) -> Told:
    if not _fits_a_path(model):
        return NOTHING
    answer = await _get(probe, f"/api/models/{quote(model, safe='')}/info")
    return _told(answer, _length(_object(answer)), _object(answer).get("capabilities"))


async def _ollama(probe: Probe, model: str) -> Told:
    answer = await _post(probe, "/api/show", {"model": model})
    return _told(answer, _ollama_length(_object(answer)), _object(answer).get("capabilities"))


def _ollama_length(body: dict[str, Any]) -> int | None:
    info = body.get("model_info")
    for key, value in info.items() if isinstance(info, dict) else ():
        if (key == "context_length" or key.endswith(".context_length")) and is_length(value):
            return int(value)
    for line in str(body.get("parameters", "")).splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if name in ("num_ctx", "context_length", "n_ctx") and value.isascii() and value.isdigit():
            return int(value) if is_length(int(value)) else None
    return None


# LM Studio: a list of its own, with the type of each model; releases before 0.4 have it at another place


async def _lm_studio(probe: Probe, models: list[str]) -> dict[str, Told]:
    answer = await _get(probe, "/api/v1/models")
    if answer.status == 404:
        answer = await _get(probe, "/api/v0/models")
    items = _lm_studio_items(_object(answer))
    told = {model: _told(answer, _length(items.get(model, {})), [items.get(model, {}).get("type")]) for model in models}
    lacking = [model for model in models if told[model].answered and told[model].max_tokens is None]
    for model, more in (await _each(probe, _lm_studio_model, lacking)).items():
        told[model] = Told(more.max_tokens, told[model].capabilities, told[model].answered)
    return told


def _lm_studio_items(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By every name that the OpenAI list may have: a model's key, and those of its loaded instances."""
    lists = [body[key] for key in ("models", "data") if isinstance(body.get(key), list)]
    found: dict[str, dict[str, Any]] = {}
    for item in (item for one in lists for item in one if isinstance(item, dict)):
        loaded = item.get("loaded_instances")
        instances = [it.get("id") for it in loaded if isinstance(it, dict)] if isinstance(loaded, list) else []
        found |= {name: item for name in (item.get("key"), item.get("id"), *instances) if isinstance(name, str)}
    return found


async def _lm_studio_model(probe: Probe, model: str) -> Told:
    if not _fits_a_path(model):
        return NOTHING
    return Told(_length(_object(await _get(probe, f"/api/v1/models/{quote(model, safe='')}"))))


# llama.cpp: one model with so many slots, and what it was started for


# Its list calls every model one for completions. What it was not started for it refuses with 501, before it looks at
# the question: an empty one, which costs nothing.
_STARTED_FOR = (
    ("/v1/chat/completions", CAN_CHAT),
    ("/v1/embeddings", CAN_EMBED),
    ("/v1/rerank", CAN_RERANK),
)


async def _llamacpp(probe: Probe, models: list[str]) -> Server:
    answer = await _get(probe, "/props")
    props = _object(answer)
    if not answer.ok:
        slots = None if _told(answer, None, None) is SILENCE else 0
    else:
        slots = next((value for value in (props.get("total_slots"),) if _is_slots(value)), 0)
    if props.get("role") == "router":  # it starts a server for each model when that is asked for
        return Server({}, slots)
    found = await _started_for(probe)
    return Server({it: SILENCE if found is None else Told(capabilities=_narrowed(found, it)) for it in models}, slots)


def _is_slots(value: object) -> bool:
    return is_length(value) and isinstance(value, int) and value <= MAX_SLOTS


async def _started_for(probe: Probe) -> tuple[str, ...] | None:
    """None where it does not say so now."""
    found = []
    for path, word in _STARTED_FOR:
        answer = await _post(probe, path, {})
        if answer.status in (400, 422):
            found.append(word)
        elif answer.status not in (404, 405, 501):
            return None
    return tuple(found)


def _narrowed(found: tuple[str, ...], model: str) -> tuple[str, ...]:
    """One started for embeddings or reranking chats as well, whatever comes of it with such a model."""
    if CAN_RERANK in found:
        return (CAN_RERANK,)  # its embeddings are scores
    by_name = capabilities.guess(model)
    return by_name if CAN_CHAT not in by_name and set(by_name) <= set(found) else found
