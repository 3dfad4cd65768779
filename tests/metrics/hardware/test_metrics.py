"""GET /metrics: costs of own hardware, which are the counted hours of the database."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.prices.book import NANO
from metrics.costs import hardware_rows
from metrics.costs.hardware_hours import SETTLE_SECONDS, HardwareHours
from metrics.costs.hardware_lines import IDLE
from metrics.costs.hardware_rates import HOUR
from metrics.costs.hardware_totals import HardwareTotals
from metrics.hardware.month import hardware_month
from metrics.models import HardwareDayRollUp
from tests.metrics.api.test_prometheus import Scrape
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.records import AT, NOW, A, B, request
from tests.metrics.world import UTC_ZONE, World, own_database, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

HARDWARE = "endpoint_hardware_cost"
HOUR_START = int(AT) // HOUR * HOUR
SETTLED = HOUR_START + SETTLE_SECONDS  # when the hour before this one is counted
Sums = dict[tuple[str, str, str], int]


def count(hours: HardwareHours, now: float = SETTLED) -> None:
    while hours.count(now):
        pass


def scraped() -> Sums:
    """Return the costs in 10⁻⁹ of the series by endpoint, currency and part."""
    scrape = Scrape()
    return {
        (labels["endpoint_id"], labels["currency"], labels["part"]): round((scrape(HARDWARE, **labels) or 0) * NANO)
        for labels in scrape.all(HARDWARE)
    }


def stored() -> Sums:
    costs: Counter[tuple[str, str, str]] = Counter()
    for row in HardwareDayRollUp.objects.all():
        costs[str(row.endpoint_id), row.currency, "idle" if row.kind == IDLE else "requests"] += row.cost
    return dict(costs)


def ended(seconds: float, **fields: Any) -> Any:
    return request(completed_us=round((HOUR_START + seconds) * 1e6), **fields)


@pytest.fixture
def costly(shown_world: World, endpoints: tuple[Endpoint, Endpoint]) -> World:
    """Three counted hours at two endpoints with rates in two currencies, with requests in the last of them."""
    own_database()
    shown_world.reseed()
    since = datetime.fromtimestamp(HOUR_START - 3 * HOUR, NOW.tzinfo)
    add_rate(A, since=since, per_hour="1.234567891")
    add_rate(B, since=since, currency="EUR", per_hour="0.1", idle_watts="61.3", busy_watts="412", per_kwh="0.3127")
    shown_world.gateway(
        ended(-1700, duration_us=61_234_567), ended(-90, duration_us=3_000_001), ended(-7, endpoint=B, duration_us=77)
    )
    shown_world.write()
    count(shown_world.writer.hours)
    return shown_world


def test_costs_are_those_of_the_roll_ups(costly: World) -> None:
    assert scraped() == stored()
    places = {(A, "USD", "requests"), (A, "USD", "idle"), (B, "EUR", "requests"), (B, "EUR", "idle")}
    assert {place for place, cost in scraped().items() if cost} == places
    assert scraped()[A, "USD", "requests"] + scraped()[A, "USD", "idle"] == 3 * 1_234_567_891


def test_costs_are_those_of_the_page_without_provisional_hours(costly: World) -> None:
    costs = {
        (row["endpoint_id"], row["currency"]): (row["cost"], row["provisional_cost"])
        for row in hardware_month("2026-03", SETTLED, UTC_ZONE)["rows"]
    }
    sums: Counter[tuple[str, str]] = Counter()
    for (endpoint_id, currency, _), cost in scraped().items():
        sums[endpoint_id, currency] += cost
    assert costs.keys() == sums.keys()
    for place, (whole, so_far) in costs.items():
        assert Decimal(so_far) > 0
        assert (Decimal(whole) - Decimal(so_far)) * NANO == sums[place]


def test_totals_keep_deleted_endpoints(costly: World, endpoints: tuple[Endpoint, Endpoint]) -> None:
    endpoints[1].delete()
    registry.reload()
    scrape = Scrape()
    assert {labels["endpoint_id"] for labels in scrape.all(HARDWARE)} == {A}
    for (_, currency, part), cost in stored().items():
        assert scrape("hardware_cost", currency=currency, part=part) == cost / NANO


def test_an_hour_is_added_once_it_is_counted(costly: World) -> None:
    before = scraped()
    count(costly.writer.hours, SETTLED + HOUR - 1)
    assert scraped() == before
    count(costly.writer.hours, SETTLED + HOUR)
    assert scraped() == stored() != before


def test_a_late_record_moves_cost_from_idle_time_to_requests(costly: World) -> None:
    before = scraped()
    costly.gateway(ended(3, duration_us=200_000_000))
    costly.write()
    count(costly.writer.hours)
    moved = scraped()[A, "USD", "requests"] - before[A, "USD", "requests"]
    assert before[A, "USD", "idle"] - scraped()[A, "USD", "idle"] == moved > 0
    assert scraped() == stored()


def changed_by_another_process(costly: World) -> None:
    count(HardwareHours(UTC_ZONE), SETTLED + HOUR)


def changed_by_a_repair(costly: World) -> None:
    rows("UPDATE rollup_hardware_days SET cost = cost + 5")
    costly.writer.read_again.set()
    costly.writer.step()


@pytest.mark.parametrize(("change", "now"), [(changed_by_another_process, 2 * HOUR), (changed_by_a_repair, 0)])
def test_what_others_changed_is_read_again(costly: World, change: Callable[[World], None], now: int) -> None:
    change(costly)
    assert scraped() != stored()
    count(costly.writer.hours, SETTLED + now)
    assert scraped() == stored()


def test_a_fresh_process_reads_the_sums(costly: World) -> None:
    before = scraped()
    costly.follower.hardware.install(None)
    assert scraped() == {}
    count(HardwareHours(UTC_ZONE, costly.follower.hardware))
    assert scraped() == before


def test_a_transaction_that_fails_adds_nothing(costly: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scraped()

    def crash(*values: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("metrics.costs.hardware_hours._MOVE.write", crash)
        with pytest.raises(SystemExit):
            costly.writer.hours.count(SETTLED + HOUR)
    assert scraped() == before
    count(costly.writer.hours, SETTLED + HOUR)
    assert scraped() == stored() != before


def test_sums_that_cannot_be_read_are_left_out_and_stop_nothing(
    costly: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(cursor: object) -> None:
        raise ValueError

    monkeypatch.setattr(hardware_rows, "read_totals", fail)
    totals = HardwareTotals()
    before = stored()
    count(HardwareHours(UTC_ZONE, totals), SETTLED + HOUR)
    assert totals.read() is None
    assert "cannot be read" in caplog.text
    assert stored() != before


def test_a_scrape_without_own_hardware_has_no_series_of_it(shown_world: World, endpoints: object) -> None:
    own_database()
    shown_world.reseed()
    count(shown_world.writer.hours)
    assert (Scrape().all(HARDWARE), Scrape().all("hardware_cost")) == ([], [])
