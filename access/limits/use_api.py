"""Views of /api/limits/…/use: the present use of the limits and budgets of one subject."""

import uuid
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.limits.amounts import amount_text
from access.limits.api import MANAGE_KEYS, MANAGE_USERS, SubjectView, subject_names
from access.limits.gauges import BudgetUse, Spent, Use
from access.limits.reading import Subject
from access.limits.serializers import BudgetAmountField
from access.limits.storing import stored_limits
from endpoints.openapi.descriptions import extend_schema
from gateway.registry.limits import KEY_LEVEL, LEVELS, LIMITS_OF_A_SUBJECT, MONEY, PERIODS, UNITS, USER_LEVEL


class LimitUseSerializer(serializers.Serializer[Any]):
    """One limit with its use."""

    limit = serializers.ChoiceField(choices=LIMITS_OF_A_SUBJECT)
    amount = serializers.IntegerField()
    used = serializers.IntegerField(help_text="Requests in flight, or those or their tokens in the last 60 seconds.")
    waits = serializers.BooleanField(help_text="Whether requests wait for it in the queue; otherwise they get 429.")


class BudgetUseSerializer(serializers.Serializer[Any]):
    """One budget with the amount spent in its present period."""

    unit = serializers.ChoiceField(choices=UNITS)
    period = serializers.ChoiceField(choices=PERIODS)
    amount = BudgetAmountField(help_text="Whole tokens, or money as text.")
    spent = BudgetAmountField(allow_null=True, help_text="As `amount`, without reservations; null: not known yet.")
    currency = serializers.CharField(allow_null=True, help_text="Null for tokens.")
    resets_at = serializers.DateTimeField(allow_null=True, help_text="End of the period; null: it has none.")


class UseSerializer(serializers.Serializer[Any]):
    """Limits and budgets of an API key, a user, or everyone, with their present use over all workers."""

    level = serializers.ChoiceField(choices=LEVELS)
    subject = serializers.CharField(help_text="Id of the API key or user; empty for everyone.")
    name = serializers.CharField(allow_null=True, help_text="Name of the API key or user.")
    limits = LimitUseSerializer(many=True)
    budgets = BudgetUseSerializer(many=True)


def _document(subject: Subject, use: Use, spent: Spent) -> dict[str, object]:
    facts, used = stored_limits(subject), use(*subject)
    return {
        "level": subject[0],
        "subject": subject[1],
        "name": subject_names([subject]).get(subject),
        "limits": [
            {"limit": name, "amount": amount, "used": getattr(used, name), "waits": name in facts.waiting}
            for name in LIMITS_OF_A_SUBJECT
            if (amount := getattr(facts, name)) is not None
        ],
        "budgets": [_budget(it) for it in spent([subject])],
    }


def _budget(budget: BudgetUse) -> dict[str, object]:
    def amount(value: int | None) -> object:
        return amount_text(value, MONEY) if value is not None and budget.unit == MONEY else value

    at = budget.resets_at
    return {
        "unit": budget.unit,
        "period": budget.period,
        "amount": amount(budget.amount),
        "spent": amount(budget.spent),
        "currency": settings.ROUTERDASH.currency if budget.unit == MONEY else None,
        "resets_at": None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
    }


class LimitUseOfKey(SubjectView):
    level = KEY_LEVEL
    permission_needed = MANAGE_KEYS

    @extend_schema(operation_id="limits_key_use", responses=UseSerializer)
    def get(self, request: Request, subject: uuid.UUID, use: Use, spent: Spent) -> Response:
        """Return the limits and budgets of an API key with their present use."""
        return Response(_document(self.subject_for(request, str(subject)), use, spent))


class LimitUseOfUser(SubjectView):
    level = USER_LEVEL
    permission_needed = MANAGE_USERS

    @extend_schema(operation_id="limits_user_use", responses=UseSerializer)
    def get(self, request: Request, subject: uuid.UUID, use: Use, spent: Spent) -> Response:
        """Return the limits and budgets of a user, with all keys together, and their present use."""
        return Response(_document(self.subject_for(request, str(subject)), use, spent))


class LimitUseOfEveryone(SubjectView):
    permission_needed = MANAGE_KEYS

    @extend_schema(operation_id="limits_everyone_use", responses=UseSerializer)
    def get(self, request: Request, use: Use, spent: Spent) -> Response:
        """Return the limits and budgets of everyone, over all keys together, with their present use."""
        return Response(_document(self.subject_for(request, ""), use, spent))


URLS: list[tuple[str, Any, str]] = [
    ("api/limits/everyone/use", LimitUseOfEveryone, "api-limits-everyone-use"),
    ("api/limits/key/<uuid:subject>/use", LimitUseOfKey, "api-limits-key-use"),
    ("api/limits/user/<uuid:subject>/use", LimitUseOfUser, "api-limits-user-use"),
]
