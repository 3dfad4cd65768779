"""/api/dashboard/request-responses and /api/models: requests and models as the reference system tells them. The same
figures are at /api/requests and /api/dashboard/models, with all that RouterDash knows.
"""

import uuid
from datetime import timedelta
from typing import Any

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metrics import catalogue, queries, reference
from metrics.api import Busy
from metrics.downloads import Full, answer
from metrics.export import Format
from metrics.history import ERROR, LOOK, LOOK_SCATTERED, OUTCOMES, Wanted
from metrics.prometheus import OneFormat
from metrics.queries import Moment
from metrics.serializers import QuerySerializer

SIZES = (10, 25, 50, 100)
STATUSES = {"success": OUTCOMES[0], "error": ERROR}
FORMATS: dict[str, Format] = {"csv": "records-csv", "json": "records-json"}
ENDPOINT_NAMES = ("endpoint_id", "node_id", "agent_id")  # the same, of three ages of the reference


class RecordsQuerySerializer(QuerySerializer):
    model = serializers.CharField(required=False, help_text="Part of the model's name; capitals do not matter.")
    endpoint_id = serializers.UUIDField(required=False)
    node_id = serializers.UUIDField(required=False, help_text="As `endpoint_id`.")
    agent_id = serializers.UUIDField(required=False, help_text="As `endpoint_id`.")
    status = serializers.ChoiceField(tuple(STATUSES), required=False)
    start_time = serializers.DateTimeField(required=False, help_text="Completed then or later.")
    end_time = serializers.DateTimeField(required=False, help_text="Completed then or before.")
    client_ip = serializers.IPAddressField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("start_time") and attrs.get("end_time") and attrs["start_time"] > attrs["end_time"]:
            raise ValidationError("start_time must be <= end_time")
        return attrs

    @property
    def wanted(self) -> Wanted:
        given = self.validated_data
        endpoint_id = next((str(given[name]) for name in ENDPOINT_NAMES if name in given), None)
        until = given.get("end_time")
        return Wanted(
            since=given.get("start_time"),
            until=until and until + timedelta(microseconds=1),
            endpoint_id=endpoint_id,
            outcome=STATUSES.get(given.get("status")),
            model_part=given.get("model"),
            client_ip=given.get("client_ip"),
        )


