"""/api/model-names/{id}/state and /comparison: what a name leads to now, and its targets beside each other."""

import uuid
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.model_names.name_cache import NameEntry, model_names
from endpoints.openapi.descriptions import extend_schema
from metrics.api.common import QuerySerializer, checked
from metrics.model_names import comparison
from metrics.model_names.comparison import DEFAULT_SPAN, SPANS, ComparisonPayload
from metrics.model_names.states import NameStatePayload, NameView
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed


class ComparisonQuerySerializer(QuerySerializer):
    step = serializers.IntegerField(min_value=1, default=1, help_text="Number of the step.")
    range = serializers.ChoiceField(list(SPANS), default=DEFAULT_SPAN)


def _name_or_404(name_id: uuid.UUID) -> NameEntry:
    entry = model_names.get(str(name_id))
    if entry is None:
        raise NotFound(_("Model name not found"))
    return entry


class ModelNameState(APIView):
    @extend_schema(responses=NameStatePayload)
    def get(self, request: Request, name_id: uuid.UUID) -> Response:
        """Return the steps of a model name, and what each target can serve now."""
        return Response(NameView.of(Moment.now()).state(_name_or_404(name_id)))


class ModelNameComparison(APIView):
    @extend_schema(parameters=[ComparisonQuerySerializer], responses=ComparisonPayload)
    def get(self, request: Request, name_id: uuid.UUID) -> Response:
        """Compare the targets of a step by the history. `significant` marks differences that are not by chance."""
        entry = _name_or_404(name_id)
        query = checked(ComparisonQuerySerializer, request).validated_data
        if query["step"] > len(entry.steps):
            raise ValidationError({"step": [_("The model name has no such step.")]})
        flushed()
        return Response(comparison.compare(entry, query["step"], query["range"]))


URLS: list[tuple[str, Any, str]] = [
    ("api/model-names/<uuid:name_id>/state", ModelNameState, "api-model-name-state"),
    ("api/model-names/<uuid:name_id>/comparison", ModelNameComparison, "api-model-name-comparison"),
]
