"""Refusals by budgets: what they say, and whether a retry helps."""

import pytest

from gateway.limits.budget_replies import budget_refusal
from gateway.limits.budgets import BudgetExceeded
from gateway.limits.replies import NO_RETRY
from gateway.registry.limits import DAY, KEY_LEVEL, MONEY, TOKENS, TOTAL, Budget

NOW = 1_700_000_000.0
LATER = NOW + 600


def refused(
    used: int, requested: int, *, reserved: int = 0, amount: int = 100, hard: bool = False, total: bool = False
) -> tuple[str, dict[bytes, bytes]]:
    """Return the text and the headers of a refusal."""
    budget = Budget("b", TOKENS, TOTAL if total else DAY, amount, hard)
    resets_at = None if total else LATER
    exceeded = BudgetExceeded(KEY_LEVEL, budget, used, requested, resets_at, reserved=reserved)
    refusal = budget_refusal(exceeded, NOW)
    return refusal.message, dict(refusal.headers)


@pytest.mark.parametrize("hard", [True, False])
def test_a_request_larger_than_the_budget_never_fits(hard: bool) -> None:
    text, headers = refused(0, 300, hard=hard)
    assert "is spent" not in text
    assert "does not fit the rest of the budget for this API key on tokens per day" in text
    assert "Limit 100, Used 0, Requested 300" in text
    assert ("the most that it can use" if hard else "as much as it is expected to use") in text
    assert "At most 100 fits." in text
    assert "no retry helps" in text
    assert headers[NO_RETRY[0]] == b"false"
    assert b"retry-after" not in headers


def test_a_request_larger_than_the_rest_fits_in_the_next_period() -> None:
    text, headers = refused(70, 80)
    assert "is spent" not in text
    assert "At most 30 fits." in text
    assert "begins anew at 2023-11-14T22:23:20Z" in text
    assert (headers[NO_RETRY[0]], headers[b"retry-after"]) == (b"false", b"600")


def test_a_request_that_running_ones_leave_no_room_may_be_repeated() -> None:
    text, headers = refused(90, 80, reserved=85)
    assert "Limit 100, Used 90, Requested 80, of the used 85 reserved by running requests" in text
    assert NO_RETRY[0] not in headers
    assert headers[b"retry-after"] == b"1"


def test_reservations_do_not_matter_if_it_would_not_fit_without_them() -> None:
    text, headers = refused(90, 80, reserved=60)
    assert "At most 10 fits." in text
    assert (headers[NO_RETRY[0]], headers[b"retry-after"]) == (b"false", b"600")


def test_a_spent_budget_says_so() -> None:
    text, headers = refused(100, 5)
    assert "The budget for this API key on tokens per day is spent: Limit 100, Used 100, Requested 5." in text
    assert (headers[NO_RETRY[0]], headers[b"retry-after"]) == (b"false", b"600")
    _, headers = refused(100, 5, total=True)
    assert b"retry-after" not in headers


def test_a_request_without_a_price_names_no_amounts() -> None:
    budget = Budget("b", MONEY, DAY, 100, refuses_unpriced=True)
    refusal = budget_refusal(BudgetExceeded(KEY_LEVEL, budget, 0, 0, None, is_unpriced=True), NOW)
    assert "only models with a price" in refusal.message
    assert NO_RETRY in refusal.headers
