"""Costs in the database: with the rows of requests and their sums in one transaction, at the price of completion."""

import json
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from endpoints.changes import counters
from gateway.prices.book import NANO
from metrics.costs import rows as cost_rows
from metrics.costs.price_cache import COUNTER, MAX_AGE_SECONDS, PriceCache
from metrics.costs.rollups import used_prices
from metrics.costs.tables import NOTICE_SECONDS, PriceRow
from metrics.models import CostDayRollUp
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from tests.metrics.costs.pricing import CHANGE, add_price
from tests.metrics.records import AT, NOW, A, load, request
from tests.metrics.world import UTC_ZONE, World, add_endpoint, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def stored() -> dict[str, tuple[int, str, int]]:
    """Return price, currency and cost of the requests that have one."""
    costs = {}
    for request_id, attempts in rows("SELECT id, attempts FROM request_history"):
        *_, last = (json.loads(attempts) if isinstance(attempts, str) else attempts) or [{}]
        if "cost" in last:
            costs[str(request_id)] = last["price_id"], last["currency"], last["cost"]
    return costs


def by_price() -> dict[tuple[int, str], tuple[int, int]]:
    """Return requests and cost by price, from the roll-ups."""
    sums: dict[tuple[int, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in CostDayRollUp.objects.all():
        requests, cost = sums[row.price_id, row.currency]
        sums[row.price_id, row.currency] = requests + row.requests, cost + row.cost
    return dict(sums)


def test_the_price_changes_in_the_middle(world: World, prices: list[PriceRow]) -> None:
    change = AT - CHANGE.timestamp()
    before = request(ago=change + 0.000001, input_tokens=1_000_000)
    after = request(ago=change, input_tokens=1_000_000)
    world.gateway(before, after)
    world.write()
    assert stored() == {
        before.id: (prices[0].pk, "USD", 250_000_000),
        after.id: (prices[1].pk, "USD", 500_000_001),
    }


def test_sums_are_those_of_the_rows(world: World, prices: list[PriceRow]) -> None:
    world.gateway(*load(8, 300))
    world.write()
    expected: dict[Any, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for price_id, currency, cost in stored().values():
        requests, total = expected[price_id, currency]
        expected[price_id, currency] = requests + 1, total + cost
    assert (by_price(), len(expected)) == (dict(expected), 3)


def test_a_batch_that_fails_leaves_no_cost(world: World, prices: list[PriceRow]) -> None:
    def crash(endpoint_id: str) -> EndpointName:
        raise SystemExit

    world.gateway(request(input_tokens=1000))
    writer = DatabaseWriter(world.follower, UTC_ZONE, crash)
    with pytest.raises(SystemExit):
        world.write(writer)
    assert (stored(), by_price()) == ({}, {})
    world.write()
    assert by_price() == {(prices[1].pk, "USD"): (1, 500_000)}


def test_requests_that_are_stored_already_cost_nothing_again(world: World, prices: list[PriceRow]) -> None:
    made, other = request(input_tokens=1000), request(input_tokens=2000)
    world.gateway(made)
    world.write()
    world.gateway(made, other)
    world.write()
    assert by_price() == {(prices[1].pk, "USD"): (2, 1_500_000)}


def test_a_change_of_prices_alters_no_stored_cost(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000))
    world.write()
    before = stored(), by_price()
    PriceRow.objects.create(pattern="tiny", valid_from=NOW, currency="USD", input=1)
    assert (stored(), by_price()) == before


def test_a_row_that_could_not_be_read_at_its_commit_counts_after_an_outage(
    world: World, prices: list[PriceRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away from the commit of a row until it counted; the records of that time wait in the journal."""
    world.gateway(request(ago=1, input_tokens=1_000_000))
    world.write()
    with monkeypatch.context() as away:
        away.setattr(PriceCache, "refresh", lambda self: None)
        row = add_price("tiny", since=NOW, input=NANO)
        counters.bump(COUNTER)
    world.gateway(request(input_tokens=1_000_000))
    seconds = time.monotonic() + MAX_AGE_SECONDS + 1
    monkeypatch.setattr("metrics.costs.price_cache.time", SimpleNamespace(monotonic=lambda: seconds))
    world.write()
    assert by_price() == {(prices[1].pk, "USD"): (1, 500_000_001), (row.pk, "USD"): (1, NANO)}


def test_the_price_book_is_read_again_within_the_notice_of_a_new_row() -> None:
    assert MAX_AGE_SECONDS < NOTICE_SECONDS


def test_a_price_of_a_stored_cost_is_in_use(world: World, prices: list[PriceRow]) -> None:
    world.gateway(request(input_tokens=1000))
    world.write()
    assert used_prices([row.pk for row in prices]) == {prices[1].pk}


@pytest.mark.usefixtures("empty_caches")
def test_the_type_of_a_cloud_wins_over_that_of_its_engine() -> None:
    assert cost_rows.provider_of(A) == ""
    add_endpoint(A, endpoint_type="vllm")
    assert cost_rows.provider_of(A) == "vllm"
