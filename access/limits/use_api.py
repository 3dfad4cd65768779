"""Views of /api/limits/…/use: the present use of the limits and budgets of one subject."""

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from access.limits.amounts import amount_text
from access.limits.api import LevelView, SubjectView, level_urls, subject_names
from access.limits.gauges import Use, spent_now
from access.limits.serializers import BudgetAmount
from access.limits.storing import stored_limits
from endpoints.openapi.descriptions import extend_schema
from endpoints.openapi.payload_fields import Choices, Help, TimeText
from gateway.limits.spent_now import SpentNow
from gateway.registry.limits import LEVELS, LIMITS_OF_A_SUBJECT, MONEY, PERIODS, UNITS, Budget, Subject


class LimitUsePayload(TypedDict):
    """One limit with its use."""

    limit: Annotated[str, Choices(LIMITS_OF_A_SUBJECT)]
    amount: int
    used: Annotated[int, Help("Requests in flight, or those or their tokens in the last 60 seconds.")]
    waits: Annotated[bool, Help("Whether requests wait for it in the queue; otherwise they get 429.")]


class BudgetUsePayload(TypedDict):
    """One budget with the amount spent in its present period."""

    unit: Annotated[str, Choices(UNITS)]
    period: Annotated[str, Choices(PERIODS)]
    amount: Annotated[BudgetAmount, Help("Whole tokens, or money as text.")]
    spent: Annotated[BudgetAmount | None, Help("As `amount`, without reservations; null: not known yet.")]
    currency: Annotated[str | None, Help("Null for tokens.")]
    resets_at: Annotated[TimeText | None, Help("End of the period; null: it has none.")]


class UsePayload(TypedDict):
    """Limits and budgets of an API key, a user, or everyone, with their present use over all workers."""

    level: Annotated[str, Choices(LEVELS)]
    subject: Annotated[str, Help("Id of the API key or user; empty for everyone.")]
    name: Annotated[str | None, Help("Name of the API key or user.")]
    limits: list[LimitUsePayload]
    budgets: list[BudgetUsePayload]


def _payload(subject: Subject, use: Use) -> UsePayload:
    facts, used, amounts = stored_limits(subject), use(*subject), spent_now()
    return {
        "level": subject[0],
        "subject": subject[1],
        "name": subject_names([subject]).get(subject),
        "limits": [
            {"limit": name, "amount": amount, "used": getattr(used, name), "waits": name in facts.waiting}
            for name in LIMITS_OF_A_SUBJECT
            if (amount := getattr(facts, name)) is not None
        ],
        "budgets": [_budget(subject, budget, amounts) for budget in facts.budgets],
    }


def _budget(subject: Subject, budget: Budget, amounts: SpentNow) -> BudgetUsePayload:
    def amount(value: int) -> BudgetAmount:
        return amount_text(value, MONEY) if budget.unit == MONEY else value

    spent = amounts.spent(subject, budget.unit, budget.period)
    end = amounts.end_of(budget.period)
    return {
        "unit": budget.unit,
        "period": budget.period,
        "amount": amount(budget.amount),
        "spent": None if spent is None else amount(spent),
        "currency": settings.ROUTERDASH.currency if budget.unit == MONEY else None,
        "resets_at": None if end is None else datetime.fromtimestamp(end, UTC).isoformat().replace("+00:00", "Z"),
    }


def _use_of(described: LevelView) -> type[SubjectView]:
    """Return the view of the use of the limits of one subject of a level."""

    class LimitUse(SubjectView):
        level = described.level
        permission_needed = described.permission

        @extend_schema(
            operation_id=f"limits_{level}_use",
            description=f"Return the limits and budgets of {described.subject}{described.keys}, and their present use.",
            responses=UsePayload,
        )
        def get(self, request: Request, use: Use, subject: uuid.UUID | str = "") -> Response:
            return Response(_payload(self.subject_for(request, str(subject)), use))

    return LimitUse


URLS: list[tuple[str, Any, str]] = [(f"{route}/use", view, f"{name}-use") for route, view, name in level_urls(_use_of)]
