"""/api/dashboard: what the overview shows beside the figures of metrics.api. All from memory."""

import uuid
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.api import entry_or_404
from endpoints.models import Status
from metrics import attention, board, queries
from metrics.marks import WHAT
from metrics.queries import Moment
from metrics.serializers import ModelStatsSerializer


class AttentionSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(attention.KINDS)
    severity = serializers.ChoiceField(attention.SEVERITIES)
    since = serializers.DateTimeField(allow_null=True, help_text="Null where that is not known.")
    cause = serializers.CharField(
        allow_null=True,
        help_text="What the health check or the database said; of a circuit breaker, its state; of a bound, its name.",
    )
    endpoint_id = serializers.UUIDField(allow_null=True)
    endpoint_name = serializers.CharField(allow_null=True)
    models = serializers.IntegerField(allow_null=True, help_text="That the endpoint has.")
    models_nowhere_else = serializers.IntegerField(allow_null=True, help_text="Those that no endpoint has online now.")
    user_id = serializers.UUIDField(allow_null=True)
    username = serializers.CharField(allow_null=True)
    free_bytes = serializers.IntegerField(allow_null=True, help_text="On the disk of the data directory.")
    keys = serializers.IntegerField(allow_null=True, help_text="Of endpoints, in plain text in the database.")


class BusyModelSerializer(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    requests = serializers.IntegerField()


class BusyKeySerializer(serializers.Serializer[Any]):
    api_key_id = serializers.UUIDField(allow_null=True, help_text="Null: requests without a key.")
    api_key_name = serializers.CharField(allow_null=True)
    requests = serializers.IntegerField()


class BusyClientSerializer(serializers.Serializer[Any]):
    ip = serializers.CharField(help_text="An IPv4 address, or a /64 of IPv6.")
    requests = serializers.IntegerField(help_text="With failed and cancelled ones, as of every client's figures.")


class BusiestSerializer(serializers.Serializer[Any]):
    models = BusyModelSerializer(many=True)
    api_keys = BusyKeySerializer(many=True)
    clients = BusyClientSerializer(
        many=True,
        help_text="In the present hour (of the clock, UTC) and the one before, among the first 20,000 of each.",
    )


class MarkSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    what = serializers.ChoiceField(WHAT)
    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    status_before = serializers.ChoiceField(choices=Status.choices, allow_null=True)
    status_after = serializers.ChoiceField(choices=Status.choices, allow_null=True)
    detail = serializers.CharField(allow_null=True, help_text="The cause, or what was edited.")
    by = serializers.CharField(allow_null=True, help_text="Who edited.")


class MinuteFiguresSerializer(serializers.Serializer[Any]):
    minute = serializers.DateTimeField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    average_ms = serializers.FloatField(allow_null=True, help_text="Of the requests answered in it.")
    p95_ms = serializers.FloatField(allow_null=True)
    first_token_ms = serializers.FloatField(allow_null=True, help_text="The median of the answered streams.")
    in_flight = serializers.IntegerField(allow_null=True, help_text="At most; null before RouterDash started.")
    queued = serializers.IntegerField(allow_null=True, help_text="At most; null before RouterDash started.")
    online = serializers.IntegerField(allow_null=True, help_text="At least; null before RouterDash started.")


class TokensSerializer(serializers.Serializer[Any]):
    total_input_tokens = serializers.IntegerField()
    total_output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class HealthMetricsSerializer(serializers.Serializer[Any]):
    endpoint_id = serializers.UUIDField()


class Attention(APIView):
    @extend_schema(responses=AttentionSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What needs a person, the worst first."""
        moment = Moment.now()
        return Response(board.attention(moment, queries.stats(moment)))


class Busiest(APIView):
    @extend_schema(responses=BusiestSerializer)
    def get(self, request: Request) -> Response:
        """The five models and API keys with the most requests in the last 60 minutes, and the five clients with the
        most in this hour and the one before.
        """
        return Response(board.busiest(Moment.now()))


class Marks(APIView):
    @extend_schema(responses=MarkSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What happened to endpoints in the last 60 minutes, oldest first: at most the last 100."""
        return Response(board.recent_marks())


class Minutes(APIView):
    @extend_schema(responses=MinuteFiguresSerializer(many=True))
    def get(self, request: Request) -> Response:
        """The last 60 minutes, oldest first, beside what `request-history` tells of them."""
        return Response(board.minutes(Moment.now()))


class Tokens(APIView):
    @extend_schema(responses=TokensSerializer)
    def get(self, request: Request) -> Response:
        """Of all time."""
        stats = queries.stats(Moment.now())
        return Response({name: stats[name] for name in ("total_input_tokens", "total_output_tokens", "total_tokens")})


class AllModelStats(APIView):
    @extend_schema(responses=ModelStatsSerializer(many=True))
    def get(self, request: Request) -> Response:
        """All time over the endpoints that there are, busiest model first."""
        queries.flushed()
        return Response(queries.model_stats())


class HealthMetrics(APIView):
    @extend_schema(responses=HealthMetricsSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Always empty: no engine reports its own load. Kept for clients of the reference system."""
        entry_or_404(endpoint_id)
        return Response([])


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/attention", Attention, "api-attention"),
    ("api/dashboard/busiest", Busiest, "api-busiest"),
    ("api/dashboard/marks", Marks, "api-marks"),
    ("api/dashboard/minutes", Minutes, "api-minutes"),
    ("api/dashboard/stats/tokens", Tokens, "api-stats-tokens"),
    ("api/dashboard/model-stats", AllModelStats, "api-all-model-stats"),
    ("api/dashboard/metrics/<uuid:endpoint_id>", HealthMetrics, "api-health-metrics"),
]
