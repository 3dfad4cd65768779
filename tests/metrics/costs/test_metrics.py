"""GET /metrics: counters of costs, which are those of the database."""

import io
from collections import Counter
from importlib import import_module
from typing import Any

import pytest
from django.core.management import call_command

from endpoints.changes import counters as change_counters
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.ipc import record
from gateway.prices.book import NANO
from metrics.costs import stored_totals as cost_totals
from metrics.costs.price_cache import price_cache
from metrics.costs.totals import CostTotals
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader
from metrics.memory.trackers import Trackers
from metrics.models import CostDayRollUp, DayRollUp
from metrics.storage import seeding
from metrics.storage.writer import DatabaseWriter
from tests.metrics.api.test_prometheus import Scrape
from tests.metrics.costs.pricing import add_price
from tests.metrics.records import AT, A, load, request
from tests.metrics.world import UTC_ZONE, World, forget_figures, own_database, rows, where

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

COST, UNPRICED = "endpoint_cost_total", "endpoint_unpriced_requests_total"
AT_A = {"endpoint_id": A, "endpoint_name": "a"}


@pytest.fixture
def restored(shown_world: World, endpoints: object) -> World:
    own_database()
    shown_world.reseed()
    return shown_world


@pytest.fixture
def priced(restored: World, prices: object) -> World:
    """Requests with prices in two currencies, and without."""
    restored.gateway(*load(8, 200), request(model="unknown"), request(record.FAILED, model="unknown"))
    restored.write()
    return restored


def counted() -> dict[tuple[str, str, str], int]:
    """Return the costs in 10⁻⁹ of the scraped series, by endpoint, model and currency."""
    scrape = Scrape()
    return {
        (labels["endpoint_id"], labels["model"], labels["currency"]): round((scrape(COST, **labels) or 0) * NANO)
        for labels in scrape.all(COST)
    }


def stored() -> dict[tuple[str, str, str], int]:
    costs: Counter[tuple[str, str, str]] = Counter()
    for row in CostDayRollUp.objects.all():
        costs[str(row.endpoint_id), row.served, row.currency] += row.cost
    return dict(costs)


def test_costs_are_those_of_the_roll_ups(priced: World) -> None:
    assert counted() == stored()
    assert {currency for _, _, currency in stored()} == {"USD", "EUR"}


def test_costs_in_total_are_the_sums_by_currency(priced: World) -> None:
    scrape, sums = Scrape(), Counter[str]()
    for (_, _, currency), cost in stored().items():
        sums[currency] += cost
    assert {labels["currency"]: scrape("cost_total", **labels) for labels in scrape.all("cost_total")} == {
        currency: cost / NANO for currency, cost in sums.items()
    }


def test_only_what_has_a_price_has_costs(priced: World) -> None:
    assert "unknown" not in {labels["model"] for labels in Scrape().all(COST)}


def test_requests_without_a_cost_are_counted_by_endpoint(priced: World, endpoints: tuple[Endpoint, Endpoint]) -> None:
    scrape = Scrape()
    for endpoint in endpoints:
        days = DayRollUp.objects.filter(endpoint_id=endpoint.pk)
        counts = days.values_list("requests_ok", "requests_failed", "requests_cancelled")
        with_cost = sum(row.requests for row in CostDayRollUp.objects.filter(endpoint_id=endpoint.pk))
        expected = sum(map(sum, counts)) - with_cost
        assert scrape(UNPRICED, endpoint_id=str(endpoint.pk), endpoint_name=endpoint.name) == expected > 0


def test_a_free_model_costs_zero(restored: World) -> None:
    add_price("tiny", input=0)
    restored.gateway(request(input_tokens=5))
    restored.write()
    assert Scrape()(COST, **AT_A, model="tiny", currency="USD") == 0
    assert Scrape()(UNPRICED, **AT_A) == 0


@pytest.mark.parametrize("units", [1, 1_234_567, 8_388_607])
def test_a_cost_is_exact_to_its_last_digit(restored: World, units: int) -> None:
    add_price("tiny", input=NANO)
    restored.gateway(request(input_tokens=1))
    restored.write()
    rows("UPDATE rollup_cost_sums SET cost = %s", units * NANO + 123_456_789)
    restored.reseed()
    assert f"{Scrape()('cost_total', currency='USD'):.9f}" == f"{units}.123456789"


