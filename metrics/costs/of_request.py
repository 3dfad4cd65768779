"""Cost of one request by its parts, from the row of the price book that it was computed from."""

from decimal import Decimal
from typing import TypedDict

from django.conf import settings

from gateway.prices import catalogue
from gateway.prices.amounts import text_of
from gateway.prices.evaluation import ReportedCounts, parts, usage_of
from gateway.prices.rates import day_of
from gateway.registry.prices import Price
from metrics.costs.amounts import nanos
from metrics.costs.price_cache import price_cache
from metrics.models import PriceRow
from metrics.queries.requests.payload import CostPartPayload, RequestPayload
from metrics.times import parse_time


class RequestCostPayload(TypedDict):
    """What the cost of a request consists of."""

    cost_parts: list[CostPartPayload]
    partly_priced: bool
    reporting_cost: str | None


def cost_details(request: RequestPayload, price: Price | None) -> RequestCostPayload:
    """Return the parts of a cost at its price, and the cost in the reporting currency."""
    priced_parts = [] if price is None else _parts(price, request)
    return {
        "cost_parts": priced_parts,
        "partly_priced": any(part["amount"] is None for part in priced_parts),
        "reporting_cost": _reporting_cost(request),
    }


def price_of(request: RequestPayload) -> Price | None:
    """Return the row of the price book or of the catalogue that a cost was computed from; None without a cost.

    At most one query. Raises django.db.Error.
    """
    number = request["price_id"]
    if number is None:
        return None
    if number < 0:
        return catalogue.find(number)
    row = PriceRow.objects.filter(pk=number).first()
    return None if row is None else row.price()


def _reporting_cost(request: RequestPayload) -> str | None:
    ended = parse_time(request["completed_at"])
    if request["cost"] is None or request["currency"] is None or ended is None:
        return None
    zone = settings.ROUTERDASH.zone
    amount, _ = nanos(Decimal(request["cost"]))
    converted = price_cache.rates().converted_on(day_of(ended.timestamp(), zone), amount, request["currency"], zone)
    return None if converted is None else text_of(converted)


def _parts(price: Price, request: RequestPayload) -> list[CostPartPayload]:
    """Return what each part costs. Rounded half up to 10⁻⁹, their sum is the cost of the request."""
    usage = usage_of(
        ReportedCounts(
            input_tokens=request["input_tokens"],
            output_tokens=request["output_tokens"],
            cached_tokens=request["cached_tokens"],
            cache_write_tokens=request["cache_write_tokens"],
            long_write_tokens=request["long_cache_write_tokens"],
            reasoning_tokens=request["reasoning_tokens"],
            images=request["images"],
            audio_ms=request["audio_ms"],
        )
    )
    return [
        {
            "part": part.name,
            "count": part.quantity,
            "amount": None if part.amount is None else text_of(part.amount),
            "cost": None if part.amount is None else _exact(part.quantity * part.amount, part.per),
        }
        for part in parts(price, usage)
    ]


def _exact(product: int, per: int) -> str:
    text = f"{Decimal(product).scaleb(-9) / per:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
