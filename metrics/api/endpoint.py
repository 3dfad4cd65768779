"""Figures of one endpoint, below /api/endpoints/{id}."""

import uuid
from typing import Any, TypedDict

from django.contrib.admin.models import ADDITION, DELETION
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints import edit_log
from endpoints.api import entry_or_404
from endpoints.edit_log import Edit
from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import UuidText
from metrics.api.common import BadRequest
from metrics.memory.runtime import runtime
from metrics.queries import figures, stored, uptime
from metrics.queries.endpoint_days import ModelDaysPayload, model_days
from metrics.queries.figures import Moment
from metrics.queries.payloads import DayStatsPayload, ModelTpsPayload
from metrics.queries.requests.failures import FailurePayload, last_failures
from metrics.queries.routing.engine import EnginePayload, engine_payload
from metrics.queries.uptime import HealthPayload

MAX_DAYS = 365


class TodayStats(APIView):
    @extend_schema(responses=DayStatsPayload)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        return Response(figures.today_stats(entry_or_404(endpoint_id).id, Moment.now()))


class DailyStats(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="Number of local days: 1 to 365, 7 by default.")],
        responses=list[DayStatsPayload],
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """List the days that have requests, oldest first."""
        entry = entry_or_404(endpoint_id)
        days = _days(request.query_params.get("days", "7"))
        stored.flushed()
        return Response(stored.daily_stats(entry.id, days, Moment.now().figures.date))


def _days(text: str) -> int:
    """Return the number, limited to 1 to 365 as in llmlb. Raises BadRequest."""
    if not text.isascii() or not text.isdigit():
        raise BadRequest("days must be a whole number from 1 to 365")
    return min(MAX_DAYS, max(1, int(text[:9])))


class ModelStats(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="Number of local days: 1 to 365; all time by default.")],
        responses=list[ModelDaysPayload],
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Return sums of each model, busiest first. With `days`, they include speeds, medians and all output tokens."""
        entry = entry_or_404(endpoint_id)
        days = _days(request.query_params["days"]) if "days" in request.query_params else None
        stored.flushed()
        if days is not None:
            return Response(model_days(entry.id, days, Moment.now().figures.date))
        return Response(stored.model_stats(entry.id))


class Health(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="Number of local days: 1 to 30, 30 by default.")],
        responses=HealthPayload,
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Return the states of an endpoint during the last local days, and the share of time that it was online."""
        entry = entry_or_404(endpoint_id)
        text = request.query_params.get("days", str(uptime.MAX_DAYS))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= uptime.MAX_DAYS:
            raise BadRequest(f"days must be a whole number from 1 to {uptime.MAX_DAYS}")
        return Response(uptime.health_payload(entry, int(text)))


class LastFailures(APIView):
    @extend_schema(responses=list[FailurePayload])
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """List the last requests that failed at an endpoint, newest first, at most eight. They are searched among the
        last 2,000 with their final attempt at it, and the last 2,000 of all endpoints, because a failover may have
        followed.
        """
        entry = entry_or_404(endpoint_id)
        stored.flushed()
        return Response(last_failures(entry.id))


class EndpointEngine(APIView):
    @extend_schema(responses=EnginePayload)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Return which models are in the memory of an endpoint's engine, and how many requests of others run there."""
        return Response(engine_payload(runtime.installation.engine(entry_or_404(endpoint_id).id)))


class EditSerializer(serializers.Serializer[Edit]):
    at = serializers.DateTimeField()
    user = serializers.CharField()
    action = serializers.SerializerMethodField()
    via = serializers.ChoiceField(("admin", "api"), help_text="`api` for the JSON API, `admin` for any page.")
    values = serializers.DictField(
        child=serializers.ListField(help_text="Old and new value; both null for secrets."),
        help_text="Changes by field name.",
    )

    def get_action(self, edit: Edit) -> str:
        return {ADDITION: "added", DELETION: "deleted"}.get(edit.flag, "changed")

    def to_representation(self, edit: Edit) -> Any:
        return super().to_representation(edit) | {"via": edit.via or "admin"}


class Edits(APIView):
    @extend_schema(responses=EditSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """List the last 500 edits of an endpoint in the admin and through the API, with their users, newest first."""
        edits: Any = edit_log.latest(entry_or_404(endpoint_id).id)
        return Response(EditSerializer(edits, many=True).data)


class ModelTps(APIView):
    @extend_schema(responses=list[ModelTpsPayload])
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        return Response(figures.model_tps(entry_or_404(endpoint_id).id, Moment.now()))


class HealthMetricsPayload(TypedDict):
    endpoint_id: UuidText


class HealthMetrics(APIView):
    @extend_schema(responses=list[HealthMetricsPayload])
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Always empty: no engine reports its own load. It exists for clients of llmlb."""
        entry_or_404(endpoint_id)
        return Response([])


URLS: list[tuple[str, Any, str]] = [
    ("api/endpoints/<uuid:endpoint_id>/today-stats", TodayStats, "api-today-stats"),
    ("api/endpoints/<uuid:endpoint_id>/daily-stats", DailyStats, "api-daily-stats"),
    ("api/endpoints/<uuid:endpoint_id>/model-stats", ModelStats, "api-model-stats"),
    ("api/endpoints/<uuid:endpoint_id>/model-tps", ModelTps, "api-model-tps"),
    ("api/endpoints/<uuid:endpoint_id>/health", Health, "api-endpoint-health"),
    ("api/endpoints/<uuid:endpoint_id>/failures", LastFailures, "api-endpoint-failures"),
    ("api/endpoints/<uuid:endpoint_id>/engine", EndpointEngine, "api-endpoint-engine"),
    ("api/endpoints/<uuid:endpoint_id>/edits", Edits, "api-endpoint-edits"),
    ("api/dashboard/metrics/<uuid:endpoint_id>", HealthMetrics, "api-health-metrics"),
]
