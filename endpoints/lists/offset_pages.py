"""Parts of a list of the JSON API: `limit` and `offset`, and the number of all rows in a header."""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

MAX_ROWS = 1000
TOTAL_HEADER = "X-Total-Count"

Row = TypeVar("Row")


class OffsetSerializer(serializers.Serializer[Any]):
    """Parameters that choose a part of a list."""

    limit = serializers.IntegerField(
        min_value=1, max_value=MAX_ROWS, default=MAX_ROWS, help_text="Rows of the response at most."
    )
    offset = serializers.IntegerField(min_value=0, max_value=10**9, default=0, help_text="Rows before the first one.")


PARAMETERS: list[Any] = [
    OffsetSerializer,
    OpenApiParameter(
        TOTAL_HEADER,
        int,
        OpenApiParameter.HEADER,
        response=True,
        description="Number of all rows that match, on all pages.",
    ),
]


def part_of(request: Request, rows: Sequence[Row] | QuerySet[Any, Row]) -> tuple[list[Row], dict[str, str]]:
    """Return the rows that the request asks for, and the headers of the response. Raises ValidationError."""
    names = OffsetSerializer().fields.keys()
    query = OffsetSerializer(data={name: value for name, value in request.query_params.items() if name in names})
    query.is_valid(raise_exception=True)
    limit, offset = query.validated_data["limit"], query.validated_data["offset"]
    total = rows.count() if isinstance(rows, QuerySet) else len(rows)
    return list(rows[offset : offset + limit]), {TOTAL_HEADER: str(total)}
