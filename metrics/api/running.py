"""/api/live and /api/route: requests that run now, and where a request would go now."""

import uuid
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metrics.api.common import checked
from metrics.api.routing_serializers import CancelledSerializer, LiveSerializer, RouteQuerySerializer, RouteSerializer
from metrics.memory.runtime import runtime
from metrics.queries import running_requests
from metrics.queries.routing.current_route import current_route


class NotReady(APIException):
    status_code = 503
    default_detail = "No endpoints have been published to the gateways yet."


class RoutePreview(APIView):
    @extend_schema(parameters=[RouteQuerySerializer], responses=RouteSerializer)
    def get(self, request: Request) -> Response:
        """Return where a request for this model would go now, and why, with all endpoints that have the model."""
        values = checked(RouteQuerySerializer, request).validated_data
        if not runtime.installation.is_serving():
            raise NotReady
        preview = current_route(
            values["model"], values["kind"], values.get("prompt_tokens"), values.get("output_tokens")
        )
        if preview is None:
            raise NotFound(f"The model {values['model']!r} does not exist; GET /v1/models lists the models.")
        return Response(preview)


class RunningRequests(APIView):
    @extend_schema(responses=LiveSerializer)
    def get(self, request: Request) -> Response:
        """List queued and running requests, oldest first: at most 200 of each per worker, with their totals. The first
        response takes up to a second. Further ones within ten seconds are at most half a second old.
        """
        return Response(running_requests.read_running())


class RequestCancel(APIView):
    @extend_schema(request=None, responses={202: CancelledSerializer})
    def post(self, request: Request, request_id: uuid.UUID) -> Response:
        """Cancel a queued or running request. Its client gets an error (499 `request_cancelled`), or an event at the
        end of its stream. A second call within a minute changes nothing.
        """
        if not running_requests.cancel(str(request_id)):
            raise NotFound("No queued or running request has this id.")
        return Response({"id": str(request_id), "cancelled": True}, status=202)


URLS: list[tuple[str, Any, str]] = [
    ("api/route", RoutePreview, "api-route"),
    ("api/live", RunningRequests, "api-live"),
    ("api/live/<uuid:request_id>/cancel", RequestCancel, "api-live-cancel"),
]
