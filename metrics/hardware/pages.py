"""Page of own hardware: what each endpoint costs in a month, beside the same tokens at a model of a cloud."""

import time
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from endpoints.clouds.kinds import KIND_LABELS
from gateway.prices.catalogue import manifest
from metrics.hardware.api import MONTH
from metrics.hardware.month import HardwareMonthRowPayload, comparison_price, hardware_month, months
from metrics.queries.figures import Moment
from metrics.queries.stored import flushed

PAGE = 20  # endpoints
MAX_TEXT = 200
PLACES = ((Decimal("0.01"), 9), (Decimal(100), 6))  # of amounts below these
PLACES_OF_LARGE = 2


class HardwareLines(NamedTuple):
    """An endpoint with its amounts as text."""

    row: HardwareMonthRowPayload
    cost: str
    idle_cost: str
    per_million: str | None
    per_request: str | None
    provisional_cost: str
    comparison: str | None
    lines: list[tuple[Any, str]]  # each with its cost


@never_cache
@login_required
def hardware(request: HttpRequest) -> HttpResponse:
    """Show one month. It needs the database."""
    behind = not flushed()
    now, present = time.time(), Moment.now().figures.date[:7]
    month = request.GET.get("month", "")
    month = month if MONTH.fullmatch(month) else present
    model, cloud = (request.GET.get(name, "").replace("\x00", "")[:MAX_TEXT].strip() for name in ("model", "cloud"))
    price = comparison_price(cloud, model, now) if model else None
    payload = hardware_month(month, now, settings.ROUTERDASH.zone, price=price, model=model)
    page = Paginator(payload["rows"], PAGE).get_page(request.GET.get("page"))
    chosen = {"month": month, "cloud": cloud, "model": model}
    context: dict[str, Any] = {
        "page": page,
        "endpoints": [_lines(row) for row in page.object_list],
        "month": month,
        "months": sorted({*months(), present, month}, reverse=True),
        "model": model,
        "cloud": cloud,
        "clouds": [("", _("any")), *((name, KIND_LABELS.get(name, name)) for name in _clouds())],
        "price": price,
        "has_no_price": bool(model) and price is None,
        "is_whole": payload["is_whole"],
        "is_provisional": any(row["provisional_hours"] for row in payload["rows"]),
        "behind": behind,
        "previous": "?" + urlencode({**chosen, "page": page.number - 1}),
        "next": "?" + urlencode({**chosen, "page": page.number + 1}),
    }
    return render(request, "hardware/page.html", context)


def _clouds() -> list[str]:
    return sorted(name.removesuffix(".json") for name in manifest().files if name.endswith(".json"))


def _lines(row: HardwareMonthRowPayload) -> HardwareLines:
    comparison = row["comparison"]
    return HardwareLines(
        row,
        shown(row["cost"]),
        shown(row["idle_cost"]),
        None if row["cost_per_million_tokens"] is None else shown(row["cost_per_million_tokens"]),
        None if row["cost_per_request"] is None else shown(row["cost_per_request"]),
        shown(row["provisional_cost"]),
        None if comparison is None else f"{shown(comparison['cost'])} {comparison['currency']}",
        [(line, shown(line["cost"])) for line in row["lines"]],
    )


def shown(amount: str) -> str:
    """Return an amount as a page shows it: with thousands separators, and rounded to a few places. The API has all."""
    value = Decimal(amount)
    places = next((places for below, places in PLACES if value < below), PLACES_OF_LARGE)
    text = f"{value:,.{places}f}".rstrip("0")
    whole, _point, fraction = text.partition(".")
    return f"{whole}.{fraction:0<2}"


URLS = [path("hardware", hardware, name="hardware")]
