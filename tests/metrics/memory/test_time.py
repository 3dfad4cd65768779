"""Midnights, daylight-saving changes, clocks that are set: figures in memory, restored, and counted directly."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine

from gateway.base.request_kinds import CHAT
from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.counting import histogram
from metrics.counting.cells import Daily, milliseconds
from metrics.counting.speeds import CLOCK_SLACK_US, moving_average
from metrics.memory.figures import Figures, Slot
from metrics.memory.runtime import runtime
from metrics.memory.trackers import Trackers
from metrics.models import DailyStat, RequestHistory
from metrics.queries.stored import daily_stats
from metrics.storage import seeding
from metrics.storage.writer import DatabaseWriter
from tests.metrics import laws
from tests.metrics.records import A, request, uuid_of
from tests.metrics.world import DATABASE, World, add_endpoint, count_adopted, own_database, rows, where

pytestmark = pytest.mark.django_db

KEY = (A, "tiny", CHAT)
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo",
         "America/Havana", "Pacific/Apia")  # fmt: skip


class Clock:
    """A world in a time zone, at a time that a test sets, with all its records."""

    def __init__(self, world: World, zone: str, traveller: Any) -> None:
        self.world, self.zone, self._traveller = world, ZoneInfo(zone), traveller
        world.follower.trackers = Trackers(self.zone)
        world.writer = DatabaseWriter(world.follower, self.zone, where, reseed=self.restart)
        world.trackers.state.endpoints.clear()
        self.gateway = world.gateway()
        self.records: list[RequestRecord] = []
        own_database()

    @property
    def now(self) -> float:
        return datetime.now(UTC).timestamp()

    def set(self, moment: str) -> None:
        """Set a local wall time, or a time with an offset."""
        parsed = datetime.fromisoformat(moment)
        self._traveller.move_to(parsed if parsed.tzinfo else parsed.replace(tzinfo=self.zone))

    def step(self, **amount: float) -> None:
        self._traveller.shift(timedelta(**amount))

    def serve(self, outcome: str = record.OK, **fields: Any) -> None:
        """End a request now; each request has a different speed."""
        tokens = 10 + len(self.records) if outcome == record.OK else None
        made = request(outcome, completed_us=round(self.now * 1e6), output_tokens=tokens, **fields)
        self.records.append(made)
        assert self.gateway.append(made)

    def look(self) -> Figures:
        return self.world.follower.figures()

    def restart(self) -> None:
        self.world.follower.seed(seeding.load(self.now), DATABASE)

    def restored(self) -> Figures:
        fresh = Trackers(self.zone)
        fresh.install(seeding.load(self.now))
        return fresh.figures()

    def check(self) -> None:
        """Memory, a restart and the rows must equal the figures counted from the records."""
        assert figures(self.look()) == self.plain()
        self.world.write()
        assert figures(self.look()) == self.plain()
        assert figures(self.restored()) == self.plain()
        self.check_rows()

    def check_rows(self) -> None:
        minutes = Counter(entry.completed_us // 60_000_000 for entry in self.records)
        stored = rows("SELECT minute, SUM(requests_ok + requests_failed) FROM rollup_minutes GROUP BY minute")
        assert {minute: count for minute, count in stored if count} == minutes
        dates = Counter(self.date_of(entry) for entry in self.records)
        for table, column in (
            ("rollup_days", "requests_ok + requests_failed"),
            ("endpoint_daily_stats", "total_requests"),
        ):
            assert dict(rows(f"SELECT date, SUM({column}) FROM {table} GROUP BY date")) == dates
        laws.check_all()
        laws.check_timeline(self.look())

    def date_of(self, entry: RequestRecord) -> str:
        return datetime.fromtimestamp(entry.completed_us / 1e6, self.zone).date().isoformat()

    def plain(self) -> dict[str, Any]:
        """Every figure that depends on time, as defined in docs/reference/figures.md."""
        minute, today = int(self.now // 60), datetime.now(self.zone).date().isoformat()
        ended = Counter((entry.completed_us // 60_000_000, entry.outcome == record.OK) for entry in self.records)
        served = [entry for entry in self.records if entry.outcome == record.OK]
        of_today = [entry for entry in self.records if self.date_of(entry) == today]
        return {
            "timeline": tuple(
                Slot(slot_minute, ended[slot_minute, True], ended[slot_minute, False])
                for slot_minute in range(minute - 59, minute + 1)
            ),
            "average": self.plain_average(served, minute),
            "median": self.plain_median(served, minute),
            "speed": self.plain_speed(served),
            "date": today,
            "today": self.plain_today(of_today),
            "average_today": mean(entry for entry in of_today if entry.outcome == record.OK),
            "totals": Counter(entry.outcome == record.OK for entry in self.records),
        }

    def plain_average(self, served: list[RequestRecord], minute: int) -> float | None:
        return mean(self.recent(served, minute))

    def plain_median(self, served: list[RequestRecord], minute: int) -> float | None:
        counts = Counter(histogram.bucket(entry.duration_us) for entry in self.recent(served, minute))
        quantiles = histogram.quantiles(counts, (0.5,))
        return quantiles[0] / 1000 if quantiles else None

    def recent(self, served: list[RequestRecord], minute: int) -> list[RequestRecord]:
        recent = [entry for entry in served if entry.completed_us // 60_000_000 > minute - 24 * 60]
        latest = max(map(self.date_of, served), default=None)
        return recent or [entry for entry in served if self.date_of(entry) == latest]

    def plain_speed(self, served: list[RequestRecord]) -> float | None:
        come = [entry for entry in served if entry.completed_us <= round(self.now * 1e6) + CLOCK_SLACK_US] or served
        ordered = sorted(come, key=lambda entry: (entry.completed_us, entry.id))
        return moving_average([(0, 0, (entry.output_tokens or 0) / (entry.duration_us / 1e6)) for entry in ordered])

    def plain_today(self, of_today: list[RequestRecord]) -> Daily | None:
        ok = [entry for entry in of_today if entry.outcome == record.OK]
        tokens, duration = (
            sum(entry.output_tokens or 0 for entry in ok),
            sum(milliseconds(entry.duration_us) for entry in ok),
        )
        return Daily(len(of_today), len(ok), len(of_today) - len(ok), tokens, duration) if of_today else None


def latest_day(clock: Clock) -> tuple[str, int, int]:
    """Return date, served requests, and their duration."""
    latest = seeding.load(clock.now).latest_day
    assert latest is not None
    return latest[0], latest[1].requests_ok, latest[1].ok_duration_us


def mean(served: Any) -> float | None:
    durations = [entry.duration_us for entry in served]
    return sum(durations) / len(durations) / 1000 if durations else None


def figures(tracked: Figures) -> dict[str, Any]:
    assert [slot.minute for slot in tracked.timeline] == list(
        range(int(tracked.at // 60) - 59, int(tracked.at // 60) + 1)
    )
    return {
        "timeline": tracked.timeline,
        "average": tracked.average_response_time_ms,
        "median": tracked.durations.p50,
        "speed": tracked.speeds.get(KEY),
        "date": tracked.date,
        "today": tracked.today.get(KEY),
        "average_today": tracked.average_today_ms.get(KEY),
        "totals": Counter(
            {True: tracked.totals.get("requests_ok", 0), False: tracked.totals.get("requests_failed", 0)}
        ),
    }


@pytest.fixture
def zone() -> str:
    return "UTC"


@pytest.fixture
def clock(world: World, zone: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    monkeypatch.setattr(runtime.trackers, "zone", ZoneInfo(zone))
    add_endpoint(A, "a")
    with time_machine.travel(datetime(2026, 3, 10, 12, tzinfo=UTC), tick=False) as traveller:
        yield Clock(world, zone, traveller)


def day_of(clock: Clock, date: str) -> None:
    """Requests every half hour of a local day, from an hour before until an hour after it."""
    clock.set(f"{date}T00:00")
    clock.step(minutes=-60)
    end = datetime.fromisoformat(date).replace(tzinfo=clock.zone) + timedelta(days=1)
    while clock.now < end.timestamp() + 3600:
        clock.serve(
            record.FAILED if len(clock.records) % 3 == 2 else record.OK, duration_us=1_000_000 + len(clock.records)
        )
        clock.step(minutes=30)


# Midnight


@pytest.mark.parametrize("zone", ZONES)
def test_a_request_that_ended_in_the_last_microsecond_belongs_to_the_day(clock: Clock) -> None:
    clock.set("2026-03-11T00:00")
    clock.step(microseconds=-1)
    clock.serve()
    clock.check()
    clock.step(microseconds=1)
    clock.serve()
    clock.check()
    assert clock.look().today[KEY].total == 1
    assert dict(DailyStat.objects.values_list("date", "total_requests")) == {"2026-03-10": 1, "2026-03-11": 1}


@pytest.mark.parametrize("zone", ZONES)
def test_todays_figures_reset_without_any_record(clock: Clock) -> None:
    clock.set("2026-03-10T23:59:59.9")
    clock.serve()
    clock.check()
    clock.step(seconds=0.1)
    clock.check()
    assert clock.look().today == {}


def test_yesterdays_averages_do_not_replace_a_speed(clock: Clock) -> None:
    DailyStat(
        endpoint_id=A, model_id="tiny", date="2026-03-10", api_kind=CHAT, total_requests=1, successful_requests=1,
        total_output_tokens=100, total_duration_ms=2000,
    ).save(force_insert=True)  # fmt: skip
    clock.restart()
    clock.set("2026-03-10T23:59:59")
    assert clock.look().speeds == clock.restored().speeds == {KEY: 50}
    clock.step(seconds=1)
    assert clock.look().speeds == clock.restored().speeds == {}


def test_a_learned_speed_stays_after_midnight(clock: Clock) -> None:
    clock.set("2026-03-10T23:59:59")
    clock.serve()
    clock.step(days=3)
    clock.check()
    assert clock.look().speeds == {KEY: 5}


@pytest.mark.parametrize("zone", ZONES)
def test_late_records_belong_to_their_day(clock: Clock) -> None:
    clock.set("2026-03-10T23:59:58")
    clock.restart()
    clock.serve()
    clock.step(seconds=1)
    clock.serve(record.FAILED)
    clock.step(seconds=2)
    clock.serve()
    clock.check()


@pytest.mark.parametrize("zone", ZONES)
def test_a_restart_just_before_midnight(clock: Clock) -> None:
    clock.set("2026-03-10T23:59:30")
    clock.serve()
    clock.world.write()
    clock.set("2026-03-10T23:59:59")
    clock.restart()
    clock.serve()
    clock.step(seconds=1)
    clock.serve()
    clock.check()
    clock.restart()
    clock.check()


# Daylight-saving


DAYS = [
    ("Europe/Berlin", "2026-03-29", 23),
    ("Europe/Berlin", "2026-10-25", 25),
    ("America/St_Johns", "2026-03-08", 23),
    ("America/St_Johns", "2026-11-01", 25),
    ("Australia/Lord_Howe", "2026-04-05", 24.5),
    ("Australia/Lord_Howe", "2026-10-04", 23.5),
    ("America/Santiago", "2026-09-06", 23),  # its midnight does not exist
    ("America/Santiago", "2026-04-04", 25),  # 23:00 to 24:00 occurs twice
    ("Africa/Cairo", "2026-04-24", 23),  # no midnight
    ("Africa/Cairo", "2026-10-29", 25),
    ("America/Havana", "2026-03-08", 23),  # no midnight
    ("America/Havana", "2026-11-01", 25),  # its first hour occurs twice
]


@pytest.mark.parametrize(("zone", "date", "hours"), DAYS)
def test_a_day_has_its_own_length(clock: Clock, date: str, hours: float) -> None:
    day_of(clock, date)
    clock.check()
    assert DailyStat.objects.get(date=date).total_requests == 2 * hours


@pytest.mark.parametrize(("zone", "date", "hours"), DAYS)
def test_each_read_on_such_a_day_is_right(clock: Clock, date: str, hours: float) -> None:
    clock.set(f"{date}T00:00")
    clock.step(minutes=-30)
    for _ in range(9):
        clock.serve()
        clock.check()
        clock.step(minutes=30)


@pytest.mark.parametrize(("zone", "date", "hours"), DAYS)
def test_the_latest_adopted_day_is_complete(clock: Clock, date: str, hours: float) -> None:
    start = datetime.fromisoformat(date).replace(tzinfo=clock.zone).astimezone(UTC)
    for number in range(round(2 * hours)):
        adopt(start + timedelta(minutes=30 * number), number)
    adopt(start - timedelta(seconds=1), 99)
    clock.set("2027-01-15T12:00")
    count_adopted(clock.zone)
    assert latest_day(clock) == (date, round(2 * hours), round(2 * hours) * 100_000)


@pytest.mark.parametrize("minutes", [10, 30, 70, 119])
@pytest.mark.parametrize("zone", ["America/Havana"])
def test_the_latest_adopted_day_begins_once(clock: Clock, minutes: int) -> None:
    """Its first hour occurs twice; the last row may be in either."""
    start = datetime(2026, 11, 1, tzinfo=clock.zone).astimezone(UTC)
    adopt(start, 1)
    adopt(start + timedelta(minutes=minutes), 2)
    clock.set("2027-01-15T12:00")
    count_adopted(clock.zone)
    assert latest_day(clock) == ("2026-11-01", 2, 200_000)


def adopt(moment: datetime, number: int) -> None:
    RequestHistory.objects.create(
        id=uuid_of(10**9 + number), timestamp=moment, completed_at=moment, request_type="Chat", model="tiny",
        endpoint_id=A, endpoint_name="a", endpoint_ip="0.0.0.0", request_body={}, duration_ms=100, status="success",
    )  # fmt: skip


@pytest.mark.parametrize("zone", ["Europe/Berlin"])
def test_the_hour_that_occurs_twice_is_two_hours(clock: Clock) -> None:
    for offset in ("+02:00", "+01:00"):
        clock.set(f"2026-10-25T02:30:00{offset}")
        clock.serve()
        clock.check()
    assert sum(slot.success for slot in clock.look().timeline) == 1


# Clocks that are set


BACK = [
    ("2026-03-10T12:00:10", {"seconds": 30}),
    ("2026-03-10T12:00:10", {"hours": 2}),
    ("2026-03-11T00:00:10", {"seconds": 30}),
    ("2026-03-11T00:59:00", {"hours": 2}),
    ("2026-03-11T00:00:10", {"days": 1}),
    ("2026-03-11T12:00:10", {"days": 1}),
    ("2026-03-11T12:00:10", {"days": 30}),
]


def history(clock: Clock, moment: str) -> None:
    """Requests of a day and a half until this time."""
    clock.set(moment)
    clock.step(hours=-36)
    for number in range(36):
        clock.step(minutes=59, seconds=7)
        clock.serve(duration_us=1_000_000 + number)
    clock.set(moment)


@pytest.mark.parametrize(("moment", "amount"), BACK)
@pytest.mark.parametrize("zone", ["Europe/Berlin"])
def test_a_clock_that_is_set_back_and_forward_again(clock: Clock, moment: str, amount: dict[str, float]) -> None:
    history(clock, moment)
    clock.serve()
    clock.check()
    clock.step(**{unit: -count for unit, count in amount.items()})
    clock.look()
    clock.world.write()
    clock.check()
    clock.serve()
    clock.check()
    clock.step(**amount)
    clock.check()
    clock.serve()
    clock.check()


@pytest.mark.parametrize(("moment", "amount"), BACK[:4])
@pytest.mark.parametrize("zone", ["Europe/Berlin"])
def test_a_clock_set_back_by_hours_needs_no_read_of_the_database(
    clock: Clock, moment: str, amount: dict[str, float]
) -> None:
    history(clock, moment)
    clock.look()
    clock.world.write()
    clock.restart()
    clock.look()
    clock.step(**{unit: -count for unit, count in amount.items()})
    assert figures(clock.look()) == clock.plain()


def test_many_small_steps_back_equal_a_large_one(clock: Clock) -> None:
    history(clock, "2026-03-11T04:00:00")
    clock.check()
    for _ in range(6 * 60):
        clock.step(minutes=-1)
        clock.look()
    clock.world.write()
    clock.check()


@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_clock_that_ran_ahead_by_a_day(clock: Clock, looked: bool, written: bool, restarted: bool) -> None:
    history(clock, "2026-03-10T12:00")
    clock.check()
    clock.step(days=1)
    for _ in range(3):
        clock.serve()
        if looked:
            clock.look()
        if written:
            clock.world.write()
    if restarted:
        clock.restart()
    clock.step(days=-1)
    clock.look()
    clock.world.write()
    clock.check()
    clock.serve()
    clock.check()
    clock.step(days=1)
    clock.serve()
    clock.check()


def test_a_record_from_the_future_does_not_change_the_day(clock: Clock) -> None:
    clock.serve()
    clock.step(days=1)
    clock.serve()
    clock.step(days=-1)
    clock.serve()
    clock.check()
    assert (clock.look().date, clock.look().today[KEY].total) == ("2026-03-10", 2)


def test_future_days_are_not_among_the_last_days(clock: Clock) -> None:
    clock.serve()
    clock.step(days=1)
    clock.serve()
    clock.step(days=-1)
    clock.check()
    assert [day["date"] for day in daily_stats(A, 7, clock.look().date)] == ["2026-03-10"]


@pytest.mark.parametrize("count", [1, 50])
def test_speeds_from_the_future_do_not_depend_on_the_time_of_writing(clock: Clock, count: int) -> None:
    clock.serve()
    clock.step(hours=1)
    for _ in range(count):
        clock.serve()
        clock.look()
    clock.step(hours=-1)
    clock.serve()
    clock.look()
    clock.step(hours=2)  # the database was unavailable until now
    clock.check()
