"""Sync of an endpoint's model list with the database.

Unknown data changes nothing: an invalid response never deletes a model, and a missing length never erases one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from django.db import transaction
from django.utils import timezone

from endpoints import engines, model_aliases
from endpoints.capabilities import guess, normalise
from endpoints.changes import log as change_log
from endpoints.checks.model_lists import MAX_PAGES, ListedModel, SyncFailed, next_page, read
from endpoints.checks.sync_queue import sync_soon
from endpoints.clouds import allowed_models
from endpoints.models import REMARKS, Endpoint, EndpointModel, Kind
from endpoints.probe import Probe, ProbeResponse
from endpoints.signals import changed
from gateway.base import causes
from gateway.providers.table import ANTHROPIC

MODEL_OPTIONS = frozenset(("cloud_type", "api_version", "allowed_models"))
STATEMENT = 500  # models in one statement: databases limit the number of parameters


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


async def fetch(probe: Probe, kind: str, allowed: Sequence[str] | None = None) -> ModelList:
    """Read the model list, and read data missing there from the engine's own API. `allowed`: see allowed_models.

    Raises Unreachable or SyncFailed.
    """
    listed, remark = await list_models(probe, allowed)
    if probe.provider is not None:
        return ModelList(listed, 0, remark)
    is_llamacpp = kind == Kind.LLAMACPP  # its list reports the completion capability for every model
    incomplete = [model.id for model in listed if is_llamacpp or model.max_tokens is None or not model.capabilities]
    server = await engines.query(probe, kind, incomplete)
    return ModelList(
        [_complete(model, server.models.get(model.id, engines.NO_DETAILS)) for model in listed], server.slots, remark
    )


def _complete(listed: ListedModel, details: engines.ModelDetails) -> ListedModel:
    return ListedModel(
        listed.id,
        details.max_tokens or listed.max_tokens,
        details.capabilities or listed.capabilities,
        details.responded,
        max_output_tokens=listed.max_output_tokens,
        lacks=details.lacks,
        features=details.features or listed.features,
    )


async def list_models(probe: Probe, allowed: Sequence[str] | None = None) -> tuple[list[ListedModel], str | None]:
    """Return the models that are listed and allowed, at most MAX_MODELS, and a remark (one of REMARKS) if models are
    left out for another reason. Raises Unreachable or SyncFailed.
    """
    if probe.provider is not None and not probe.provider.lists_deployments:
        if not (names := allowed_models.names(allowed)):
            raise SyncFailed(causes.NO_DEPLOYMENTS)
        return [ListedModel(name) for name in names], None
    return read(await _pages(probe), allowed, is_cloud=probe.provider is not None)


async def _pages(probe: Probe) -> list[ProbeResponse]:
    """Return the pages of the model list, at most MAX_PAGES. Raises Unreachable or SyncFailed."""
    first = probe.list_path
    if probe.provider is not None and probe.provider.kind == ANTHROPIC:
        first += "?limit=1000"
    path: str | None = first
    pages: list[ProbeResponse] = []
    while path is not None and len(pages) < MAX_PAGES:
        response = await probe.get(path)
        if not response.ok:
            raise SyncFailed(causes.GET_FAILED.format(path=path.partition("?")[0], status=response.status))
        pages.append(response)
        path = next_page(response.body, first) if probe.provider is not None else None
    return pages


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
            raise SyncFailed(causes.DELETED)
        stored = {model.model_id: model for model in EndpointModel.objects.filter(endpoint=endpoint)}
        missing = sorted(stored.keys() - set(result.models))
        for start in range(0, len(missing), STATEMENT):
            rows = EndpointModel.objects.filter(endpoint=endpoint, model_id__in=missing[start : start + STATEMENT])
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


def follow_options(endpoint: Endpoint, edited: Collection[str]) -> None:
    """Delete models that are no longer allowed, and queue a sync if the edited options change which models there are.

    Call this in the transaction of the edit.
    """
    if not MODEL_OPTIONS & set(edited):
        return
    allowed = endpoint.options_or_default.allowed_models
    stored = EndpointModel.objects.filter(endpoint=endpoint).values_list("model_id", flat=True)
    refused = [model_id for model_id in stored if not allowed_models.matches(allowed, model_id)]
    for start in range(0, len(refused), STATEMENT):
        EndpointModel.objects.filter(endpoint=endpoint, model_id__in=refused[start : start + STATEMENT]).delete()
    changed(endpoint.pk)
    transaction.on_commit(partial(sync_soon, str(endpoint.pk)), robust=True)


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
        lacks, features = _features(model, row)
        values = {
            "capabilities": list(_capabilities(model, row)),
            "max_tokens": _length(model, row),
            "canonical_name": model_aliases.canonical_name(model.id, endpoint.kind),
            "max_output_tokens": model.max_output_tokens,
            "lacks": lacks,
            "features": features,
        }
        if row is None:
            new.append(EndpointModel(endpoint=endpoint, model_id=model.id, last_checked=now, first_seen=now, **values))
        elif any(getattr(row, name) != value for name, value in values.items()):
            EndpointModel.objects.filter(endpoint=endpoint, model_id=model.id).update(**values)
    EndpointModel.objects.bulk_create(new, batch_size=STATEMENT)
    return len(new)


def _length(listed: ListedModel, row: EndpointModel | None) -> int | None:
    """Return the context; the stored one if the server's own API, which may state another, did not respond."""
    stored = None if row is None else row.max_tokens
    return (listed.max_tokens or stored) if listed.responded else (stored or listed.max_tokens)


def _features(listed: ListedModel, row: EndpointModel | None) -> tuple[list[str] | None, list[str] | None]:
    """Return the features that a model lacks, and those it has; the stored ones if the server did not respond."""
    if row is not None and not listed.responded:
        return row.lacks, row.features
    return list(listed.lacks) or None, list(listed.features) or None


def _capabilities(listed: ListedModel, row: EndpointModel | None) -> tuple[str, ...]:
    """Return the reported capabilities, else the stored ones if the server did not respond this time, else a guess."""
    stored = normalise(row.capabilities) if row is not None and not listed.responded else ()
    return listed.capabilities or stored or guess(listed.id)
