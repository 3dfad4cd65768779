"""Is it alive, may it be asked, which release is it."""

import time

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.permissions import ANYBODY
from gateway.errors import NOT_FOUND, Refusal
from metrics.pages.models import models as models_page
from metrics.teller import folder, surroundings, trackers
from routerdash import __version__


def health(request: HttpRequest) -> JsonResponse:
    """Always 200 while the process lives; `degraded` with its reasons when something is missing."""
    reasons = _reasons()
    return JsonResponse({"status": "degraded" if reasons else "ok", "reasons": reasons, "version": __version__})


def ready(request: HttpRequest) -> JsonResponse:
    """200 once requests to /v1 are served, be it from the last snapshot: a database that is away is no reason to send
    nobody here.
    """
    serving = surroundings.serving()
    return JsonResponse({"ready": serving, "reasons": _reasons()}, status=200 if serving else 503)


def _reasons() -> list[str]:
    """For anybody to read: what a database's driver says of hosts and users stays in the log."""
    reasons: list[str] = []
    writer = surroundings.writer
    if writer is not None and writer.backlog.error is not None:
        reasons.append(f"the database cannot be read or written, see the log; {folder.waiting} records wait for it")
    elif writer is not None and writer.backlog.late_since(time.time()):
        reasons.append(f"the database is behind; {folder.waiting} records wait for it")
    if unrecorded := surroundings.unrecorded():
        reasons.append(f"the journal cannot be written, see the log; {unrecorded} requests were served unrecorded")
    if not trackers.seeded:
        reasons.append("figures are not restored from the database yet")
    elif trackers.state.missing:
        reasons.append(f"figures are not restored ({', '.join(trackers.state.missing)}), see the log")
    if surroundings.outdated():
        reasons.append("endpoints, users and keys are those of a while ago: they cannot be read, see the log")
    return reasons


@csrf_exempt
def beside_v1(request: HttpRequest) -> HttpResponse:
    """For clients whose base URL lacks `/v1`: an error that their library shows."""
    refusal = Refusal(
        404, NOT_FOUND, f"The API is below /v1: use {request.scheme}://{request.get_host()}/v1 as base URL."
    )
    return HttpResponse(refusal.body(), status=refusal.status, content_type="application/json")


@csrf_exempt
def models(request: HttpRequest) -> HttpResponseBase:
    """The page for people; who shows a key, or posts, meant the API."""
    meant_the_api = "Authorization" in request.headers or "X-API-Key" in request.headers
    if meant_the_api or request.method not in ("GET", "HEAD"):
        return beside_v1(request)
    return models_page(request)


class VersionSerializer(serializers.Serializer[None]):
    version = serializers.CharField()


class Version(APIView):
    permission_needed = ANYBODY
    authentication_classes = ()

    @extend_schema(responses=VersionSerializer)
    def get(self, request: Request) -> Response:
        return Response({"version": __version__})
