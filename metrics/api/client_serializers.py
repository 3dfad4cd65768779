"""Schemas of figures by client, and the parameters of their addresses."""

import zoneinfo
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from metrics.api.common import QuerySerializer
from metrics.queries.client_detail import BadClient, parse_client
from metrics.queries.clients import RANGES, SORTS

MAX_VALUE = 10_000  # characters of a setting


class RangeSerializer(QuerySerializer):
    range = serializers.ChoiceField(tuple(RANGES), default="24h", help_text="Period up to now, in whole hours.")

    @property
    def hours(self) -> int:
        return RANGES[self.validated_data["range"]]


class RankingQuerySerializer(RangeSerializer):
    page = serializers.IntegerField(default=1, min_value=1, max_value=10**9)
    per_page = serializers.IntegerField(default=20, min_value=1, max_value=1000)
    ip = serializers.CharField(required=False, help_text="Beginning of the client's address.")
    sort = serializers.ChoiceField(SORTS, default="requests", help_text="Order; the largest value comes first.")


class HeatmapQuerySerializer(QuerySerializer):
    ip = serializers.CharField(required=False, help_text="One client: an address or an IPv6 /64.")
    time_zone = serializers.CharField(default="UTC", help_text="A name of the IANA database, such as `Asia/Tokyo`.")

    def validate_time_zone(self, value: str) -> zoneinfo.ZoneInfo:
        try:
            return zoneinfo.ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise serializers.ValidationError(_("This time zone does not exist.")) from None

    def validate_ip(self, value: str) -> str:
        try:
            return parse_client(value)
        except BadClient:
            raise serializers.ValidationError("This is neither an IP address nor an IPv6 /64.") from None


class RankedSerializer(serializers.Serializer[Any]):
    ip = serializers.CharField(help_text="An IPv4 address, or a /64 of IPv6.")
    request_count = serializers.IntegerField(help_text="Includes failed and cancelled requests, not rejected ones.")
    failed_count = serializers.IntegerField()
    cancelled_count = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    last_seen = serializers.DateTimeField(allow_null=True)
    is_alert = serializers.BooleanField(
        help_text="True if the client sent at least `ip_alert_threshold` requests in this UTC hour or the previous one."
    )
    api_key_count = serializers.IntegerField(help_text="API keys used on the UTC days that the range touches.")


class RankingSerializer(serializers.Serializer[Any]):
    rankings = RankedSerializer(many=True)
    total_count = serializers.IntegerField()
    page = serializers.IntegerField()
    per_page = serializers.IntegerField()
    counted_since = serializers.DateTimeField(
        allow_null=True, help_text="Requests before this time are not counted by client."
    )
    addresses_since = serializers.DateTimeField(
        allow_null=True, help_text="Client addresses of requests before this time are deleted; null if none are."
    )


class ClientHourSerializer(serializers.Serializer[Any]):
    hour = serializers.CharField(help_text="`YYYY-MM-DDTHH:00:00`, UTC.")
    unique_ips = serializers.IntegerField()
    request_count = serializers.IntegerField()
    failed_count = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class HeatSerializer(serializers.Serializer[Any]):
    day_of_week = serializers.IntegerField(help_text="0 is Sunday.")
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
    """All-time sums; zeros for an unknown client."""

    total_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    first_seen = serializers.DateTimeField(allow_null=True, help_text="Beginning of the hour of the first request.")
    last_seen = serializers.DateTimeField(allow_null=True)
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    addresses = serializers.ListField(
        child=serializers.CharField(), help_text="Addresses of the client, the last used one first."
    )
    recent_requests = RecentSerializer(
        many=True, help_text="The last requests, at most 20, of the five addresses used last."
    )
    model_distribution = SharedModelSerializer(many=True)
    hourly_pattern = HourOfDaySerializer(many=True, help_text="Requests by hour of the day, UTC.")


class ClientKeySerializer(serializers.Serializer[Any]):
    api_key_id = serializers.UUIDField()
    name = serializers.CharField(allow_null=True)
    request_count = serializers.IntegerField()


class SettingSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(read_only=True)
    value = serializers.CharField(allow_blank=True, trim_whitespace=False, max_length=MAX_VALUE)
