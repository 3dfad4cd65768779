"""Schema of usage, and the filters of its addresses."""

from datetime import date, timedelta
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from metrics.api.common import QuerySerializer
from metrics.queries.usage import BY
from metrics.queries.usage_periods import Period

MAX_USAGE_DAYS = 3 * 366
FIRST_DATE = date(1970, 1, 1)


class UsageQuerySerializer(QuerySerializer):
    by = serializers.ChoiceField(tuple(BY), default="day")
    since = serializers.DateField(required=False, help_text="The first local day; by default 29 days before `until`.")
    until = serializers.DateField(required=False, help_text="The last local day, inclusive; by default today.")
    model = serializers.CharField(required=False)
    endpoint_id = serializers.UUIDField(required=False)
    api_key_id = serializers.UUIDField(required=False)
    compare = serializers.BooleanField(default=False, help_text="Whether to add the previous period of equal length.")

    def validate(self, attrs: dict[str, Any]) -> Any:
        until: date = attrs.setdefault("until", self.context["today"])
        since: date = attrs.setdefault("since", max(until, FIRST_DATE + timedelta(days=29)) - timedelta(days=29))
        if since > until:
            raise serializers.ValidationError({"since": [_("This must not be after `until`.")]})
        if (until - since).days >= MAX_USAGE_DAYS:
            text = _("The period may have at most %(most)s days.") % {"most": MAX_USAGE_DAYS}
            raise serializers.ValidationError({"since": [text]})
        if since < FIRST_DATE:
            text = _("This must not be before %(first)s.") % {"first": FIRST_DATE}
            raise serializers.ValidationError({"since": [text]})
        return attrs

    @property
    def period(self) -> Period:
        return Period(self.validated_data["since"], self.validated_data["until"])

    @property
    def only(self) -> dict[str, str]:
        values = self.validated_data
        return {name: str(values[name]) for name in ("model", "endpoint_id", "api_key_id") if name in values}


class UsageExportQuerySerializer(UsageQuerySerializer):
    format = serializers.ChoiceField(("csv", "json"), default="csv")


class TokenDetailsSerializer(serializers.Serializer[Any]):
    """Tokens that only some servers report. Each sum is null if no response reported it."""

    cached_tokens = serializers.IntegerField(
        allow_null=True, help_text="Input tokens read from prefix caches; null if no response reported them."
    )
    cached_of_tokens = serializers.IntegerField(
        allow_null=True, help_text="All input tokens of the requests whose responses reported cached tokens."
    )
    cache_reports = serializers.IntegerField(help_text="Requests whose responses reported cached tokens, also 0.")
    cache_hits = serializers.IntegerField(allow_null=True, help_text="Those of them with at least one cached token.")
    cache_write_tokens = serializers.IntegerField(
        allow_null=True, help_text="Input tokens written to prefix caches; null if no response reported them."
    )
    cache_write_reports = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField(
        allow_null=True, help_text="Output tokens spent on reasoning; null if no response reported them."
    )
    reasoning_of_tokens = serializers.IntegerField(
        allow_null=True, help_text="All output tokens of the requests whose responses reported reasoning tokens."
    )
    reasoning_reports = serializers.IntegerField()


class UsageCountsSerializer(TokenDetailsSerializer):
    requests = serializers.IntegerField(help_text="Requests, without cancelled and rejected ones.")
    successful_requests = serializers.IntegerField()
    failed_requests = serializers.IntegerField()
    cancelled_requests = serializers.IntegerField()
    rejected_requests = serializers.IntegerField(
        help_text="Requests that RouterDash rejected itself. They have no model, so by model only the total has them."
    )
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class CurrencyCostSerializer(serializers.Serializer[Any]):
    """Costs in one currency, of the requests that have a cost. Amounts in a currency with a rate are converted into
    the reporting currency, which is the first.
    """

    currency = serializers.CharField(help_text="ISO 4217 code.")
    cost = serializers.CharField(help_text="In units of the currency, up to nine decimal places; exact.")
    estimated_cost = serializers.CharField(help_text="The part of requests whose tokens were estimated.")
    requests = serializers.IntegerField()
    estimated_requests = serializers.IntegerField()


class UsageHardwareCostSerializer(serializers.Serializer[Any]):
    """Costs of own hardware in one currency, of the hours that are counted."""

    currency = serializers.CharField(help_text="ISO 4217 code.")
    cost = serializers.CharField(help_text="Of requests and of idle time, in units of the currency; exact.")
    idle_cost = serializers.CharField(
        help_text="The part of idle time. It belongs to no model, key or user: by these, only the total has it."
    )


class CostsSerializer(serializers.Serializer[Any]):
    """Costs of some requests, and the number of those without one."""

    costs = CurrencyCostSerializer(many=True, help_text="By currency; empty if no request has a price.")
    requests_without_cost = serializers.IntegerField()


class UsageRowSerializer(UsageCountsSerializer):
    """Usage of one group, with the fields of `by`."""

    costs = CurrencyCostSerializer(many=True, required=False, help_text="By currency; empty if no request has a price.")
    requests_without_cost = serializers.IntegerField(
        required=False, help_text="Requests, cancelled ones included, that have no price or no known tokens."
    )
    hardware_costs = UsageHardwareCostSerializer(
        many=True, required=False, help_text="Of own hardware; not by `served`, `canonical` and `step`."
    )
    day = serializers.DateField(required=False)
    month = serializers.CharField(required=False, help_text="`YYYY-MM`")
    model_id = serializers.CharField(required=False, help_text="The name that requests asked for.")
    served_model = serializers.CharField(required=False, help_text="The endpoint's own id of the model.")
    canonical_name = serializers.CharField(
        required=False, help_text="Canonical name of the served model; without one, the served model."
    )
    step = serializers.IntegerField(required=False, help_text="Step of a model name, from 1; 0: no model name.")
    endpoint_id = serializers.UUIDField(required=False, allow_null=True)
    endpoint_name = serializers.CharField(required=False, allow_null=True)
    external = serializers.BooleanField(
        required=False,
        allow_null=True,
        help_text="Whether the endpoint is external now; null for no endpoint and deleted ones.",
    )
    api_key_id = serializers.UUIDField(required=False, allow_null=True)
    api_key_name = serializers.CharField(required=False, allow_null=True)
    user_id = serializers.UUIDField(
        required=False, allow_null=True, help_text="Null for requests without an API key, or with a deleted one."
    )
    username = serializers.CharField(required=False, allow_null=True, help_text="The owner of the key.")
    previous_requests = serializers.IntegerField(
        required=False, help_text="Requests of the previous period; only with `compare`, and not by `day` or `month`."
    )
    previous_total_tokens = serializers.IntegerField(required=False)


class PreviousSerializer(serializers.Serializer[Any]):
    """The previous period of equal length."""

    since = serializers.DateField()
    until = serializers.DateField()
    total = UsageCountsSerializer()


class UsageSerializer(serializers.Serializer[Any]):
    by = serializers.ChoiceField(tuple(BY))
    since = serializers.DateField()
    until = serializers.DateField()
    rows = UsageRowSerializer(many=True)
    total = UsageCountsSerializer()
    costs = CurrencyCostSerializer(many=True, required=False, help_text="Of all rows, by currency.")
    requests_without_cost = serializers.IntegerField(required=False, help_text="Of all rows.")
    hardware_costs = UsageHardwareCostSerializer(
        many=True, required=False, help_text="Of all rows, and of the idle time that belongs to none."
    )
    previous = PreviousSerializer(required=False)
