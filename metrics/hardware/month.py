"""Costs of own hardware in one month: by endpoint and by model, beside the same tokens at a model of a cloud."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, TypedDict
from zoneinfo import ZoneInfo

import msgspec

from endpoints.openapi.payload_fields import Help, UuidText
from endpoints.registry import registry
from gateway.prices.amounts import text_of
from gateway.prices.evaluation import TOKENS, PricedUsage, cost
from gateway.registry.prices import Price
from metrics import sql
from metrics.costs.hardware_lines import HARDWARE_COLUMNS, IDLE, HardwareSums
from metrics.costs.price_cache import price_cache
from metrics.hardware.hours import provisional
from metrics.queries.stored import run_sql


class HardwareLinePayload(TypedDict):
    """Requests of one model, or the idle time of the endpoint."""

    model: Annotated[str | None, Help("Requested name; null: idle time.")]
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: Annotated[int, Help("Part of the input tokens.")]
    hours: Annotated[float, Help("Sum of the times of the requests, or the idle time.")]
    cost: Annotated[str, Help("Decimal text, exact to 10⁻⁹ of the currency.")]


class HardwareComparisonPayload(TypedDict):
    """What the same requests and tokens cost at the price of another model."""

    model: str
    cloud: Annotated[str, Help("Type of endpoint; empty: any.")]
    price_id: Annotated[int, Help("Row of the price book; negative: of the catalogue.")]
    currency: str
    cost: str


class HardwareMonthRowPayload(TypedDict):
    """One endpoint, and one currency of its rates. The lines add up to `cost`."""

    endpoint_id: UuidText
    endpoint_name: Annotated[str | None, Help("Null: deleted.")]
    currency: str
    hours: Annotated[float, Help("In which a rate counted.")]
    busy_hours: Annotated[float, Help("In which at least one request ran.")]
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: Annotated[int, Help("Part of the input tokens.")]
    cost: Annotated[str, Help("Decimal text, idle time included.")]
    idle_cost: str
    provisional_hours: Annotated[float, Help("Part of `hours` that is not counted yet.")]
    provisional_cost: Annotated[str, Help("Part of `cost` that may still change.")]
    cost_per_million_tokens: Annotated[
        str | None, Help("Of input and output; idle time included. Null without tokens.")
    ]
    cost_per_request: Annotated[str | None, Help("Idle time included. Null without requests.")]
    lines: list[HardwareLinePayload]
    comparison: HardwareComparisonPayload | None


class HardwareMonthPayload(TypedDict):
    month: str
    rows: list[HardwareMonthRowPayload]
    is_whole: Annotated[bool, Help("False: hours that are over are still missing.")]


@dataclass
class _Endpoint:
    """Sums of an endpoint in one currency."""

    idle: HardwareSums = field(default_factory=HardwareSums)
    by_model: dict[str, HardwareSums] = field(default_factory=dict)
    provisional: HardwareSums = field(default_factory=HardwareSums)

    def add(self, kind: str, model: str, sums: HardwareSums, *, is_provisional: bool = False) -> None:
        place = self.idle if kind == IDLE else self.by_model.setdefault(model, HardwareSums())
        place.add(sums)
        if is_provisional:
            self.provisional.add(sums)

    def requests(self) -> HardwareSums:
        total = HardwareSums()
        for sums in self.by_model.values():
            total.add(sums)
        return total


def comparison_price(cloud: str, model: str, now: float) -> Price | None:
    """Return the price of a short prompt at the default service tier for a request to this cloud."""
    book = price_cache.book()
    return book.price(served=model, canonical="", endpoint_id="", provider=cloud, completed_at=now, prompt=0)


def cost_of_sums(price: Price, sums: HardwareSums) -> int:
    """Return what these requests and tokens cost at a price, in 10⁻⁹ of its currency, rounded half up once.

    Tokens that no server reported as cached cost as input.
    """
    # Amounts per thousand requests: one PricedUsage stands for one request.
    scaled = msgspec.structs.replace(price, request=None if price.request is None else price.request * sums.requests)
    return cost(
        scaled,
        PricedUsage(
            input=sums.input_tokens,
            cached=sums.cached_tokens,
            write_short=sums.write_tokens - sums.long_write_tokens,
            write_long=sums.long_write_tokens,
            output=sums.output_tokens,
            reasoning=sums.reasoning_tokens,
        ),
    )


def hardware_month(
    month: str, now: float, zone: ZoneInfo, *, price: Price | None = None, model: str = "", endpoint_id: str = ""
) -> HardwareMonthPayload:
    """Return the costs of a month (`2026-11`), endpoints with the highest cost first. Raises django.db.Error.

    `price`: of the model `model`, to compare with. `endpoint_id`: only this endpoint.
    """
    places = _counted(month, endpoint_id)
    so_far = provisional(price_cache.hardware(), now, zone)
    for part, lines in so_far.parts:
        place = (part.rate.endpoint_id, part.rate.currency)
        if part.date.startswith(f"{month}-") and endpoint_id in ("", place[0]):
            for (name, kind, _), sums in lines.items():
                places.setdefault(place, _Endpoint()).add(kind, name, sums, is_provisional=True)
    rows = [_row(*place, of_place, price, model) for place, of_place in places.items()]
    rows.sort(key=lambda row: (row["currency"], -float(row["cost"]), row["endpoint_name"] or "", row["endpoint_id"]))
    return {"month": month, "rows": rows, "is_whole": so_far.is_whole}


def months() -> list[str]:
    """Return the months with costs, the latest first. One query."""
    rows = run_sql(sql.select("DISTINCT substr(date, 1, 7)", "rollup_hardware_days"), [])
    return sorted((str(month) for (month,) in rows), reverse=True)


def _counted(month: str, endpoint_id: str) -> dict[tuple[str, str], _Endpoint]:
    where, values = ["date >= %s", "date <= %s"], [f"{month}-01", f"{month}-31"]
    if endpoint_id:
        where.append("endpoint_id = %s")
        values.append(endpoint_id)
    keys = ("endpoint_id", "currency", "kind", "model")
    columns = (*keys, *(f"SUM({name})" for name in HARDWARE_COLUMNS))
    statement = sql.select(columns, "rollup_hardware_days", where=where, group_by=", ".join(keys))
    places: dict[tuple[str, str], _Endpoint] = {}
    for endpoint, currency, kind, model, *each in run_sql(statement, values):
        sums = HardwareSums(*map(int, each))
        places.setdefault((str(endpoint), str(currency)), _Endpoint()).add(str(kind), str(model), sums)
    return places


def _row(
    endpoint_id: str, currency: str, endpoint: _Endpoint, price: Price | None, model: str
) -> HardwareMonthRowPayload:
    requests, idle = endpoint.requests(), endpoint.idle
    total = requests.cost + idle.cost
    return {
        "endpoint_id": endpoint_id,
        "endpoint_name": registry.name(endpoint_id),
        "currency": currency,
        "hours": idle.seconds / 3600,
        "busy_hours": idle.busy_us / 3.6e9,
        "requests": requests.requests,
        "input_tokens": requests.input_tokens,
        "output_tokens": requests.output_tokens,
        "cached_tokens": requests.cached_tokens,
        "cost": text_of(total),
        "idle_cost": text_of(idle.cost),
        "provisional_hours": endpoint.provisional.seconds / 3600,
        "provisional_cost": text_of(endpoint.provisional.cost),
        "cost_per_million_tokens": _per(total * TOKENS, requests.input_tokens + requests.output_tokens),
        "cost_per_request": _per(total, requests.requests),
        "lines": list(_lines(endpoint)),
        "comparison": None if price is None else _comparison(price, model, requests),
    }


def _lines(endpoint: _Endpoint) -> Iterable[HardwareLinePayload]:
    for model, sums in sorted(endpoint.by_model.items(), key=lambda each: (-each[1].cost, each[0])):
        yield _line(model, sums, sums.work_us)
    yield _line(None, endpoint.idle, endpoint.idle.seconds * 1_000_000 - endpoint.idle.busy_us)


def _line(model: str | None, sums: HardwareSums, time_us: int) -> HardwareLinePayload:
    return {
        "model": model,
        "requests": sums.requests,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_tokens": sums.cached_tokens,
        "hours": time_us / 3.6e9,
        "cost": text_of(sums.cost),
    }


def _comparison(price: Price, model: str, sums: HardwareSums) -> HardwareComparisonPayload:
    return {
        "model": model,
        "cloud": price.provider,
        "price_id": price.id,
        "currency": price.currency,
        "cost": text_of(cost_of_sums(price, sums)),
    }


def _per(amount: int, count: int) -> str | None:
    """Return an amount per one of `count`, rounded half up to 10⁻⁹."""
    return text_of((2 * amount + count) // (2 * count)) if count else None
