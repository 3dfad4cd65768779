"""/api/dashboard/models and its like: what metrics.catalogue tells, and its form."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.models import OperatorState, Status
from gateway.kinds import CAPABILITIES
from metrics import catalogue, queries
from metrics.catalogue import SORTS, STATES, Wanted
from metrics.queries import Moment
from metrics.serializers import QuerySerializer

SHOWN = (*Status.values, OperatorState.DRAINING.value, OperatorState.DISABLED.value)


class ModelsQuerySerializer(QuerySerializer):
    q = serializers.CharField(required=False, allow_blank=True, max_length=200, help_text="In any of its names.")
    capability = serializers.ChoiceField(CAPABILITIES, required=False)
    endpoint_id = serializers.UUIDField(required=False, help_text="Models that this endpoint has.")
    state = serializers.ChoiceField(STATES, required=False, help_text="`ready`: an endpoint that has it is online.")
    sort = serializers.ChoiceField(
        SORTS, default=catalogue.BY_NAME, help_text="By name, or the most requests, speed or endpoints first."
    )

    @property
    def wanted(self) -> Wanted:
        return Wanted(**{name: str(value) for name, value in self.validated_data.items()})


class SpeedSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    model_id = serializers.CharField(help_text="The name that clients asked for.")
    api_kind = serializers.CharField()
    tps = serializers.FloatField()
    request_count = serializers.IntegerField(help_text="Answers today.")


class OfferSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField()
    model_id = serializers.CharField(help_text="What the endpoint calls the model.")
    status = serializers.ChoiceField(choices=Status.choices)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
    shown_status = serializers.ChoiceField(SHOWN, help_text="The operator's word, else what checks say.")
    max_tokens = serializers.IntegerField(allow_null=True)
    active_requests = serializers.IntegerField(help_text="For any of the endpoint's models.")
    max_concurrency = serializers.IntegerField(allow_null=True, help_text="Null: any number.")
    fastest_tps = serializers.FloatField(allow_null=True)
    speeds = SpeedSerializer(many=True)


class CatalogueModelSerializer(serializers.Serializer[Any]):
    """As in GET /v1/models, and what the dashboard knows of it."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    owned_by = serializers.CharField()
    lifecycle_status = serializers.CharField()
    download_progress = serializers.FloatField(allow_null=True)
    ready = serializers.BooleanField(help_text="An endpoint that has it is online.")
    capabilities = serializers.ListField(child=serializers.CharField())
    supported_apis = serializers.ListField(child=serializers.CharField())
    max_tokens = serializers.IntegerField(allow_null=True, help_text="The largest of its endpoints.")
    endpoint_ids = serializers.ListField(child=serializers.UUIDField())
    canonical_name = serializers.CharField(allow_null=True)
    aliases = serializers.ListField(child=serializers.CharField())
    endpoints = OfferSerializer(many=True)
    endpoints_online = serializers.IntegerField()
    fastest_tps = serializers.FloatField(allow_null=True)
    requests_today = serializers.IntegerField(help_text="By any of its names, without cancelled ones.")
    failed_today = serializers.IntegerField()
    cancelled_today = serializers.IntegerField()
    requests_7_days = serializers.IntegerField(help_text="Today and the six local days before.")
    failed_7_days = serializers.IntegerField()
    cancelled_7_days = serializers.IntegerField()
    input_tokens_7_days = serializers.IntegerField()
    output_tokens_7_days = serializers.IntegerField()


class CatalogueSerializer(serializers.Serializer[Any]):
    object = serializers.CharField()
    data: Any = CatalogueModelSerializer(many=True)


class ModelDaySerializer(serializers.Serializer[Any]):
    day = serializers.DateField()
    requests = serializers.IntegerField(help_text="Without cancelled ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    average_duration_ms = serializers.FloatField(allow_null=True, help_text="Of the answered ones.")


class CatalogueModelDetailSerializer(CatalogueModelSerializer):
    asked_names = serializers.ListField(child=serializers.CharField(), help_text="Names asked for in these days.")
    days = ModelDaySerializer(many=True)


class Models(APIView):
    @extend_schema(
        operation_id="dashboard_models_list", parameters=[ModelsQuerySerializer], responses=CatalogueSerializer
    )
    def get(self, request: Request) -> Response:
        """Models over all endpoints, in any state."""
        query = ModelsQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        queries.flushed()
        return Response({"object": "list", "data": list(catalogue.models(Moment.now(), query.wanted))})


class Model(APIView):
    @extend_schema(
        operation_id="dashboard_models_retrieve",
        parameters=[OpenApiParameter("name", str, OpenApiParameter.PATH, description="Any of its names.")],
        responses=CatalogueModelDetailSerializer,
    )
    def get(self, request: Request, name: str) -> Response:
        """One model with its last 30 local days."""
        queries.flushed()
        found = catalogue.model(Moment.now(), name)
        if found is None:
            raise NotFound(f"No endpoint has the model {name!r}, and nobody asked for it lately.")
        return Response(found)


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/models", Models, "api-dashboard-models"),
    ("api/dashboard/models/<path:name>", Model, "api-dashboard-model"),
]
