"""The list of models an endpoint offers, brought into the database.

What is not understood changes nothing: an unknown answer never deletes a model, a missing length never erases one.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from endpoints import engines, names
from endpoints.capabilities import guess, normalise
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
from endpoints.probe import Answer, Probe
from endpoints.signals import changed

STATEMENT = 500  # models that one statement names: databases bound their parameters


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
    """An endpoint's models, and how many requests it takes at a time (0: it does not tell, None: no answer). `remark`
    says which models are left out, if any are.
    """

    models: list[Offered]
    slots: int | None = 0
    remark: str | None = None


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
    listed, remark = read(answer)
    unsure = kind == Kind.LLAMACPP  # its list calls every model one for completions
    asked = [it.id for it in listed if unsure or it.max_tokens is None or not it.capabilities]
    server = await engines.ask(probe, kind, asked)
    return Offer([_complete(it, server.models.get(it.id, engines.NOTHING)) for it in listed], server.slots, remark)


def _complete(listed: Offered, told: engines.Told) -> Offered:
    return Offered(
        listed.id,
        listed.max_tokens or told.max_tokens,
        told.capabilities or listed.capabilities,
        told.answered,
    )


def parse(answer: Answer) -> list[Offered]:
    """OpenAI's `data[].id` or Ollama's `models[].name`, at most MAX_MODELS. Raises SyncFailed for anything else."""
    return read(answer)[0]


def read(answer: Answer) -> tuple[list[Offered], str | None]:
    """As `parse`, with a remark (of REMARKS) if models are left out."""
    body = answer.body
    if isinstance(body, dict):
        for key, names_at in (("data", ("id",)), ("models", ("name", "model"))):
            if isinstance(items := body.get(key), list):
                found, remarks = _unique(items, *names_at)
                if items and not found:
                    raise SyncFailed("its list of models names none")
                if answer.cut and TOO_MANY_MODELS not in remarks:
                    remarks.insert(0, TOO_MANY_MODELS)
                return found, "; ".join(remarks) or None
    if answer.cut:
        raise SyncFailed("its answer to GET /v1/models is too large, and does not begin as a list of models")
    raise SyncFailed("its answer to GET /v1/models is no list of models")


def _unique(items: list[Any], *keys: str) -> tuple[list[Offered], list[str]]:
    found: dict[str, Offered] = {}
    bad_names = False
    for item in items:
        if not isinstance(item, dict):
            continue
        name = next((item[key] for key in keys if isinstance(item.get(key), str) and item[key]), None)
        if name is None or name in found:
            continue
        if len(name) > MAX_MODEL_NAME or not name.isprintable():
            bad_names = True
        elif len(found) == MAX_MODELS:
            return list(found.values()), [TOO_MANY_MODELS, *[BAD_MODEL_NAMES] * bad_names]
        else:
            found[name] = Offered(name, _length_in(item), normalise(item.get("capabilities")))
    return list(found.values()), [BAD_MODEL_NAMES] * bad_names


def _length_in(item: dict[str, Any]) -> int | None:
    meta = item.get("meta")
    candidates = [item.get(key) for key in ("max_model_len", "max_context_length", "context_length")]
    if isinstance(meta, dict):
        candidates += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next((value for value in candidates if engines.is_length(value)), None)


def store(
    endpoint: Endpoint, offered: list[Offered], slots: int | None = None, remark: str | None = None
) -> SyncResult:
    """Make the tables say what the endpoint offers (see Offer), in one transaction. Raises SyncFailed if it is gone."""
    now = timezone.now()
    result = SyncResult(sorted(model.id for model in offered))
    with transaction.atomic():
        # Two syncs of one endpoint at once follow one another.
        row = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
        if row is None:
            raise SyncFailed("it was deleted meanwhile")
        known = {model.model_id: model for model in EndpointModel.objects.filter(endpoint=endpoint)}
        gone = sorted(known.keys() - set(result.models))
        for at in range(0, len(gone), STATEMENT):
            part = EndpointModel.objects.filter(endpoint=endpoint, model_id__in=gone[at : at + STATEMENT])
            part._raw_delete(part.db)  # without a signal for each: `changed` below is one for all
        new = _store_models(endpoint, offered, known, now)
        if row.last_error != remark and (row.last_error is None or row.last_error in REMARKS):
            Endpoint.objects.filter(pk=endpoint.pk).update(last_error=remark)
        if slots is not None and (slots or None) != endpoint.options_or_default.learned_slots:
            endpoint.set_options(learned_slots=slots or None)
        changed(endpoint.pk)
    result.added, result.removed, result.updated = new, len(gone), len(offered) - new
    return result


def _store_models(endpoint: Endpoint, offered: list[Offered], known: dict[str, EndpointModel], now: datetime) -> int:
    """Write what is new or different; how many models are new. Of thousands that stay as they are, one statement."""
    EndpointModel.objects.filter(endpoint=endpoint).update(last_checked=now)
    new: list[EndpointModel] = []
    for model in offered:
        row = known.get(model.id)
        values = {
            "capabilities": list(_capabilities(model, row)),
            "max_tokens": model.max_tokens or (row.max_tokens if row is not None else None),
            "canonical_name": names.canonical_name(model.id, endpoint.endpoint_type),
        }
        if row is None:
            new.append(EndpointModel(endpoint=endpoint, model_id=model.id, last_checked=now, **values))
        elif any(getattr(row, name) != value for name, value in values.items()):
            EndpointModel.objects.filter(endpoint=endpoint, model_id=model.id).update(**values)
    EndpointModel.objects.bulk_create(new, batch_size=STATEMENT)
    return len(new)


def _capabilities(offered: Offered, row: EndpointModel | None) -> tuple[str, ...]:
    """What the server tells. If it tells nothing a guess; but none for one that only gave no answer this time."""
    known = normalise(row.capabilities) if row is not None and not offered.answered else ()
    return offered.capabilities or known or guess(offered.id)