def test_an_installation_without_prices_has_no_costs(restored: World) -> None:
    restored.gateway(request(), request())
    restored.write()
    assert (Scrape().all(COST), Scrape().all("cost_total"), Scrape()(UNPRICED, **AT_A)) == ([], [], 2)


def test_a_record_costs_once_it_is_written(priced: World) -> None:
    before = counted()
    priced.gateway(request(input_tokens=1_000_000))
    assert counted() == before
    priced.write()
    assert sum(counted().values()) > sum(before.values())
    assert counted() == stored()


def test_the_series_of_a_deleted_endpoint_end(priced: World, endpoints: tuple[Endpoint, Endpoint]) -> None:
    before = Scrape()
    endpoints[1].delete()
    registry.reload()
    after = Scrape()
    assert (
        {labels["endpoint_id"] for labels in after.all(COST)}
        == {labels["endpoint_id"] for labels in after.all(UNPRICED)}
        == {A}
    )
    assert after("cost_total", currency="USD") == before("cost_total", currency="USD")


def test_costs_are_left_out_until_they_are_read(priced: World) -> None:
    priced.follower.costs = CostTotals()
    scrape = Scrape()
    assert [scrape.all(name) for name in (COST, "cost_total", UNPRICED)] == [[], [], []]
    priced.writer.step()
    assert counted() == stored()


def test_a_restart_changes_no_cost(priced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Scrape().counters
    forget_figures(monkeypatch, priced.root)
    priced.reseed()
    assert Scrape().counters == before


def test_costs_that_cannot_be_read_are_figures_that_are_not_restored(
    priced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(requests: object) -> None:
        raise ValueError

    monkeypatch.setattr(cost_totals, "sums", fail)
    assert seeding.load(AT).missing == ("costs",)
    priced.reseed()
    assert (Scrape()("figures_restored"), Scrape().counters) == (0, {})


def test_what_another_process_wrote_is_counted(priced: World) -> None:
    """Such as a control that was killed while its last commit was on the way."""
    follower = JournalFollower(JournalReader(priced.root), Trackers(UTC_ZONE))
    follower.database_id = priced.follower.database_id
    priced.gateway(request(input_tokens=1_000_000))
    priced.write(DatabaseWriter(follower, UTC_ZONE, where))
    assert counted() != stored()
    priced.writer.step()
    assert counted() == stored()


def repaired(world: World) -> None:
    """Do what control does when the counter of repairs has changed."""
    assert change_counters.read().get(change_counters.FIGURES, 0) != world.trackers.state.repairs
    world.writer.read_again.set()
    world.writer.step()


def test_repriced_costs_are_read_again(priced: World) -> None:
    before = counted()
    rows("UPDATE prices SET input = input * 2")
    price_cache.forget()
    call_command("reprice", "--since", "2026-03-01", "--apply", stdout=io.StringIO())
    repaired(priced)
    assert counted() == stored() != before


def test_a_reprice_that_changes_nothing_is_no_repair(priced: World) -> None:
    call_command("reprice", "--since", "2026-03-01", "--apply", stdout=io.StringIO())
    assert change_counters.read().get(change_counters.FIGURES, 0) == priced.trackers.state.repairs


@pytest.mark.django_db(transaction=True)
@pytest.mark.one_database
def test_a_damaged_table_leaves_costs_out_and_stops_nothing(restored: World, caplog: pytest.LogCaptureFixture) -> None:
    rows("DROP VIEW rollup_cost_days")
    try:
        cost_totals.read_again(restored.follower.costs)
    finally:
        rows(import_module("metrics.migrations.0024_cost_keys").VIEW)
    assert restored.follower.costs.read() is None
    assert "cannot be read" in caplog.text
    assert restored.follower.costs.are_at({})


def test_a_batch_that_was_rolled_back_is_not_counted(priced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise SystemExit

    before = counted()
    priced.gateway(request(input_tokens=1_000_000))
    with monkeypatch.context() as patch:
        patch.setattr("metrics.storage.writer.writer_step.write_sums", fail)
        with pytest.raises(SystemExit):
            priced.write()
    assert counted() == before
