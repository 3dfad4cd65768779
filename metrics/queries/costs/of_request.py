"""Cost of one request by its parts, from the row of the price book that it was computed from."""

from datetime import datetime
from decimal import Decimal
from typing import TypedDict

from django.conf import settings

from gateway.prices import catalogue
from gateway.prices.amounts import text_of
from gateway.prices.book import REQUESTS, TOKENS
from gateway.prices.counts import part_of, plausible
from gateway.prices.rates import moment_of
from gateway.registry.prices import Price
from metrics.models import PriceRow
from metrics.prices.amounts import nanos
from metrics.prices.registry import price_registry
from metrics.queries.requests.payload import CostPartPayload, RequestPayload
from metrics.times import parse_time

REQUEST = "request"  # the part for the request itself; others are kinds of tokens


class RequestCostPayload(TypedDict):
    """What the cost of a request consists of."""

    cost_parts: list[CostPartPayload]
    partly_priced: bool
    reporting_cost: str | None


def cost_details(request: RequestPayload, price: Price | None) -> RequestCostPayload:
    """Return the parts of a cost at its price, and the cost in the reporting currency."""
    parts = [] if price is None else _parts(price, request)
    return {
        "cost_parts": parts,
        "partly_priced": any(part["amount"] is None for part in parts),
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
    day = datetime.astimezone(ended, zone).date().isoformat()
    amount, _ = nanos(Decimal(request["cost"]))
    converted = price_registry.rates().converted(amount, request["currency"], moment_of(day, zone))
    return None if converted is None else text_of(converted)


def _parts(price: Price, request: RequestPayload) -> list[CostPartPayload]:
    """Return what each kind of token costs. Rounded half up to 10⁻⁹, their sum is the cost of the request."""
    whole, output = plausible(request["input_tokens"]), plausible(request["output_tokens"])
    cached = part_of(request["cached_tokens"], whole) or 0
    written = part_of(request["cache_write_tokens"], whole) or 0
    long = part_of(request["long_cache_write_tokens"], written) or 0
    reasoning = part_of(request["reasoning_tokens"], output) or 0
    left = (whole or 0) - cached
    short, long = min(written - long, left), min(long, max(0, left - (written - long)))
    write = price.input if price.write_short is None else price.write_short
    kinds = (
        ("input", left - short - long, price.input),
        ("cached", cached, price.input if price.cached is None else price.cached),
        ("write_short", short, write),
        ("write_long", long, write if price.write_long is None else price.write_long),
        ("output", (output or 0) - reasoning, price.output),
        ("reasoning", reasoning, price.output if price.reasoning is None else price.reasoning),
    )
    parts = [_part(name, count, amount, TOKENS) for name, count, amount in kinds if count]
    return parts if price.request is None else [*parts, _part(REQUEST, 1, price.request, REQUESTS)]


def _part(name: str, count: int, amount: int | None, per: int) -> CostPartPayload:
    return {
        "part": name,
        "count": count,
        "amount": None if amount is None else text_of(amount),
        "cost": None if amount is None else _exact(count * amount, per),
    }


def _exact(product: int, per: int) -> str:
    text = f"{Decimal(product).scaleb(-9) / per:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