class RecordPageQuerySerializer(RecordsQuerySerializer):
    page = serializers.IntegerField(default=1, min_value=0, max_value=10**9, help_text="0: the first, as 1.")
    per_page = serializers.IntegerField(required=False, help_text="10, 25, 50 or 100; 10 for any other.")
    limit = serializers.IntegerField(required=False, help_text="As `per_page`.")
    offset = serializers.IntegerField(
        required=False, min_value=0, max_value=10**9, help_text="Instead of `page`: the page with this request."
    )

    @property
    def size(self) -> int:
        given = self.validated_data
        wanted: int | None = given.get("per_page", given.get("limit"))
        return wanted if wanted in SIZES else SIZES[0]

    @property
    def number(self) -> int:
        given = self.validated_data
        return int(given["offset"] // self.size + 1 if "offset" in given else max(1, given["page"]))


class RecordExportQuerySerializer(RecordsQuerySerializer):
    format = serializers.ChoiceField(tuple(FORMATS), default="csv")


class RecordStatusSerializer(serializers.Serializer[Any]):
    type = serializers.ChoiceField(tuple(STATUSES))
    message = serializers.CharField(required=False, help_text="Of an error.")


class RecordSerializer(serializers.Serializer[Any]):
    """One request, as metrics.reference tells it."""

    id = serializers.CharField()
    timestamp = serializers.DateTimeField(allow_null=True, help_text="When it was completed.")
    request_type = serializers.ChoiceField(reference.TYPES)
    model = serializers.CharField()
    endpoint_id = serializers.CharField(help_text="The nil UUID: no endpoint could be asked.")
    endpoint_name = serializers.CharField()
    endpoint_ip = serializers.CharField()
    client_ip = serializers.CharField(required=False)
    request_body = serializers.DictField(
        help_text="Only `model`. Stored bodies are at /api/requests/{id}/bodies, for administrators."
    )
    response_body = serializers.JSONField(allow_null=True, help_text="Always null.")
    duration_ms = serializers.IntegerField()
    status = RecordStatusSerializer()
    completed_at = serializers.DateTimeField(allow_null=True)
    input_tokens = serializers.IntegerField(required=False)
    output_tokens = serializers.IntegerField(required=False)
    total_tokens = serializers.IntegerField(required=False)
    api_key_id = serializers.CharField(required=False)


class RecordPageSerializer(serializers.Serializer[Any]):
    records = RecordSerializer(many=True)
    total_count = serializers.IntegerField()
    total_is_capped = serializers.BooleanField(
        help_text=f"There may be more than `total_count`, which are those among the newest {LOOK:,} "
        f"({LOOK_SCATTERED:,} of an endpoint, or of failed ones)."
    )
    page = serializers.IntegerField()
    per_page = serializers.IntegerField()


class Records(APIView):
    @extend_schema(
        operation_id="request_responses_list", parameters=[RecordPageQuerySerializer], responses=RecordPageSerializer
    )
    def get(self, request: Request) -> Response:
        """The history by numbered pages, newest first, as the reference has it: the newest 10,000 requests.
        /api/requests goes on, at the same cost, to the oldest.
        """
        query: Any = _checked(RecordPageQuerySerializer, request)
        skip = (query.number - 1) * query.size
        if skip >= LOOK:
            raise ValidationError({"page": [f"Pages end with the newest {LOOK:,} requests; /api/requests goes on."]})
        queries.flushed()
        found = queries.numbered_requests(query.wanted, skip, query.size)
        return Response(
            {
                "records": list(map(reference.record, found.rows)),
                "total_count": found.count,
                "total_is_capped": found.capped,
                "page": query.number,
                "per_page": query.size,
            }
        )


class Record(APIView):
    @extend_schema(operation_id="request_responses_retrieve", responses=RecordSerializer)
    def get(self, request: Request, request_id: uuid.UUID) -> Response:
        queries.flushed()
        row = queries.request_row(str(request_id))
        if row is None:
            raise NotFound(f"Record {request_id} not found")
        return Response(reference.record(row))


class RecordsExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[RecordExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): RecordSerializer(many=True)},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Everything wanted, newest first, of any size: with the reference's columns, or as an array. It ends as
        /api/requests/export does: what broke off has no end.
        """
        query: Any = _checked(RecordExportQuerySerializer, request)
        form = query.validated_data["format"]
        try:
            return answer(query.wanted, FORMATS[form], request.user.pk, file=f"request_history.{form}")
        except Full as full:
            raise Busy.of(full) from None


class RegisteredModelSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    size = serializers.IntegerField(allow_null=True, help_text="Always null: endpoints do not tell it.")
    description = serializers.CharField(allow_null=True, help_text="Always null.")
    required_memory = serializers.IntegerField(allow_null=True, help_text="Always null.")
    tags = serializers.ListField(child=serializers.CharField(), help_text="Always empty.")
    capabilities = serializers.ListField(child=serializers.CharField())
    status = serializers.ChoiceField(("available", "unavailable"), help_text="`available`: an endpoint is online.")

    def get_fields(self) -> dict[str, Any]:
        """`source` cannot be declared like the others: it is a name of DRF's own fields."""
        return {**super().get_fields(), "source": serializers.CharField(help_text="Always `endpoint`.")}


class RegisteredModels(APIView):
    permission_needed = "registry.read"

    @extend_schema(operation_id="models_list", responses=RegisteredModelSerializer(many=True))
    def get(self, request: Request) -> Response:
        """The models that endpoints have, by name, as the reference lists those that were registered with it."""
        return Response(
            [
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
                for row in catalogue.models(Moment.now(), catalogue.Wanted())
            ]
        )


def _checked(serializer: type[QuerySerializer], request: Request) -> QuerySerializer:
    query = serializer(data=request.query_params.dict())
    query.is_valid(raise_exception=True)
    return query


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/request-responses", Records, "api-records"),
    ("api/dashboard/request-responses/export", RecordsExport, "api-records-export"),
    ("api/dashboard/request-responses/<uuid:request_id>", Record, "api-record"),
    ("api/models", RegisteredModels, "api-models"),
]
