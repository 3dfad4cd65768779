"""Sync of an endpoint's model list with the database.

Unknown data changes nothing: an invalid response never deletes a model, and a missing length never erases one.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from endpoints import engines, model_aliases
from endpoints.capabilities import guess, normalise
from endpoints.changes import log as change_log
from endpoints.models import (
    BAD_MODEL_NAMES,
    MAX_MODEL_NAME,
    MAX_MODELS,
    REMARKS,
    TOO_MANY_MODELS,
    Endpoint,
    EndpointModel,
    Kind,
)
from endpoints.probe import Probe, ProbeResponse
from endpoints.signals import changed

STATEMENT = 500  # models in one statement: databases limit the number of parameters


class SyncFailed(Exception):
    """The endpoint responded, but not with a list of models."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as its endpoint lists it."""

    id: str
    max_tokens: int | None = None
    capabilities: tuple[str, ...] = ()  # as the server reports them; empty: it reports none
    responded: bool = True  # False: the server's own API, which may report more, did not respond


@dataclass(frozen=True, slots=True)
class ModelList:
    """An endpoint's models, and the number of requests it runs at a time (0: not reported, None: no response).

    `remark` states which models are left out, if any are.
    """

    models: list[ListedModel]
    slots: int | None = 0
    remark: str | None = None


@dataclass(slots=True)
class SyncResult:
    models: list[str] = field(default_factory=list)
    added: int = 0
    removed: int = 0
    updated: int = 0


async def fetch(probe: Probe, kind: str) -> ModelList:
    """Read the model list, and read data missing there from the engine's own API.

    Raises Unreachable or SyncFailed.
    """
    response = await probe.get("/v1/models")
    if not response.ok:
        raise SyncFailed(f"GET /v1/models answers HTTP {response.status}")
    listed, remark = read(response)
    is_llamacpp = kind == Kind.LLAMACPP  # its list reports the completion capability for every model
    incomplete = [model.id for model in listed if is_llamacpp or model.max_tokens is None or not model.capabilities]
    server = await engines.query(probe, kind, incomplete)
    return ModelList(
        [_complete(model, server.models.get(model.id, engines.NO_DETAILS)) for model in listed], server.slots, remark
    )


def _complete(listed: ListedModel, details: engines.ModelDetails) -> ListedModel:
    return ListedModel(
        listed.id,
        listed.max_tokens or details.max_tokens,
        details.capabilities or listed.capabilities,
        details.responded,
    )


def parse(response: ProbeResponse) -> list[ListedModel]:
    """Return OpenAI's `data[].id` or Ollama's `models[].name`, at most MAX_MODELS. Raises SyncFailed otherwise."""
    return read(response)[0]


def read(response: ProbeResponse) -> tuple[list[ListedModel], str | None]:
    """Return the models as `parse` does, and a remark (one of REMARKS) if models are left out."""
    body = response.body
    if isinstance(body, dict):
        for key, keys in (("data", ("id",)), ("models", ("name", "model"))):
            if isinstance(items := body.get(key), list):
                found, remarks = _unique(items, *keys)
                if items and not found:
                    raise SyncFailed("its list of models names none")
                if response.cut and TOO_MANY_MODELS not in remarks:
                    remarks.insert(0, TOO_MANY_MODELS)
                return found, "; ".join(remarks) or None
    if response.cut:
        raise SyncFailed("its answer to GET /v1/models is too large, and does not begin as a list of models")
    raise SyncFailed("its answer to GET /v1/models is no list of models")


def _unique(items: list[Any], *keys: str) -> tuple[list[ListedModel], list[str]]:
    models: dict[str, ListedModel] = {}
    bad_names = False
    for item in items:
        if not isinstance(item, dict):
            continue
        name = next((item[key] for key in keys if isinstance(item.get(key), str) and item[key]), None)
        if name is None or name in models:
            continue
        if len(name) > MAX_MODEL_NAME or not name.isprintable():
            bad_names = True
        elif len(models) == MAX_MODELS:
            return list(models.values()), [TOO_MANY_MODELS, *[BAD_MODEL_NAMES] * bad_names]
        else:
            models[name] = ListedModel(name, _length_in(item), normalise(item.get("capabilities")))
    return list(models.values()), [BAD_MODEL_NAMES] * bad_names


def _length_in(item: dict[str, Any]) -> int | None:
    meta = item.get("meta")
    candidates = [item.get(key) for key in ("max_model_len", "max_context_length", "context_length")]
    if isinstance(meta, dict):
        candidates += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next((value for value in candidates if engines.is_length(value)), None)


def store(
    endpoint: Endpoint, listed: list[ListedModel], slots: int | None = None, remark: str | None = None
) -> SyncResult:
    """Store the fields of a ModelList in one transaction. Raises SyncFailed if the endpoint has been deleted."""
    now = timezone.now()
    result = SyncResult(sorted(model.id for model in listed))
    with transaction.atomic():
        # The lock serializes concurrent syncs of one endpoint.
        row = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
        if row is None:
            raise SyncFailed("it was deleted meanwhile")
        stored = {model.model_id: model for model in EndpointModel.objects.filter(endpoint=endpoint)}
        missing = sorted(stored.keys() - set(result.models))
        for at in range(0, len(missing), STATEMENT):
            rows = EndpointModel.objects.filter(endpoint=endpoint, model_id__in=missing[at : at + STATEMENT])
            rows._raw_delete(rows.db)  # sends no signals; the call of `changed` below replaces them
        new = _store_models(endpoint, listed, stored, now)
        if row.last_error != remark and (row.last_error is None or row.last_error in REMARKS):
            Endpoint.objects.filter(pk=endpoint.pk).update(last_error=remark)
        if slots is not None and (slots or None) != endpoint.options_or_default.learned_slots:
            endpoint.set_options(learned_slots=slots or None)
        changed(endpoint.pk)
        change_log.add_endpoint(endpoint.pk)  # triggers skip the remark and `last_checked`
    result.added, result.removed, result.updated = new, len(missing), len(listed) - new
    return result


def _store_models(
    endpoint: Endpoint, listed: list[ListedModel], stored: dict[str, EndpointModel], now: datetime
) -> int:
    """Write new and changed models and return the number of new ones.

    All unchanged models take one statement in total.
    """
    EndpointModel.objects.filter(endpoint=endpoint).update(last_checked=now)
    new: list[EndpointModel] = []
    for model in listed:
        row = stored.get(model.id)
        values = {
            "capabilities": list(_capabilities(model, row)),
            "max_tokens": model.max_tokens or (row.max_tokens if row is not None else None),
            "canonical_name": model_aliases.canonical_name(model.id, endpoint.endpoint_type),
        }
        if row is None:
            new.append(EndpointModel(endpoint=endpoint, model_id=model.id, last_checked=now, **values))
        elif any(getattr(row, name) != value for name, value in values.items()):
            EndpointModel.objects.filter(endpoint=endpoint, model_id=model.id).update(**values)
    EndpointModel.objects.bulk_create(new, batch_size=STATEMENT)
    return len(new)


def _capabilities(listed: ListedModel, row: EndpointModel | None) -> tuple[str, ...]:
    """Return the reported capabilities, else the stored ones if the server did not respond this time, else a guess."""
    stored = normalise(row.capabilities) if row is not None and not listed.responded else ()
    return listed.capabilities or stored or guess(listed.id)
