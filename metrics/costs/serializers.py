"""Serializers of prices and currency rates. Amounts are decimal numbers in text, so that they stay exact."""

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from endpoints.openapi.payload_schemas import serializer_of
from endpoints.text import validate_line
from gateway.prices.amounts import text_of
from gateway.registry.prices import EVERY_DAY, Price
from metrics.costs.amounts import parse_amount
from metrics.costs.in_effect import UnpricedModelPayload
from metrics.models import CurrencyRate, PriceRow

MAX_TEXT = 256
TIME_HELP = "Minute of the day, UTC; both ends or neither."


@extend_schema_field({"type": "string", "format": "decimal", "example": "2.5"})
class PriceAmountField(serializers.Field[Any, Any, str, Any]):
    """Amount in units of the currency, with at most nine decimal places."""

    def to_representation(self, value: int) -> str:
        return text_of(value)

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, str | int | float):
            data = ""
        try:
            return parse_amount(str(data))
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None


def _amount(text: str) -> PriceAmountField:
    return PriceAmountField(required=False, allow_null=True, default=None, help_text=text)


class PriceAmountsSerializer(serializers.Serializer[Any]):
    """Amounts of a price, in its currency. Null: no price, or that of the kind of tokens that it is part of."""

    input = _amount("Per million tokens of the prompt.")
    cached = _amount("Per million tokens read from a cache; null: as `input`.")
    write_short = _amount("Per million tokens written to a cache; null: as `input`.")
    write_long = _amount("Per million tokens written to a long-lived cache; null: as `write_short`.")
    output = _amount("Per million tokens.")
    reasoning = _amount("Per million tokens; null: as `output`.")
    request = _amount("Per thousand requests.")
    image = _amount("Per thousand images.")
    minute = _amount("Per thousand minutes of audio.")


class PriceSerializer(PriceAmountsSerializer):
    """A row of the price book."""

    id = serializers.IntegerField(read_only=True)
    pattern = serializers.CharField(
        trim_whitespace=False,
        max_length=MAX_TEXT,
        help_text="Served model or its canonical name. One * stands for any characters.",
    )
    endpoint_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Only this endpoint; null means any."
    )
    endpoint_type = serializers.CharField(
        source="provider", required=False, allow_blank=True, default="", help_text="Such as `openai`; empty means any."
    )
    valid_from = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="Included. Without it: the next full minute."
    )
    valid_until = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="Excluded. Null: until a later row counts."
    )
    currency = serializers.CharField(max_length=10, help_text="ISO 4217 code, such as USD.")
    min_prompt = serializers.IntegerField(
        required=False, default=0, help_text="The row counts only for prompts of more tokens, and then for all of them."
    )
    tier = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=MAX_TEXT, help_text="Service tier; empty: the default."
    )
    window_start = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=0, max_value=1439, help_text=TIME_HELP
    )
    window_end = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=0, max_value=1440, help_text=TIME_HELP
    )
    weekdays = serializers.IntegerField(
        required=False, default=EVERY_DAY, min_value=1, max_value=EVERY_DAY, help_text="Bit 0 is Monday."
    )
    source: Any = serializers.CharField(read_only=True)
    note = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=2000, validators=[validate_line]
    )
    created_at = serializers.DateTimeField(read_only=True)


class PriceListSerializer(serializers.Serializer[Any]):
    prices = PriceSerializer(many=True)
    total = serializers.IntegerField()


class CurrentPriceSerializer(PriceAmountsSerializer):
    """The price of a short prompt at the default service tier."""

    id = serializers.IntegerField(help_text="Negative: a row of the catalogue that comes with the release.")
    pattern = serializers.CharField()
    currency = serializers.CharField()
    valid_from = serializers.SerializerMethodField()
    valid_until = serializers.SerializerMethodField()
    source: Any = serializers.CharField()

    @extend_schema_field(serializers.DateTimeField())
    def get_valid_from(self, price: Price) -> str:
        return _moment(price.valid_from)

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_valid_until(self, price: Price) -> str | None:
        return None if price.valid_until is None else _moment(price.valid_until)


class PricedModelSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(help_text="The endpoints' own name of the model.")
    canonical_name = serializers.CharField(allow_null=True)
    endpoint_type = serializers.CharField()
    endpoint_id = serializers.UUIDField(allow_null=True, help_text="Set if this endpoint has prices of its own.")
    endpoint_name = serializers.CharField(allow_null=True)
    endpoints = serializers.IntegerField(help_text="Endpoints with the model to which the line applies.")
    price = CurrentPriceSerializer(allow_null=True)
    more = serializers.IntegerField(
        help_text="Further prices that count now: for sizes of prompts, service tiers or hours."
    )


class PricesInEffectSerializer(serializers.Serializer[Any]):
    currency = serializers.CharField(help_text="Currency in which costs are summed.")
    models = PricedModelSerializer(many=True)
    total = serializers.IntegerField()
    unpriced = serializer_of(UnpricedModelPayload)(many=True)


class CurrencyRateSerializer(serializers.Serializer[CurrencyRate]):
    id = serializers.IntegerField(read_only=True)
    currency = serializers.CharField(max_length=10, help_text="ISO 4217 code, such as EUR.")
    reporting = serializers.CharField(read_only=True, help_text="Currency in which costs are summed.")
    rate = PriceAmountField(help_text="Worth of one unit of the currency in the reporting currency.")
    valid_from = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="Included. Without it: the next full minute."
    )
    created_at = serializers.DateTimeField(read_only=True)


class CurrencyRateListSerializer(serializers.Serializer[Any]):
    rates = CurrencyRateSerializer(many=True)


def fields_of(row: PriceRow) -> list[str]:
    """Return the names of a row's fields that a request may send."""
    return [str(field.source or name) for name, field in PriceSerializer().fields.items() if not field.read_only]


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
