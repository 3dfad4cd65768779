"""The client's arithmetic of costs: equal to RouterDash's, though it shares nothing with it."""

import random
from typing import Any

import pytest

from gateway.prices.book import NANO, PriceBook
from gateway.prices.evaluation import PricedUsage, cost
from gateway.registry.prices import Price
from tests.torture.costs import COST, TOTAL, UNPRICED, cost_samples
from tests.torture.prices import MORNING, NOON, Cost, Prices, Row, Used, completion, reported, sums

NOON_AT = 1000
NAMES = ("whole", "sized", "native", "flaky", "shared", "dies", "slow", "edited", "second")


def row(number: int, since: int, values: dict[str, Any]) -> Row:
    return Row(number, since, "here" if "endpoint" in values else "", values)


@pytest.fixture
def prices() -> Prices:
    every = [row(number, 0, values) for number, values in enumerate(MORNING, 1)]
    every += [row(number, NOON_AT, values) for number, values in enumerate(NOON, 101)]
    return Prices(every, NOON_AT)


def as_price(price_row: Row) -> Price:
    amounts = ("input", "cached", "write_short", "output", "reasoning", "request")
    given: dict[str, Any] = {name: int(price_row.amount(name) * NANO) for name in amounts if name in price_row.values}
    return Price(
        price_row.id, price_row.values["pattern"], price_row.endpoint_id, "", int(price_row.since), None,
        price_row.values["currency"], price_row.values.get("min_prompt", 0), "", **given,
    )  # fmt: skip


def any_use(rng: random.Random) -> Used:
    tokens, output = rng.randrange(300), rng.randrange(50)
    cached = rng.randrange(tokens + 1)
    return Used(tokens, output, cached, rng.randrange(tokens - cached + 1), rng.randrange(output + 1))


@pytest.mark.parametrize("seed", range(10))
def test_costs_are_those_of_the_price_book(prices: Prices, seed: int) -> None:
    rng, book = random.Random(seed), PriceBook(map(as_price, prices.rows))
    for _ in range(100):
        used, model, place, moment = (
            any_use(rng),
            rng.choice(NAMES),
            rng.choice(("here", "there")),
            rng.choice((5, 1000)),
        )
        price = book.price(
            served=model, canonical="", endpoint_id=place, provider="", completed_at=moment, prompt=used.input
        )
        usage = PricedUsage(used.input, used.cached, used.written, 0, used.output, used.reasoning)
        expected = None if price is None else Cost(price.id, price.currency, cost(price, usage))
        assert prices.cost(model, place, used, moment) == expected


def test_half_of_a_unit_is_rounded_up() -> None:
    assert Row(1, 0, "", {"input": "0.0005"}).cost(Used(input=1)) == 1
    assert Row(1, 0, "", {"input": "0.000499"}).cost(Used(input=1)) == 0


@pytest.mark.parametrize(("prompt", "expected"), [(90, 2), (91, 3)])
def test_a_larger_prompt_has_the_price_of_larger_prompts(prices: Prices, prompt: int, expected: int) -> None:
    charged = prices.cost("sized", "there", Used(input=prompt), 1)
    assert charged is not None
    assert charged.price_id == expected


@pytest.mark.parametrize(("started", "ended", "asked"), [(900, 999.9, False), (1000, 1001, False), (999, 1000.5, True)])
def test_only_requests_in_flight_at_noon_are_asked_about(
    prices: Prices, started: float, ended: float, asked: bool
) -> None:
    questions: list[str] = []

    def completed(request_id: str) -> float:
        questions.append(request_id)
        return 999.0

    moment = completion(prices, started, ended, "x", completed)
    assert (questions == ["x"], moment < NOON_AT) == (asked, ended < NOON_AT or asked)


def test_amounts_with_a_rate_are_converted() -> None:
    assert reported("USD", 7) == ("USD", 7)
    assert reported("JPY", 7) == ("JPY", 7)
    assert reported("EUR", 1_998_000) == ("USD", 2_164_273)


def test_sums_are_by_group_and_currency() -> None:
    costs = [("a", Cost(1, "USD", 2)), ("a", Cost(2, "USD", 3)), ("a", Cost(3, "EUR", 5)), ("b", Cost(1, "USD", 7))]
    assert sums(costs) == {("a", "USD"): 5, ("a", "EUR"): 5, ("b", "USD"): 7}


def test_samples_of_costs_are_in_nanos() -> None:
    text = (
        f'# TYPE {TOTAL[:-6]} counter\n{TOTAL}{{currency="USD"}} 0.1\n'
        f'# TYPE {COST[:-6]} counter\n{COST}{{endpoint_id="a",endpoint_name="n",model="m",currency="USD"}} 1e-09\n'
        f'# TYPE {UNPRICED[:-6]} counter\n{UNPRICED}{{endpoint_id="a",endpoint_name="n"}} 7.0\n'
    )
    expected = {(TOTAL, "USD"): 100_000_000, (COST, "a", "m", "USD"): 1, (UNPRICED, "a"): 7}
    assert cost_samples(text) == expected
