"""Parameters of the request history: filters, pages and exports."""

import re
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from gateway.base.queue_class import CLASSES
from metrics.api.common import QuerySerializer
from metrics.queries.requests.conversations import KEY_PATTERN
from metrics.queries.requests.filters import ERROR, OUTCOMES, RequestFilter

_AGO = re.compile(r"-([1-9][0-9]{0,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@extend_schema_field(OpenApiTypes.STR)
class MomentField(serializers.DateTimeField):
    """A time, or an age such as `-15m`, `-24h` or `-7d`."""

    def to_internal_value(self, value: Any) -> datetime:
        if isinstance(value, str) and (ago := _AGO.fullmatch(value)):
            return timezone.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return super().to_internal_value(value)


class RequestQuerySerializer(QuerySerializer):
    since = MomentField(
        required=False,
        help_text="Requests completed at this time or later; an age such as `-15m`, `-24h` or `-7d` is allowed.",
    )
    until = MomentField(
        required=False,
        help_text="Requests completed before this time; an age such as `-15m`, `-24h` or `-7d` is allowed.",
    )
    endpoint_id = serializers.UUIDField(required=False)
    outcome = serializers.ChoiceField(
        (*OUTCOMES, ERROR), required=False, help_text="Outcome; `error` matches any but `ok`."
    )
    status_code = serializers.IntegerField(required=False, min_value=0, max_value=999)
    model = serializers.CharField(required=False, help_text="Model name in the request.")
    api_key_id = serializers.UUIDField(required=False)
    client_ip = serializers.IPAddressField(required=False)
    streamed = serializers.BooleanField(required=False, allow_null=True, default=None)
    retried = serializers.BooleanField(
        required=False,
        allow_null=True,
        default=None,
        help_text="True: requests with several attempts; false: requests with one.",
    )
    queue_class = serializers.ChoiceField(CLASSES, required=False)
    min_duration_ms = serializers.FloatField(required=False, min_value=0, max_value=1e12)
    min_tokens = serializers.IntegerField(
        required=False, min_value=0, max_value=10**12, help_text="Minimum sum of input and output tokens."
    )
    request_id = serializers.CharField(required=False, help_text="Value of the client's `x-request-id` header.")
    conversation = serializers.RegexField(
        KEY_PATTERN, required=False, help_text="16 hexadecimal digits, as in the field `conversation`."
    )

    def validate(self, attrs: dict[str, Any]) -> Any:
        if attrs.get("since") and attrs.get("until") and attrs["since"] >= attrs["until"]:
            raise serializers.ValidationError({"since": [_("This must be before `until`.")]})
        return attrs

    @property
    def request_filter(self) -> RequestFilter:
        values = {
            name: value for name, value in self.validated_data.items() if name in RequestFilter.__dataclass_fields__
        }
        ids = {name: str(values[name]) for name in ("endpoint_id", "api_key_id") if name in values}
        return RequestFilter(**{**values, **ids})


class RequestPageQuerySerializer(RequestQuerySerializer):
    cursor = serializers.CharField(required=False, help_text="`next` of the previous page.")
    limit = serializers.IntegerField(default=50, min_value=1, max_value=500)


class ExportQuerySerializer(RequestQuerySerializer):
    format = serializers.ChoiceField(("csv", "jsonl"), default="csv")
    progress = serializers.UUIDField(
        required=False, help_text="Any new UUID; with it, /api/requests/exports reports the progress."
    )
