"""Parameters of figures by client."""

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


class SettingSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(read_only=True)
    value = serializers.CharField(allow_blank=True, trim_whitespace=False, max_length=MAX_VALUE)
