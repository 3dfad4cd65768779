"""/api/dashboard, and the figures below /api/endpoints/{id}. Every figure is told by metrics.queries."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from django.contrib.auth import get_user
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import APIException, NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints import edits
from endpoints.api import entry_or_404
from endpoints.registry import registry
from gateway import bounds
from metrics import bodies, daily, live, queries, routes, uptime
from metrics.downloads import MOST_OF_ONE, RETRY_SECONDS, Full, answer, downloads
from metrics.endpoint_serializers import EditSerializer, FailureSerializer, HealthSerializer, ModelDaysSerializer
from metrics.events import hub
from metrics.history import BadCursor, json_time, told
from metrics.prometheus import OneFormat
from metrics.queries import Moment
from metrics.serializers import (
    BodiesSerializer,
    CancelledSerializer,
    DashboardEndpointSerializer,
    DayStatsSerializer,
    ExportProgressSerializer,
    ExportQuerySerializer,
    LiveSerializer,
    MinuteSerializer,
    ModelTpsSerializer,
    OverviewSerializer,
    RequestDetailSerializer,
    RequestPageQuerySerializer,
    RequestPageSerializer,
    RouteQuerySerializer,
    RouteSerializer,
    StatsSerializer,
)
from metrics.streams import MOST_STREAMS, LastingResponse, Place, Places
from metrics.teller import surroundings

MAX_DAYS = 365
SESSION_SECONDS = 15.0
NO_REQUEST = "The history has no request of this id; it may be older than what is kept."


class Overview(APIView):
    @extend_schema(responses=OverviewSerializer)
    def get(self, request: Request) -> Response:
        return Response(queries.overview())


class Stats(APIView):
    @extend_schema(responses=StatsSerializer)
    def get(self, request: Request) -> Response:
        return Response(queries.stats(Moment.now()))


class Endpoints(APIView):
    @extend_schema(responses=DashboardEndpointSerializer(many=True))
    def get(self, request: Request) -> Response:
        return Response(queries.endpoints(Moment.now()))


class History(APIView):
    @extend_schema(responses=MinuteSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Successes and failures of the last 60 minutes, oldest first."""
        return Response(queries.history(Moment.now().figures))


class TodayStats(APIView):
    @extend_schema(responses=DayStatsSerializer)
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        return Response(queries.today_stats(entry_or_404(endpoint_id).id, Moment.now()))


class DailyStats(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="1 to 365, 7 if not given")],
        responses=DayStatsSerializer(many=True),
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Days that have requests, oldest first."""
        entry = entry_or_404(endpoint_id)
        days = _days(request.query_params.get("days", "7"))
        queries.flushed()
        return Response(queries.daily_stats(entry.id, days, Moment.now().figures.date))


def _days(text: str) -> int:
    """Clamped as the reference does."""
    if not text.isascii() or not text.isdigit():
        raise BadRequest("days must be a whole number from 1 to 365")
    return min(MAX_DAYS, max(1, int(text[:9])))


class ModelStats(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="1 to 365: so many local days; all time if not given")],
        responses=ModelDaysSerializer(many=True),
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Busiest model first. Over `days`, with speeds, medians and all output tokens."""
        entry = entry_or_404(endpoint_id)
        days = _days(request.query_params["days"]) if "days" in request.query_params else None
        queries.flushed()
        if days is not None:
            return Response(daily.model_stats(entry.id, days, Moment.now().figures.date))
        return Response(queries.model_stats(entry.id))


class Health(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("days", int, description="1 to 30, 30 if not given")],
        responses=HealthSerializer,
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """What an endpoint was during the last local days, and the share of time it was online."""
        entry = entry_or_404(endpoint_id)
        text = request.query_params.get("days", str(uptime.MAX_DAYS))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= uptime.MAX_DAYS:
            raise BadRequest(f"days must be a whole number from 1 to {uptime.MAX_DAYS}")
        return Response(uptime.told(entry, int(text)))


