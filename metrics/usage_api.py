"""/api/usage, and the reference's tables of tokens. Every figure is told by metrics.usage."""

from datetime import date, timedelta
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView

from metrics import queries, usage
from metrics.prometheus import OneFormat
from metrics.queries import Moment
from metrics.serializers import (
    MAX_USAGE_DAYS,
    QuerySerializer,
    UsageExportQuerySerializer,
    UsageQuerySerializer,
    UsageSerializer,
)
from metrics.usage import Period


class TokensSerializer(serializers.Serializer[Any]):
    total_input_tokens = serializers.IntegerField()
    total_output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class DayTokensSerializer(TokensSerializer):
    date = serializers.DateField()
    request_count = serializers.IntegerField(help_text="With failed and cancelled ones, without refused ones.")


class MonthTokensSerializer(TokensSerializer):
    month = serializers.CharField(help_text="`YYYY-MM`")
    request_count = serializers.IntegerField(help_text="With failed and cancelled ones, without refused ones.")


class DaysSerializer(QuerySerializer):
    days = serializers.IntegerField(default=30, min_value=1, max_value=MAX_USAGE_DAYS)


class MonthsSerializer(QuerySerializer):
    months = serializers.IntegerField(default=12, min_value=1, max_value=36)


def today() -> date:
    """Local, as figures are counted."""
    return date.fromisoformat(Moment.now().figures.date)


class Usage(APIView):
    @extend_schema(parameters=[UsageQuerySerializer], responses=UsageSerializer)
    def get(self, request: Request) -> Response:
        """Requests and tokens by local day, month, model, endpoint, API key or its owner; at most three years at a
        time.
        """
        return Response(_usage(_checked(UsageQuerySerializer, request)))


class UsageExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[UsageExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): UsageSerializer},
    )
    def get(self, request: Request) -> HttpResponse:
        """The same as a file: the answer as JSON, or its rows and their total as CSV."""
        query = _checked(UsageExportQuerySerializer, request)
        told = _usage(query)
        form = query.validated_data["format"]
        if form == "csv":
            response = HttpResponse(usage.table(told), content_type="text/csv; charset=utf-8")
        else:
            response = HttpResponse(JSONEncoder(indent=1, ensure_ascii=False).encode(told), "application/json")
        name = f"usage-by-{told['by']}-{told['since']}-{told['until']}.{form}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        response.headers["Cache-Control"] = "no-store"
        return response


class DailyTokens(APIView):
    @extend_schema(parameters=[DaysSerializer], responses=DayTokensSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Local days that have requests, the latest first."""
        days = _checked(DaysSerializer, request).validated_data["days"]
        until = today()
        queries.flushed()
        told = usage.usage("day", Period(until - timedelta(days=days - 1), until))
        return Response([{"date": row["day"], **_tokens(row)} for row in reversed(told["rows"]) if _count(row)])


class MonthlyTokens(APIView):
    @extend_schema(parameters=[MonthsSerializer], responses=MonthTokensSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Months that have requests, the latest first."""
        months = _checked(MonthsSerializer, request).validated_data["months"]
        until = today()
        number = until.year * 12 + until.month - months
        queries.flushed()
        told = usage.usage("month", Period(date(number // 12, number % 12 + 1, 1), until))
        return Response([{"month": row["month"], **_tokens(row)} for row in reversed(told["rows"]) if _count(row)])


def _usage(query: Any) -> dict[str, Any]:
    queries.flushed()
    given = query.validated_data
    return usage.usage(given["by"], query.period, query.only, compare=given["compare"])


def _tokens(row: dict[str, Any]) -> dict[str, int]:
    return {
        "total_input_tokens": row["input_tokens"],
        "total_output_tokens": row["output_tokens"],
        "total_tokens": row["total_tokens"],
        "request_count": _count(row),
    }


def _count(row: dict[str, Any]) -> int:
    return int(row["requests"] + row["cancelled_requests"])


def _checked(serializer: type[QuerySerializer], request: Request) -> Any:
    query = serializer(data=request.query_params.dict(), context={"today": today()})
    query.is_valid(raise_exception=True)
    return query


URLS: list[tuple[str, Any, str]] = [
    ("api/usage", Usage, "api-usage"),
    ("api/usage/export", UsageExport, "api-usage-export"),
    ("api/dashboard/stats/tokens/daily", DailyTokens, "api-tokens-daily"),
    ("api/dashboard/stats/tokens/monthly", MonthlyTokens, "api-tokens-monthly"),
]
