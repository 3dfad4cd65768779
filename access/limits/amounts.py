"""Amounts of budgets as people write them: whole tokens, or decimal numbers of the reporting currency."""

from decimal import Decimal, InvalidOperation

from django.utils.translation import gettext as _

from gateway.prices.amounts import PLACES, text_of
from gateway.registry.limits import MONEY

_MAX_DIGITS = 15  # before the decimal point


def amount_text(amount: int, unit: str) -> str:
    """Return an amount of a budget as a number without separators, such as `2.5`."""
    return text_of(amount) if unit == MONEY else str(amount)


def parse_budget(text: str, unit: str) -> int:
    """Return tokens, or 10⁻⁹ of the currency. Raises ValueError with a sentence for the user."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value.adjusted() >= _MAX_DIGITS + 1:
        raise ValueError(_("Enter a number such as 2.5.") if unit == MONEY else _("Enter a whole number."))
    scaled = value.scaleb(PLACES) if unit == MONEY else value
    if scaled.adjusted() < -PLACES * 2 or scaled != scaled.to_integral_value():
        text = _("Enter at most nine decimal places.") if unit == MONEY else _("Enter a whole number.")
        raise ValueError(text)
    return int(scaled)
