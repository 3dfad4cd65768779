"""Figures in memory: the 60 slots of the timeline, the fallback of the average, and the change of the day."""

from dataclasses import FrozenInstanceError
from zoneinfo import ZoneInfo

import pytest

from gateway.base.request_kinds import CHAT
from gateway.ipc import record
from gateway.ipc.record import Entry
from metrics.counting.cells import Cell, Counters, Daily
from metrics.counting.fold import Fold
from metrics.memory.figures import DurationSummary, Slot, iso_minute
from metrics.memory.state import FiguresState, Speed
from metrics.memory.trackers import Trackers
from tests.metrics.records import AT, MINUTE, A, attempt, request
from tests.metrics.world import UTC_ZONE

HOUR, DAY = 3600.0, 86_400.0
SPEAKS = (A, "tiny", CHAT)


def trackers(*entries: Entry, zone: ZoneInfo = UTC_ZONE) -> Trackers:
    made = Trackers(zone)
    add(made, *entries)
    return made


def add(to: Trackers, *entries: Entry) -> None:
    to.add(Fold(to.zone).add_all(entries))


def counted(request_trackers: Trackers, now: float = AT) -> dict[int, tuple[int, int]]:
    """Return the slots with requests, by their distance to the last one."""
    slots = request_trackers.figures(now).timeline
    return {slots[-1].minute - slot.minute: (slot.success, slot.error) for slot in slots if slot.success or slot.error}


# The timeline


def test_there_are_60_whole_minutes_oldest_first() -> None:
    minutes = [slot.minute for slot in trackers().figures(AT).timeline]
    assert minutes == list(range(MINUTE - 59, MINUTE + 1))


def test_without_requests_there_are_60_zeros() -> None:
    assert {(slot.success, slot.error) for slot in trackers().figures(AT).timeline} == {(0, 0)}


def test_a_request_is_in_the_minute_of_its_end() -> None:
    assert counted(trackers(request(), request(record.FAILED, ago=600))) == {0: (1, 0), 10: (0, 1)}


def test_a_late_record_lands_in_its_own_slot() -> None:
    request_trackers = trackers(request())
    add(request_trackers, request(ago=1200))
    assert counted(request_trackers) == {0: (1, 0), 20: (1, 0)}


def test_a_minute_ends_at_its_last_microsecond() -> None:
    end = (MINUTE + 1) * 60_000_000
    request_trackers = trackers(request(completed_us=end - 1), request(completed_us=end))
    assert counted(request_trackers, AT + 60) == {1: (1, 0), 0: (1, 0)}


def test_the_oldest_slot_is_59_minutes_back() -> None:
    assert counted(trackers(request(ago=59 * 60), request(ago=60 * 60))) == {59: (1, 0)}


def test_slots_move_on_with_the_clock() -> None:
    request_trackers = trackers(request())
    assert counted(request_trackers, AT + 60 * 30) == {30: (1, 0)}
    assert counted(request_trackers, AT + 60 * 60) == {}


def test_cancelled_requests_are_in_no_slot() -> None:
    assert counted(trackers(request(record.CANCELLED))) == {}


def test_a_minute_is_written_with_a_z() -> None:
    assert iso_minute(MINUTE) == "2026-03-10T12:00:00Z"


def test_a_slot_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        Slot(1, 2, 3).success = 4  # type: ignore[misc]


# The average


def average(request_trackers: Trackers, now: float = AT) -> float | None:
    return request_trackers.figures(now).average_response_time_ms


def test_no_average_before_anything_was_served() -> None:
    assert average(trackers(request(record.FAILED), request(record.CANCELLED))) is None


def test_the_average_is_over_the_last_24_hours() -> None:
    request_trackers = trackers(request(duration_us=100_000), request(duration_us=300_000, ago=23 * HOUR))
    add(request_trackers, request(duration_us=9_000_000, ago=25 * HOUR))
    assert average(request_trackers) == 200


