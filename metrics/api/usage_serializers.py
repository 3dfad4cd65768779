"""Parameters of usage."""

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
