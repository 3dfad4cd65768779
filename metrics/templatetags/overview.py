"""Addresses of the busiest models, API keys and clients on the overview, and titles of budgets."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from gateway.registry.limits import DAY, EVERYONE_LEVEL, KEY_LEVEL, MONEY, MONTH, TOKENS, TOTAL, USER_LEVEL, WEEK
from metrics.queries.attention import AttentionPayload

register = template.Library()

# As pages of limits name them.
_WORDS: Mapping[str | None, Any] = {
    KEY_LEVEL: gettext_lazy("API key"),
    USER_LEVEL: gettext_lazy("user"),
    EVERYONE_LEVEL: gettext_lazy("everyone"),
    TOKENS: gettext_lazy("tokens"),
    MONEY: gettext_lazy("money"),
    DAY: pgettext_lazy("period of a budget", "day"),
    WEEK: pgettext_lazy("period of a budget", "week"),
    MONTH: pgettext_lazy("period of a budget", "month"),
    TOTAL: pgettext_lazy("period of a budget", "in total"),
}


@register.filter
def rank_url(row: Mapping[str, Any]) -> str:
    """Return the address of a row's requests or of its client; nothing for requests without an API key."""
    if "ip" in row:
        return reverse("client", args=[row["ip"]])
    query = {"model": row["model_id"]} if "model_id" in row else {"api_key_id": row["api_key_id"]}
    return f"{reverse('requests')}?{urlencode(query, quote_via=quote)}" if all(query.values()) else ""


@register.filter
def budget_title(item: AttentionPayload) -> SafeString:
    """Return whose budget an item is about, in bold, and its unit and period."""
    level, unit, period = (_WORDS[item[name]] for name in ("level", "unit", "period"))
    if item["level"] == EVERYONE_LEVEL:
        return format_html(_("<b>{subject}</b> ({unit}, {period})"), subject=level, unit=unit, period=period)
    subject = item["subject_name"] or item["subject_id"]
    return format_html(
        _("<b>{subject}</b> ({level}, {unit}, {period})"), subject=subject, level=level, unit=unit, period=period
    )