def test_without_recent_requests_the_average_is_that_of_the_latest_day() -> None:
    request_trackers = trackers(
        request(duration_us=100_000, ago=2 * DAY), request(duration_us=300_000, ago=2 * DAY + 60)
    )
    add(request_trackers, request(duration_us=9_000_000, ago=4 * DAY))
    assert average(request_trackers) == 200


def test_the_average_falls_back_as_time_passes() -> None:
    request_trackers = trackers(
        request(duration_us=100_000, ago=11 * HOUR), request(duration_us=300_000, ago=13 * HOUR)
    )
    assert average(request_trackers) == 200
    assert average(request_trackers, AT + 40 * HOUR) == 100  # the later one's date alone


def test_the_average_counts_microseconds() -> None:
    assert average(trackers(request(duration_us=1), request(duration_us=2))) == 0.0015


def test_the_latest_day_is_a_local_one() -> None:
    # 23:00 and 01:00 in Tokyo, both on 8 March in UTC.
    early, late = request(ago=46.01 * HOUR, duration_us=1000), request(ago=44.01 * HOUR, duration_us=3000)
    assert average(trackers(early, late)) == 2
    assert average(trackers(early, late, zone=ZoneInfo("Asia/Tokyo"))) == 3


# Speeds and the change of the day


def test_a_speed_is_its_moving_average() -> None:
    request_trackers = trackers(request(output_tokens=100, ago=60), request(output_tokens=200))
    assert request_trackers.figures(AT).speeds == {SPEAKS: pytest.approx(0.2 * 100 + 0.8 * 50)}


def test_the_day_average_is_used_until_there_is_a_sample() -> None:
    request_trackers = trackers()
    request_trackers.state.day("2026-03-10").attempts[SPEAKS] = Daily(1, 1, 0, 100, 2000)
    assert request_trackers.figures(AT).speeds == {SPEAKS: 50}
    add(request_trackers, request(output_tokens=160))
    assert request_trackers.figures(AT).speeds == {SPEAKS: 80}


def test_a_model_without_samples_has_no_speed() -> None:
    request_trackers = trackers()
    request_trackers.state.speeds[SPEAKS] = Speed()
    assert request_trackers.figures(AT).speeds == {}


def test_todays_sums_reset_at_midnight_and_speeds_stay() -> None:
    request_trackers = trackers(request(output_tokens=100))
    before, after = request_trackers.figures(AT), request_trackers.figures(AT + 12 * HOUR)
    assert (before.date, before.today) == ("2026-03-10", {SPEAKS: Daily(1, 1, 0, 100, 2000)})
    assert (after.date, after.today) == ("2026-03-11", {})
    assert after.speeds == before.speeds == {SPEAKS: 50}


def test_midnight_is_the_local_one() -> None:
    request_trackers = trackers(request(), zone=ZoneInfo("Asia/Tokyo"))
    assert request_trackers.figures(AT + 2.9 * HOUR).today
    assert not request_trackers.figures(AT + 3 * HOUR).today


def test_a_late_record_of_yesterday_does_not_count_today() -> None:
    request_trackers = trackers(request())
    add(request_trackers, request(ago=DAY))
    assert request_trackers.figures(AT).today == {SPEAKS: Daily(1, 1, 0)}
    assert request_trackers.figures(AT).endpoints == {A: Counters(2, 2)}


def test_only_the_clock_changes_the_day() -> None:
    request_trackers = trackers(request(), request())
    add(request_trackers, request(ago=-12 * HOUR))
    assert request_trackers.figures(AT).today == {SPEAKS: Daily(2, 2, 0)}
    assert request_trackers.figures(AT + 12 * HOUR).today == {SPEAKS: Daily(1, 1, 0)}


def test_unread_days_are_dropped() -> None:
    request_trackers = trackers(request(), request(ago=DAY), request(ago=5 * DAY))
    request_trackers.figures(AT)
    assert set(request_trackers.state.days) == {"2026-03-10"}


def test_unread_minutes_are_dropped() -> None:
    request_trackers = trackers(request(), request(ago=30 * HOUR))
    request_trackers.figures(AT)
    assert set(request_trackers.state.minutes) == {MINUTE}


