"""Costs of budgets are, to 10⁻⁹, what Usage shows, in whatever batches records are committed."""

import random
from collections import Counter
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction

from gateway.ipc.record import RequestRecord
from gateway.prices.book import NANO, PriceBook
from gateway.prices.costs import Pricing, RequestCost
from gateway.registry.prices import Price
from metrics.costs import rows as cost_rows
from metrics.costs.of_batch import costs_of
from metrics.costs.of_period import cost_sums
from metrics.costs.price_cache import price_cache
from metrics.costs.tables import CurrencyRate
from metrics.counting.cells import local_date
from metrics.counting.fold import Fold
from metrics.queries.usage_periods import Period
from metrics.spending.money import NOTHING, Amount, Money, converted_sums
from tests.metrics.costs.pricing import EARLIER
from tests.metrics.records import AT, KEY, NOW, request, uuid_of

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
ZONE = ZoneInfo("UTC")
OTHER_KEY = uuid_of(77)
SINCE = NOW.date() - timedelta(days=2)
ALL = Period(SINCE - timedelta(days=20), NOW.date())
PRICES = [
    Price(1, "tiny", "", "", 0, None, "USD", 0, "", input=NANO // 3, output=7),
    Price(2, "large", "", "", 0, None, "EUR", 0, "", input=NANO // 7, output=NANO // 11, request=13),
    Price(3, "huge", "", "", 0, None, "JPY", 0, "", input=191 * NANO, output=3),
]


@pytest.fixture(autouse=True)
def _rates(settings: object) -> None:
    """The euro has two rates, the yen none."""
    price_cache.forget()
    for valid_from, rate in ((EARLIER, 1_173_913_047), (NOW - timedelta(days=1), 999_999_937)):
        CurrencyRate.objects.create(currency="EUR", reporting="USD", valid_from=valid_from, rate=rate)


def some_requests(rng: random.Random, count: int) -> list[RequestRecord]:
    return [
        request(
            id=uuid_of(rng.getrandbits(40)),
            ago=rng.choice((60, 86_400, 3 * 86_400)) + rng.random(),
            model=rng.choice(("tiny", "large", "large", "huge", "without a price", "odd\0name")),
            input_tokens=rng.randrange(500),
            output_tokens=rng.choice((None, 1, 7)),
            api_key_id=rng.choice((KEY, OTHER_KEY, None)),
        )
        for _ in range(count)
    ]


def commit(entries: list[RequestRecord]) -> dict[str, RequestCost]:
    """Write the costs of a batch as the database writer does."""
    odd = Price(4, "odd\0name", "", "", 0, None, "EUR", 0, "", input=NANO // 13)
    costs = costs_of(Fold(ZONE).add_all(entries), Pricing(PriceBook([*PRICES, odd]), lambda endpoint_id: ""))
    with transaction.atomic(), connection.cursor() as cursor:
        cost_rows.CostRows().add(cursor, costs.sums)
    return costs.by_id


def shown(group: str = "''") -> dict[str, int]:
    """Return the costs of Usage in the reporting currency."""
    return {value: sums["USD"].cost for value, sums in cost_sums(group, ALL).items() if "USD" in sums}


@pytest.mark.parametrize("seed", range(5))
def test_amounts_add_up_to_usage(seed: int) -> None:
    rng, money = random.Random(seed), Money(ZONE, price_cache.rates)
    by_key: Counter[str] = Counter()
    for number in range(12):
        entries = some_requests(rng, rng.randrange(1, 30))
        costs = commit(entries)
        money.begin(entries, costs)
        for entry in entries:
            by_key[entry.api_key_id or ""] += money.add(entry, costs.get(entry.id)).added
        assert +by_key == +Counter(shown("api_key_id"))
        if number % 4 == 3:
            money.forget()
    assert sum(by_key.values()) == shown()[""]
    sums = Counter({key: 0 for key in by_key})
    for _, key, amount in converted_sums(None, None):
        sums[key] += amount
    for key, sums_of in cost_sums("api_key_id", ALL, ["currency = %s"], ["USD"]).items():
        sums[key] += sums_of["USD"].cost
    assert +sums == +by_key


def test_sums_of_days_are_those_of_usage() -> None:
    entries = some_requests(random.Random(6), 80)
    commit(entries)
    amounts = {(day, key): amount for day, key, amount in converted_sums(SINCE, (KEY,))}
    assert {key for _, key in amounts} == {KEY}
    for ago in (0, 1, 2):
        day = SINCE + timedelta(days=ago)
        sums = cost_sums("api_key_id", Period(day, day), ["currency = %s", "api_key_id = %s"], ["EUR", KEY])
        expected = sums[KEY]["USD"].cost if KEY in sums else None
        assert amounts.get((day, KEY)) == expected
    assert {day for day, _ in amounts if day is not None} <= {SINCE + timedelta(days=days) for days in range(3)}


def test_each_request_counts_its_own_cost_in_a_gateway() -> None:
    money = Money(ZONE, price_cache.rates)
    one = request(model="large", input_tokens=100, api_key_id=KEY)
    two = request(model="large", input_tokens=100, api_key_id=KEY)
    costs = commit([one, two])
    money.begin([one, two], costs)
    amounts = [money.add(entry, costs[entry.id]) for entry in (one, two)]
    each = price_cache.rates().converted(costs[one.id][2], "EUR", AT)
    assert [amount.counted for amount in amounts] == [each, each]
    assert sum(amount.added for amount in amounts) == shown()[""]


def test_what_has_no_cost_or_rate_counts_nothing() -> None:
    money = Money(ZONE, price_cache.rates)
    without_price, without_rate = request(model="other", input_tokens=5), request(model="huge", input_tokens=5)
    costs = commit([without_price, without_rate])
    money.begin([without_price, without_rate], costs)
    assert money.add(without_price, costs.get(without_price.id)) == NOTHING
    assert money.add(without_rate, costs[without_rate.id]) == Amount(0, 0)
    assert date.fromisoformat(local_date(without_rate.completed_us // 60_000_000, ZONE)) == NOW.date()