class Failures(APIView):
    @extend_schema(responses=FailureSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """The last requests that an endpoint failed, newest first, at most eight: of the last 2,000 that it was the
        last to be asked for, and of the last 2,000 of all endpoints, which may have gone on to another one.
        """
        entry = entry_or_404(endpoint_id)
        queries.flushed()
        return Response(queries.failures(entry.id))


class Edits(APIView):
    @extend_schema(responses=EditSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        """Who changed what of an endpoint, in the admin or through the API, newest first, at most 500."""
        found: Any = edits.latest(entry_or_404(endpoint_id).id)
        return Response(EditSerializer(found, many=True).data)


class ModelTps(APIView):
    @extend_schema(responses=ModelTpsSerializer(many=True))
    def get(self, request: Request, endpoint_id: uuid.UUID) -> Response:
        return Response(queries.model_tps(entry_or_404(endpoint_id).id, Moment.now()))


class BadRequest(APIException):
    status_code = 400


class NotReady(APIException):
    status_code = 503
    default_detail = "No endpoints have been published to the gateways yet."


class Busy(APIException):
    """Sent with `Retry-After`."""

    status_code = 429
    wait = RETRY_SECONDS
    default_detail = "As many exports run as may at once; try again in a moment."

    @classmethod
    def of(cls, full: Full) -> "Busy":
        if full.bound is bounds.USER_EXPORTS:
            return cls(f"{MOST_OF_ONE} exports of yours run already, and no more may at once; try again in a moment.")
        return cls()


class Requests(APIView):
    @extend_schema(parameters=[RequestPageQuerySerializer], responses=RequestPageSerializer)
    def get(self, request: Request) -> Response:
        """The history, newest first, without bodies. What no index answers is looked for in at most 10,000 requests a
        page: such a page may have few requests or none, and still a `next`.
        """
        query = RequestPageQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        queries.flushed()
        try:
            page = queries.requests(query.wanted, query.validated_data.get("cursor"), query.validated_data["limit"])
        except BadCursor:
            raise BadRequest("cursor: not one that `next` gave; leave it out to begin with the newest") from None
        return Response(
            {
                "requests": [told(row, registry.name) for row in page.rows],
                "next": page.next.encode() if page.next else None,
                "previous": page.previous.encode() if page.previous else None,
                "looked_back_to": json_time(page.looked_back_to) if page.next else None,
            }
        )


class RequestDetail(APIView):
    @extend_schema(operation_id="request_retrieve", responses=RequestDetailSerializer)
    def get(self, request: Request, request_id: uuid.UUID) -> Response:
        """One request of the history, and why it went where it did. Without bodies."""
        queries.flushed()
        found = queries.request(str(request_id))
        if found is None:
            raise NotFound(NO_REQUEST)
        return Response(found)


class RequestBodies(APIView):
    permission_needed = "session"  # a key never (access.permissions)

    @extend_schema(operation_id="request_bodies", responses=BodiesSerializer)
    def get(self, request: Request, request_id: uuid.UUID) -> Response:
        """What was stored of what a request asked and got, and what endpoints said of their errors. For administrators,
        and viewers to whom they have granted it; each look goes into the admin's log.
        """
        if not bodies.may_see(request.user):
            raise PermissionDenied("Only for administrators, and viewers to whom they grant it.")
        queries.flushed()
        found = bodies.look(request.user, str(request_id))
        if found is None:
            raise NotFound(NO_REQUEST)
        errors = [{"attempt": it.attempt, "message": it.message} for it in found.errors]
        return Response({"request": found.request, "response": found.response, "endpoint_errors": errors})


class Route(APIView):
    @extend_schema(parameters=[RouteQuerySerializer], responses=RouteSerializer)
    def get(self, request: Request) -> Response:
        """Where a request for this model would go now, and why: every endpoint that has it."""
        query = RouteQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        model, kind = query.validated_data["model"], query.validated_data["kind"]
        known = surroundings.snapshot()
        if known is None:
            raise NotReady
        found = routes.candidates(known, model, kind, surroundings.in_flight(), surroundings.trials(), time.time())
        if not found:
            raise NotFound(f"The model {model!r} does not exist; GET /v1/models lists those there are.")
        return Response(routes.told(model, kind, found))


class Live(APIView):
    @extend_schema(responses=LiveSerializer)
    def get(self, request: Request) -> Response:
        """The requests that wait and that run now, oldest first: at most 200 of each of every worker, with how many
        there are. The first look takes up to a second; who looks again within ten gets what is half a second old at
        most.
        """
        return Response(live.look())


class LiveCancel(APIView):
    @extend_schema(request=None, responses={202: CancelledSerializer})
    def post(self, request: Request, request_id: uuid.UUID) -> Response:
        """End a request that is here now. Its client is told so: by an error (499 `request_cancelled`), or by an event
        at the end of its stream. Asking again within a minute changes nothing.
        """
        if not live.cancel(str(request_id)):
            raise NotFound("No request of this id is here now.")
        return Response({"id": str(request_id), "cancelled": True}, status=202)


class RequestsExport(APIView):
    content_negotiation_class = OneFormat

    @extend_schema(
        parameters=[ExportQuerySerializer],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Everything wanted, newest first, of any size: a header line and CSV, or a JSON object a line. At most ten run
        at once, and three of one user: then 429 with `Retry-After`.
        """
        query = ExportQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        name = query.validated_data.get("progress")
        try:
            return answer(query.wanted, query.validated_data["format"], request.user.pk, name and str(name))
        except Full as full:
            raise Busy.of(full) from None


class ExportProgress(APIView):
    @extend_schema(operation_id="request_export_progress", responses=ExportProgressSerializer)
    def get(self, request: Request, name: uuid.UUID) -> Response:
        """How far an export is that was asked for with `progress`: of the last hundred."""
        progress = downloads.progress(str(name))
        if progress is None:
            raise NotFound("No export has been asked for by this id lately.")
        return Response({"state": progress.state, "rows": progress.rows, "bytes": progress.bytes})


async def events(request: HttpRequest) -> HttpResponseBase:
    """The overview as server-sent events, for pages of a session.

    Whether its account still is what it was is looked at every 15 seconds. A logout only takes the cookie from the
    browser, whose other pages notice by themselves. A page that comes back tells its last event, by header or as
    `last_event_id`; with `once`, it gets what it does not know and no more: for where no stream comes through, and for
    users with as many streams as one may have, of which `X-RouterDash-Streams: full` tells.
    """
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"error": "Log in first."}, status=401)
    if user.must_change_password:
        return JsonResponse({"error": "password_change_required"}, status=403)
    last_id = request.headers.get("Last-Event-ID") or request.GET.get("last_event_id", "")
    kind = "text/event-stream"
    response: HttpResponseBase
    if "once" in request.GET:
        response = HttpResponse(await hub.missed(last_id), content_type=kind)
        response.headers["X-RouterDash-Streams"] = "full" if open_streams.is_full(str(user.pk)) else "free"
    elif (place := open_streams.take(str(user.pk))) is None:
        surroundings.bounds.hit(bounds.EVENT_STREAMS)
        said = f"You have {open_streams.most} live pages open, and no more may be; ask with `once` instead."
        return JsonResponse({"error": said}, status=429, headers={"Retry-After": str(RETRY_SECONDS)})
    else:
        response = LastingResponse(_while_allowed(request, last_id, place), content_type=kind)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


open_streams = Places(MOST_STREAMS)


async def _while_allowed(request: HttpRequest, last_id: str, place: Place) -> AsyncIterator[bytes]:
    looked_at = 0.0
    try:
        async for event in hub.listen(last_id):
            now = time.monotonic()
            if now - looked_at > SESSION_SECONDS:
                looked_at = now
                if not await asyncio.to_thread(_still_logged_in, request):
                    return
            yield event
    finally:
        place.leave()


def _still_logged_in(request: HttpRequest) -> bool:
    """Since the page was opened, the account may be gone, its password changed, or a change of it asked for."""
    try:
        user = get_user(request)
        return bool(user.is_authenticated and not user.must_change_password)
    finally:
        close_old_connections()  # of a thread of the pool, where nobody else would


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/overview", Overview, "api-overview"),
    ("api/dashboard/stats", Stats, "api-stats"),
    ("api/dashboard/endpoints", Endpoints, "api-dashboard-endpoints"),
    ("api/dashboard/request-history", History, "api-request-history"),
    ("api/requests", Requests, "api-requests"),
    ("api/requests/export", RequestsExport, "api-requests-export"),
    ("api/requests/exports/<uuid:name>", ExportProgress, "api-requests-export-progress"),
    ("api/requests/<uuid:request_id>", RequestDetail, "api-request"),
    ("api/requests/<uuid:request_id>/bodies", RequestBodies, "api-request-bodies"),
    ("api/route", Route, "api-route"),
    ("api/live", Live, "api-live"),
    ("api/live/<uuid:request_id>/cancel", LiveCancel, "api-live-cancel"),
    ("api/endpoints/<uuid:endpoint_id>/today-stats", TodayStats, "api-today-stats"),
    ("api/endpoints/<uuid:endpoint_id>/daily-stats", DailyStats, "api-daily-stats"),
    ("api/endpoints/<uuid:endpoint_id>/model-stats", ModelStats, "api-model-stats"),
    ("api/endpoints/<uuid:endpoint_id>/model-tps", ModelTps, "api-model-tps"),
    ("api/endpoints/<uuid:endpoint_id>/health", Health, "api-endpoint-health"),
    ("api/endpoints/<uuid:endpoint_id>/failures", Failures, "api-endpoint-failures"),
    ("api/endpoints/<uuid:endpoint_id>/edits", Edits, "api-endpoint-edits"),
]
