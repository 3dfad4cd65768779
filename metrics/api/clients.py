"""Figures by client, and the threshold from which a client is marked."""

from typing import Annotated, Any, TypedDict

from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Help, TimeText
from metrics.api.client_serializers import (
    HeatmapQuerySerializer,
    RangeSerializer,
    RankingQuerySerializer,
    SettingSerializer,
)
from metrics.api.common import checked
from metrics.queries import clients
from metrics.queries.alert_threshold import THRESHOLD, parse_threshold, shown_setting
from metrics.queries.client_detail import (
    BadClient,
    ClientDetailPayload,
    ClientKeyPayload,
    client_detail,
    client_keys,
    client_summary,
    parse_client,
)
from metrics.queries.client_hours import (
    HEATMAP_HOURS,
    ClientHourPayload,
    HeatPayload,
    SharedModelPayload,
    client_hours,
    client_models,
)
from metrics.queries.clients import RankedPayload
from metrics.queries.stored import flushed
from metrics.storage.settings_rows import OWN_KEYS, store_setting
from metrics.times import json_time

SESSION = "session"  # access.permissions.SESSION, which this app does not import
LOGIN: Any = [{"cookieAuth": []}]  # in the schema, because an API key is not enough


class RankingPayload(TypedDict):
    rankings: list[RankedPayload]
    total_count: int
    page: int
    per_page: int
    counted_since: Annotated[TimeText | None, Help("Requests before this time are not counted by client.")]
    addresses_since: Annotated[
        TimeText | None, Help("Client addresses of requests before this time are deleted; null if none are.")
    ]


class ClientRankings(APIView):
    @extend_schema(parameters=[RankingQuerySerializer], responses=RankingPayload)
    def get(self, request: Request) -> Response:
        """Rank clients by their requests, failures, tokens or last request."""
        query = checked(RankingQuerySerializer, request)
        values = query.validated_data
        flushed()
        ranking = clients.ranking(query.hours, values["sort"]).beginning(values.get("ip", ""))
        first = (values["page"] - 1) * values["per_page"]
        payload: RankingPayload = {
            "rankings": ranking.payloads(first, first + values["per_page"]),
            "total_count": len(ranking),
            "page": values["page"],
            "per_page": values["per_page"],
            "counted_since": json_time(clients.counted_since()),
            "addresses_since": json_time(clients.addresses_since()),
        }
        return Response(payload)


class AllClientsTimeline(APIView):
    @extend_schema(parameters=[RangeSerializer], responses=list[ClientHourPayload])
    def get(self, request: Request) -> Response:
        """Return requests and tokens of each hour, oldest first, up to the present one."""
        query = checked(RangeSerializer, request)
        flushed()
        return Response(client_hours(query.hours).rows)


class RequestedModels(APIView):
    @extend_schema(parameters=[RangeSerializer], responses=list[SharedModelPayload])
    def get(self, request: Request) -> Response:
        """List the requested models, the most requests first, over the UTC days that the range touches."""
        query = checked(RangeSerializer, request)
        flushed()
        return Response(client_models(query.hours))


class Heatmap(APIView):
    @extend_schema(parameters=[HeatmapQuerySerializer], responses=list[HeatPayload])
    def get(self, request: Request) -> Response:
        """Return the requests of the last seven days by day of the week and hour."""
        values = checked(HeatmapQuerySerializer, request).validated_data
        flushed()
        addresses = client_summary(values["ip"]).addresses if "ip" in values else None
        return Response(client_hours(HEATMAP_HOURS, addresses).heatmap(values["time_zone"]))


class ClientDetail(APIView):
    @extend_schema(responses=ClientDetailPayload)
    def get(self, request: Request, client: str) -> Response:
        """Return one client. A /64 is written as `2001:db8::/64`."""
        name = _client(client)
        flushed()
        return Response(client_detail(name))


class OneClientTimeline(APIView):
    @extend_schema(operation_id="client_timeline", parameters=[RangeSerializer], responses=list[ClientHourPayload])
    def get(self, request: Request, client: str) -> Response:
        """Return each hour of one client, oldest first, up to the present one."""
        name = _client(client)
        query = checked(RangeSerializer, request)
        flushed()
        return Response(client_hours(query.hours, client_summary(name).addresses).rows)


class ClientKeys(APIView):
    @extend_schema(responses=list[ClientKeyPayload])
    def get(self, request: Request, client: str) -> Response:
        """List the API keys that one client has used at any time."""
        name = _client(client)
        flushed()
        return Response(client_keys(client_summary(name).addresses))


class StoredSetting(APIView):
    """A setting that any session may read, and an administrator's may write; an API key may do neither."""

    permission_needed = SESSION

    @extend_schema(auth=LOGIN, responses=SettingSerializer)
    def get(self, request: Request, key: str) -> Response:
        """Return a setting. Only `ip_alert_threshold` has an effect; other settings are empty or come from llmlb."""
        return Response({"key": key, "value": shown_setting(key)})

    @extend_schema(auth=LOGIN, request=SettingSerializer, responses=SettingSerializer)
    def put(self, request: Request, key: str) -> Response:
        if not request.user.is_staff:
            raise PermissionDenied("This needs an administrator.")
        serializer = SettingSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        value = serializer.validated_data["value"]
        if key in OWN_KEYS:
            raise ValidationError(f"{key} is reserved for RouterDash")
        if key == THRESHOLD:
            limit = parse_threshold(value)
            if limit is None:
                raise ValidationError(f"{THRESHOLD} must be an integer >= 1")
            value = str(limit)
        store_setting(key, value)
        return Response({"key": key, "value": value})


def _client(text: str) -> str:
    try:
        return parse_client(text)
    except BadClient:
        raise NotFound("This is neither an IP address nor an IPv6 /64.") from None


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/clients", ClientRankings, "api-clients"),
    ("api/dashboard/clients/timeline", AllClientsTimeline, "api-clients-timeline"),
    ("api/dashboard/clients/models", RequestedModels, "api-clients-models"),
    ("api/dashboard/clients/heatmap", Heatmap, "api-clients-heatmap"),
    ("api/dashboard/clients/<path:client>/detail", ClientDetail, "api-client-detail"),
    ("api/dashboard/clients/<path:client>/timeline", OneClientTimeline, "api-client-timeline"),
    ("api/dashboard/clients/<path:client>/api-keys", ClientKeys, "api-client-keys"),
    ("api/dashboard/settings/<slug:key>", StoredSetting, "api-setting"),
]
