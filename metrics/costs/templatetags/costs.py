"""Template tags of costs: amounts of money, and the costs of a row with what they leave out.

A row has `costs` by currency and `requests_without_cost`, as in the API.
"""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from metrics import labels
from metrics.costs.tables import source_name
from metrics.templatetags.figures import NO_VALUE, count

register = template.Library()
register.filter(source_name)

DIGITS = 3  # significant ones of an amount below 1
NO_COST = format_html('<span class="muted">{}</span>', NO_VALUE)


def shown(amount: str) -> str:
    """Return an amount with two decimals, and below 1 with three significant digits: no amount is shown as 0."""
    value = Decimal(amount)
    if not value:
        return "0"
    if abs(value) >= 1:
        return f"{value.quantize(Decimal('0.01'), ROUND_HALF_UP):,f}"
    rounded = value.quantize(Decimal(1).scaleb(value.adjusted() + 1 - DIGITS), ROUND_HALF_UP)
    return f"{rounded:f}".rstrip("0").rstrip(".")


@register.simple_tag
def money(amount: str | None, currency: str | None) -> SafeString:
    """Return an amount with its currency; a dash without one. The title has the exact amount."""
    if amount is None or currency is None:
        return NO_COST
    return format_html(
        '<span title="{} {}">{}<span class="unit">{}</span></span>', amount, currency, shown(amount), currency
    )


@register.simple_tag
def costs(row: Mapping[str, Any]) -> SafeString:
    """Return the costs of a row, and the number of its requests without one; a dash if there is no cost."""
    missing = row["requests_without_cost"]
    if not row["costs"] or not missing:
        return cost_amounts(row)
    text = ngettext("%(number)s without a cost", "%(number)s without a cost", missing) % {"number": count(missing)}
    return format_html('{}<small class="under">{}</small>', cost_amounts(row), text)


@register.simple_tag
def costs_of(rows: Mapping[str, Mapping[str, Any]], name: str) -> SafeString:
    """Return the costs of one of several rows; a dash if there is no such row."""
    return costs(rows[name]) if name in rows else NO_COST


@register.simple_tag
def cost_amounts(row: Mapping[str, Any]) -> SafeString:
    """Return the costs of a row, one line for each currency; a dash if there is no cost."""
    return _lines((each["cost"], each["currency"]) for each in row["costs"])


@register.simple_tag
def amounts(totals: Iterable[Mapping[str, str]] | None) -> SafeString:
    """Return amounts by currency, one a line; a dash if there is none."""
    return _lines((each["cost"], each["currency"]) for each in totals or ())


@register.simple_tag
def estimated_costs(row: Mapping[str, Any]) -> SafeString:
    """Return the part of the costs of requests whose tokens were estimated; a dash if there is none."""
    return _lines((each["estimated_cost"], each["currency"]) for each in row["costs"] if each["estimated_requests"])


@register.simple_tag
def hardware_costs(row: Mapping[str, Any]) -> SafeString:
    """Return the costs of own hardware, idle time below; a dash if there are none."""
    lines = (
        (money(each["cost"], each["currency"]), _idle(each["idle_cost"], each["currency"]))
        for each in row["hardware_costs"]
    )
    return format_html_join("", "<div>{}{}</div>", lines) or NO_COST


def _idle(amount: str, currency: str) -> SafeString | str:
    text = _("%(cost)s of it idle") % {"cost": f"{shown(amount)} {currency}"}
    return "" if amount == "0" else format_html('<small class="under" title="{} {}">{}</small>', amount, currency, text)


def _lines(amounts: Iterable[tuple[str, str]]) -> SafeString:
    return format_html_join(SafeString("<br>"), "{}", ((money(*each),) for each in amounts)) or NO_COST


@register.filter
def requests_with_cost(row: Mapping[str, Any]) -> int:
    return sum(each["requests"] for each in row["costs"])


register.filter("cost_part_word", labels.cost_part)
