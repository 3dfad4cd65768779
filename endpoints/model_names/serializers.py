"""Serializers of model names: one document with steps and targets."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rest_framework import serializers

from endpoints import tags
from endpoints.model_names.name_cache import NameEntry
from endpoints.model_names.tables import MAX_FULL_SECS, MAX_LENGTH, MAX_STEPS, MAX_TARGETS, MAX_WEIGHT
from endpoints.text import validate_text
from gateway.registry.schema import Step, Target


class TargetField(serializers.Serializer[Target]):
    """A model at one endpoint, at the endpoints with a tag, or at all that offer it."""

    model = serializers.CharField(
        trim_whitespace=False,
        max_length=MAX_LENGTH,
        help_text="Id, alias or canonical name of a model, or another model name.",
    )
    endpoint_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Only this endpoint; null means any."
    )
    tag = serializers.CharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        default=None,
        max_length=tags.MAX_LENGTH,
        help_text="Only endpoints with this tag; null means any.",
    )
    weight = serializers.IntegerField(
        min_value=1, max_value=MAX_WEIGHT, default=1, help_text="Share of the requests among the targets of the step."
    )


class StepField(serializers.Serializer[Step]):
    """A step, and what makes a request leave it for the next one. A missing condition has its default."""

    targets: Any = serializers.ListSerializer(child=TargetField(), allow_empty=False, max_length=MAX_TARGETS)
    if_unavailable = serializers.BooleanField(default=True, help_text="No endpoint of the step can be asked now.")
    if_full_secs = serializers.FloatField(
        required=False,
        allow_null=True,
        default=None,
        min_value=0,
        max_value=MAX_FULL_SECS,
        help_text="All endpoints of the step have been full for so many seconds; null means that the request waits.",
    )
    if_failed = serializers.BooleanField(default=True, help_text="An attempt failed, and another endpoint may not.")
    if_too_long = serializers.BooleanField(
        default=True, help_text="The prompt is longer than the context of the model."
    )


class ModelNameSerializer(serializers.Serializer[NameEntry]):
    id = serializers.UUIDField(read_only=True)
    name = serializers.CharField(
        trim_whitespace=False, max_length=MAX_LENGTH, help_text="One * stands for any characters."
    )
    enabled = serializers.BooleanField(required=False, help_text="A disabled name is as if it did not exist.")
    echo_served = serializers.BooleanField(
        required=False, help_text="Responses contain the served model instead of the requested name."
    )
    external = serializers.BooleanField(
        required=False, help_text="Requests may use external endpoints, if their API key may."
    )
    same_vectors = serializers.BooleanField(
        required=False, help_text="Its models give equal vectors, so that requests for embeddings may leave a step."
    )
    note = serializers.CharField(required=False, allow_blank=True, max_length=20000, validators=[validate_text])
    defaults = serializers.DictField(required=False, help_text="Parameters for requests that lack them.")
    overrides = serializers.DictField(required=False, help_text="Parameters for all requests.")
    dropped = serializers.ListField(
        child=serializers.CharField(max_length=MAX_LENGTH), required=False, help_text="Parameters that are removed."
    )
    steps: Any = serializers.ListSerializer(
        child=StepField(), allow_empty=False, max_length=MAX_STEPS, help_text="In the order of their use."
    )
    created_at = serializers.DateTimeField(read_only=True)


class ModelNameListSerializer(serializers.Serializer[Any]):
    model_names = ModelNameSerializer(many=True)
    total = serializers.IntegerField()


def draft(document: Mapping[str, Any], before: NameEntry | None) -> NameEntry:
    """Return the entry of a validated document. Fields that are missing stay as they were."""
    values = dict(document)
    if "steps" in values:
        values["steps"] = tuple(_step(step) for step in values["steps"])
    if "dropped" in values:
        values["dropped"] = tuple(values["dropped"])
    if before is not None:
        return replace(before, **values)
    return NameEntry(id=str(uuid.uuid4()), **values)


def _step(values: Mapping[str, Any]) -> Step:
    conditions = (values["if_unavailable"], values["if_full_secs"], values["if_failed"], values["if_too_long"])
    return Step(tuple(_target(target) for target in values["targets"]), *conditions)


def _target(values: Mapping[str, Any]) -> Target:
    endpoint_id = values["endpoint_id"]
    (tag,) = tags.normalise([values["tag"] or ""]) or (None,)
    return Target(values["model"], values["weight"], None if endpoint_id is None else str(endpoint_id), tag)
