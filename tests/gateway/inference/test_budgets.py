"""Budgets of API keys, as clients of a gateway see them. The test publishes amounts in place of control."""

from datetime import datetime, timedelta

import pytest

from gateway.ipc.counters.counter_file import REQUESTS
from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_bank import SpendingBank
from gateway.limits import periods
from gateway.limits.budget_bits import kinds_of
from gateway.registry.limits import DAY, KEY_LEVEL, TOKENS, TOTAL, USER_LEVEL, Budget
from tests.gateway.inference.helpers import error_of, held_server
from tests.gateway.limits.helpers import LimitedKey, at_once
from tests.gateway.process import KEY
from tests.router import until

ID = KEY[3:11]


class Published:
    """Control's part: the amounts of the budget of the gateway's API key."""

    def __init__(self, gateway):
        self.file = gateway.page.spending
        self.bank = SpendingBank(self.file)
        self.today = datetime.now(gateway.config.zone).date()
        day = timedelta(days=1)
        self.days = ((self.today - day).toordinal(), (self.today + day).toordinal())

    def tag(self, period=DAY):
        return self.file.tag(KEY_LEVEL, ID, TOKENS, period, periods.name_of(period, self.today))

    def publish(self, amount, period=DAY):
        uncovered = self.bank.uncovered
        self.bank.publish(self.bank.included, self.days, {self.tag(period): amount})
        self.bank.cover(uncovered)

    def spent(self, period=DAY):
        return SpendingReader(self.file).spent(TagView(self.tag(period)))


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


def used(*records):
    return sum((record.input_tokens or 0) + (record.output_tokens or 0) for record in records)


def test_the_expected_output_counts_for_each_choice(gateway, sim):
    model = gateway.add(sim.add())
    Published(gateway).publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 1_000_000),))
    for n in (1, 3):
        assert gateway.chat(model, max_tokens=10, n=n).status == 200
    one, three = [record.reserved_tokens for record in gateway.records()]
    assert three - one == 20


def test_a_spent_budget_refuses(gateway, sim):
    model = gateway.add(sim.add())
    published = Published(gateway)
    published.publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 1_000_000),))
    assert gateway.chat(model).status == 200
    (record,) = gateway.records()
    assert kinds_of(record.budgets) == [(KEY_LEVEL, TOKENS, DAY)]
    assert published.file.is_of_this_file(record.row, record.epoch)
    spent = used(record)
    assert published.spent() == spent > 0
    published.publish(1_000_000 - spent)
    refused = gateway.chat(model)
    assert error_of(refused) == (429, "insufficient_quota")
    assert refused.json()["error"]["type"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-routerdash-limit"] == "key; tokens per day"
    end = periods.end_of(DAY, published.today, gateway.config.zone) or 0.0
    assert abs(int(refused.headers["retry-after"]) - (end - datetime.now().timestamp())) < 30
    *_, rejected = gateway.records()
    assert (rejected.outcome, rejected.error, rejected.limit) == ("rejected", "insufficient_quota", "key:tokens_day")
    assert published.spent() == 1_000_000


def test_a_total_has_no_time_to_retry(gateway, sim):
    model = gateway.add(sim.add())
    published = Published(gateway)
    published.publish(50, TOTAL)
    gateway.limit(budgets=(Budget("b", TOKENS, TOTAL, 50),))
    refused = gateway.chat(model)
    assert error_of(refused) == (429, "insufficient_quota")
    assert "retry-after" not in refused.headers


def test_streams_and_failures_count_as_they_are_recorded(gateway, sim):
    model, failing = gateway.add(sim.add()), gateway.add(sim.add(fault="500"))
    published = Published(gateway)
    published.publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 10**9),))
    gateway.chat(model, stream=True)
    gateway.chat(failing)
    assert published.spent() == used(*gateway.records()) > 0


def test_a_budget_is_unavailable_until_its_amount_is_published(gateway, sim):
    model = gateway.add(sim.add())
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 100),))
    refused = gateway.chat(model)
    assert error_of(refused) == (503, "limits_unavailable")
    Published(gateway).publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 1_000_000),))
    assert gateway.chat(model).status == 200


def test_a_hard_budget_reserves_the_longest_response(gateway, sim):
    model = gateway.add(sim.add())
    Published(gateway).publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 5000, hard=True),))
    refused = gateway.chat(model)
    assert error_of(refused) == (429, "insufficient_quota")
    assert "Used 0, " in refused.json()["error"]["message"]
    assert "At most 5000 fits." in refused.json()["error"]["message"]
    assert (refused.headers["x-should-retry"], refused.headers.get("retry-after")) == ("false", None)
    assert gateway.chat(model, max_tokens=1000).status == 200


def test_a_spent_budget_sends_requests_to_another_model(gateway, sim):
    first, second = sim.add(), sim.add()
    model, other = gateway.add(first), gateway.add(second)
    published = Published(gateway)
    published.publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 100_000, instead=other),))
    gateway.chat(model)
    (first_record,) = gateway.records()
    assert first_record.attempts[-1].served in (None, model)
    published.publish(100_000)
    assert gateway.chat(model).status == 200
    (record,) = gateway.records()
    assert (record.model, record.attempts[-1].served) == (model, other)
    assert published.spent() == 100_000 + used(first_record, record)


def test_a_key_with_a_spent_budget_takes_nothing_from_its_user(gateway, sim):
    """Other processes see only after a while what is given back to limits, so nothing may be taken from them."""
    model = gateway.add(sim.add())
    published = Published(gateway)
    published.publish(1_000_000)
    key = LimitedKey(gateway, owner_id="user")
    gateway.limit(USER_LEVEL, "user", requests=5)
    tag = published.file.tag(KEY_LEVEL, key.id, TOKENS, DAY, periods.name_of(DAY, published.today))
    published.bank.publish(published.bank.included, published.days, {tag: 1_000_000})
    key.limit(budgets=(Budget("b", TOKENS, DAY, 1_000_000),))
    assert [error_of(key.chat(model))[1] for _ in range(10)] == ["insufficient_quota"] * 10
    file = gateway.page.counters
    user = file.tag(USER_LEVEL, "user")
    places = [place for row in file.counting(file.cell_number()) if (place := file.find(row, user)) is not None]
    assert [file.words[place + REQUESTS] for place in places] in ([], [0])


def test_a_key_with_budgets_alone_ends_beside_requests_that_wait_for_limits(gateway, sim):
    """It has no limit whose rest could let them go on."""
    published, limited = Published(gateway), LimitedKey(gateway, concurrency=1, waiting=("concurrency",))
    published.publish(0)
    gateway.limit(budgets=(Budget("b", TOKENS, DAY, 10**9),))
    free = gateway.add(sim.add())
    with held_server(gateway) as (server, model):

        def beside() -> int:
            until(lambda: gateway.page.waiting)
            status: int = gateway.chat(free).status
            server.respond(2)
            return status

        def held() -> int:
            return limited.chat(model, user="").status

        assert at_once(held, held, beside) == [200] * 3
    records = gateway.records()
    assert [(record.outcome, record.status) for record in records] == [("ok", 200)] * 3
    assert published.spent() == used(*[record for record in records if record.api_key_id == ID]) > 0
