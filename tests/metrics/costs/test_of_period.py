"""Costs of a period: those of each group are the sums of the costs of its requests, by currency."""

import csv
import io
import json
import random
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from gateway.ipc.record import CANCELLED
from gateway.prices.book import NANO
from gateway.prices.rates import Rates
from gateway.registry.prices import DatedRate
from metrics.costs.conversion import converted
from metrics.costs.of_period import cost_sums
from metrics.costs.of_usage import with_costs
from metrics.costs.rows import CostRows
from metrics.costs.sums import CostSums
from metrics.costs.tables import CurrencyRate, PriceRow
from metrics.queries.usage import BY, COST_FIGURES, FIGURES, NAMES, usage, usage_csv
from metrics.queries.usage_periods import Period
from tests.metrics.records import KEY, NOW, A, load, request
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
TODAY = Period(NOW.date(), NOW.date())


def costs_of_requests(group: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the number and cost of requests by group and currency, from the history."""
    sums: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for value, attempts in rows(f"SELECT {group}, attempts FROM request_history WHERE attempts IS NOT NULL"):
        *_, last = (json.loads(attempts) if isinstance(attempts, str) else attempts) or [{}]
        if "cost" in last:
            requests, cost = sums[str(value), last["currency"]]
            sums[str(value), last["currency"]] = requests + 1, cost + last["cost"]
    return dict(sums)


@pytest.mark.parametrize(
    ("by", "column"),
    [("model", "model"), ("endpoint", "endpoint_id"), ("key", "COALESCE(CAST(api_key_id AS text), '')")],
)
def test_costs_of_a_group_are_those_of_its_requests(world: World, prices: list[PriceRow], by: str, column: str) -> None:
    world.gateway(*load(31, 300))
    world.write()
    payload: Any = with_costs(usage(by, TODAY), TODAY)
    sums = {
        (row[NAMES[by][0]] or "", each["currency"]): (each["requests"], int(Decimal(each["cost"]) * 10**9))
        for row in payload["rows"]
        for each in row["costs"]
    }
    assert sums == costs_of_requests(column)
    total = {each["currency"]: Decimal(each["cost"]) for each in payload["costs"]}
    for currency, cost in total.items():
        assert cost * 10**9 == sum(cost for (_, of), (_, cost) in sums.items() if of == currency)


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
            costs: dict[str, Any] = next((cost for cost in row["costs"] if cost["currency"] == currency), {})
            for column, field in COST_FIGURES.items():
                assert line[f"{column}_{currency.lower()}"] == str(costs.get(field, ""))
    assert {line["model_id"]: bool(line["cost_usd"]) for line in lines}["tiny"]
    assert "" in {line["cost_eur"] for line in lines}


def test_csv_without_prices_has_no_columns_of_costs(world: World) -> None:
    world.gateway(request(input_tokens=5))
    world.write()
    assert tuple(exported("model")[0]) == ("model_id", *FIGURES)


# Currencies


RATE = 1_085_000_001  # dollars for a euro, 10⁻⁹


@pytest.fixture
def euro_rate(prices: list[PriceRow]) -> None:
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=NOW, rate=RATE)


@pytest.mark.parametrize("by", BY)
def test_costs_with_a_rate_are_converted(world: World, euro_rate: None, by: str) -> None:
    world.gateway(*load(33, 200))
    world.write()
    payload: Any = with_costs(usage(by, TODAY), TODAY)
    expected = sum(
        cost if currency == "USD" else (2 * cost * RATE + 10**9) // (2 * 10**9)
        for currency, cost in rows("SELECT currency, cost FROM rollup_cost_days")
    )
    assert {currency for (currency,) in rows("SELECT currency FROM rollup_cost_days")} == {"EUR", "USD"}
    (total,) = payload["costs"]
    assert (total["currency"], Decimal(total["cost"]) * 10**9) == ("USD", expected)
    assert sum(Decimal(each["cost"]) * 10**9 for row in payload["rows"] for each in row["costs"]) == expected


def test_costs_without_a_rate_are_listed_apart(world: World, prices: list[PriceRow]) -> None:
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=NOW + timedelta(days=2), rate=RATE)
    world.gateway(*load(34, 200))
    world.write()
    payload: Any = with_costs(usage("day", TODAY), TODAY)
    assert [cost["currency"] for cost in payload["costs"]] == ["USD", "EUR"]


@pytest.mark.parametrize(("cost", "rate"), [(10**18, 1), (3 * 10**17 + 1, 10**9 + 7), (10**9 - 1, 150 * 10**9 + 1)])
def test_large_products_are_exact(world: World, cost: int, rate: int) -> None:
    CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=NOW, rate=rate)
    day = NOW.date().isoformat()
    with connection.cursor() as cursor:
        CostRows().add(cursor, {(day, A, "", "", "", "", "", 0, 1, "EUR"): CostSums(requests=1, cost=cost)})
    (sums,) = cost_sums("date", TODAY)[day].values()
    assert sums.cost == (2 * cost * rate + 10**9) // (2 * 10**9)


def test_the_database_converts_as_python_does() -> None:
    """Rows are summed in the database, so that both have the formula."""
    rng = random.Random(5)
    pairs = [
        (rng.randrange(10 ** rng.randrange(1, 17)), rng.randrange(1, 10 ** rng.randrange(1, 12))) for _ in range(300)
    ]
    pairs += [(0, 1), (1, NANO // 2), (1, NANO // 2 - 1), (NANO - 1, NANO - 1), (9 * 10**18, NANO)]
    for cost, rate in pairs:
        given = "(SELECT CAST(%s AS bigint) AS cost, CAST(%s AS bigint) AS rate) AS given"
        ((converted_cost,),) = rows(f"SELECT {converted('cost')} FROM {given}", cost, rate)
        assert converted_cost == Rates("USD", [DatedRate("EUR", "USD", 0, rate)]).converted(cost, "EUR", 1), (
            cost,
            rate,
        )


def test_a_rate_counts_from_the_day_on_which_it_starts(world: World, prices: list[PriceRow]) -> None:
    yesterday = NOW - timedelta(days=1)
    for moment, rate in ((yesterday, NANO), (NOW + timedelta(hours=1), 2 * NANO)):
        CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=moment, rate=rate)
    world.gateway(request(model="large", ago=86400, input_tokens=1000), request(model="large", input_tokens=1000))
    world.write()
    sums = cost_sums("date", Period(yesterday.date(), NOW.date()))
    (first, second) = (by_currency["USD"].cost for _, by_currency in sorted(sums.items()))
    assert second == 2 * first > 0


def test_requests_without_a_cost_are_counted(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000), request(model="unknown"), request(outcome=CANCELLED))
    world.write()
    payload: Any = with_costs(usage("model", TODAY), TODAY)
    assert payload["requests_without_cost"] == sum(row["requests_without_cost"] for row in payload["rows"]) >= 1
