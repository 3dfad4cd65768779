"""Costs of own hardware in one month: by endpoint and by model, beside the same tokens at a model of a cloud."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict
from zoneinfo import ZoneInfo

import msgspec

from endpoints.registry import registry
from gateway.prices.amounts import text_of
from gateway.prices.book import TOKENS, PricedUsage, cost
from gateway.registry.prices import Price
from metrics import sql
from metrics.counting.hardware import HARDWARE_COLUMNS, IDLE, HardwareSums
from metrics.prices.registry import price_registry
from metrics.queries.hardware.hours import provisional
from metrics.queries.stored import run_sql


class HardwareLinePayload(TypedDict):
    """Requests of one model, or the idle time. Amounts are decimal text in the currency of the rates."""

    model: str | None  # null: idle time
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    hours: float  # sum of the times of requests, or the idle time
    cost: str


class CloudComparisonPayload(TypedDict):
    """The same tokens at the price of another model. Compare costs of equal currencies only."""

    model: str
    cloud: str
    price_id: int
    currency: str
    cost: str


class HardwareMonthRow(TypedDict):
    """One endpoint, and one currency of its rates."""

    endpoint_id: str
    endpoint_name: str | None  # null: deleted
    currency: str
    hours: float
    busy_hours: float
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: str  # all of it
    idle_cost: str
    provisional_hours: float  # part of the above that may change
    provisional_cost: str
    cost_per_million_tokens: str | None  # of input and output; idle time included
    cost_per_request: str | None
    lines: list[HardwareLinePayload]
    comparison: CloudComparisonPayload | None


class HardwareMonthPayload(TypedDict):
    month: str
    rows: list[HardwareMonthRow]
    is_whole: bool  # False: hours that are over are not counted yet
    comparison_price: Price | None


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
    book = price_registry.book()
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
    so_far = provisional(price_registry.hardware(), now, zone)
    for part, lines in so_far.parts:
        place = (part.rate.endpoint_id, part.rate.currency)
        if part.date.startswith(f"{month}-") and endpoint_id in ("", place[0]):
            for (name, kind, _), sums in lines.items():
                places.setdefault(place, _Endpoint()).add(kind, name, sums, is_provisional=True)
    rows = [_row(*place, of_place, price, model) for place, of_place in places.items()]
    rows.sort(key=lambda it: (it["currency"], -float(it["cost"]), it["endpoint_name"] or "", it["endpoint_id"]))
    return {"month": month, "rows": rows, "is_whole": so_far.is_whole, "comparison_price": price}


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


def _row(endpoint_id: str, currency: str, it: _Endpoint, price: Price | None, model: str) -> HardwareMonthRow:
    requests, idle = it.requests(), it.idle
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
        "provisional_hours": it.provisional.seconds / 3600,
        "provisional_cost": text_of(it.provisional.cost),
        "cost_per_million_tokens": _per(total * TOKENS, requests.input_tokens + requests.output_tokens),
        "cost_per_request": _per(total, requests.requests),
        "lines": list(_lines(it)),
        "comparison": None if price is None else _comparison(price, model, requests),
    }


def _lines(it: _Endpoint) -> Iterable[HardwareLinePayload]:
    for model, sums in sorted(it.by_model.items(), key=lambda each: (-each[1].cost, each[0])):
        yield _line(model, sums, sums.work_us)
    yield _line(None, it.idle, it.idle.seconds * 1_000_000 - it.idle.busy_us)


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


def _comparison(price: Price, model: str, sums: HardwareSums) -> CloudComparisonPayload:
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
