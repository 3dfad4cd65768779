"""Gauges by minute: peaks of load, and the lowest number of online endpoints."""

from metrics.memory.gauges import EVERY_SECONDS, Gauge, Gauges
from tests.metrics.records import AT, MINUTE


def test_a_minute_keeps_its_peaks() -> None:
    made = Gauges()
    for in_flight, waiting, online in ((3, 0, 2), (1, 5, 1), (2, 1, 2)):
        made.note(AT, in_flight, waiting, online)
    assert made.at(MINUTE) == Gauge(3, 5, 1)
    assert made.at(MINUTE - 1) is None


def test_an_hour_is_kept() -> None:
    made = Gauges()
    for minute in range(70):
        made.note(AT + 60 * minute, minute, 0, 0)
    assert made.at(MINUTE + 9) is None
    assert made.at(MINUTE + 10) == Gauge(10, 0, 0)


def test_gauges_are_read_once_a_second_even_if_the_clock_changes() -> None:
    made = Gauges()
    assert made.due(AT)
    made.note(AT, 0, 0, 0)
    assert [made.due(AT + after) for after in (0.5, EVERY_SECONDS, -100)] == [False, True, True]
