"""Serializers of own hardware. Amounts are decimal numbers in text, so that they stay exact."""

from typing import Any

from rest_framework import serializers

from endpoints.text import validate_line
from metrics.api.prices.serializers import PriceAmountField


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


class HardwareLineSerializer(serializers.Serializer[Any]):
    """Requests of one model, or the idle time of the endpoint."""

    model = serializers.CharField(allow_null=True, help_text="Requested name; null: idle time.")
    requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Part of the input tokens.")
    hours = serializers.FloatField(help_text="Sum of the times of the requests, or the idle time.")
    cost = serializers.CharField(help_text="Decimal text, exact to 10⁻⁹ of the currency.")


class HardwareComparisonSerializer(serializers.Serializer[Any]):
    """What the same requests and tokens cost at the price of another model."""

    model = serializers.CharField()
    cloud = serializers.CharField(help_text="Type of endpoint; empty: any.")
    price_id = serializers.IntegerField(help_text="Row of the price book; negative: of the catalogue.")
    currency = serializers.CharField()
    cost = serializers.CharField()


class HardwareMonthRowSerializer(serializers.Serializer[Any]):
    """One endpoint, and one currency of its rates. The lines add up to `cost`."""

    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True, help_text="Null: deleted.")
    currency = serializers.CharField()
    hours = serializers.FloatField(help_text="In which a rate counted.")
    busy_hours = serializers.FloatField(help_text="In which at least one request ran.")
    requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Part of the input tokens.")
    cost = serializers.CharField(help_text="Decimal text, idle time included.")
    idle_cost = serializers.CharField()
    provisional_hours = serializers.FloatField(help_text="Part of `hours` that is not counted yet.")
    provisional_cost = serializers.CharField(help_text="Part of `cost` that may still change.")
    cost_per_million_tokens = serializers.CharField(
        allow_null=True, help_text="Of input and output; idle time included. Null without tokens."
    )
    cost_per_request = serializers.CharField(allow_null=True, help_text="Idle time included. Null without requests.")
    lines = HardwareLineSerializer(many=True)
    comparison = HardwareComparisonSerializer(allow_null=True)


class HardwareMonthSerializer(serializers.Serializer[Any]):
    month = serializers.CharField()
    rows = HardwareMonthRowSerializer(many=True)
    is_whole = serializers.BooleanField(help_text="False: hours that are over are still missing.")
