"""Budgets of money, as clients of a gateway see them. The test publishes prices and amounts in place of control."""

import time
from datetime import datetime, timedelta

import pytest

from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_bank import SpendingBank
from gateway.limits import periods
from gateway.limits.budget_bits import kinds_of
from gateway.prices.book import NANO, PriceBook
from gateway.prices.costs import Pricing
from gateway.prices.rows import rows_of
from gateway.registry.limits import DAY, KEY_LEVEL, MONEY, Budget
from gateway.registry.prices import DatedRate, Price
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import error_of
from tests.gateway.inference.test_forms import form, send
from tests.gateway.process import KEY
from tests.gateway.scripted import always, http_response, upstream

ID = KEY[3:11]


class Money:
    """Control's part: prices, rates, and the amount of the budget of the gateway's API key."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.file = gateway.page.spending
        self.bank = SpendingBank(self.file)
        self.today = datetime.now(gateway.config.zone).date()
        self.tag = self.file.tag(KEY_LEVEL, ID, MONEY, DAY, periods.name_of(DAY, self.today))
        self.prices: list[Price] = []

    def publish(self, *prices, rates=()):
        self.prices = list(prices)
        rows = rows_of(self.prices, "USD", rates, time.time())
        self.gateway.apply(Changes(prices=rows))

    def begin(self, spent=0, amount=10**15, **settings):
        """Publish the amount that is spent, and the budget."""
        day, uncovered = timedelta(days=1), self.bank.uncovered
        days = ((self.today - day).toordinal(), (self.today + day).toordinal())
        self.bank.publish(self.bank.included, days, {self.tag: spent})
        self.bank.cover(uncovered)
        self.gateway.limit(budgets=(Budget("b", MONEY, DAY, amount, **settings),))

    def spent(self):
        return SpendingReader(self.file).spent(TagView(self.tag))

    def cost(self, *records):
        """Return what control computes when it folds these records."""
        pricing = Pricing(PriceBook(self.prices), lambda endpoint_id: "")
        costs = [pricing.cost(record) for record in records]
        return sum(cost[2] for cost in costs if cost is not None)


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


@pytest.fixture
def money(gateway):
    return Money(gateway)


def priced(pattern, number=1, **fields):
    amounts = {"input": 3 * NANO + 7, "output": 15 * NANO, "request": 11}
    values = {"valid_from": 0, "valid_until": None, "currency": "USD", "min_prompt": 0, "tier": ""} | fields
    return Price(number, pattern, "", "", **(values | {k: v for k, v in amounts.items() if k not in values}))


def test_requests_count_their_cost(gateway, sim, money):
    model, failing = gateway.add(sim.add()), gateway.add(sim.add(fault="500"))
    money.publish(priced(model), priced(failing, 2))
    money.begin()
    assert gateway.chat(model).status == 200
    gateway.chat(model, stream=True)
    gateway.chat(failing)
    records = gateway.records()
    assert {bit for record in records for bit in kinds_of(record.budgets)} == {(KEY_LEVEL, MONEY, DAY)}
    assert money.spent() == money.cost(*records) > 0


def test_a_spent_budget_refuses(gateway, sim, money):
    model = gateway.add(sim.add())
    money.publish(priced(model))
    money.begin(spent=2 * NANO, amount=2 * NANO)
    refused = gateway.chat(model)
    assert error_of(refused) == (429, "insufficient_quota")
    assert refused.headers["x-routerdash-limit"] == "key; money per day"
    assert "Limit 2, Used 2" in refused.json()["error"]["message"]


def test_a_model_without_a_price_counts_nothing_or_is_refused(gateway, sim, money):
    model = gateway.add(sim.add())
    money.publish(priced("another"))
    money.begin()
    assert gateway.chat(model).status == 200
    (record,) = gateway.records()
    assert (kinds_of(record.budgets), money.spent()) == ([(KEY_LEVEL, MONEY, DAY)], 0)
    money.begin(refuses_unpriced=True)
    refused = gateway.chat(model)
    assert error_of(refused) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert "enter its price" in refused.json()["error"]["message"]
    money.publish(priced(model))
    assert gateway.chat(model).status == 200


def test_a_currency_needs_a_rate(gateway, sim, money):
    model = gateway.add(sim.add())
    money.publish(priced(model, currency="EUR"))
    money.begin(refuses_unpriced=True)
    assert error_of(gateway.chat(model)) == (429, "insufficient_quota")
    money.publish(priced(model, currency="EUR"), rates=[DatedRate("EUR", "USD", 1, 2 * NANO)])
    assert gateway.chat(model).status == 200
    *_, record = gateway.records()
    assert money.spent() == 2 * money.cost(record) > 0


def test_a_hard_budget_reserves_the_dearest_response(gateway, sim, money):
    model = gateway.add(sim.add())
    money.publish(priced(model), priced(model, 2, tier="priority", output=1500 * NANO))
    money.begin(amount=NANO, hard=True)
    assert error_of(gateway.chat(model, max_tokens=1000)) == (429, "insufficient_quota")
    assert gateway.chat(model, max_tokens=100).status == 200
    money.begin(amount=NANO)
    assert gateway.chat(model, max_tokens=1000).status == 200


def test_each_choice_and_image_is_reserved(gateway, sim, money):
    model = gateway.add(sim.add())
    money.publish(priced(model, image=NANO))
    money.begin(amount=NANO, hard=True)
    assert gateway.chat(model, max_tokens=60).status == 200  # 0.0009
    money.begin(amount=24 * NANO // 10_000, hard=True)  # two: 0.00196, three: 0.00286
    assert gateway.chat(model, max_tokens=60, n=2).status == 200
    assert error_of(gateway.chat(model, max_tokens=60, n=3)) == (429, "insufficient_quota")
    money.begin(amount=3 * NANO // 1000)

    def draw(count):
        return gateway.post("/v1/images/generations", {"model": model, "prompt": "a cat", "n": count})

    assert error_of(draw(4)) == (429, "insufficient_quota")
    assert draw(1).status != 429


def test_the_minutes_of_uploaded_audio_are_reserved(gateway, money):
    body = b'{"text":"Hello.","usage":{"type":"duration","seconds":30}}'
    with upstream(always(http_response(body))) as server:
        model = gateway.add(server)
        money.publish(priced(model, input=None, output=None, request=None, minute=1000 * NANO))  # one a minute

        def status(size):
            return send(gateway, form(model, size=size)).status

        money.begin(amount=NANO)
        assert status(1_000_000) == 429  # two minutes
        assert status(400_000) == 200
        (record,) = [recorded for recorded in gateway.records() if recorded.attempts]
        assert money.spent() == money.cost(record) == NANO // 2
        money.begin(amount=2 * NANO, hard=True)
        assert status(400_000) == 429  # nine minutes
        assert status(20_000) == 200


def test_a_price_changes_while_requests_run(gateway, sim, money):
    model = gateway.add(sim.add())
    money.publish(priced(model))
    money.begin()
    assert gateway.chat(model).status == 200
    change = int(time.time()) + 2
    money.publish(priced(model), priced(model, 2, valid_from=change, input=5 * NANO, output=20 * NANO))
    while time.time() < change + 0.5:
        assert gateway.chat(model).status == 200
    records = gateway.records()
    sides = [record.completed_us < change * 1_000_000 for record in records]
    assert any(sides)
    assert not all(sides)
    assert money.spent() == money.cost(*records)
