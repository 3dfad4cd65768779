"""The list of models an endpoint offers, brought into the database.

What is not understood changes nothing: an unknown answer never deletes a model, a missing length never erases one.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from django.db import transaction
from django.utils import timezone

from endpoints import names
from endpoints.models import Endpoint, EndpointModel, Kind
from endpoints.probe import Answer, Probe, Unreachable
from endpoints.signals import changed
from gateway.openai import MAX_MODEL_NAME

METADATA_AT_ONCE = 8


class SyncFailed(Exception):
    """The endpoint answered, but not with a list of models."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A model as its endpoint lists it."""

    id: str
    max_tokens: int | None = None


@dataclass(slots=True)
class SyncResult:
    models: list[str] = field(default_factory=list)
    added: int = 0
    removed: int = 0
    updated: int = 0


async def fetch(probe: Probe, kind: str) -> list[Offered]:
    """Ask for the list, and for context lengths where the list does not tell. Raises Unreachable or SyncFailed."""
    answer = await probe.get("/v1/models")
    if not answer.ok:
        raise SyncFailed(f"GET /v1/models answers HTTP {answer.status}")
    offered = parse(answer)
    limit = asyncio.Semaphore(METADATA_AT_ONCE)

    async def complete(model: Offered) -> Offered:
        if model.max_tokens is not None:
            return model
        async with limit:
            return Offered(model.id, await _context_length(probe, kind, model.id))

    return list(await asyncio.gather(*(complete(model) for model in offered)))


def parse(answer: Answer) -> list[Offered]:
    """OpenAI's `data[].id` or Ollama's `models[].name`. Raises SyncFailed for anything else."""
    body = answer.body
    if isinstance(body, dict):
        if isinstance(data := body.get("data"), list):
            return _unique(data, "id")
        if isinstance(data := body.get("models"), list):
            return _unique(data, "name", "model")
    raise SyncFailed("its answer to GET /v1/models is no list of models")


def _unique(items: list[Any], *keys: str) -> list[Offered]:
    found: dict[str, Offered] = {}
    for item in items:
        if isinstance(item, dict):
            name = next((item[key] for key in keys if isinstance(item.get(key), str) and item[key]), None)
            if name is not None and len(name) <= MAX_MODEL_NAME and name.isprintable():
                found.setdefault(name, Offered(name, _length_in(item)))
    if items and not found:
        raise SyncFailed("its list of models names none")
    return list(found.values())


def _length_in(item: dict[str, Any]) -> int | None:
    meta = item.get("meta")
    candidates = [item.get(key) for key in ("max_model_len", "max_context_length", "context_length")]
    if isinstance(meta, dict):
        candidates += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next((value for value in candidates if _is_length(value)), None)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


async def _context_length(probe: Probe, kind: str, model: str) -> int | None:
    """From the engine's own API; None when it does not tell."""
    try:
        if kind == Kind.XLLM:
            return _find_length(await probe.get(f"/api/models/{quote(model, safe='')}/info"))
        if kind == Kind.LM_STUDIO:
            return _find_length(await probe.get(f"/api/v1/models/{quote(model, safe='')}"))
        if kind == Kind.OLLAMA:
            return _ollama_length(await probe.post("/api/show", {"model": model}))
    except Unreachable:
        pass  # the list came, its details did not: they come with the next sync
    return None


def _find_length(answer: Answer) -> int | None:
    body = answer.body if answer.ok and isinstance(answer.body, dict) else {}
    return next((body[key] for key in ("max_context_length", "context_length") if _is_length(body.get(key))), None)


def _ollama_length(answer: Answer) -> int | None:
    body = answer.body if answer.ok and isinstance(answer.body, dict) else {}
    info = body.get("model_info")
    for key, value in info.items() if isinstance(info, dict) else ():
        if (key == "context_length" or key.endswith(".context_length")) and _is_length(value):
            return int(value)
    for line in str(body.get("parameters", "")).splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if name in ("num_ctx", "context_length", "n_ctx") and value.isascii() and value.isdigit():
            return int(value) if _is_length(int(value)) else None
    return None


def store(endpoint: Endpoint, offered: list[Offered]) -> SyncResult:
    """Make the table say what the endpoint offers, in one transaction. Raises SyncFailed if it is gone."""
    now = timezone.now()
    result = SyncResult(sorted(model.id for model in offered))
    with transaction.atomic():
        # Two syncs of one endpoint at once follow one another.
        if Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first() is None:
            raise SyncFailed("it was deleted meanwhile")
        known = {row.model_id: row for row in EndpointModel.objects.filter(endpoint=endpoint)}
        gone = known.keys() - set(result.models)
        EndpointModel.objects.filter(endpoint=endpoint, model_id__in=gone).delete()
        new: list[EndpointModel] = []
        for model in offered:
            row = known.get(model.id)
            values = {
                "capabilities": names.capabilities(model.id),
                "last_checked": now,
                "max_tokens": model.max_tokens or (row.max_tokens if row is not None else None),
                "canonical_name": names.canonical_name(model.id, endpoint.endpoint_type),
            }
            if row is None:
                new.append(EndpointModel(endpoint=endpoint, model_id=model.id, **values))
            else:
                EndpointModel.objects.filter(endpoint=endpoint, model_id=model.id).update(**values)
        EndpointModel.objects.bulk_create(new)
        changed(endpoint.pk)
    result.added, result.removed, result.updated = len(new), len(gone), len(offered) - len(new)
    return result
