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
from endpoints.openapi.descriptions import extend_schema
from gateway.base.request_kinds import CAPABILITIES
from metrics.api.common import QuerySerializer, checked
from metrics.queries import model_figures
from metrics.queries.figures import Moment
from metrics.queries.model_figures import SORTS, STATES, ModelFilter
from metrics.queries.model_payloads import CatalogueModelDetailPayload, CataloguePayload
from metrics.queries.stored import flushed


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


class DashboardModels(APIView):
    @extend_schema(
        operation_id="dashboard_models_list",
        parameters=[ModelsQuerySerializer, *offset_pages.PARAMETERS],
        responses=CataloguePayload,
    )
    def get(self, request: Request) -> Response:
        """List the models of all endpoints, in any state."""
        query = checked(ModelsQuerySerializer, request, beside=OffsetSerializer().fields.keys())
        flushed()
        rows, headers = offset_pages.part_of(request, model_figures.models(Moment.now(), query.model_filter))
        payload: CataloguePayload = {"object": "list", "data": rows}
        return Response(payload, headers=headers)


class DashboardModel(APIView):
    @extend_schema(
        operation_id="dashboard_models_retrieve",
        parameters=[
            OpenApiParameter(
                "name", str, OpenApiParameter.PATH, description="Name, canonical name or alias of the model."
            )
        ],
        responses=CatalogueModelDetailPayload,
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