# Copies and versions


def test_figures_are_a_copy() -> None:
    request_trackers = trackers(request(output_tokens=100))
    before = request_trackers.figures(AT)
    add(request_trackers, request(record.FAILED))
    assert before.endpoints == {A: Counters(1, 1)}
    assert before.today[SPEAKS].total == 1
    assert before.timeline[-1] == Slot(MINUTE, 1, 0)
    assert (before.totals["requests_ok"], before.totals["output_tokens"], before.totals["answers_us"]) == (
        1,
        100,
        2_000_000,
    )


def test_changing_figures_does_not_change_the_trackers() -> None:
    request_trackers = trackers(request())
    request_trackers.figures(AT).endpoints[A].total = 99
    request_trackers.figures(AT).today[SPEAKS].total = 99
    (day,) = request_trackers.state.days.values()
    assert request_trackers.state.endpoints[A].total == day.attempts[SPEAKS].total == 1


def test_every_batch_is_a_version() -> None:
    request_trackers = trackers()
    before = request_trackers.version
    add(request_trackers, request())
    assert request_trackers.figures(AT).version == before + 1


def test_installed_figures_replace_all_others() -> None:
    request_trackers = trackers(request())
    assert not request_trackers.figures(AT).seeded
    request_trackers.install(FiguresState(UTC_ZONE, endpoints={A: Counters(7, 7)}))
    assert request_trackers.figures(AT).endpoints == {A: Counters(7, 7)}
    assert request_trackers.figures(AT).seeded


def test_counting_continues_from_installed_figures() -> None:
    request_trackers = trackers()
    before = Cell(requests_ok=1, ok_duration_us=1000)
    state = FiguresState(UTC_ZONE, latest_day=("2026-03-10", before))
    state.add_minute(MINUTE, before)
    request_trackers.install(state)
    add(request_trackers, request(duration_us=3000))
    assert average(request_trackers) == 2
    assert average(request_trackers, AT + 3 * DAY) == 2


def test_attempts_that_failed_over_show_on_both_endpoints() -> None:
    other = "dddddddd-0000-4000-8000-000000000009"
    request_trackers = trackers(request(attempts=(attempt(record.FAILED, other), attempt())))
    assert request_trackers.figures(AT).endpoints == {A: Counters(1, 1), other: Counters(1, 0, 1)}


# Percentiles


def test_percentiles_are_over_the_requests_of_the_average() -> None:
    request_trackers = trackers(*(request(duration_us=1000 * number, ago=number) for number in range(1, 101)))
    add(request_trackers, request(duration_us=9_000_000, ago=25 * HOUR))
    spread = request_trackers.figures(AT).durations
    assert spread.average == 50.5
    assert (spread.p50, spread.p95, spread.p99) == pytest.approx((50, 95, 99), rel=1 / 16)


def test_percentiles_fall_back_to_the_latest_day() -> None:
    request_trackers = trackers(request(duration_us=100_000, ago=2 * DAY), request(duration_us=9_000_000, ago=4 * DAY))
    assert request_trackers.figures(AT).durations.p99 == pytest.approx(100, rel=1 / 16)


def test_percentiles_drop_old_minutes_exactly() -> None:
    request_trackers = trackers(
        request(duration_us=100_000, ago=11 * HOUR), request(duration_us=300_000, ago=23 * HOUR)
    )
    request_trackers.figures(AT + 2 * HOUR)
    assert request_trackers.state.recent == request_trackers.state.minutes[MINUTE - 11 * 60]


def test_first_tokens_are_measured_for_streams_only() -> None:
    request_trackers = trackers(
        request(first_token_us=20_000), request(), request(record.FAILED, first_token_us=90_000)
    )
    spread = request_trackers.figures(AT).first_tokens
    assert spread.average == 20
    assert spread.p50 == pytest.approx(20, rel=1 / 16)


def test_without_responses_there_are_no_percentiles() -> None:
    assert trackers(request(record.FAILED)).figures(AT).durations == DurationSummary(None, None, None, None)
