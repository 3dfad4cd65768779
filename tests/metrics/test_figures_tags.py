"""Formatting of figures on pages."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.template import Context, Template
from django.utils import timezone, translation

from metrics.templatetags.figures import (
    age,
    clock,
    compact,
    count,
    duration,
    elapsed,
    hour_rows,
    icon,
    instant,
    item,
    meter,
    moment,
    rate,
    share,
    since,
    span,
    spark,
    speed,
    units,
)  # fmt: skip
from tests.metrics.records import NOW


@pytest.mark.parametrize(("value", "text"), [(None, "—"), (0, "0"), (7, "7"), (1234567, "1,234,567")])
def test_count(value: int | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0.0, "0.0"), (49.95, "50.0"), (12.345, "12.3"), (100.0, "100"), (1234.5, "1,235"), (0.04, "0.0")],
)
def test_speed_has_three_significant_digits(value: float | None, text: str) -> None:
    assert speed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0, "0 ms"),
        (0.4, "0 ms"),
        (340, "340 ms"),
        (340.5, "341 ms"),
        (999.6, "1.00 s"),
        (1000, "1.00 s"),
        (1847, "1.85 s"),
    ],
)
def test_duration(value: float | None, text: str) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0.9, "0 s"), (119.9, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (9e6, "104 d")],
)
def test_span(value: float | None, text: str) -> None:
    assert span(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (119.9, "119 秒"), (120, "2 分"), (7200, "2 時間"), (9e6, "104 日")]
)
def test_span_in_japanese(value: float | None, text: str) -> None:
    with translation.override("ja"):
        assert span(value) == text


@pytest.mark.parametrize(
    ("good", "total", "text"),
    [(0, 0, "—"), (1, 1, "100 %"), (0, 5, "0.0 %"), (1, 3, "33.3 %"), (989, 1000, "98.9 %"), (999, 1000, "99.90 %")],
)
def test_rate(good: int, total: int, text: str) -> None:
    assert rate(good, total) == text


def test_percent_in_japanese_has_no_space() -> None:
    with translation.override("ja"):
        assert (rate(1, 1), rate(1, 3), share(1, 9999)) == ("100%", "33.3%", "0.1%")
        assert age(timezone.now() - timedelta(hours=3)) == "3 時間前"


def test_half_is_rounded_up_as_browsers_do() -> None:
    assert [duration(value) for value in (0.5, 1.5, 2.5)] == ["1 ms", "2 ms", "3 ms"]


@time_machine.travel(NOW, tick=False)
def test_age() -> None:
    with translation.override("en"):
        assert age(NOW - timedelta(hours=3, minutes=20)) == "3 h ago"
        assert age(NOW - timedelta(seconds=61)) == "61 s ago"
        assert [age(NOW - timedelta(seconds=ago)) for ago in (59, 0, -5)] == ["just now"] * 3
        assert age(None) == "—"


def test_times_are_in_the_servers_zone() -> None:
    with timezone.override("Asia/Tokyo"):
        assert moment(datetime(2026, 3, 10, 23, 5, 7, tzinfo=UTC)) == "2026-03-11 08:05:07"
        assert clock("2026-03-10T23:05:00Z") == "08:05"
    assert moment(None) == "—"


def test_an_icon_is_hidden_from_screen_readers() -> None:
    html = icon("clock")
    assert 'aria-hidden="true"' in html
    assert "icons.svg#clock" in html


def test_the_name_of_an_icon_is_escaped() -> None:
    assert "<b>" not in icon("<b>", "<b>")


def test_item_looks_up() -> None:
    assert (item({"a": 1}, "a"), item({"a": 1}, "b")) == (1, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0, "0"), (999_999, "999,999"), (1_234_567, "1.23 M"), (61_837_221, "61.8 M"), (9_996_000, "10.0 M")],
)
def test_compact(value: int | None, text: str) -> None:
    assert compact(value) == text


def test_compact_beyond_millions() -> None:
    assert [compact(value) for value in (123_456_789, 5_000_000_000, 7 * 10**12)] == ["123 M", "5.00 G", "7.00 T"]


def test_units_are_small() -> None:
    assert units("1.84 s") == '1.84<span class="unit">s</span>'
    assert units("97.1 %") == units("97.1%") == '97.1<span class="unit">%</span>'
    assert [units(text) for text in ("—", "1,234")] == ["—", "1,234"]


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 0, "—"), (0, 9, "0.0 %"), (1, 9999, "0.1 %"), (9, 9, "100.0 %")]
)
def test_a_share_is_zero_only_without_a_value(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize(("language", "text"), [("en", "9 Mar"), ("ja", "3月9日")])
def test_since_is_a_time_today_and_a_date_before(language: str, text: str) -> None:
    with translation.override(language):
        assert since(NOW - timedelta(hours=1)) == "11:00"
        assert since(NOW - timedelta(days=1)) == text


@time_machine.travel(NOW, tick=False)
def test_elapsed_is_never_negative() -> None:
    assert [elapsed(NOW - timedelta(seconds=seconds)) for seconds in (1320, -9)] == ["22 min", "0 s"]


def test_an_instant_has_the_format_of_the_api() -> None:
    assert instant("2026-03-10T12:00:30.000Z") == NOW
    assert instant(None) is None


def test_a_sparkline_skips_unknown_values() -> None:
    drawn = spark([None, 0, None, 4], "x")
    assert 'points="26.7,30.0 80.0,4.0"' in drawn
    assert 'd="M80.0 4.0h0"' in drawn
    assert 'points=""' in spark([None, None], "x")


def test_a_sparkline_of_a_rate_starts_at_the_lowest_value() -> None:
    assert 'points="0.0,30.0 80.0,4.0"' in spark([0.98, 1.0], "x", None)


def test_a_meter_is_filled_in_proportion_and_labels_its_blocks() -> None:
    few, many = meter(1, 4), meter(16, 64)
    assert 'data-most="4"' in few  # the style sheet cuts it into four
    assert 'class="f" width="25.0%"' in few
    assert 'class="f" width="25.0%"' in many
    assert 'class="f" width="100.0%"' in meter(5, 4)
    assert "full" not in few
    assert "full" in meter(4, 4)
    assert meter(3, None) == ""


def test_rows_of_hours_equal_those_of_a_loop() -> None:
    times = [(datetime(2026, 3, 10, hour, tzinfo=UTC), {"requests": 1234 * hour, "failed": 0}) for hour in (13, 12)]
    loop = (
        "{% load figures %}{% for at, slot in times %}"
        '<tr><th scope="row">{% when at "%Y-%m-%d %H:%M" %}</th><td class="n">{{ slot.requests|count }}</td>'
        '<td class="n">{{ slot.failed|count }}</td></tr>{% endfor %}'
    )
    with timezone.override("Asia/Kathmandu"):
        assert hour_rows(times, ("requests", "failed")) == Template(loop).render(Context({"times": times}))
