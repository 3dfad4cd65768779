"""Figures restored from the database equal those in memory, field by field, even next to damaged rows."""

import random
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db import Error, OperationalError, connection
from django.test.utils import CaptureQueriesContext

from gateway.base.request_kinds import CHAT
from gateway.ipc import record
from gateway.ipc.record import Unrecorded
from metrics.counting.cells import Counters
from metrics.memory.figures import DurationSummary, Figures
from metrics.memory.runtime import runtime
from metrics.models import DailyStat, DayRollUp, JournalPosition, MovingAverage, RequestHistory
from metrics.storage import seeding
from metrics.storage.database import database_id
from metrics.storage.writer import DatabaseWriter
from tests.metrics.records import AT, MINUTE, NOW, A, load, request, uuid_of
from tests.metrics.world import (
    DATABASE,
    World,
    add_endpoint,
    count_adopted,
    reported,
    restored,
    rows,
    same,
    where,
    without,
)

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

DAY = 86_400.0


def adopted(status: str = "success", *, ago: float = 0.0, duration_ms: int = 100, number: int = 1) -> RequestHistory:
    """A row as llmlb wrote it, without our columns."""
    moment = NOW - timedelta(seconds=ago)
    return RequestHistory.objects.create(
        id=uuid_of(10**9 + number), timestamp=moment, completed_at=moment, request_type="Chat", model="tiny",
        endpoint_id=A, endpoint_name="a", endpoint_ip="0.0.0.0", request_body={}, duration_ms=duration_ms,
        status=status,
    )  # fmt: skip


def daily(tokens: int = 100, duration_ms: int = 2000, *, model: str = "tiny", date: str = "2026-03-10") -> None:
    DailyStat(
        endpoint_id=A, model_id=model, date=date, api_kind=CHAT, total_requests=1, successful_requests=1,
        total_output_tokens=tokens, total_duration_ms=duration_ms,
    ).save(force_insert=True)  # fmt: skip


def counted(figures: Figures) -> dict[int, tuple[int, int]]:
    return {MINUTE - slot.minute: (slot.success, slot.error) for slot in figures.timeline if slot.success or slot.error}


# Restored figures equal those in memory


@pytest.mark.parametrize("seed", range(5))
def test_a_restart_changes_no_figure(world: World, endpoints: object, seed: int) -> None:
    entries = load(seed, 150, seconds=2 * DAY)
    gateways = [world.gateway() for _ in range(3)]
    rng = random.Random(seed)
    for entry in entries:
        rng.choice(gateways).append(entry)
    gateways[0].append(Unrecorded(2))
    live = world.figures()
    world.write()
    assert same(restored(), live)


def test_a_restart_in_the_middle_of_a_load_changes_no_figure(world: World, endpoints: object) -> None:
    entries = load(11, 120, seconds=DAY)
    first, second = world.gateway(*entries[:40]), world.gateway(*entries[40:80])
    world.write()
    runtime.follower.reader = world.follower.reader
    for entry in entries[80:]:
        random.Random(entry.id).choice((first, second)).append(entry)
    runtime.follower.seed(seeding.load(AT), DATABASE)
    assert same(runtime.trackers.figures(AT), world.figures())


def test_several_restarts_change_nothing(world: World, endpoints: object) -> None:
    world.gateway(*load(12, 50))
    world.write()
    live = world.figures()
    runtime.follower.reader = world.follower.reader
    for _ in range(3):
        runtime.follower.seed(seeding.load(AT), DATABASE)
        assert same(runtime.trackers.figures(AT), live)


