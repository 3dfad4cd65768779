"""/api/model-names/{id}/state and /comparison: what a name leads to now, and its targets beside each other."""

import uuid
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.model_names.registry import NameEntry, model_names
from endpoints.openapi.descriptions import extend_schema
from metrics.api.common import QuerySerializer, checked
from metrics.queries.figures import Moment
from metrics.queries.model_names import comparison
from metrics.queries.model_names.comparison import DEFAULT_SPAN, FIGURES, SPANS
from metrics.queries.model_names.states import TARGET_STATES, NameView
from metrics.queries.stored import flushed


class NameTargetSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    leads_to = serializers.UUIDField(allow_null=True, help_text="Another model name.")
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    tag = serializers.CharField(allow_null=True)
    weight = serializers.IntegerField()
    share = serializers.FloatField(help_text="Share of the requests of the step.")
    state = serializers.ChoiceField(TARGET_STATES)
    endpoints = serializers.IntegerField(help_text="Endpoints that offer it.")
    endpoints_available = serializers.IntegerField(help_text="Those that can serve requests of the name now.")


class NameStepSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    if_unavailable = serializers.BooleanField()
    if_full_secs = serializers.FloatField(allow_null=True)
    if_failed = serializers.BooleanField()
    if_too_long = serializers.BooleanField()
    serves = serializers.BooleanField(help_text="True for the first step with an available target.")
    targets = NameTargetSerializer(many=True)


class NameStateSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    enabled = serializers.BooleanField()
    external = serializers.BooleanField()
    serving_step = serializers.IntegerField(allow_null=True)
    hidden_model = serializers.CharField(allow_null=True, help_text="A model of this id: the name wins over it.")
    steps = NameStepSerializer(many=True)


class IntervalSerializer(serializers.Serializer[Any]):
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True, help_text="Of the 95 % interval; null: too few requests.")
    high = serializers.FloatField(allow_null=True)
    requests = serializers.IntegerField()


class SideSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    tag = serializers.CharField(allow_null=True)
    weight = serializers.IntegerField()
    requests = serializers.IntegerField(help_text="Attempts at this target that succeeded or failed.")
    failed = serializers.IntegerField()
    error_share = IntervalSerializer()
    duration_p50 = IntervalSerializer(help_text="Seconds.")
    duration_p95 = IntervalSerializer(help_text="Seconds.")
    first_token_p50 = IntervalSerializer(help_text="Seconds.")
    first_token_p95 = IntervalSerializer(help_text="Seconds.")
    tokens_per_second = IntervalSerializer(help_text="Median of output tokens per second.")


class DifferenceSerializer(serializers.Serializer[Any]):
    target = serializers.IntegerField(help_text="Index of the target that is compared with the first one.")
    figure = serializers.ChoiceField(FIGURES)
    significant = serializers.BooleanField(allow_null=True, help_text="null: too few requests.")


class ComparisonSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    step = serializers.IntegerField()
    span = serializers.ChoiceField(list(SPANS))
    complete = serializers.BooleanField(help_text="False: only the newest requests of the span were compared.")
    too_few = serializers.BooleanField(help_text="A target has fewer than min_requests.")
    min_requests = serializers.IntegerField()
    targets = SideSerializer(many=True)
    differences = DifferenceSerializer(many=True)


class ComparisonQuerySerializer(QuerySerializer):
    step = serializers.IntegerField(min_value=1, default=1, help_text="Number of the step.")
    range = serializers.ChoiceField(list(SPANS), default=DEFAULT_SPAN)


def _name_or_404(name_id: uuid.UUID) -> NameEntry:
    entry = model_names.get(str(name_id))
    if entry is None:
        raise NotFound(_("Model name not found"))
    return entry


class ModelNameState(APIView):
    @extend_schema(responses=NameStateSerializer)
    def get(self, request: Request, name_id: uuid.UUID) -> Response:
        """Return the steps of a model name, and what each target can serve now."""
        return Response(NameView.of(Moment.now()).state(_name_or_404(name_id)))


class ModelNameComparison(APIView):
    @extend_schema(parameters=[ComparisonQuerySerializer], responses=ComparisonSerializer)
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
