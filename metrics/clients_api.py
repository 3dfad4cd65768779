"""Figures by client, and the threshold that has one marked. Every figure is told by metrics.clients."""

import zoneinfo
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metrics import clients, queries
from metrics.history import json_time
from metrics.serializers import QuerySerializer

SESSION = "session"  # access.permissions.SESSION, which this app does not import
LOGIN: Any = [{"cookieAuth": []}]  # in the schema: a key does not do
MAX_VALUE = 10_000  # characters of a setting


class RangeSerializer(QuerySerializer):
    range = serializers.ChoiceField(tuple(clients.RANGES), default="24h", help_text="Up to now, in whole hours.")

    @property
    def hours(self) -> int:
        return clients.RANGES[self.validated_data["range"]]


class RankingQuerySerializer(RangeSerializer):
    page = serializers.IntegerField(default=1, min_value=1, max_value=10**9)
    per_page = serializers.IntegerField(default=20, min_value=1, max_value=1000)
    ip = serializers.CharField(required=False, help_text="How the client's address begins.")
    sort = serializers.ChoiceField(clients.SORTS, default="requests", help_text="The greatest first.")


class HeatmapQuerySerializer(QuerySerializer):
    ip = serializers.CharField(required=False, help_text="One client: an address or an IPv6 /64.")
    time_zone = serializers.CharField(default="UTC", help_text="A name of the IANA database, such as `Asia/Tokyo`.")

    def validate_time_zone(self, value: str) -> zoneinfo.ZoneInfo:
        try:
            return zoneinfo.ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise serializers.ValidationError("There is no such time zone.") from None

    def validate_ip(self, value: str) -> str:
        try:
            return clients.named(value)
        except clients.BadClient:
            raise serializers.ValidationError("Neither an address nor an IPv6 /64.") from None


class RankedSerializer(serializers.Serializer[Any]):
    ip = serializers.CharField(help_text="An IPv4 address, or a /64 of IPv6.")
    request_count = serializers.IntegerField(help_text="With failed and cancelled ones, without refused ones.")
    failed_count = serializers.IntegerField()
    cancelled_count = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    last_seen = serializers.DateTimeField(allow_null=True)
    is_alert = serializers.BooleanField(
        help_text="It sent as many as `ip_alert_threshold` in the present hour (of the clock, UTC) or the one before."
    )
    api_key_count = serializers.IntegerField(help_text="On those days, whole ones of UTC, that the range touches.")


class RankingSerializer(serializers.Serializer[Any]):
    rankings = RankedSerializer(many=True)
    total_count = serializers.IntegerField()
    page = serializers.IntegerField()
    per_page = serializers.IntegerField()
    counted_since = serializers.DateTimeField(allow_null=True, help_text="Requests before are not counted by client.")
    addresses_since = serializers.DateTimeField(
        allow_null=True, help_text="Addresses of requests before are forgotten: no client has these. Null: none are."
    )


class ClientHourSerializer(serializers.Serializer[Any]):
    hour = serializers.CharField(help_text="`YYYY-MM-DDTHH:00:00`, UTC.")
    unique_ips = serializers.IntegerField()
    request_count = serializers.IntegerField()
    failed_count = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class HeatSerializer(serializers.Serializer[Any]):
    day_of_week = serializers.IntegerField(help_text="0: Sunday.")
    hour = serializers.IntegerField()
    count = serializers.IntegerField()


class SharedModelSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    request_count = serializers.IntegerField()
    percentage = serializers.FloatField()


class HourOfDaySerializer(serializers.Serializer[Any]):
    hour = serializers.IntegerField()
    count = serializers.IntegerField()


class RecentSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    timestamp = serializers.DateTimeField(allow_null=True)
    model = serializers.CharField()
    status = serializers.CharField(help_text="`success` or `error`.")
    duration_ms = serializers.FloatField()


class ClientDetailSerializer(serializers.Serializer[Any]):
    """Over all time that was counted; of a client that nobody knows, zeros."""

    total_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    first_seen = serializers.DateTimeField(allow_null=True, help_text="The hour.")
    last_seen = serializers.DateTimeField(allow_null=True)
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    addresses = serializers.ListField(child=serializers.CharField(), help_text="The one that was seen last first.")
    recent_requests = RecentSerializer(many=True, help_text="At most 20, of the five addresses that were seen last.")
    model_distribution = SharedModelSerializer(many=True)
    hourly_pattern = HourOfDaySerializer(many=True, help_text="By hour of the day, UTC.")


class ClientKeySerializer(serializers.Serializer[Any]):
    api_key_id = serializers.UUIDField()
    name = serializers.CharField(allow_null=True)
    request_count = serializers.IntegerField()


class SettingSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(read_only=True)
    value = serializers.CharField(allow_blank=True, trim_whitespace=False, max_length=MAX_VALUE)


