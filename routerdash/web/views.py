"""Health, readiness, version, metrics, and the error for clients with a wrong base URL."""

import time
from typing import TypedDict

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.permissions import PUBLIC
from endpoints.openapi.descriptions import extend_schema
from gateway.base.errors import NOT_FOUND, Refusal
from metrics.api.common import OneFormat
from metrics.memory.runtime import runtime
from metrics.pages.models import models as models_page
from metrics.queries.figures import Moment
from routerdash import __version__


def health(request: HttpRequest) -> JsonResponse:
    """Return 200 while the process lives; the status is `degraded`, with reasons, if something is missing."""
    reasons = _reasons()
    return JsonResponse({"status": "degraded" if reasons else "ok", "reasons": reasons, "version": __version__})


def ready(request: HttpRequest) -> JsonResponse:
    """Return 200 once requests to /v1 are served, even without the database, else 503. An unavailable database is no
    reason to route clients elsewhere.
    """
    serving = runtime.installation.is_serving()
    return JsonResponse({"ready": serving, "reasons": _reasons()}, status=200 if serving else 503)


def _reasons() -> list[str]:
    """Return the reasons for `degraded`. They are public: database errors name hosts and users and are only logged."""
    reasons: list[str] = []
    writer, waiting = runtime.installation.writer, runtime.follower.waiting
    if writer is not None and writer.backlog.error is not None:
        reasons.append(f"the database cannot be read or written, see the log; {waiting} records wait for it")
    elif writer is not None and writer.backlog.late_since(time.time()):
        reasons.append(f"the database is behind; {waiting} records wait for it")
    if unrecorded := runtime.installation.unrecorded(lost=False):
        reasons.append(f"the journal cannot be written, see the log; {unrecorded} requests were served unrecorded")
    if runtime.installation.publication_failure() is not None:
        reasons.append("changes of endpoints and keys cannot be published to the gateways, see the log")
    if not runtime.trackers.seeded:
        reasons.append("figures are not restored from the database yet")
    elif runtime.trackers.state.missing:
        reasons.append(f"figures are not restored ({', '.join(runtime.trackers.state.missing)}), see the log")
    if runtime.installation.is_outdated():
        reasons.append("endpoints, users and keys are those of a while ago: they cannot be read, see the log")
    return reasons


@csrf_exempt
def beside_v1(request: HttpRequest) -> HttpResponse:
    """Return an error that client libraries show, for clients whose base URL lacks `/v1`."""
    refusal = Refusal(
        404, NOT_FOUND, f"The API is below /v1: use {request.scheme}://{request.get_host()}/v1 as base URL."
    )
    return HttpResponse(refusal.body(), status=refusal.status, content_type="application/json")


@csrf_exempt
def models(request: HttpRequest) -> HttpResponseBase:
    """Render the page. A request with an API key, or with a method other than GET and HEAD, is meant for the API."""
    meant_the_api = "Authorization" in request.headers or "X-API-Key" in request.headers
    if meant_the_api or request.method not in ("GET", "HEAD"):
        return beside_v1(request)
    return models_page(request)


class VersionPayload(TypedDict):
    version: str


class Version(APIView):
    permission_needed = PUBLIC
    authentication_classes = ()

    @extend_schema(responses=VersionPayload)
    def get(self, request: Request) -> Response:
        payload: VersionPayload = {"version": __version__}
        return Response(payload)


class PrometheusMetrics(APIView):
    permission_needed = "metrics.read"
    content_negotiation_class = OneFormat
    http_method_names = ("get", "head")

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request) -> HttpResponse:
        """Prometheus text, format 0.0.4."""
        # Not at the start: its library takes 1 MiB, and few installations are scraped.
        from metrics.api import prometheus

        return HttpResponse(prometheus.text(Moment.now()), content_type=prometheus.CONTENT_TYPE)
