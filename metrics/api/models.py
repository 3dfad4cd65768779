"""/api/dashboard/models: models over all endpoints, with their figures."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.lists import offset_pages
from endpoints.lists.offset_pages import OffsetSerializer
from endpoints.models import OperatorState, Status
from endpoints.openapi.descriptions import extend_schema
from gateway.base.request_kinds import CAPABILITIES
from metrics.api.common import QuerySerializer, checked
from metrics.api.usage_serializers import CostsSerializer, TokenDetailsSerializer
from metrics.queries import model_figures
from metrics.queries.figures import Moment
from metrics.queries.model_figures import SORTS, STATES, ModelFilter
from metrics.queries.stored import flushed

SHOWN = (*Status.values, OperatorState.DRAINING.value, OperatorState.DISABLED.value)


class ModelsQuerySerializer(QuerySerializer):
    """Filters and order of the list of models."""

    q = serializers.CharField(
        required=False, allow_blank=True, max_length=200, help_text="Text in any name of the model."
    )
    capability = serializers.ChoiceField(CAPABILITIES, required=False)
    endpoint_id = serializers.UUIDField(required=False, help_text="Only models of this endpoint.")
    state = serializers.ChoiceField(STATES, required=False, help_text="`ready`: an endpoint with the model is online.")
    sort = serializers.ChoiceField(
        SORTS,
        default=model_figures.BY_NAME,
        help_text="Order: by name, or the most requests, speed or endpoints first.",
    )

    @property
    def model_filter(self) -> ModelFilter:
        return ModelFilter(**{name: str(value) for name, value in self.validated_data.items()})


class SpeedSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    model_id = serializers.CharField(help_text="Model name in the requests.")
    api_kind = serializers.CharField()
    tps = serializers.FloatField()
    request_count = serializers.IntegerField(help_text="Successful requests today.")


class OfferSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField()
    model_id = serializers.CharField(help_text="The name of the model at the endpoint.")
    status = serializers.ChoiceField(choices=Status.choices)
    operator_state = serializers.ChoiceField(choices=OperatorState.choices)
    shown_status = serializers.ChoiceField(
        SHOWN, help_text="The operator state if it is not `enabled`, else the status."
    )
    max_tokens = serializers.IntegerField(allow_null=True)
    active_requests = serializers.IntegerField(help_text="Requests in flight at the endpoint, for all its models.")
    max_concurrency = serializers.IntegerField(allow_null=True, help_text="Requests at a time; null means no limit.")
    fastest_tps = serializers.FloatField(allow_null=True)
    speeds = SpeedSerializer(many=True)


class CatalogueModelSerializer(serializers.Serializer[Any]):
    """The fields of GET /v1/models, and figures."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    owned_by = serializers.CharField()
    lifecycle_status = serializers.CharField()
    download_progress = serializers.FloatField(allow_null=True)
    ready = serializers.BooleanField(help_text="True if an endpoint with the model is online.")
    capabilities = serializers.ListField(child=serializers.CharField())
    supported_apis = serializers.ListField(child=serializers.CharField())
    max_tokens = serializers.IntegerField(allow_null=True, help_text="Largest context length among its endpoints.")
    endpoint_ids = serializers.ListField(child=serializers.UUIDField())
    canonical_name = serializers.CharField(allow_null=True)
    aliases = serializers.ListField(child=serializers.CharField())
    endpoints = OfferSerializer(many=True)
    endpoints_online = serializers.IntegerField()
    fastest_tps = serializers.FloatField(allow_null=True)
    requests_today = serializers.IntegerField(help_text="Requests with any name of the model, without cancelled ones.")
    failed_today = serializers.IntegerField()
    cancelled_today = serializers.IntegerField()
    requests_7_days = serializers.IntegerField(help_text="Requests of today and the six local days before.")
    failed_7_days = serializers.IntegerField()
    cancelled_7_days = serializers.IntegerField()
    input_tokens_7_days = serializers.IntegerField()
    output_tokens_7_days = serializers.IntegerField()
    costs_7_days = CostsSerializer()


class CatalogueSerializer(serializers.Serializer[Any]):
    object = serializers.CharField()
    data: Any = CatalogueModelSerializer(many=True)


class ModelDaySerializer(CostsSerializer):
    day = serializers.DateField()
    requests = serializers.IntegerField(help_text="Requests, without cancelled ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    average_duration_ms = serializers.FloatField(
        allow_null=True, help_text="Average duration of the successful requests."
    )


class CatalogueModelDetailSerializer(CatalogueModelSerializer):
    asked_names = serializers.ListField(
        child=serializers.CharField(), help_text="Model names in the requests of these days."
    )
    days = ModelDaySerializer(many=True)
    token_details = TokenDetailsSerializer(help_text="Sums over these days.")
    costs = CostsSerializer(help_text="Sums over these days.")


class DashboardModels(APIView):
    @extend_schema(
        operation_id="dashboard_models_list",
        parameters=[ModelsQuerySerializer, *offset_pages.PARAMETERS],
        responses=CatalogueSerializer,
    )
    def get(self, request: Request) -> Response:
        """List the models of all endpoints, in any state."""
        query = checked(ModelsQuerySerializer, request, beside=OffsetSerializer().fields.keys())
        flushed()
        rows, headers = offset_pages.part_of(request, model_figures.models(Moment.now(), query.model_filter))
        return Response({"object": "list", "data": rows}, headers=headers)


class DashboardModel(APIView):
    @extend_schema(
        operation_id="dashboard_models_retrieve",
        parameters=[
            OpenApiParameter(
                "name", str, OpenApiParameter.PATH, description="Name, canonical name or alias of the model."
            )
        ],
        responses=CatalogueModelDetailSerializer,
    )
    def get(self, request: Request, name: str) -> Response:
        """Return one model with its last 30 local days."""
        flushed()
        model = model_figures.model(Moment.now(), name)
        if model is None:
            raise NotFound(f"No endpoint has the model {name!r}, and no recent request names it.")
        return Response(model)


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/models", DashboardModels, "api-dashboard-models"),
    ("api/dashboard/models/<path:name>", DashboardModel, "api-dashboard-model"),
]
