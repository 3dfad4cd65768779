"""Rates of currencies to the reporting currency, and amounts as decimal numbers."""

from decimal import Decimal

import pytest

from gateway.prices.amounts import text_of
from gateway.prices.book import NANO
from gateway.prices.rates import Rates
from gateway.registry.prices import DatedRate
from metrics.costs.amounts import AmountFormField, nanos, parse_amount

RATES = Rates(
    "USD",
    [
        DatedRate("EUR", "USD", 1000, 1_100_000_000),
        DatedRate("EUR", "USD", 2000, 1_200_000_000),
        DatedRate("EUR", "JPY", 0, 160 * NANO),
        DatedRate("USD", "USD", 0, 5),
    ],
)


@pytest.mark.parametrize(
    ("moment", "expected"), [(999, None), (1000, 1_100_000_000), (1999.9, 1_100_000_000), (2000, 1_200_000_000)]
)
def test_the_latest_rate_counts(moment, expected):
    assert RATES.rate("EUR", moment) == expected


def test_the_reporting_currency_is_worth_itself():
    assert RATES.rate("USD", 0) == NANO
    assert RATES.converted(7, "USD", 0) == 7


def test_a_currency_without_a_rate_is_not_converted():
    assert RATES.converted(7, "CHF", 5000) is None
    assert RATES.converted(7, "EUR", 0) is None


@pytest.mark.parametrize(("amount", "expected"), [(10, 11), (5, 6), (4, 4), (0, 0)])
def test_half_is_rounded_up(amount, expected):
    assert RATES.converted(amount, "EUR", 1500) == expected


@pytest.mark.parametrize(
    ("text", "amount", "exact"),
    [
        ("2.5", 2_500_000_000, True),
        ("0.0000000015", 2, False),
        ("0.0000000025", 2, False),
        ("1.0399999999999998", 1_040_000_000, False),
        ("1E-9", 1, True),
    ],
)
def test_amounts_are_whole(text, amount, exact):
    assert nanos(Decimal(text)) == (amount, exact)


@pytest.mark.parametrize(("amount", "text"), [(0, "0"), (2_500_000_000, "2.5"), (75, "0.000000075"), (10**10, "10")])
def test_amounts_are_shown_as_short_as_possible(amount, text):
    assert text_of(amount) == text
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "NaN", "sNaN", "Infinity", "1e10", "1e999999999", "0.0000000001", "1e-999999999"]
)
def test_no_amount(text):
    with pytest.raises(ValueError, match=r"Enter "):
        parse_amount(text)


def test_a_form_shows_units_of_the_currency():
    field = AmountFormField(required=False)
    assert field.clean("0.25") == 250_000_000
    assert field.clean("") is None
    assert field.prepare_value(250_000_000) == "0.25"
    assert not field.has_changed(250_000_000, "0.250")
    assert field.has_changed(250_000_000, "0.26")
    assert field.has_changed(250_000_000, "x")
