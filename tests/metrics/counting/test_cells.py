"""Durations in milliseconds, and local dates."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.counting.cells import local_date, milliseconds
from metrics.counting.fold import Fold
from metrics.counting.plausibility import MAX_DURATION_US
from tests.metrics.records import attempt, request
from tests.metrics.world import UTC_ZONE


@pytest.mark.parametrize(("microseconds", "expected"), [(0, 1), (1, 1), (499, 1), (1500, 2), (2501, 3), (10_000, 10)])
def test_milliseconds_are_never_0(microseconds: int, expected: int) -> None:
    assert milliseconds(microseconds) == expected


@given(st.integers(0, 10**12))
def test_milliseconds_round_to_the_nearest(microseconds: int) -> None:
    assert milliseconds(microseconds) >= 1
    assert microseconds <= 500 or abs(milliseconds(microseconds) * 1000 - microseconds) <= 500


def minute_of(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() // 60)


@pytest.mark.parametrize(
    ("zone", "midnight", "date"),
    [
        ("UTC", "2026-03-10T00:00", "2026-03-10"),
        ("Asia/Tokyo", "2026-03-09T15:00", "2026-03-10"),
        ("Asia/Kolkata", "2026-03-09T18:30", "2026-03-10"),
        ("Europe/Berlin", "2026-03-28T23:00", "2026-03-29"),  # the day on which clocks go forward begins in winter time
        ("Europe/Berlin", "2026-03-29T22:00", "2026-03-30"),  # and ends an hour early
        ("Europe/Berlin", "2026-10-24T22:00", "2026-10-25"),  # the day on which they go back begins in summer time
        ("Europe/Berlin", "2026-10-25T23:00", "2026-10-26"),  # and ends an hour late
    ],
)
def test_the_local_date_turns_at_midnight(zone: str, midnight: str, date: str) -> None:
    minute = minute_of(midnight)
    assert local_date(minute, ZoneInfo(zone)) == date
    assert local_date(minute - 1, ZoneInfo(zone)) < date


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Asia/Tokyo", "2026-03-29", 24),
        ("Asia/Tokyo", "2026-10-25", 24),
    ],
)
def test_a_local_day_has_23_24_or_25_hours(zone: str, day: str, hours: int) -> None:
    start = minute_of(f"{day}T00:00") - 24 * 60
    dates = [local_date(start + 60 * hour, ZoneInfo(zone)) for hour in range(72)]
    assert dates.count(day) == hours


DURATIONS = (
    st.integers(0, MAX_DURATION_US) | st.integers(0, 10_000) | st.integers(0, 10**9).map(lambda halves: halves * 500)
)


@given(DURATIONS)
def test_milliseconds_are_rounded_half_to_even(duration_us: int) -> None:
    assert milliseconds(duration_us) == (round(duration_us / 1000) or 1)


@given(DURATIONS.filter(bool))
def test_a_fold_sums_up_the_same_milliseconds(duration_us: int) -> None:
    entry = request(output_tokens=5, attempts=(attempt(duration_us=duration_us),))
    (sums,) = Fold(UTC_ZONE).add_all([entry, entry]).speed_sums.values()
    assert sums.duration_ms == 2 * milliseconds(duration_us)