def test_a_restart_keeps_the_local_day(world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = ZoneInfo("Asia/Tokyo")
    monkeypatch.setattr(runtime.trackers, "zone", zone)
    world.trackers.zone = world.trackers.state.zone = zone
    world.writer = DatabaseWriter(world.follower, zone, where)
    world.gateway(*load(13, 100, seconds=2 * DAY))
    world.write()
    runtime.trackers.install(seeding.load(AT))
    assert same(runtime.trackers.figures(AT), world.figures())


def test_positions_are_read(world: World) -> None:
    world.gateway(request())
    world.write()
    positions = {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}
    assert seeding.load(AT).positions == positions


def test_counters_equal_the_rows() -> None:
    add_endpoint(A, "a", total_requests=10, successful_requests=8, failed_requests=2)
    assert seeding.load(AT).endpoints == {A: Counters(10, 8, 2)}


def test_cancelled_requests_come_from_the_roll_ups(world: World, endpoints: object) -> None:
    world.gateway(request(record.CANCELLED), request(record.CANCELLED, ago=3 * DAY))
    world.write()
    assert seeding.load(AT).endpoints[A] == Counters(cancelled=2)


def test_the_moving_average_is_restored_exactly(world: World) -> None:
    world.gateway(*[request(output_tokens=tokens) for tokens in (3, 800, 55)])
    live = world.figures().speeds
    world.write()
    assert restored().speeds == live
    assert live[A, "tiny", CHAT] == pytest.approx(0.2 * 27.5 + 0.8 * (0.2 * 400 + 0.8 * 1.5))


# A database of llmlb (S3, S4, S5)


def test_the_days_average_replaces_missing_speeds() -> None:
    daily(100, 2000)
    assert restored().speeds == {(A, "tiny", CHAT): 50}


@pytest.mark.parametrize(("tokens", "duration"), [(0, 500), (50, 0)])
def test_rows_without_tokens_or_time_are_skipped(tokens: int, duration: int) -> None:
    daily(tokens, duration)
    assert restored().speeds == {}
    assert restored().today[A, "tiny", CHAT].total == 1


def test_nothing_of_yesterday_is_restored() -> None:
    daily(date="2026-03-09")
    assert (restored().speeds, restored().today) == ({}, {})
    assert restored(AT - DAY).speeds == {(A, "tiny", CHAT): 50}


def test_a_moving_average_takes_precedence_over_the_days(world: World) -> None:
    world.gateway(request(output_tokens=100), request(output_tokens=200))
    world.write()
    assert restored().speeds == {(A, "tiny", CHAT): pytest.approx(60)}


def test_rows_without_an_outcome_are_counted_by_their_status() -> None:
    for number, (status, ago) in enumerate([("success", 0), ("error", 60), ("error", 90), ("success", 1800)]):
        adopted(status, ago=ago, number=number)
    assert count_adopted() == 4
    assert counted(restored()) == {0: (1, 0), 1: (0, 2), 30: (1, 0)}


def test_our_own_rows_are_not_counted_twice(world: World) -> None:
    world.gateway(request(), request(record.FAILED))
    world.write()
    adopted()
    for _ in range(2):
        count_adopted()
        assert counted(restored()) == {0: (2, 1)}


def test_rows_older_than_an_hour_give_60_zeros() -> None:
    adopted(ago=3700)
    count_adopted()
    assert counted(restored()) == {}
    assert len(restored().timeline) == 60


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores times as text")
@pytest.mark.parametrize("fraction", ["", ".123", ".123456", ".123456789"])
def test_any_number_of_digits_is_read(fraction: str) -> None:
    adopted()
    rows("UPDATE request_history SET completed_at = %s", f"2026-03-10T12:00:07{fraction}+00:00")
    assert count_adopted() == 1
    assert counted(restored()) == {0: (1, 0)}


def test_an_adopted_average_is_over_its_successes() -> None:
    for number, (status, duration) in enumerate([("success", 100), ("success", 300), ("error", 9000)]):
        adopted(status, duration_ms=duration, number=number)
    count_adopted()
    assert restored().average_response_time_ms == 200


def test_an_older_adopted_average_is_that_of_the_latest_day() -> None:
    for number, (ago, duration) in enumerate([(2 * DAY, 100), (2 * DAY + 60, 300), (4 * DAY, 9000)]):
        adopted(ago=ago, duration_ms=duration, number=number)
    count_adopted()
    assert restored().average_response_time_ms == 200


def latest_day() -> tuple[str, int, int]:
    """Return date, served requests, and their duration."""
    latest = seeding.load(AT).latest_day
    assert latest is not None
    return latest[0], latest[1].requests_ok, latest[1].ok_duration_us


def test_both_kinds_of_rows_make_the_latest_day(world: World) -> None:
    world.gateway(request(ago=2 * DAY, duration_us=100_000))
    world.write()
    adopted(ago=2 * DAY + 60, duration_ms=300)
    count_adopted()
    assert latest_day() == ("2026-03-08", 2, 400_000)


def test_our_later_day_takes_precedence_over_an_adopted_one(world: World) -> None:
    world.gateway(request(ago=2 * DAY, duration_us=100_000))
    world.write()
    adopted(ago=3 * DAY, duration_ms=300)
    count_adopted()
    assert latest_day() == ("2026-03-08", 1, 100_000)


def test_an_empty_database_is_zeros_and_nothing_measured() -> None:
    figures = reported(restored())
    assert figures["durations"] == DurationSummary(None, None, None, None)
    assert (figures["endpoints"], figures["totals"], figures["speeds"], figures["today"]) == ({}, {}, {}, {})


# Damage


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x91\x01"])
def test_damaged_samples_affect_one_speed_only(world: World, caplog: pytest.LogCaptureFixture, garbage: bytes) -> None:
    world.gateway(request(output_tokens=100, ago=DAY), request(model="large", output_tokens=300))
    world.write()
    MovingAverage.objects.filter(model="tiny").update(samples=garbage)
    figures = restored()
    assert figures.speeds == {(A, "large", CHAT): 150.0}
    assert (figures.totals["requests_ok"], figures.seeded) == (2, True)
    assert "the average starts again" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_damaged_table_affects_only_its_own_figures_and_is_logged(world: World) -> None:
    world.gateway(request())
    world.write()
    with without("metric_totals"):
        figures = restored()
        assert seeding.load(AT).missing == ("totals",)
    assert (figures.totals, figures.seeded) == ({}, False)
    assert sum(slot.success for slot in figures.timeline) == 1


def test_a_locked_table_is_not_an_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*args: object) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(seeding, "_totals", locked)
    with pytest.raises(OperationalError):
        seeding.load(AT)


