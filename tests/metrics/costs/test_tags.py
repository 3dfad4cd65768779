"""How pages write amounts of money."""

import pytest

from metrics.costs.templatetags.costs import costs, money, shown


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"),
        ("0.000123456", "0.000123"),
        ("0.000000001", "0.000000001"),
        ("0.0999999", "0.1"),
        ("0.9999", "1"),
        ("0.25", "0.25"),
        ("1", "1.00"),
        ("1234.565", "1,234.57"),
        ("12345678.9", "12,345,678.90"),
    ],
)
def test_an_amount_keeps_what_can_be_read(amount: str, text: str) -> None:
    assert shown(amount) == text


def test_the_title_is_exact() -> None:
    assert money("0.123456789", "USD") == ('<span title="0.123456789 USD">0.123<span class="unit">USD</span></span>')


def test_no_cost_is_a_dash() -> None:
    dash = '<span class="muted">—</span>'
    assert (money(None, None), costs({"costs": [], "requests_without_cost": 5})) == (dash, dash)


def test_requests_without_a_cost_stand_beside_it() -> None:
    one = {"currency": "USD", "cost": "2", "estimated_cost": "0", "requests": 1, "estimated_requests": 0}
    assert "1,200 without a cost" in costs({"costs": [one], "requests_without_cost": 1200})
