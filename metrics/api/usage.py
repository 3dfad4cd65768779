"""/api/usage, and llmlb's tables of tokens."""

from datetime import date, timedelta
from typing import Any, TypedDict

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from metrics.api.common import OneFormat, QuerySerializer, checked
from metrics.api.dashboard import TokensSerializer
from metrics.api.usage_serializers import (
    MAX_USAGE_DAYS,
    UsageExportQuerySerializer,
    UsageQuerySerializer,
    UsageSerializer,
)
from metrics.queries import usage
from metrics.queries.costs.of_usage import usage_with_costs
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed
from metrics.queries.usage import UsageCounts, UsagePayload
from metrics.queries.usage_periods import Period


class TokenCounts(TypedDict):
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    request_count: int


class DayTokensSerializer(TokensSerializer):
    date = serializers.DateField()
    request_count = serializers.IntegerField(
        help_text="Requests, including failed and cancelled ones, without rejected ones."
    )


class MonthTokensSerializer(TokensSerializer):
    month = serializers.CharField(help_text="`YYYY-MM`")
    request_count = serializers.IntegerField(
        help_text="Requests, including failed and cancelled ones, without rejected ones."
    )


class DaysSerializer(QuerySerializer):
    days = serializers.IntegerField(default=30, min_value=1, max_value=MAX_USAGE_DAYS)


class MonthsSerializer(QuerySerializer):
    months = serializers.IntegerField(default=12, min_value=1, max_value=36)


def today() -> date:
    """Return the local day, as figures are counted."""
    return date.fromisoformat(Moment.now().figures.date)


class UsageByGroup(APIView):
    @extend_schema(parameters=[UsageQuerySerializer], responses=UsageSerializer)
    def get(self, request: Request) -> Response:
        """Return requests and tokens by local day, month, model (asked, served or canonical), step, endpoint,
        API key or its owner, for at most three years.
        """
        return Response(_usage(checked(UsageQuerySerializer, request, today=today())))


class UsageExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[UsageExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): UsageSerializer},
    )
    def get(self, request: Request) -> HttpResponse:
        """Return usage as a file: the response of /api/usage as JSON, or its rows and their total as CSV."""
        query = checked(UsageExportQuerySerializer, request, today=today())
        payload = _usage(query)
        form = query.validated_data["format"]
        if form == "csv":
            response = HttpResponse(usage.usage_csv(payload), content_type="text/csv; charset=utf-8")
        else:
            response = HttpResponse(JSONEncoder(indent=1, ensure_ascii=False).encode(payload), "application/json")
        name = f"usage-by-{payload['by']}-{payload['since']}-{payload['until']}.{form}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        response.headers["Cache-Control"] = "no-store"
        return response


class DailyTokens(APIView):
    @extend_schema(parameters=[DaysSerializer], responses=DayTokensSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List the local days that have requests, newest first."""
        days = checked(DaysSerializer, request).validated_data["days"]
        until = today()
        flushed()
        payload = usage.usage("day", Period(until - timedelta(days=days - 1), until))
        return Response([{"date": row["day"], **_tokens(row)} for row in reversed(payload["rows"]) if _count(row)])


class MonthlyTokens(APIView):
    @extend_schema(parameters=[MonthsSerializer], responses=MonthTokensSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List the months that have requests, newest first."""
        months = checked(MonthsSerializer, request).validated_data["months"]
        until = today()
        number = until.year * 12 + until.month - months
        flushed()
        payload = usage.usage("month", Period(date(number // 12, number % 12 + 1, 1), until))
        return Response([{"month": row["month"], **_tokens(row)} for row in reversed(payload["rows"]) if _count(row)])


def _usage(query: Any) -> UsagePayload:
    flushed()
    values = query.validated_data
    return usage_with_costs(values["by"], query.period, query.only, compare=values["compare"])


def _tokens(row: UsageCounts) -> TokenCounts:
    return {
        "total_input_tokens": row["input_tokens"],
        "total_output_tokens": row["output_tokens"],
        "total_tokens": row["total_tokens"],
        "request_count": _count(row),
    }


def _count(row: UsageCounts) -> int:
    return row["requests"] + row["cancelled_requests"]


URLS: list[tuple[str, Any, str]] = [
    ("api/usage", UsageByGroup, "api-usage"),
    ("api/usage/export", UsageExport, "api-usage-export"),
    ("api/dashboard/stats/tokens/daily", DailyTokens, "api-tokens-daily"),
    ("api/dashboard/stats/tokens/monthly", MonthlyTokens, "api-tokens-monthly"),
]
