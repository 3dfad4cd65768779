"""What all edits of prices and rates by the API have in common: validation, refusal, the log."""

import json
from collections.abc import Iterable
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from endpoints.edit_log import API
from endpoints.model_names.rules import Problem


def validated(serializer: Any, data: Any) -> Any:
    """Return the values of a request. Raises ValidationError."""
    checked = serializer(data=data)
    checked.is_valid(raise_exception=True)
    return checked.validated_data


def refuse(found: list[Problem]) -> None:
    """Raise ValidationError if there are problems."""
    fields: dict[str, list[str]] = {}
    for problem in found:
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
