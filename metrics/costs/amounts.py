"""Amounts of money as decimal numbers: in forms, in the API and in imports."""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext as _

from gateway.prices.amounts import PLACES, text_of
from gateway.prices.book import NANO

MAX_DIGITS = 10  # before the decimal point
MAX_AMOUNT = 1_000_000_000 * NANO  # of a unit; the database's integers have 63 bits


def nanos(value: Decimal) -> tuple[int, bool]:
    """Return an amount in 10⁻⁹, and whether that is exact. Otherwise it is rounded half to even."""
    if value and value.adjusted() < -PLACES - 1:
        return 0, False  # also if the exponent is too small to be computed with
    with localcontext() as context:
        context.prec = 60
        exact = value * NANO
        whole = exact.to_integral_value(ROUND_HALF_EVEN)
    return int(whole), whole == exact


class AmountFormField(forms.DecimalField):
    """Input of an amount in units of the currency; its value is in 10⁻⁹."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("min_value", 0)
        options.setdefault("max_value", MAX_AMOUNT // NANO)
        super().__init__(decimal_places=PLACES, **options)

    def prepare_value(self, value: Any) -> Any:
        return text_of(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> Any:
        amount = super().clean(value)
        return None if amount is None else nanos(amount)[0]

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.clean(data) != initial)
        except ValidationError:
            return True


class AmountField(models.BigIntegerField):  # type: ignore[type-arg]
    """Amount in 10⁻⁹ of a currency. Forms show units of the currency."""

    def formfield(self, **options: Any) -> Any:
        shown: dict[str, Any] = {
            "label": self.verbose_name,
            "help_text": self.help_text,
            "required": not self.blank,
        }
        return AmountFormField(**shown | {name: options[name] for name in shown if name in options})

    def deconstruct(self) -> Any:
        name, _path, args, options = super().deconstruct()
        return name, "django.db.models.BigIntegerField", args, options


def parse_amount(text: str) -> int:
    """Return a decimal number in 10⁻⁹. Raises ValueError with a sentence for the user."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(_("Enter a decimal number such as 2.5.")) from None
    if not is_amount(value):
        raise ValueError(_("Enter an amount from 0 to 1,000,000,000."))
    amount, exact = nanos(value)
    if not exact:
        raise ValueError(_("Enter at most nine decimal places."))
    return amount


def is_amount(value: Decimal) -> bool:
    """Return True for a number of units from 0 to MAX_AMOUNT. No exponent is too large for it."""
    return value.is_finite() and value >= 0 and (value.adjusted() < MAX_DIGITS and value * NANO <= MAX_AMOUNT)
