"""/api/usage, and llmlb's tables of tokens."""

from datetime import date, timedelta
from typing import Annotated, Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import DateText, Help
from metrics.api.common import OneFormat, QuerySerializer, checked
from metrics.api.dashboard import TokensPayload
from metrics.api.usage_serializers import (
    MAX_USAGE_DAYS,
    UsageExportQuerySerializer,
    UsageQuerySerializer,
)
from metrics.costs.of_usage import usage_with_costs
from metrics.queries import usage
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed
from metrics.queries.usage import UsageCountsPayload, UsagePayload
from metrics.queries.usage_periods import Period


class DayTokensPayload(TokensPayload):
    date: DateText
    request_count: Annotated[int, Help("Requests, including failed and cancelled ones, without rejected ones.")]


class MonthTokensPayload(TokensPayload):
    month: Annotated[str, Help("`YYYY-MM`")]
    request_count: Annotated[int, Help("Requests, including failed and cancelled ones, without rejected ones.")]


class DaysSerializer(QuerySerializer):
    days = serializers.IntegerField(default=30, min_value=1, max_value=MAX_USAGE_DAYS)


class MonthsSerializer(QuerySerializer):
    months = serializers.IntegerField(default=12, min_value=1, max_value=36)


def today() -> date:
    """Return the local day, as figures are counted."""
    return date.fromisoformat(Moment.now().figures.date)


class UsageByGroup(APIView):
    @extend_schema(parameters=[UsageQuerySerializer], responses=UsagePayload)
    def get(self, request: Request) -> Response:
        """Return requests and tokens by local day, month, model (asked, served or canonical), step, endpoint,
        API key or its owner, for at most three years.
        """
        return Response(_usage(checked(UsageQuerySerializer, request, today=today())))


class UsageExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[UsageExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): UsagePayload},
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
    @extend_schema(parameters=[DaysSerializer], responses=list[DayTokensPayload])
    def get(self, request: Request) -> Response:
        """List the local days that have requests, newest first."""
        most = checked(DaysSerializer, request).validated_data["days"]
        until = today()
        flushed()
        payload = usage.usage("day", Period(until - timedelta(days=most - 1), until))
        days: list[DayTokensPayload] = [
            {"date": row["day"], **_tokens(row), "request_count": _count(row)}
            for row in reversed(payload["rows"])
            if _count(row)
        ]
        return Response(days)


class MonthlyTokens(APIView):
    @extend_schema(parameters=[MonthsSerializer], responses=list[MonthTokensPayload])
    def get(self, request: Request) -> Response:
        """List the months that have requests, newest first."""
        most = checked(MonthsSerializer, request).validated_data["months"]
        until = today()
        number = until.year * 12 + until.month - most
        flushed()
        payload = usage.usage("month", Period(date(number // 12, number % 12 + 1, 1), until))
        months: list[MonthTokensPayload] = [
            {"month": row["month"], **_tokens(row), "request_count": _count(row)}
            for row in reversed(payload["rows"])
            if _count(row)
        ]
        return Response(months)


def _usage(query: Any) -> UsagePayload:
    flushed()
    values = query.validated_data
    return usage_with_costs(values["by"], query.period, query.only, compare=values["compare"])


def _tokens(row: UsageCountsPayload) -> TokensPayload:
    return {
        "total_input_tokens": row["input_tokens"],
        "total_output_tokens": row["output_tokens"],
        "total_tokens": row["total_tokens"],
    }


def _count(row: UsageCountsPayload) -> int:
    return row["requests"] + row["cancelled_requests"]


URLS: list[tuple[str, Any, str]] = [
    ("api/usage", UsageByGroup, "api-usage"),
    ("api/usage/export", UsageExport, "api-usage-export"),
    ("api/dashboard/stats/tokens/daily", DailyTokens, "api-tokens-daily"),
    ("api/dashboard/stats/tokens/monthly", MonthlyTokens, "api-tokens-monthly"),
]
