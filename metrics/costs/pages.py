"""Page of prices: those that count now for each model of all endpoints, and served models without one."""

import time
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from endpoints.clouds.kinds import KIND_LABELS
from gateway.prices.amounts import text_of
from gateway.prices.catalogue import manifest
from metrics.costs.in_effect import DAYS, PricedModelPayload, priced_models, unpriced_models
from metrics.costs.price_cache import price_cache
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed
from metrics.templatetags.figures import NO_VALUE

PAGE = 40
MAX_TEXT = 200
UNPRICED = 40  # lines of served models without a price


class PriceLine(NamedTuple):
    """A model with its price as text."""

    model: PricedModelPayload
    place: str  # endpoint, or type of endpoints
    input: str
    cached: str
    output: str
    has_rate: bool  # its currency can be converted to that of sums


@never_cache
@login_required
def prices(request: HttpRequest) -> HttpResponse:
    """Show the list. It needs the database."""
    text = request.GET.get("q", "").replace("\x00", "")[:MAX_TEXT].strip()
    behind = not flushed()
    moment, now = Moment.now(), time.time()
    page = Paginator(priced_models(moment.entries, now, text), PAGE).get_page(request.GET.get("page"))
    unpriced = [] if text else unpriced_models(moment.entries, date.fromisoformat(moment.figures.date), now)
    context: dict[str, Any] = {
        "page": page,
        "lines": [_line(model, now) for model in page.object_list],
        "unpriced": unpriced[:UNPRICED],
        "unpriced_more": max(0, len(unpriced) - UNPRICED),
        "q": text,
        "days": DAYS,
        "behind": behind,
        "currency": settings.ROUTERDASH.currency,
        "catalogue": manifest(),
        "previous": "?" + urlencode({"q": text, "page": page.number - 1}),
        "next": "?" + urlencode({"q": text, "page": page.number + 1}),
    }
    return render(request, "costs/prices.html", context)


def _line(model: PricedModelPayload, now: float) -> PriceLine:
    price = model.get("price")
    place = model["endpoint_name"] or str(KIND_LABELS.get(model["endpoint_type"], model["endpoint_type"]))
    if price is None:
        return PriceLine(model, place, NO_VALUE, NO_VALUE, NO_VALUE, True)
    cached = price.input if price.cached is None else price.cached
    has_rate = price_cache.rates().rate(price.currency, now) is not None
    return PriceLine(model, place, _text(price.input), _text(cached), _text(price.output), has_rate)


def _text(amount: int | None) -> str:
    return NO_VALUE if amount is None else text_of(amount)


URLS = [path("prices", prices, name="prices")]
