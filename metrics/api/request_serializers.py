"""Schemas of the request history, and the filters of its addresses."""

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
from metrics.exports.downloads import STATES
from metrics.queries.requests.conversations import KEY_PATTERN
from metrics.queries.requests.filters import ERROR, OUTCOMES, RequestFilter


class ScoreSerializer(serializers.Serializer[Any]):
    """A candidate, with its requests in flight when the endpoint was chosen."""

    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    in_flight = serializers.IntegerField()


class CostSerializer(serializers.Serializer[Any]):
    """A candidate, with its cost when the endpoint was chosen."""

    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    cost_ms = serializers.IntegerField(
        help_text="Expected duration, plus the time by which other requests there would be delayed."
    )


class WorkSerializer(serializers.Serializer[Any]):
    """What adaptive routing expected of an attempt, and what the endpoint did for others meanwhile."""

    prompt_tokens = serializers.IntegerField(help_text="Expected before the attempt.")
    output_tokens = serializers.IntegerField(help_text="Expected before the attempt.")
    prefix_tokens = serializers.IntegerField(help_text="Prompt tokens expected in the endpoint's prefix cache.")
    expected_ms = serializers.FloatField(help_text="Expected duration.")
    pending_tokens = serializers.IntegerField(
        help_text="Prompt tokens of other requests that the endpoint still had to read at the start."
    )
    read_tokens = serializers.IntegerField(help_text="Prompt tokens of others that were sent there meanwhile.")
    mean_in_flight = serializers.FloatField(
        allow_null=True, help_text="Mean requests in flight there over the attempt, itself included."
    )
    was_idle = serializers.BooleanField(help_text="Whether no other request was in flight there at the start.")
    is_cold = serializers.BooleanField(help_text="Whether the model had to be loaded.")


class ServedModelSerializer(serializers.Serializer[Any]):
    """The model that served an attempt; of a request, that of the last one."""

    served_model = serializers.CharField(
        allow_null=True, help_text="The endpoint's own id of the model; null if it is the requested name, or unknown."
    )
    canonical_name = serializers.CharField(allow_null=True, help_text="Canonical name of the served model, if any.")
    step = serializers.IntegerField(
        allow_null=True, help_text="Step of the model name, from 1; null if the request asked for no model name."
    )


class AttemptSerializer(ServedModelSerializer):
    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True)
    outcome = serializers.CharField()
    status_code = serializers.IntegerField(allow_null=True)
    at_ms = serializers.FloatField(help_text="Time from the request's arrival to the attempt's start.")
    duration_ms = serializers.FloatField()
    error = serializers.CharField(allow_null=True)
    reason = serializers.CharField(
        allow_null=True,
        help_text="Reason for this endpoint. `only`: it was the only candidate; `least`: it had the fewest requests in "
        "flight; `drawn`: it was drawn at random among these; `trial`: trial of its circuit breaker; `made_it`: it "
        "created the stored response; `searched`: it was searched for the stored response. Adaptive routing: "
        "`fastest`: it had the least cost; `kept_prefix`: and it has the beginning of the prompt in its cache; "
        "`loaded_there`: and it has the model loaded; `probe`: it is being measured; `waited_for`: the request waited "
        "in the queue, and then it had the least cost.",
    )
    scores = ScoreSerializer(
        many=True, help_text="At most eight candidates: the chosen one, and those with the fewest requests in flight."
    )
    costs = CostSerializer(
        many=True, help_text="At most eight candidates, least cost first. Empty without adaptive routing."
    )
    work = WorkSerializer(allow_null=True, help_text="Null without adaptive routing.")
    connect_ms = serializers.FloatField(
        allow_null=True, help_text="Time for opening a connection; 0 if an idle one was used; null in older rows."
    )


class LeftStepSerializer(serializers.Serializer[Any]):
    """A step of the model name that was left or skipped."""

    step = serializers.IntegerField()
    reason = serializers.CharField()


