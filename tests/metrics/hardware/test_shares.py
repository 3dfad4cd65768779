"""What a request costs at own hardware: the shares of all requests add up to the lines of their hours."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from gateway.ipc import record
from gateway.prices.book import NANO
from metrics.costs.hardware_hours import SETTLE_SECONDS
from metrics.costs.hardware_rates import HOUR
from metrics.costs.hardware_shares import CountedHours
from metrics.costs.price_cache import price_cache
from metrics.models import HardwareHour
from metrics.queries.requests.lookups import request_detail, request_row
from metrics.queries.stored import run_sql
from tests.access.people import Api
from tests.markup import one_line
from tests.metrics.costs.hardware_rates import add_rate
from tests.metrics.records import AT, A, B, attempt, load, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

HOUR_START = int(AT) // HOUR * HOUR


def count(world: World, now: float) -> None:
    while world.writer.hours.count(now):
        pass


def shares(*ids: str) -> dict[str, int]:
    """Return the sums of shares by endpoint, in 10⁻⁹."""
    sums: dict[str, int] = {}
    for request_id in ids:
        detail = request_detail(request_id)
        assert detail is not None
        for cost in detail["hardware_costs"]:
            sums[cost["endpoint_id"]] = sums.get(cost["endpoint_id"], 0) + int(Decimal(cost["cost"]) * NANO)
    return sums


def test_shares_of_all_requests_are_the_lines_of_their_hours(shown_world: World) -> None:
    start = datetime.fromtimestamp(HOUR_START - 6 * HOUR, UTC)
    add_rate(A, since=start, per_hour="1.000000007")
    add_rate(A, since=datetime.fromtimestamp(HOUR_START - 2 * HOUR + 777, UTC), per_hour="0.7")
    add_rate(B, since=start, per_hour="0.1", idle_watts="60", busy_watts="411.5", per_kwh="0.3127")
    made = [entry for entry in load(20, 120, seconds=5 * HOUR) if entry.outcome != record.REJECTED]
    made.append(request(duration_us=3 * HOUR * 1_000_000, attempts=(attempt(record.OK, A),)))  # in four hours
    shown_world.gateway(*made)
    shown_world.write()
    count(shown_world, HOUR_START + 2 * HOUR)
    lines: dict[str, int] = {}
    for row in HardwareHour.objects.exclude(kind="idle"):
        lines[str(row.endpoint_id)] = lines.get(str(row.endpoint_id), 0) + row.cost
    assert lines[A] > 0
    assert shares(*(entry.id for entry in made)) == lines


def test_a_share_is_provisional_until_its_hour_is_counted(as_viewer: Api, shown_world: World) -> None:
    add_rate(A, since=datetime.fromtimestamp(HOUR_START, UTC), per_hour="3.6")
    first = request(completed_us=(HOUR_START + 20) * 1_000_000, duration_us=10_000_000)
    second = request(completed_us=(HOUR_START + 20) * 1_000_000, duration_us=5_000_000)
    shown_world.gateway(first)
    shown_world.write()
    assert shares(first.id) == {A: 10_000_000}
    shown_world.gateway(second)  # at the same time: they share the busy time of ten seconds
    shown_world.write()
    assert shares(first.id) == {A: 6_666_666}
    page = one_line(as_viewer.get(f"/requests/{first.id}").content.decode())
    assert "provisional" in page
    count(shown_world, HOUR_START + HOUR + SETTLE_SECONDS)
    detail: Any = request_detail(first.id)
    (share,) = detail["hardware_costs"]
    assert (share["cost"], share["currency"], share["is_provisional"]) == ("0.006666666", "USD", False)
    page = one_line(as_viewer.get(f"/requests/{first.id}").content.decode())
    assert '<span title="0.006666666 USD">' in page
    assert "provisional" not in page


def test_exports_have_the_costs_of_counted_hours(shown_world: World) -> None:
    add_rate(A, since=datetime.fromtimestamp(HOUR_START, UTC), per_hour="3.6")
    here = request(completed_us=(HOUR_START + 20) * 1_000_000, duration_us=10_000_000)
    other = request(endpoint=B, completed_us=(HOUR_START + 20) * 1_000_000)
    shown_world.gateway(here, other)
    shown_world.write()
    rows = {entry.id: request_row(entry.id) for entry in (here, other)}
    assert all(rows.values())

    def costs(request_id: str) -> Any:
        return CountedHours(run_sql, price_cache.hardware().all()).costs(rows[request_id] or ())

    assert (costs(here.id), costs(other.id)) == (None, [])
    count(shown_world, HOUR_START + HOUR + SETTLE_SECONDS)
    assert costs(here.id) == [{"endpoint_id": A, "currency": "USD", "cost": "0.01"}]
    HardwareHour.objects.all().delete()  # as retention does
    assert costs(here.id) is None
