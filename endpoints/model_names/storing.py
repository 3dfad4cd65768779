"""Storing of model names: validates a draft, writes its rows, and logs the edit."""

import json
from collections.abc import Mapping
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.utils.crypto import salted_hmac
from django.utils.translation import override
from rest_framework.request import Request

from endpoints.edit_log import API, AnyRequest
from endpoints.model_names import name_cache
from endpoints.model_names.name_cache import NameEntry, read_names
from endpoints.model_names.rules import problems
from endpoints.model_names.tables import NamedModel, NameStep, NameTarget
from endpoints.problems import Problem
from endpoints.registry import registry

FIELDS = (
    *("name", "enabled", "echo_served", "external", "same_vectors", "note", "defaults", "overrides", "dropped"),
    "steps",
)
_LONG = ("note", "defaults", "overrides", "dropped", "steps")  # logged as changed, without old and new values
_LOCK = 0x6E616D6573  # any number that nothing else in the database uses
_CHARACTERS = 16
_SALT = "endpoints.model_names"  # must not change: scripts may hold an ETag of an earlier release


class Invalid(Exception):
    """The draft breaks rules."""

    def __init__(self, refused: list[Problem]) -> None:
        super().__init__(refused[0].text)
        self.problems = refused


def version(entry: NameEntry) -> str:
    """Return the version of a name. Two equal states have the same one."""
    fields = [getattr(entry, name) for name in FIELDS if name != "steps"]
    text = json.dumps([*fields, [_listed(step) for step in entry.steps]], sort_keys=True, default=str)
    return salted_hmac(_SALT, text).hexdigest()[:_CHARACTERS]


def lock() -> None:
    """Let no other transaction save a model name until the end of this one: a cycle can arise from two saves.

    SQLite has one writer: the row that is written first has the lock.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        else:
            cursor.execute("DELETE FROM model_names WHERE id = ''")


def check(draft: NameEntry, names: Mapping[str, NameEntry]) -> list[Problem]:
    """Return the problems of a draft. `names`: all stored names by id."""
    others = [entry for name_id, entry in names.items() if name_id != draft.id]
    return problems(draft, others, lambda endpoint_id: registry.get(endpoint_id) is not None, names.get(draft.id))


def store(request: AnyRequest, draft: NameEntry) -> None:
    """Write a draft over the stored state of the name, in a transaction that called `lock`. Raises Invalid."""
    names = read_names()
    if refused := check(draft, names):
        raise Invalid(refused)
    before = names.get(draft.id)
    row = NamedModel.objects.filter(pk=draft.id).first() or NamedModel(pk=draft.id)
    for field in FIELDS:
        if field != "steps":
            value = getattr(draft, field)
            setattr(row, field, list(value) if field == "dropped" else value)
    if before is None or _without_steps(before) != _without_steps(draft):
        row.save()
    if before is None or before.steps != draft.steps:
        _write_steps(row, draft)
    if before is None:
        _note(request, row, ADDITION, [{"added": {}}])
    elif changed := [field for field in FIELDS if getattr(before, field) != getattr(draft, field)]:
        values = {
            field: [None, None] if field in _LONG else [getattr(before, field), getattr(draft, field)]
            for field in changed
        }
        _note(request, row, CHANGE, [{"changed": {"fields": [_label(field) for field in changed]}, "values": values}])
    name_cache.changed(draft.id)


def delete(request: AnyRequest, row: NamedModel) -> None:
    """Delete a name, and log it."""
    _note(request, row, DELETION, [])
    row.delete()


def _write_steps(row: NamedModel, draft: NameEntry) -> None:
    row.steps.all().delete()
    row.targets.all().delete()
    NameStep.objects.bulk_create(
        NameStep(
            named=row,
            position=position,
            if_unavailable=step.if_unavailable,
            if_full_secs=step.if_full_secs,
            if_failed=step.if_failed,
            if_too_long=step.if_too_long,
        )
        for position, step in enumerate(draft.steps, 1)
    )
    NameTarget.objects.bulk_create(
        NameTarget(
            named=row,
            step=position,
            model=target.model,
            endpoint_id=target.endpoint_id,
            tag=target.tag or "",
            weight=target.weight,
        )
        for position, step in enumerate(draft.steps, 1)
        for target in step.targets
    )


def _without_steps(entry: NameEntry) -> list[object]:
    return [getattr(entry, field) for field in FIELDS if field != "steps"]


def _listed(step: Any) -> list[object]:
    targets = [[target.model, target.weight, target.endpoint_id, target.tag] for target in step.targets]
    return [targets, step.if_unavailable, step.if_full_secs, step.if_failed, step.if_too_long]


def _label(field: str) -> str:
    """Return the field's name as Django's log stores it: in English, translated when it is shown."""
    with override(None):
        if field == "steps":
            return str(NameStep._meta.verbose_name_plural)
        return str(NamedModel._meta.get_field(field).verbose_name)  # type: ignore[union-attr]


def _note(request: AnyRequest, row: NamedModel, flag: int, message: list[dict[str, Any]]) -> None:
    if message and isinstance(request, Request):
        message = [{**message[0], "via": API}]
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(NamedModel),
        object_id=str(row.pk),
        object_repr=str(row)[:200],
        action_flag=flag,
        change_message=json.dumps(message) if message else "",
    )