class Clients(APIView):
    @extend_schema(parameters=[RankingQuerySerializer], responses=RankingSerializer)
    def get(self, request: Request) -> Response:
        """Clients by their requests."""
        query = _checked(RankingQuerySerializer, request)
        given = query.validated_data
        queries.flushed()
        found = clients.ranking(query.hours, given["sort"]).beginning(given.get("ip", ""))
        first = (given["page"] - 1) * given["per_page"]
        return Response(
            {
                "rankings": found.told(first, first + given["per_page"]),
                "total_count": len(found),
                "page": given["page"],
                "per_page": given["per_page"],
                "counted_since": json_time(clients.counted_since()),
                "addresses_since": json_time(clients.addresses_since()),
            }
        )


class Timeline(APIView):
    @extend_schema(parameters=[RangeSerializer], responses=ClientHourSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Each hour, oldest first, up to the present one."""
        query = _checked(RangeSerializer, request)
        queries.flushed()
        return Response(clients.by_hour(query.hours).rows)


class Models(APIView):
    @extend_schema(parameters=[RangeSerializer], responses=SharedModelSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What clients asked for, the most requests first: on those days, whole ones of UTC, that the range touches."""
        query = _checked(RangeSerializer, request)
        queries.flushed()
        return Response(clients.models(query.hours))


class Heatmap(APIView):
    @extend_schema(parameters=[HeatmapQuerySerializer], responses=HeatSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Requests of the last seven days, by day of the week and hour."""
        given = _checked(HeatmapQuerySerializer, request).validated_data
        queries.flushed()
        addresses = clients.seen(given["ip"]).addresses if "ip" in given else None
        return Response(clients.by_hour(clients.HEATMAP_HOURS, addresses).heatmap(given["time_zone"]))


class Detail(APIView):
    @extend_schema(responses=ClientDetailSerializer)
    def get(self, request: Request, client: str) -> Response:
        """One client; a /64 as `2001:db8::/64`."""
        name = _client(client)
        queries.flushed()
        seen = clients.seen(name)
        recent = [
            {
                "id": it["id"],
                "timestamp": it["completed_at"],
                "model": it["model"],
                "status": "success" if it["outcome"] == "ok" else "error",
                "duration_ms": it["duration_ms"],
            }
            for it in clients.recent(seen.addresses)
        ]
        return Response(
            {
                **seen.told,
                "recent_requests": recent,
                "model_distribution": clients.models(None, seen.addresses),
                "hourly_pattern": clients.hourly_pattern(seen.addresses),
            }
        )


class ClientTimeline(APIView):
    @extend_schema(
        operation_id="client_timeline", parameters=[RangeSerializer], responses=ClientHourSerializer(many=True)
    )
    def get(self, request: Request, client: str) -> Response:
        """Each hour of one client, oldest first, up to the present one."""
        name = _client(client)
        query = _checked(RangeSerializer, request)
        queries.flushed()
        return Response(clients.by_hour(query.hours, clients.seen(name).addresses).rows)


class Keys(APIView):
    @extend_schema(responses=ClientKeySerializer(many=True))
    def get(self, request: Request, client: str) -> Response:
        """The API keys that one client ever used."""
        name = _client(client)
        queries.flushed()
        return Response(clients.keys(clients.seen(name).addresses))


class Settings(APIView):
    """Any session reads, an administrator's writes; a key does neither."""

    permission_needed = SESSION

    @extend_schema(auth=LOGIN, responses=SettingSerializer)
    def get(self, request: Request, key: str) -> Response:
        """`ip_alert_threshold` is the one that means something; others are empty, or what the reference left."""
        return Response({"key": key, "value": clients.setting(key)})

    @extend_schema(auth=LOGIN, request=SettingSerializer, responses=SettingSerializer)
    def put(self, request: Request, key: str) -> Response:
        if not request.user.is_staff:
            raise PermissionDenied("Administrators only.")
        given = SettingSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        value = given.validated_data["value"]
        if key in clients.OURS:
            raise ValidationError(f"{key} is written by RouterDash itself")
        if key == clients.THRESHOLD:
            limit = clients.whole(value)
            if limit is None:
                raise ValidationError(f"{clients.THRESHOLD} must be an integer >= 1")
            value = str(limit)
        clients.store_setting(key, value)
        return Response({"key": key, "value": value})


def _client(text: str) -> str:
    try:
        return clients.named(text)
    except clients.BadClient:
        raise NotFound("Neither an address nor an IPv6 /64.") from None


def _checked(serializer: type[QuerySerializer], request: Request) -> Any:
    query = serializer(data=request.query_params.dict())
    query.is_valid(raise_exception=True)
    return query


URLS: list[tuple[str, Any, str]] = [
    ("api/dashboard/clients", Clients, "api-clients"),
    ("api/dashboard/clients/timeline", Timeline, "api-clients-timeline"),
    ("api/dashboard/clients/models", Models, "api-clients-models"),
    ("api/dashboard/clients/heatmap", Heatmap, "api-clients-heatmap"),
    ("api/dashboard/clients/<path:client>/detail", Detail, "api-client-detail"),
    ("api/dashboard/clients/<path:client>/timeline", ClientTimeline, "api-client-timeline"),
    ("api/dashboard/clients/<path:client>/api-keys", Keys, "api-client-keys"),
    ("api/dashboard/settings/<slug:key>", Settings, "api-setting"),
]
