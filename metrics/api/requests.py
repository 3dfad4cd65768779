"""/api/requests: the request history, its bodies and exports."""

import uuid
from typing import Annotated, Any, TypedDict

from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Choices, Help
from metrics.api.common import NO_REQUEST, BadRequest, OneFormat, TooManyExports, checked
from metrics.api.request_serializers import ExportQuerySerializer, RequestPageQuerySerializer
from metrics.exports.downloads import STATES, ExportBoundReached, downloads, export_response
from metrics.queries.requests import bodies
from metrics.queries.requests.bodies import BodiesPayload
from metrics.queries.requests.filters import BadCursor
from metrics.queries.requests.lookups import RequestPagePayload, request_detail, request_page, request_page_payload
from metrics.queries.requests.payload import RequestDetailPayload
from metrics.queries.stored import flushed


class Requests(APIView):
    @extend_schema(parameters=[RequestPageQuerySerializer], responses=RequestPagePayload)
    def get(self, request: Request) -> Response:
        """List the history, newest first, without bodies. A filter without an index scans at most 10,000 requests per
        page: such a page may have few requests or none, and still a `next`.
        """
        query = checked(RequestPageQuerySerializer, request)
        values = query.validated_data
        flushed()
        try:
            page = request_page(query.request_filter, values.get("cursor"), values["limit"])
        except BadCursor:
            raise BadRequest(
                "cursor: this is not a value of `next`; leave it out to begin with the newest request"
            ) from None
        return Response(request_page_payload(page))


class RequestDetail(APIView):
    @extend_schema(operation_id="request_retrieve", responses=RequestDetailPayload)
    def get(self, request: Request, request_id: uuid.UUID) -> Response:
        """Return one request of the history, with the reason for each attempt, without bodies."""
        flushed()
        detail = request_detail(str(request_id))
        if detail is None:
            raise NotFound(NO_REQUEST)
        return Response(detail)


class RequestBodies(APIView):
    permission_needed = "session"  # an API key is not enough (access.permissions)

    @extend_schema(operation_id="request_bodies", responses=BodiesPayload)
    def get(self, request: Request, request_id: uuid.UUID) -> Response:
        """Return the stored bodies of a request, and the endpoints' error texts. Administrators may read them, and
        viewers with the permission. Each access is written to the admin's log.
        """
        if not bodies.may_view(request.user):
            raise PermissionDenied("This needs an administrator, or a viewer with the permission to see bodies.")
        flushed()
        stored = bodies.view_bodies(request.user, str(request_id))
        if stored is None:
            raise NotFound(NO_REQUEST)
        return Response(stored.payload)


class RequestsExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[ExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Export all requests that match, newest first: CSV with a header line, or one JSON object per line. At most
        ten exports run at once, and three of one user; above that, the status is 429 with `Retry-After`.
        """
        query = checked(ExportQuerySerializer, request)
        values = query.validated_data
        name = values.get("progress")
        try:
            return export_response(query.request_filter, values["format"], request.user.pk, name and str(name))
        except ExportBoundReached as full:
            raise TooManyExports.of(full) from None


class ExportProgressPayload(TypedDict):
    state: Annotated[str, Choices(STATES), Help("`failed` if the export broke off, or its client stalled.")]
    rows: Annotated[int, Help("Rows sent so far.")]
    bytes: Annotated[int, Help("Bytes sent so far.")]


class ExportProgress(APIView):
    @extend_schema(operation_id="request_export_progress", responses=ExportProgressPayload)
    def get(self, request: Request, name: uuid.UUID) -> Response:
        """Return the progress of an export that was requested with `progress`. The last hundred are available."""
        progress = downloads.progress(str(name))
        if progress is None:
            raise NotFound("None of the last exports has this id.")
        payload: ExportProgressPayload = {"state": progress.state, "rows": progress.rows, "bytes": progress.bytes}
        return Response(payload)


URLS: list[tuple[str, Any, str]] = [
    ("api/requests", Requests, "api-requests"),
    ("api/requests/export", RequestsExport, "api-requests-export"),
    ("api/requests/exports/<uuid:name>", ExportProgress, "api-requests-export-progress"),
    ("api/requests/<uuid:request_id>", RequestDetail, "api-request"),
    ("api/requests/<uuid:request_id>/bodies", RequestBodies, "api-request-bodies"),
]
