"""/api/dashboard: figures of the whole router and of the overview, from memory (metrics.queries)."""

from typing import Any, TypedDict

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.lists import offset_pages
from endpoints.openapi.descriptions import extend_schema
from metrics.queries import figures, overview, stored
from metrics.queries.attention import AttentionPayload
from metrics.queries.figures import Moment
from metrics.queries.payloads import (
    BusiestPayload,
    DashboardEndpointPayload,
    EndpointEventPayload,
    MinuteFiguresPayload,
    MinutePayload,
    ModelStatsPayload,
    OverviewPayload,
    StatsPayload,
)


class TokensPayload(TypedDict):
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int


class OverviewFigures(APIView):
    @extend_schema(responses=OverviewPayload)
    def get(self, request: Request) -> Response:
        return Response(figures.overview())


class Stats(APIView):
    @extend_schema(responses=StatsPayload)
    def get(self, request: Request) -> Response:
        return Response(figures.stats(Moment.now()))


class EndpointFigures(APIView):
    @extend_schema(parameters=offset_pages.PARAMETERS, responses=list[DashboardEndpointPayload])
    def get(self, request: Request) -> Response:
        moment = Moment.now()
        entries, headers = offset_pages.part_of(request, moment.entries)
        return Response(figures.endpoints(moment, entries), headers=headers)


class MinuteHistory(APIView):
    @extend_schema(responses=list[MinutePayload])
    def get(self, request: Request) -> Response:
        """Return successful and failed requests of the last 60 minutes, oldest first."""
        return Response(figures.history(Moment.now().figures))


class Attention(APIView):
    @extend_schema(responses=list[AttentionPayload])
    def get(self, request: Request) -> Response:
        """List items that need an administrator, the most severe first."""
        moment = Moment.now()
        return Response(overview.attention(moment, figures.stats(moment)))


class Busiest(APIView):
    @extend_schema(responses=BusiestPayload)
    def get(self, request: Request) -> Response:
        """Return the five models and API keys with the most requests in the last 60 minutes, and the five clients with
        the most in this hour and the previous one.
        """
        return Response(overview.busiest(Moment.now()))


class RecentEndpointEvents(APIView):
    @extend_schema(responses=list[EndpointEventPayload])
    def get(self, request: Request) -> Response:
        """List the last 100 events of endpoints of the last 60 minutes, oldest first."""
        return Response(overview.recent_events())


class Minutes(APIView):
    @extend_schema(responses=list[MinuteFiguresPayload])
    def get(self, request: Request) -> Response:
        """Return figures of the last 60 minutes, oldest first; `request-history` has successes and failures."""
        return Response(overview.minutes(Moment.now()))


class Tokens(APIView):
    @extend_schema(responses=TokensPayload)
    def get(self, request: Request) -> Response:
        """Return all-time sums."""
        stats = figures.stats(Moment.now())
        payload: TokensPayload = {
            "total_input_tokens": stats["total_input_tokens"],
            "total_output_tokens": stats["total_output_tokens"],
            "total_tokens": stats["total_tokens"],
        }
        return Response(payload)


class AllModelStats(APIView):
    @extend_schema(responses=list[ModelStatsPayload])
    def get(self, request: Request) -> Response:
        """Return all-time sums over the registered endpoints, busiest model first."""
        stored.flushed()
        return Response(stored.model_stats())


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/overview", OverviewFigures, "api-overview"),
    ("api/dashboard/stats", Stats, "api-stats"),
    ("api/dashboard/endpoints", EndpointFigures, "api-dashboard-endpoints"),
    ("api/dashboard/request-history", MinuteHistory, "api-request-history"),
    ("api/dashboard/attention", Attention, "api-attention"),
    ("api/dashboard/busiest", Busiest, "api-busiest"),
    ("api/dashboard/marks", RecentEndpointEvents, "api-marks"),
    ("api/dashboard/minutes", Minutes, "api-minutes"),
    ("api/dashboard/stats/tokens", Tokens, "api-stats-tokens"),
    ("api/dashboard/model-stats", AllModelStats, "api-all-model-stats"),
]
