"""/api/dashboard/request-responses and /api/models: requests and models with the names of llmlb's API.

/api/requests and /api/dashboard/models have the same figures, and more.
"""

import uuid
from datetime import timedelta
from typing import Annotated, Any, TypedDict

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Choices, Help
from metrics.api.common import OneFormat, QuerySerializer, TooManyExports, checked
from metrics.exports.downloads import ExportBoundReached, export_response
from metrics.exports.worker import Format
from metrics.queries import model_figures
from metrics.queries.figures import Moment
from metrics.queries.model_figures import ModelFilter
from metrics.queries.requests.filters import ERROR, OUTCOMES, RequestFilter
from metrics.queries.requests.history import SCANNED_ROWS, SCATTERED_ROWS
from metrics.queries.requests.llmlb import RecordPayload, llmlb_record
from metrics.queries.requests.lookups import numbered_page, request_row
from metrics.queries.stored import flushed

SIZES = (10, 25, 50, 100)
STATUSES = {"success": OUTCOMES[0], "error": ERROR}
FORMATS: dict[str, Format] = {"csv": "records-csv", "json": "records-json"}
ENDPOINT_NAMES = ("endpoint_id", "node_id", "agent_id")  # names of three releases of llmlb


class RecordsQuerySerializer(QuerySerializer):
    model = serializers.CharField(required=False, help_text="Part of the model's name, in any case.")
    endpoint_id = serializers.UUIDField(required=False)
    node_id = serializers.UUIDField(required=False, help_text="Same as `endpoint_id`.")
    agent_id = serializers.UUIDField(required=False, help_text="Same as `endpoint_id`.")
    status = serializers.ChoiceField(tuple(STATUSES), required=False)
    start_time = serializers.DateTimeField(required=False, help_text="Requests completed at this time or later.")
    end_time = serializers.DateTimeField(required=False, help_text="Requests completed at this time or before.")
    client_ip = serializers.IPAddressField(required=False)

    def validate(self, attrs: dict[str, Any]) -> Any:
        if attrs.get("start_time") and attrs.get("end_time") and attrs["start_time"] > attrs["end_time"]:
            raise ValidationError("start_time must be <= end_time")
        return attrs

    @property
    def request_filter(self) -> RequestFilter:
        values = self.validated_data
        endpoint_id = next((str(values[name]) for name in ENDPOINT_NAMES if name in values), None)
        until = values.get("end_time")
        return RequestFilter(
            since=values.get("start_time"),
            until=until and until + timedelta(microseconds=1),
            endpoint_id=endpoint_id,
            outcome=STATUSES.get(values.get("status")),
            model_part=values.get("model"),
            client_ip=values.get("client_ip"),
        )


class RecordPageQuerySerializer(RecordsQuerySerializer):
    page = serializers.IntegerField(
        default=1, min_value=0, max_value=10**9, help_text="Number of the page; 0 and 1 are the first."
    )
    per_page = serializers.IntegerField(
        required=False, help_text="Requests per page: 10, 25, 50 or 100; any other value means 10."
    )
    limit = serializers.IntegerField(required=False, help_text="Same as `per_page`.")
    offset = serializers.IntegerField(
        required=False, min_value=0, max_value=10**9, help_text="Number of a request; its page replaces `page`."
    )

    @property
    def size(self) -> int:
        values = self.validated_data
        size: int | None = values.get("per_page", values.get("limit"))
        return size if size in SIZES else SIZES[0]

    @property
    def number(self) -> int:
        values = self.validated_data
        return int(values["offset"] // self.size + 1 if "offset" in values else max(1, values["page"]))


class RecordExportQuerySerializer(RecordsQuerySerializer):
    format = serializers.ChoiceField(tuple(FORMATS), default="csv")


class RecordPagePayload(TypedDict):
    records: list[RecordPayload]
    total_count: int
    total_is_capped: Annotated[
        bool,
        Help(
            f"True if there may be more requests than `total_count`, which counts those among the newest "
            f"{SCANNED_ROWS:,} ({SCATTERED_ROWS:,} for one endpoint, or for failed requests)."
        ),
    ]
    page: int
    per_page: int


class RecordList(APIView):
    @extend_schema(
        operation_id="request_responses_list", parameters=[RecordPageQuerySerializer], responses=RecordPagePayload
    )
    def get(self, request: Request) -> Response:
        """List the newest 10,000 requests in numbered pages, newest first, as llmlb does. /api/requests leads to the
        oldest request, at the same cost per page.
        """
        query = checked(RecordPageQuerySerializer, request)
        skip = (query.number - 1) * query.size
        if skip >= SCANNED_ROWS:
            raise ValidationError(
                {"page": [f"There are pages for the newest {SCANNED_ROWS:,} requests; /api/requests lists older ones."]}
            )
        flushed()
        records = numbered_page(query.request_filter, skip, query.size)
        payload: RecordPagePayload = {
            "records": list(map(llmlb_record, records.rows)),
            "total_count": records.count,
            "total_is_capped": records.capped,
            "page": query.number,
            "per_page": query.size,
        }
        return Response(payload)


class RecordDetail(APIView):
    @extend_schema(operation_id="request_responses_retrieve", responses=RecordPayload)
    def get(self, request: Request, request_id: uuid.UUID) -> Response:
        flushed()
        row = request_row(str(request_id))
        if row is None:
            raise NotFound(f"Record {request_id} not found")
        return Response(llmlb_record(row))


class RecordsExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[RecordExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): list[RecordPayload]},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Export all requests that match, newest first: CSV with llmlb's columns, or a JSON array. As with
        /api/requests/export, an export that broke off has no end.
        """
        query = checked(RecordExportQuerySerializer, request)
        form = query.validated_data["format"]
        try:
            return export_response(query.request_filter, FORMATS[form], request.user.pk, file=f"request_history.{form}")
        except ExportBoundReached as full:
            raise TooManyExports.of(full) from None


class RegisteredModelPayload(TypedDict):
    name: str
    size: Annotated[int | None, Help("Always null: endpoints do not report it.")]
    description: Annotated[str | None, Help("Always null.")]
    required_memory: Annotated[int | None, Help("Always null.")]
    tags: Annotated[list[str], Help("Always empty.")]
    capabilities: list[str]
    status: Annotated[
        str, Choices(("available", "unavailable")), Help("`available` if an endpoint with the model is online.")
    ]
    source: Annotated[str, Help("Always `endpoint`.")]


class RegisteredModels(APIView):
    permission_needed = "registry.read"

    @extend_schema(operation_id="models_list", responses=list[RegisteredModelPayload])
    def get(self, request: Request) -> Response:
        """List the models of all endpoints, by name. In llmlb, this lists the models registered there."""
        rows: list[RegisteredModelPayload] = [
            {
                "name": row["id"],
                "size": None,
                "description": None,
                "required_memory": None,
                "tags": [],
                "capabilities": row["capabilities"],
                "source": "endpoint",
                "status": "available" if row["ready"] else "unavailable",
            }
            for row in model_figures.models(Moment.now(), ModelFilter())
        ]
        return Response(rows)


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/request-responses", RecordList, "api-records"),
    ("api/dashboard/request-responses/export", RecordsExport, "api-records-export"),
    ("api/dashboard/request-responses/<uuid:request_id>", RecordDetail, "api-record"),
    ("api/models", RegisteredModels, "api-models"),
]
