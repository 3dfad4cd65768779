"""Costs of a period: those of each group are the sums of the costs of its requests, by currency."""

import csv
import io
import json
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest

from metrics.prices.tables import PriceRow
from metrics.queries.costs.by_group import with_costs
from metrics.queries.usage import BY, COST_FIGURES, FIGURES, NAMES, usage, usage_csv
from metrics.queries.usage_periods import Period
from tests.metrics.records import KEY, NOW, A, load, request
from tests.metrics.world import World, rows

pytestmark = pytest.mark.django_db
TODAY = Period(NOW.date(), NOW.date())


def costs_of_requests(group: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the number and cost of requests by group and currency, from the history."""
    found: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for value, attempts in rows(f"SELECT {group}, attempts FROM request_history WHERE attempts IS NOT NULL"):
        *_, last = (json.loads(attempts) if isinstance(attempts, str) else attempts) or [{}]
        if "cost" in last:
            requests, cost = found[str(value), last["currency"]]
            found[str(value), last["currency"]] = requests + 1, cost + last["cost"]
    return dict(found)


@pytest.mark.parametrize(
    ("by", "column"),
    [("model", "model"), ("endpoint", "endpoint_id"), ("key", "COALESCE(CAST(api_key_id AS text), '')")],
)
def test_costs_of_a_group_are_those_of_its_requests(world: World, prices: list[PriceRow], by: str, column: str) -> None:
    world.gateway(*load(31, 300))
    world.write()
    payload: Any = with_costs(usage(by, TODAY), TODAY)
    found = {
        (row[NAMES[by][0]] or "", each["currency"]): (each["requests"], int(Decimal(each["cost"]) * 10**9))
        for row in payload["rows"]
        for each in row["costs"]
    }
    assert found == costs_of_requests(column)
    total = {each["currency"]: Decimal(each["cost"]) for each in payload["costs"]}
    for currency, cost in total.items():
        assert cost * 10**9 == sum(cost for (_, of), (_, cost) in found.items() if of == currency)


@pytest.mark.parametrize("by", BY)
def test_rows_of_every_group_add_up_to_the_total(world: World, prices: list[PriceRow], by: str) -> None:
    world.gateway(*load(32, 200))
    world.write()
    payload: Any = with_costs(usage(by, TODAY), TODAY)
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in payload["rows"]:
        for each in row["costs"]:
            sums[each["currency"]] += Decimal(each["cost"])
    assert (dict(sums), len(sums)) == ({each["currency"]: Decimal(each["cost"]) for each in payload["costs"]}, 2)


def test_estimated_costs_are_apart(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000, estimated=True), request(input_tokens=3000))
    world.write()
    (cost,) = with_costs(usage("model", TODAY), TODAY)["costs"]
    expected = {"currency": "USD", "cost": "0.002", "estimated_cost": "0.0005", "requests": 2, "estimated_requests": 1}
    assert cost == expected


def test_only_the_chosen_key_is_summed(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000, api_key_id=KEY), request(input_tokens=3000))
    world.write()
    only = {"api_key_id": KEY, "endpoint_id": A, "model": "tiny"}
    (cost,) = with_costs(usage("day", TODAY, only), TODAY, only)["costs"]
    assert (cost["cost"], cost["requests"]) == ("0.0005", 1)


def test_without_a_price_there_is_no_cost(world: World) -> None:
    world.gateway(request(input_tokens=1000))
    world.write()
    payload = with_costs(usage("model", TODAY), TODAY)
    assert (payload["costs"], payload["rows"][0]["costs"]) == ([], [])


def exported(by: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(usage_csv(with_costs(usage(by, TODAY), TODAY)))))


def test_csv_has_columns_for_each_currency(world: World, prices: list[PriceRow]) -> None:
    world.gateway(*load(33, 200))
    world.write()
    payload: Any = with_costs(usage("model", TODAY), TODAY)
    *lines, total = exported("model")
    for line, row in zip([*lines, total], [*payload["rows"], payload], strict=True):
        for currency in ("USD", "EUR"):
            costs: dict[str, Any] = next((it for it in row["costs"] if it["currency"] == currency), {})
            for column, field in COST_FIGURES.items():
                assert line[f"{column}_{currency.lower()}"] == str(costs.get(field, ""))
    assert {line["model_id"]: bool(line["cost_usd"]) for line in lines}["tiny"]
    assert "" in {line["cost_eur"] for line in lines}


def test_csv_without_prices_has_no_columns_of_costs(world: World) -> None:
    world.gateway(request(input_tokens=5))
    world.write()
    assert tuple(exported("model")[0]) == ("model_id", *FIGURES)
