"""The refusal of a request that a budget forbids."""

import math
import time
from datetime import UTC, datetime

from gateway.base import errors
from gateway.limits.budgets import BudgetExceeded
from gateway.limits.replies import NO_RETRY, RETRY_SECONDS, SUBJECTS, LimitRefusal
from gateway.prices.amounts import text_of
from gateway.registry.limits import DAY, MONEY, MONTH, TOTAL, WEEK

_PERIODS = {DAY: "per day", WEEK: "per week", MONTH: "per month", TOTAL: "in total"}


def budget_refusal(exceeded: BudgetExceeded, now: float | None = None) -> LimitRefusal:
    """Return the refusal. SDKs must not repeat the request, unless running requests may leave room for it."""
    budget, whose = exceeded.budget, SUBJECTS[exceeded.level]
    name = f"{budget.unit} {_PERIODS[budget.period]}"
    headers = [(b"x-routerdash-limit", f"{exceeded.level}; {name}".encode())]
    if exceeded.is_unpriced:
        headers.append(NO_RETRY)
        message = (
            f"The budget for {whose} on {name} allows only models with a price, and this one has none here. "
            "Use another model, or have an administrator enter its price, and a rate for the currency of the price."
        )
    else:
        message, seconds = _excess(exceeded, f"The budget for {whose} on {name}", now)
        headers += [] if _may_fit_soon(exceeded) else [NO_RETRY]
        headers += [] if seconds is None else [(b"retry-after", b"%d" % seconds)]
    by = f"{exceeded.level}:{budget.unit}_{budget.period}"
    return LimitRefusal(
        429, errors.INSUFFICIENT_QUOTA, message, tuple(headers), by=by, error_type=errors.INSUFFICIENT_QUOTA
    )


def _may_fit_soon(exceeded: BudgetExceeded) -> bool:
    """Return True if the request fits once running requests have given back their reservations."""
    rest = exceeded.budget.amount - (exceeded.used - exceeded.reserved)
    return exceeded.reserved > 0 and rest > 0 and exceeded.requested <= rest


def _excess(exceeded: BudgetExceeded, name: str, now: float | None) -> tuple[str, int | None]:
    """Return why a budget forbids a request, and the seconds after which a retry may help; None: never."""
    budget, requested, reserved = exceeded.budget, exceeded.requested, exceeded.reserved
    rest = budget.amount - exceeded.used
    limit, used, wanted = (_text(budget.unit, amount) for amount in (budget.amount, exceeded.used, requested))
    facts = f"Limit {limit}, Used {used}, Requested {wanted}"
    if _may_fit_soon(exceeded):
        held = _text(budget.unit, reserved)
        return (
            f"{name} has no room for this request while others run: {facts}, of the used {held} reserved by running "
            "requests. Please try again when one of them has ended."
        ), RETRY_SECONDS
    message = f"{name} is spent: {facts}."
    if rest > 0:
        most = "the most that it can use" if budget.hard else "as much as it is expected to use"
        message = (
            f"This request does not fit the rest of {name[0].lower()}{name[1:]}: {facts}, {most}. At most "
            f"{_text(budget.unit, rest)} fits. Send a shorter prompt or a lower max_tokens."
        )
    if requested > budget.amount:
        return f"{message} It is larger than the whole budget, so that no retry helps.", None
    if exceeded.resets_at is None:
        return message, None
    moment = datetime.fromtimestamp(exceeded.resets_at, UTC)
    seconds = max(1, math.ceil(exceeded.resets_at - (time.time() if now is None else now)))
    return f"{message} The budget begins anew at {moment:%Y-%m-%dT%H:%M:%SZ}.", seconds


def _text(unit: str, amount: int) -> str:
    """Return an amount as people read it."""
    return text_of(max(0, amount)) if unit == MONEY else str(amount)
