"""Serializers of limits for the JSON API: one document for each subject."""

from typing import Annotated, Any

from django.conf import settings
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from access.limits.amounts import amount_text, parse_budget
from endpoints.openapi.payload_fields import Schema
from gateway.registry.limits import (
    CONCURRENCY,
    LEVELS,
    LIMITS_OF_A_SUBJECT,
    MONEY,
    PERIODS,
    UNITS,
    Budget,
    LimitFacts,
)

_AMOUNT = {"oneOf": [{"type": "string", "format": "decimal", "example": "2.5"}, {"type": "integer"}]}
BudgetAmount = Annotated[str | int, Schema(_AMOUNT)]  # in responses


@extend_schema_field(_AMOUNT)
class BudgetAmountField(serializers.Field[Any, Any, Any, Any]):
    """Amount as it was sent: a number, or a decimal number in text."""

    def to_representation(self, value: Any) -> Any:
        return value

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, bool) or not isinstance(data, str | int | float):
            raise serializers.ValidationError(_("Enter a number such as 2.5."))
        return str(data)


class BudgetSerializer(serializers.Serializer[Any]):
    """Allowance of a subject in each period."""

    id = serializers.UUIDField(read_only=True)
    unit = serializers.ChoiceField(choices=UNITS)
    period = serializers.ChoiceField(
        choices=PERIODS, help_text="In the time zone of the installation; weeks begin on Monday."
    )
    amount = BudgetAmountField(help_text="Whole tokens, or an amount of `currency` with at most nine decimal places.")
    currency = serializers.CharField(
        required=False, allow_null=True, help_text="Reporting currency of the installation; null for tokens."
    )
    hard = serializers.BooleanField(
        default=False, help_text="Reserves the most that a request can use, instead of the expectation."
    )
    refuses_unpriced = serializers.BooleanField(
        default=False, help_text="Refuses requests for models without a price; otherwise they count nothing."
    )
    instead = serializers.CharField(
        default=None,
        allow_null=True,
        max_length=256,
        help_text="Model name to which requests go once the budget is spent; null: they are refused.",
    )

    def validate(self, attrs: Any) -> Any:
        currency = attrs.get("currency")
        if attrs["unit"] == MONEY and currency not in (None, settings.ROUTERDASH.currency):
            text = _("Amounts are in %(currency)s, the currency of ROUTERDASH_CURRENCY.")
            raise serializers.ValidationError({"currency": text % {"currency": settings.ROUTERDASH.currency}})
        if attrs["unit"] != MONEY and currency is not None:
            raise serializers.ValidationError({"currency": _("A budget of tokens has no currency.")})
        try:
            attrs["amount"] = parse_budget(attrs["amount"], attrs["unit"])
        except ValueError as error:
            raise serializers.ValidationError({"amount": str(error)}) from None
        return attrs


class LimitsSerializer(serializers.Serializer[Any]):
    """Limits and budgets of an API key, a user, or everyone. Null and a missing field: no limit."""

    level = serializers.ChoiceField(choices=LEVELS, read_only=True)
    subject = serializers.CharField(read_only=True, help_text="Id of the API key or user; empty for everyone.")
    name = serializers.CharField(read_only=True, allow_null=True, help_text="Name of the API key or user.")
    concurrency = serializers.IntegerField(
        default=None, allow_null=True, help_text="Requests in flight, over all workers."
    )
    requests = serializers.IntegerField(default=None, allow_null=True, help_text="In any 60 seconds.")
    tokens = serializers.IntegerField(
        default=None, allow_null=True, help_text="In any 60 seconds, of prompts and responses."
    )
    waiting = serializers.ListField(
        child=serializers.ChoiceField(choices=LIMITS_OF_A_SUBJECT),
        default=lambda: [CONCURRENCY],
        help_text="Limits over which a request waits in the queue; over the others it gets status 429.",
    )
    budgets = BudgetSerializer(many=True, default=list)

    def facts(self) -> LimitFacts:
        """Return the limits of a valid document."""
        values = self.validated_data
        budgets = tuple(
            Budget(
                "",
                one["unit"],
                one["period"],
                one["amount"],
                one["hard"],
                one["refuses_unpriced"],
                one["instead"] or None,
            )
            for one in values["budgets"]
        )
        limits = {name: values[name] for name in LIMITS_OF_A_SUBJECT}
        return LimitFacts(**limits, waiting=tuple(dict.fromkeys(values["waiting"])), budgets=budgets)


class LimitsListSerializer(serializers.Serializer[Any]):
    limits = LimitsSerializer(many=True)


def limits_document(subject: tuple[str, str], name: str | None, facts: LimitFacts) -> dict[str, object]:
    """Return the JSON document of a subject."""
    return {
        "level": subject[0],
        "subject": subject[1],
        "name": name,
        **{limit: getattr(facts, limit) for limit in LIMITS_OF_A_SUBJECT},
        "waiting": list(facts.waiting),
        "budgets": [
            {
                "id": budget.id,
                "unit": budget.unit,
                "period": budget.period,
                "amount": amount_text(budget.amount, budget.unit) if budget.unit == MONEY else budget.amount,
                "currency": settings.ROUTERDASH.currency if budget.unit == MONEY else None,
                "hard": budget.hard,
                "refuses_unpriced": budget.refuses_unpriced,
                "instead": budget.instead,
            }
            for budget in facts.budgets
        ],
    }
