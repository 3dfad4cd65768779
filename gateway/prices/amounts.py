"""Amounts of money as decimal numbers."""

from decimal import Decimal

PLACES = 9


def decimal_of(amount: int) -> Decimal:
    """Return an amount in 10⁻⁹ of a currency in units of it."""
    return Decimal(amount).scaleb(-PLACES)


def text_of(amount: int) -> str:
    """Return an amount in 10⁻⁹ of a currency as the shortest decimal number: `2.5`, `0.075`, `0`."""
    text = f"{decimal_of(amount):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
