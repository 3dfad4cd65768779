"""Hours of own hardware in the database: exact sums, whatever happens to the process and when records arrive."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.ipc.record import RequestRecord
from gateway.prices.book import NANO
from metrics.costs.hardware_hours import SETTLE_SECONDS, HardwareHours
from metrics.costs.hardware_rates import HOUR
from metrics.costs.price_cache import price_cache
from metrics.hardware.by_group import hardware_by_group
from metrics.models import HardwareBatch, HardwareDayRollUp, HardwareDue, HardwareHour, HardwareWork
from metrics.queries.usage_periods import Period
from tests.metrics.costs.hardware_rates import add_rate, total_cost
from tests.metrics.records import AT, KEY, A, B, request
from tests.metrics.world import UTC_ZONE, World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

HOUR_START = int(AT) // HOUR * HOUR  # half a minute before NOW
SETTLED = HOUR_START + HOUR + SETTLE_SECONDS


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def count(now: float, hours: HardwareHours | None = None) -> None:
    hours = hours or HardwareHours(UTC_ZONE)
    while hours.count(now):
        pass


def ended(seconds: float, **fields: Any) -> RequestRecord:
    """Return a request that ended this long after HOUR_START."""
    return request(completed_us=round((HOUR_START + seconds) * 1e6), **fields)


def lines() -> dict[tuple[str, str], tuple[int, int]]:
    """Return seconds and cost of all hours by endpoint and kind."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for row in HardwareHour.objects.all():
        seconds, cost = sums.get((str(row.endpoint_id), row.kind), (0, 0))
        sums[str(row.endpoint_id), row.kind] = seconds + row.seconds, cost + row.cost
    return sums


def test_an_hour_is_counted_when_it_is_over(world: World) -> None:
    add_rate(since=moment(HOUR_START - 3600), per_hour="3.6")
    world.gateway(ended(1800, duration_us=600_000_000, input_tokens=10))
    world.write()
    count(SETTLED - 1, world.writer.hours)
    assert lines() == {(A, "idle"): (3600, 3_600_000_000)}  # of the hour before
    count(SETTLED, world.writer.hours)
    assert lines() == {(A, "idle"): (7200, 6_600_000_000), (A, "chat_completions"): (0, 600_000_000)}
    assert not HardwareDue.objects.exists()


def test_a_late_record_counts_its_hour_again(world: World) -> None:
    add_rate(since=moment(HOUR_START), per_hour="3.6")
    world.gateway(ended(60, duration_us=60_000_000))
    world.write()
    count(SETTLED, world.writer.hours)
    world.gateway(ended(3700, duration_us=400_000_000, api_key_id=KEY))  # 300 s of it in the hour before
    world.write()
    count(SETTLED, world.writer.hours)
    assert lines() == {(A, "idle"): (3600, 3_240_000_000), (A, "chat_completions"): (0, 360_000_000)}
    assert total_cost() == 3_600_000_000


def test_a_fresh_process_counts_a_late_record_of_the_one_before(world: World) -> None:
    add_rate(since=moment(HOUR_START), per_hour="3.6")
    count(SETTLED)
    world.gateway(ended(60, duration_us=60_000_000))
    world.write()  # and the process is killed here
    count(SETTLED)
    assert lines()[A, "chat_completions"] == (0, 60_000_000)
    assert total_cost() == 3_600_000_000


