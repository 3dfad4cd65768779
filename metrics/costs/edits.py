"""What all edits of prices and rates by the API have in common: validation, refusal, the log."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import Model, QuerySet
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request

from endpoints.edit_log import API
from endpoints.problems import Problem

M = TypeVar("M", bound=Model)


def validated(serializer: Any, data: Any) -> Any:
    """Return the values of a request. Raises ValidationError."""
    checked = serializer(data=data)
    checked.is_valid(raise_exception=True)
    return checked.validated_data


def changed_values(serializer: Any, row: Model, sent: Any) -> Any:
    """Return the values of a row of which a request sends some. Raises ValidationError."""
    return validated(serializer, {**serializer(row).data, **sent} if isinstance(sent, dict) else sent)


def row_or_404(rows: QuerySet[M], row_id: int, missing: str) -> M:
    """Return a row. Raises NotFound, with the sentence `missing`."""
    row = rows.filter(pk=row_id).first() if row_id < 1 << 63 else None
    if row is None:
        raise NotFound(missing)
    return row


def assign(row: M, values: Mapping[str, Any], fields: Iterable[str]) -> M | None:
    """Set the fields of a row; return the row as it is stored, None if it is new."""
    before: M | None = type(row)._default_manager.filter(pk=row.pk).first() if row.pk else None
    for name in fields:
        setattr(row, name, values[name])
    return before


def save(request: Request, row: M, before: M | None, fields: Iterable[str]) -> None:
    """Store a row, and log the edit. `before`: see `assign`."""
    with transaction.atomic():
        row.save()
        changed = [] if before is None else [name for name in fields if getattr(row, name) != getattr(before, name)]
        log_edit(request, row, ADDITION if before is None else CHANGE, changed)


def refuse(problems: list[Problem]) -> None:
    """Raise ValidationError if there are problems."""
    fields: dict[str, list[str]] = {}
    for problem in problems:
        place = "endpoint_type" if problem.place == "provider" else problem.place
        fields.setdefault(place or "non_field_errors", []).append(problem.text)
    if fields:
        raise ValidationError(fields)


def log_edit(request: Request, row: Model, flag: int, changed: Iterable[str] = ()) -> None:
    """Write the edit into the log of Django's admin."""
    labels = [str(row._meta.get_field(name).verbose_name) for name in changed]  # type: ignore[union-attr]
    messages: dict[int, dict[str, object]] = {ADDITION: {"added": {}}, CHANGE: {"changed": {"fields": labels}}}
    LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(type(row)),
        object_id=str(row.pk),
        object_repr=str(row)[:200],
        action_flag=flag,
        change_message=json.dumps([{**messages[flag], "via": API}]) if flag in messages else "",
    )