@pytest.mark.django_db(transaction=True)
def test_seeding_needs_the_positions() -> None:
    with without("journal_positions"), pytest.raises(Error, match="journal_positions"):
        seeding.load(AT)


# The start


@pytest.fixture
def journals(world: World) -> World:
    """`shown_world` reads this world's journals, which belong to the test database."""
    runtime.follower.reader = world.follower.reader
    return world


@time_machine.travel(NOW, tick=False)
def test_seeding_fills_the_figures_in_memory(journals: World) -> None:
    journals.gateway(request(), database_id=database_id())
    seeding.seed()
    assert seeding.seeds == 1
    assert runtime.follower.database_id == database_id()
    assert runtime.trackers.figures(AT).seeded
    assert runtime.trackers.figures(AT).endpoints == {A: Counters(1, 1)}


@pytest.mark.django_db(transaction=True)
def test_seeding_at_the_start_needs_no_database(journals: World, caplog: pytest.LogCaptureFixture) -> None:
    with without("installation"):
        seeding.seed_at_start()
    assert caplog.text == ""  # it may be made or migrated next
    seeding.seed_once_prepared()
    assert (seeding.seeds, runtime.trackers.seeded) == (0, False)
    assert caplog.text.count("figures could not be read from the database") == 1


@pytest.mark.django_db(transaction=True)
def test_seeding_is_retried_when_the_database_returns(journals: World) -> None:
    add_endpoint(A, "a", total_requests=7, successful_requests=7)
    with without("installation"):
        seeding.seed_at_start()
    seeding.seed_at_start()
    assert (seeding.seeds, runtime.trackers.seeded) == (1, True)
    assert runtime.follower.figures().endpoints == {A: Counters(7, 7)}


def test_figures_from_before_the_seeding_are_replaced(journals: World) -> None:
    add_endpoint(A, "a", total_requests=7, successful_requests=7)
    runtime.follower.database_id = database_id()
    journals.gateway(request(), database_id=database_id())
    assert runtime.follower.figures().endpoints == {A: Counters(1, 1)}
    seeding.seed()
    assert runtime.follower.figures().endpoints == {A: Counters(8, 8)}


def test_the_days_of_a_roll_up_are_summed(world: World) -> None:
    world.gateway(request(model="tiny"), request(model="large"))
    world.write()
    assert DayRollUp.objects.count() == 2
    assert latest_day() == ("2026-03-10", 2, 4_000_000)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the plan of PostgreSQL depends on the table's size")
def test_adopted_rows_are_found_by_their_own_index(world: World) -> None:
    """The database may have millions of our own rows, and this runs at each start."""
    adopted(ago=60)
    with CaptureQueriesContext(connection) as queries:
        assert count_adopted() == 1
    over_history = [query["sql"] for query in queries if "FROM request_history" in query["sql"]]
    assert len(over_history) >= 4
    for sql in over_history:
        plan = " ".join(str(row) for row in rows(f"EXPLAIN QUERY PLAN {sql}"))
        assert "USING INDEX history_adopted" in plan or "USING COVERING INDEX history_adopted" in plan, sql


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL's sums are wider than their columns")
def test_an_overflowing_sum_is_not_an_unavailable_database(world: World, endpoints: object) -> None:
    """The overflow affects its own figures only; records of the journal are written."""
    world.gateway(request(model="tiny"), request(model="large"))
    world.write()
    rows("UPDATE rollup_minutes SET input_tokens = 9223372036854775807")
    assert seeding.load(AT).missing == ("minutes",)
    world.gateway(request())
    world.write()
    assert RequestHistory.objects.count() == 3
