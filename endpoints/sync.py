"""The list of models an endpoint offers, brought into the database.

What is not understood changes nothing: an unknown answer never deletes a model, a missing length never erases one.
"""

from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.utils import timezone

from endpoints import engines, names
from endpoints.capabilities import guess, normalise
from endpoints.models import Endpoint, EndpointModel, Kind
from endpoints.probe import Answer, Probe
from endpoints.signals import changed
from gateway.openai import MAX_MODEL_NAME


class SyncFailed(Exception):
    """The endpoint answered, but not with a list of models."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A model as its endpoint lists it."""

    id: str
    max_tokens: int | None = None
    capabilities: tuple[str, ...] = ()  # as the server tells; empty: it does not
    answered: bool = True  # False: the server's own API, which may tell more, gave no answer


@dataclass(frozen=True, slots=True)
class Offer:
    """All of an endpoint's models, and how many requests it takes at a time (0: it does not tell, None: no answer)."""

    models: list[Offered]
    slots: int | None = 0


@dataclass(slots=True)
class SyncResult:
    models: list[str] = field(default_factory=list)
    added: int = 0
    removed: int = 0
    updated: int = 0


async def fetch(probe: Probe, kind: str) -> Offer:
    """Ask for the list, and the engine's own API for what that does not tell. Raises Unreachable or SyncFailed."""
    answer = await probe.get("/v1/models")
    if not answer.ok:
        raise SyncFailed(f"GET /v1/models answers HTTP {answer.status}")
    listed = parse(answer)
    unsure = kind == Kind.LLAMACPP  # its list calls every model one for completions
    asked = [it.id for it in listed if unsure or it.max_tokens is None or not it.capabilities]
    server = await engines.ask(probe, kind, asked)
    return Offer([_complete(it, server.models.get(it.id, engines.NOTHING)) for it in listed], server.slots)


def _complete(listed: Offered, told: engines.Told) -> Offered:
    return Offered(
        listed.id,
        listed.max_tokens or told.max_tokens,
        told.capabilities or listed.capabilities,
        told.answered,
    )


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
                found.setdefault(name, Offered(name, _length_in(item), normalise(item.get("capabilities"))))
    if items and not found:
        raise SyncFailed("its list of models names none")
    return list(found.values())


def _length_in(item: dict[str, Any]) -> int | None:
    meta = item.get("meta")
    candidates = [item.get(key) for key in ("max_model_len", "max_context_length", "context_length")]
    if isinstance(meta, dict):
        candidates += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next((value for value in candidates if engines.is_length(value)), None)


def store(endpoint: Endpoint, offered: list[Offered], slots: int | None = None) -> SyncResult:
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
                "capabilities": list(_capabilities(model, row)),
                "last_checked": now,
                "max_tokens": model.max_tokens or (row.max_tokens if row is not None else None),
                "canonical_name": names.canonical_name(model.id, endpoint.endpoint_type),
            }
            if row is None:
                new.append(EndpointModel(endpoint=endpoint, model_id=model.id, **values))
            else:
                EndpointModel.objects.filter(endpoint=endpoint, model_id=model.id).update(**values)
        EndpointModel.objects.bulk_create(new)
        if slots is not None and (slots or None) != endpoint.options_or_default.learned_slots:
            endpoint.set_options(learned_slots=slots or None)
        changed(endpoint.pk)
    result.added, result.removed, result.updated = len(new), len(gone), len(offered) - len(new)
    return result


def _capabilities(offered: Offered, row: EndpointModel | None) -> tuple[str, ...]:
    """What the server tells. If it tells nothing a guess; but none for one that only gave no answer this time."""
    known = normalise(row.capabilities) if row is not None and not offered.answered else ()
    return offered.capabilities or known or guess(offered.id)
