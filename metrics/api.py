"""/api/dashboard, and the figures below /api/endpoints/{id}. Every figure is told by metrics.queries."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from django.contrib.auth import get_user
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.api import entry_or_404
from metrics import queries
from metrics.events import hub
from metrics.queries import Moment
from metrics.serializers import (
    DashboardEndpointSerializer,
    DayStatsSerializer,
    MinuteSerializer,
    ModelStatsSerializer,
    ModelTpsSerializer,
    OverviewSerializer,
    StatsSerializer,
)
from metrics.streams import LastingResponse

MAX_DAYS = 365
SESSION_SECONDS = 15.0


class Overview(APIView):
    @extend_schema(responses=OverviewSerializer)
    def get(self, request: Request) -> Response:
        return Response(queries.overview())


class Stats(APIView):
    @extend_schema(responses=StatsSerializer)
    def get(self, request: Request) -> Response:
        return Response(queries.stats(Moment.now()))


class Endpoints(APIView):
    @extend_schema(responses=DashboardEndpointSerializer(many=True))
    def get(self, request: Request) -> Response:
        return Response(queries.endpoints(Moment.now()))


class History(APIView):
    @extend_schema(responses=MinuteSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Successes and failures of the last 60 minutes, oldest first."""
        return Response(queries.history(Moment.now().figures))


class TodayStats(APIView):
    @extend_schema(responses=DayStatsSerializer)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        return Response(queries.today_stats(entry_or_404(endpoint_id).id, Moment.now()))


class DailyStats(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="1 to 365, 7 if not given")],
        responses=DayStatsSerializer(many=True),
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Days that have requests, oldest first."""
        entry = entry_or_404(endpoint_id)
        text = request.query_params.get("days", "7")
        if not text.isascii() or not text.isdigit():
            raise BadRequest("days must be a whole number from 1 to 365")
        queries.flushed()
        days = min(MAX_DAYS, max(1, int(text[:9])))
        return Response(queries.daily_stats(entry.id, days, Moment.now().figures.date))


class ModelStats(APIView):
    @extend_schema(responses=ModelStatsSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """All time, busiest model first."""
        entry = entry_or_404(endpoint_id)
        queries.flushed()
        return Response(queries.model_stats(entry.id))


class ModelTps(APIView):
    @extend_schema(responses=ModelTpsSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        return Response(queries.model_tps(entry_or_404(endpoint_id).id, Moment.now()))


class BadRequest(APIException):
    status_code = 400


async def events(request: HttpRequest) -> HttpResponseBase:
    """The overview as server-sent events, for pages of a session.

    Whether its account still is what it was is looked at every 15 seconds. A logout only takes the cookie from the
    browser, whose other pages notice by themselves.
    """
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"error": "Log in first."}, status=401)
    if user.must_change_password:
        return JsonResponse({"error": "password_change_required"}, status=403)
    response = LastingResponse(_while_allowed(request), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def _while_allowed(request: HttpRequest) -> AsyncIterator[bytes]:
    looked_at = 0.0
    async for event in hub.listen():
        now = time.monotonic()
        if now - looked_at > SESSION_SECONDS:
            looked_at = now
            if not await asyncio.to_thread(_still_logged_in, request):
                return
        yield event


def _still_logged_in(request: HttpRequest) -> bool:
    """Since the page was opened, the account may be gone, its password changed, or a change of it asked for."""
    user = get_user(request)
    return bool(user.is_authenticated and not user.must_change_password)


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/overview", Overview, "api-overview"),
    ("api/dashboard/stats", Stats, "api-stats"),
    ("api/dashboard/endpoints", Endpoints, "api-dashboard-endpoints"),
    ("api/dashboard/request-history", History, "api-request-history"),
    ("api/endpoints/<uuid:endpoint_id>/today-stats", TodayStats, "api-today-stats"),
    ("api/endpoints/<uuid:endpoint_id>/daily-stats", DailyStats, "api-daily-stats"),
    ("api/endpoints/<uuid:endpoint_id>/model-stats", ModelStats, "api-model-stats"),
    ("api/endpoints/<uuid:endpoint_id>/model-tps", ModelTps, "api-model-tps"),
]