class RequestSerializer(ServedModelSerializer):
    """One request of the history."""

    id = serializers.CharField()
    completed_at = serializers.DateTimeField(allow_null=True)
    model = serializers.CharField()
    kind = serializers.CharField()
    endpoint_id = serializers.UUIDField(allow_null=True, help_text="Null if no endpoint was available.")
    endpoint_name = serializers.CharField(allow_null=True)
    client_ip = serializers.CharField(allow_null=True)
    api_key_id = serializers.UUIDField(allow_null=True)
    outcome = serializers.CharField(
        help_text="`ok`, `refused`, `failed`, `truncated`, `cancelled`, `no_endpoint`, `queue`."
    )
    status_code = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    streamed = serializers.BooleanField(allow_null=True)
    duration_ms = serializers.FloatField()
    first_token_ms = serializers.FloatField(allow_null=True)
    input_tokens = serializers.IntegerField(allow_null=True)
    output_tokens = serializers.IntegerField(allow_null=True)
    total_tokens = serializers.IntegerField(allow_null=True)
    tokens_estimated = serializers.BooleanField(allow_null=True)
    attempts = AttemptSerializer(many=True)
    queue_ms = serializers.FloatField(allow_null=True, help_text="Time in the queue; null if the request did not wait.")
    request_id = serializers.CharField(allow_null=True, help_text="Value of the client's `x-request-id` header.")
    tokens_per_second = serializers.FloatField(
        allow_null=True, help_text="Output tokens divided by the duration of the response."
    )
    cached_tokens = serializers.IntegerField(
        allow_null=True, help_text="Input tokens from the endpoint's prefix cache; null if it did not report them."
    )
    body_bytes = serializers.IntegerField(allow_null=True, help_text="Size of the request's body, if it is known.")
    conversation = serializers.CharField(
        allow_null=True, help_text="Equal for the requests of one conversation. It tells nothing of their content."
    )
    queue_class = serializers.ChoiceField(CLASSES, help_text="`bulk`: it gave way to interactive requests.")
    cache_write_tokens = serializers.IntegerField(
        allow_null=True, help_text="Input tokens written to a prefix cache; null if the endpoint did not report them."
    )
    reasoning_tokens = serializers.IntegerField(
        allow_null=True, help_text="Output tokens spent on reasoning; null if the endpoint did not report them."
    )
    finish_reason = serializers.CharField(
        allow_null=True, help_text="`stop`, `length`, `tool_calls`, `content_filter` or `error`; null if unknown."
    )
    left_steps = LeftStepSerializer(many=True, help_text="Steps of the model name that were left or skipped, and why.")
    long_cache_write_tokens = serializers.IntegerField(
        allow_null=True, help_text="Those of `cache_write_tokens` that are kept for long; null if it was not reported."
    )
    service_tier = serializers.CharField(
        allow_null=True, help_text="As the response reported it; null for the default one, or none reported."
    )
    cost = serializers.CharField(
        allow_null=True, help_text="In units of `currency`, up to nine decimal places; null if there is no price."
    )
    currency = serializers.CharField(allow_null=True, help_text="ISO 4217 code of the price's currency.")
    price_id = serializers.IntegerField(
        allow_null=True, help_text="Row of the price book; negative for rows of the catalogue."
    )
    images = serializers.IntegerField(allow_null=True, help_text="Of the response; null if it is none of images.")
    audio_ms = serializers.IntegerField(
        allow_null=True, help_text="Duration of the transcribed audio; null if the response did not report it."
    )


class CostPartSerializer(serializers.Serializer[Any]):
    """What one kind of token, or the request itself, adds to the cost of a request."""

    part = serializers.ChoiceField(
        ("input", "cached", "write_short", "write_long", "output", "reasoning", "request"),
        help_text="Each token is in one part: cached and written ones are not in `input`.",
    )
    count = serializers.IntegerField()
    amount = serializers.CharField(
        allow_null=True,
        help_text="Per million tokens or thousand requests; null if the price has none: it adds nothing.",
    )
    cost = serializers.CharField(allow_null=True, help_text="Exact; the sum is rounded half up to nine decimal places.")


class HardwareCostSerializer(serializers.Serializer[Any]):
    """What a request costs at one endpoint of own hardware: its share of the hours in which it ran."""

    endpoint_id = serializers.UUIDField()
    endpoint_name = serializers.CharField(allow_null=True, help_text="Null for a deleted endpoint.")
    currency = serializers.CharField(help_text="ISO 4217 code of the currency of the endpoint's rate.")
    cost = serializers.CharField(help_text="In units of the currency, up to nine decimal places; exact.")
    is_provisional = serializers.BooleanField(
        help_text="Whether an hour of it is not counted yet: other requests may still take their part."
    )


class RequestDetailSerializer(RequestSerializer):
    """A request with names and costs that need another query."""

    api_key_name = serializers.CharField(allow_null=True)
    cost_parts = CostPartSerializer(many=True, help_text="In `currency`; empty without a price.")
    partly_priced = serializers.BooleanField(help_text="Whether the price has no amount for some of the tokens.")
    reporting_cost = serializers.CharField(
        allow_null=True, help_text="`cost` in the reporting currency; null without a cost or a rate of that day."
    )
    hardware_costs = HardwareCostSerializer(
        many=True, help_text="At own hardware, never part of `cost`; empty without a rate, and once hours are deleted."
    )


class EndpointErrorSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField(
        allow_null=True, help_text="Number of the attempt, from 1; null in rows of earlier releases and of llmlb."
    )
    message = serializers.CharField(help_text="The endpoint's error text, at most 500 characters.")


class BodiesSerializer(serializers.Serializer[Any]):
    """JSON as it was sent; a string if it is not JSON, or was cut at 64 KiB when it was stored."""

    request = serializers.JSONField(allow_null=True, help_text="Null if it was not stored.")
    response = serializers.JSONField(
        allow_null=True, help_text="Null if it was not stored; responses of streams never are."
    )
    endpoint_errors = EndpointErrorSerializer(
        many=True, help_text="Error texts of endpoints, which may quote the bodies."
    )


class RequestPageSerializer(serializers.Serializer[Any]):
    requests = RequestSerializer(many=True)
    next = serializers.CharField(
        allow_null=True, help_text="`cursor` of the next page; null if there are no older requests."
    )
    previous = serializers.CharField(
        allow_null=True, help_text="`cursor` of the page with newer requests; null if this page has the newest ones."
    )
    looked_back_to = serializers.DateTimeField(
        allow_null=True, help_text="Requests before this time are not scanned yet; null if all are."
    )


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


class ExportProgressSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(STATES, help_text="`failed` if the export broke off, or its client stalled.")
    rows = serializers.IntegerField(help_text="Rows sent so far.")
    bytes = serializers.IntegerField(help_text="Bytes sent so far.")
