"""The refusal of a request that a budget forbids."""

import math
import time
from datetime import UTC, datetime

from gateway.base import errors
from gateway.limits.budgets import BudgetExceeded
from gateway.limits.replies import NO_RETRY, SUBJECTS, LimitRefusal
from gateway.prices.amounts import text_of
from gateway.registry.limits import DAY, MONEY, MONTH, TOTAL, WEEK

_PERIODS = {DAY: "per day", WEEK: "per week", MONTH: "per month", TOTAL: "in total"}


def budget_refusal(exceeded: BudgetExceeded, now: float | None = None) -> LimitRefusal:
    """Return the refusal. SDKs must not repeat the request: at the earliest it helps in the next period."""
    budget, whose = exceeded.budget, SUBJECTS[exceeded.level]
    name = f"{budget.unit} {_PERIODS[budget.period]}"
    headers = [(b"x-routerdash-limit", f"{exceeded.level}; {name}".encode()), NO_RETRY]
    if exceeded.is_unpriced:
        message = (
            f"The budget for {whose} on {name} allows only models with a price, and this one has none here. "
            "Use another model, or have an administrator enter its price, and a rate for the currency of the price."
        )
    else:
        message = (
            f"The budget for {whose} on {name} is spent: Limit {_text(budget.unit, budget.amount)}, "
            f"Used {_text(budget.unit, exceeded.used)}, Requested {_text(budget.unit, exceeded.requested)}."
        )
        if exceeded.resets_at is not None:
            seconds = max(1, math.ceil(exceeded.resets_at - (time.time() if now is None else now)))
            headers.append((b"retry-after", b"%d" % seconds))
            at = datetime.fromtimestamp(exceeded.resets_at, UTC)
            message += f" It begins anew at {at:%Y-%m-%dT%H:%M:%SZ}."
    by = f"{exceeded.level}:{budget.unit}_{budget.period}"
    return LimitRefusal(
        429, errors.INSUFFICIENT_QUOTA, message, tuple(headers), by=by, error_type=errors.INSUFFICIENT_QUOTA
    )


def _text(unit: str, amount: int) -> str:
    """Return an amount as people read it."""
    return text_of(max(0, amount)) if unit == MONEY else str(amount)