def test_a_transaction_that_fails_counts_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rate(since=moment(HOUR_START), per_hour="1")
    hours = HardwareHours(UTC_ZONE)

    def crash(*values: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("metrics.costs.hardware_hours._MOVE.write", crash)
        with pytest.raises(SystemExit):
            hours.count(SETTLED)
    assert not lines()
    count(SETTLED, hours)
    assert total_cost() == NANO


def test_a_month_without_the_process_is_counted_in_slices(world: World, settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, history_retention_days=7)
    add_rate(since=moment(HOUR_START), per_hour="0.25")
    hours, slices = HardwareHours(UTC_ZONE), 1
    while hours.count(SETTLED + 30 * 86_400):
        slices += 1
    assert slices == 4
    assert total_cost() == (30 * 24 + 1) * NANO // 4
    oldest = SETTLED + 30 * 86_400 - SETTLE_SECONDS - 7 * 86_400
    assert min(HardwareHour.objects.values_list("start", flat=True)) >= oldest


def test_work_that_is_older_than_the_history_changes_nothing(world: World) -> None:
    add_rate(since=moment(HOUR_START), per_hour="1")
    count(SETTLED + 40 * 86_400, world.writer.hours)
    before = total_cost()
    world.gateway(ended(60))
    world.write()
    count(SETTLED + 40 * 86_400, world.writer.hours)
    assert (total_cost(), HardwareBatch.objects.count(), HardwareDue.objects.count()) == (before, 0, 0)


def test_rows_of_earlier_versions_are_still_read(world: World) -> None:
    """An hour of which one half was stored before the upgrade, and the other half after it."""
    add_rate(since=moment(HOUR_START), per_hour="3.6")
    hour = HOUR_START // HOUR
    HardwareWork.objects.create(
        hour=hour, endpoint_id=A, request_id=B, attempt=0, start_us=HOUR_START * 10**6,
        end_us=(HOUR_START + 60) * 10**6, model="old", kind="chat_completions", api_key_id="", requests=1,
        input_tokens=7, output_tokens=0, cached_tokens=0, write_tokens=0, long_write_tokens=0, reasoning_tokens=0,
    )  # fmt: skip
    world.gateway(ended(90, duration_us=60_000_000, input_tokens=5))  # half of it at the same time as the other
    world.write()
    count(SETTLED, world.writer.hours)
    figures = {row.model: (row.requests, row.input_tokens, row.work_us, row.cost) for row in HardwareHour.objects.all()}
    assert figures["old"] == (1, 7, 60_000_000, 45_000_000)
    assert figures["tiny"] == (1, 5, 60_000_000, 45_000_000)
    assert total_cost() == 3_600_000_000
    count(SETTLED + 40 * 86_400)
    assert (HardwareWork.objects.count(), HardwareBatch.objects.count()) == (0, 0)


def test_endpoints_without_a_rate_have_no_rows(world: World) -> None:
    world.gateway(ended(60))
    world.write()
    count(SETTLED)
    assert not any(model.objects.exists() for model in (HardwareBatch, HardwareDue, HardwareHour, HardwareDayRollUp))


def test_an_ended_rate_costs_nothing_more(world: World) -> None:
    add_rate(since=moment(HOUR_START), valid_until=moment(HOUR_START + 900), per_hour="1")
    count(SETTLED + 86_400)
    assert lines() == {(A, "idle"): (900, NANO // 4)}


BERLIN = ZoneInfo("Europe/Berlin")
MARCH, APRIL = datetime(2026, 3, 1, tzinfo=BERLIN), datetime(2026, 4, 1, tzinfo=BERLIN)  # with a day of 23 hours
CHANGE = datetime(2026, 3, 17, 9, 37, 41, tzinfo=BERLIN)


def test_a_month_of_hours_adds_up_to_hours_times_rate(world: World, settings: Any) -> None:
    """Two endpoints, a change of the rate in the middle of an hour, requests in random order, and late ones."""
    settings.ROUTERDASH = replace(settings.ROUTERDASH, history_retention_days=60)
    first = add_rate(A, since=MARCH, per_hour="1.234567891")
    second = add_rate(A, since=CHANGE, per_hour="0.777777777")
    energy = add_rate(
        B, since=MARCH, currency="EUR", per_hour="0.1", idle_watts="61.3", busy_watts="412", per_kwh="0.3127"
    )
    rng = random.Random(20)
    start, end = MARCH.timestamp(), APRIL.timestamp()
    made = [
        request(
            endpoint=rng.choice((A, B)),
            model=rng.choice(("tiny", "large")),
            api_key_id=rng.choice((None, KEY)),
            completed_us=round(rng.uniform(start, end) * 1e6),
            duration_us=round(rng.expovariate(1 / 900) * 1e6),
            input_tokens=rng.randrange(10_000),
        )
        for _ in range(300)
    ]
    hours = HardwareHours(BERLIN)
    for batch in (made[:150], made[150:290], made[290:]):
        world.gateway(*batch)
        world.write()
        hours.forget()
        count(end + SETTLE_SECONDS, hours)

    def lasting(since: datetime, until: datetime) -> int:
        return int(until.timestamp() - since.timestamp())

    assert lasting(MARCH, APRIL) == 743 * HOUR
    times = ((first, lasting(MARCH, CHANGE)), (second, lasting(CHANGE, APRIL)))
    expected = sum((row.per_hour or 0) * seconds // HOUR for row, seconds in times)
    groups, _names = hardware_by_group("endpoint", Period(MARCH.date(), (APRIL - timedelta(days=1)).date()))
    shares, idle = groups.requests[A]["USD"], groups.idle[A]["USD"]
    assert shares.cost + idle.cost == expected
    assert idle.seconds == 743 * HOUR
    assert shares.requests == sum(entry.attempts[0].endpoint_id == A for entry in made)
    assert shares.input_tokens == sum(entry.input_tokens or 0 for entry in made if entry.attempts[0].endpoint_id == A)
    parts = rows("SELECT start, busy_us FROM hardware_hours WHERE kind = 'idle' AND rate_id = %s", energy.pk)
    assert len(parts) == 743
    assert groups.requests[B]["EUR"].cost + groups.idle[B]["EUR"].cost == sum(
        price_cache.hardware()
        .spans(B, int(hour_start), int(hour_start) + HOUR)[0]
        .rate.cost(int(hour_start), int(hour_start) + HOUR, int(busy))
        for hour_start, busy in parts
    )
