"""Serializers of own hardware. Amounts are decimal numbers in text, so that they stay exact."""

from typing import Any

from rest_framework import serializers

from endpoints.text import validate_line
from metrics.costs.serializers import PriceAmountField


def _amount(text: str) -> PriceAmountField:
    return PriceAmountField(required=False, allow_null=True, default=None, help_text=text)


class HardwareRateSerializer(serializers.Serializer[Any]):
    """What an endpoint of own hardware costs: by the hour, by its energy, or both."""

    id = serializers.IntegerField(read_only=True)
    endpoint_id = serializers.UUIDField()
    valid_from = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="Included. Without it: the next full minute."
    )
    valid_until = serializers.DateTimeField(
        required=False,
        allow_null=True,
        default=None,
        help_text="Excluded. Null: until the endpoint's next rate counts.",
    )
    currency = serializers.CharField(max_length=10, help_text="ISO 4217 code, such as USD.")
    per_hour = _amount("Per hour, whether the endpoint is idle or busy.")
    idle_watts = _amount("Watts while no request runs.")
    busy_watts = _amount("Watts while at least one request runs.")
    per_kwh = _amount("Price of energy, per kWh.")
    note = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=2000, validators=[validate_line]
    )
    created_at = serializers.DateTimeField(read_only=True)


class HardwareRateListSerializer(serializers.Serializer[Any]):
    rates = HardwareRateSerializer(many=True)
    total = serializers.IntegerField()
