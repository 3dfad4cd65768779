"""Cost of an hour of own hardware, and its shares. No database."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ipc import record
from metrics.counting.hardware import (
    IDLE_LINE,
    HardwareSums,
    HourPart,
    LineKey,
    RatedWork,
    lines_of,
    parts_of,
    work_of,
)
from metrics.prices.hardware import HOUR, HOUR_US, HardwareRate, HardwareRates
from tests.metrics.records import AT, A, B, attempt, request

NANO = 10**9
UTC_ZONE = ZoneInfo("UTC")
START = int(AT) // HOUR * HOUR
KEY: LineKey = ("tiny", "chat", "")


def rate(**fields: int | str | None) -> HardwareRate:
    values = {"id": 1, "endpoint_id": A, "valid_from": START, "valid_until": None, "currency": "USD", **fields}
    return HardwareRate(**values)  # type: ignore[arg-type]


def work(start: float, end: float, *, model: str = "tiny", requests: int = 0) -> RatedWork:
    """RatedWork between two moments in minutes of the hour."""
    first, last = (START * 1_000_000 + round(it * 60_000_000) for it in (start, end))
    return RatedWork(START // HOUR, A, "", 0, first, last, model, "chat", "", requests)


def lines(
    rate: HardwareRate, *parts: RatedWork, start: int = START, end: int = START + HOUR
) -> dict[LineKey, HardwareSums]:
    return lines_of(HourPart(start, end, rate, ""), parts)


def test_an_idle_hour_costs_its_rate() -> None:
    assert lines(rate(per_hour=3 * NANO)) == {IDLE_LINE: HardwareSums(seconds=HOUR, cost=3 * NANO)}


def test_requests_at_the_same_time_share_the_busy_time() -> None:
    found = lines(rate(per_hour=60 * NANO), work(0, 20), work(0, 10, model="large"))
    assert found["tiny", "chat", ""].cost == 20 * NANO * 2 // 3
    assert found["large", "chat", ""].cost == 20 * NANO // 3
    idle = found[IDLE_LINE]
    assert (idle.busy_us, idle.cost) == (HOUR_US // 3, 40 * NANO + 1)  # the remainder of both divisions


def test_energy_depends_on_what_runs() -> None:
    priced = rate(idle_watts=100 * NANO, busy_watts=500 * NANO, per_kwh=NANO)  # 1 per kWh
    found = lines(priced, work(0, 15))
    assert (found[KEY].cost, found[IDLE_LINE].cost) == (125_000_000, 75_000_000)


def test_only_the_part_of_a_request_within_the_time_counts() -> None:
    whole = work(0, 60, requests=1)
    found = lines(rate(per_hour=60 * NANO), whole, end=START + HOUR // 2)
    assert (found[KEY].cost, found[KEY].requests, found[IDLE_LINE].cost) == (30 * NANO, 0, 0)
    assert lines(rate(per_hour=60 * NANO), whole, start=START + HOUR // 2)[KEY].requests == 1


def test_midnight_within_an_hour_divides_it() -> None:
    zone, rates = ZoneInfo("Asia/Kolkata"), HardwareRates([rate()])
    start = int(datetime(2026, 3, 10, 18, tzinfo=UTC).timestamp())
    assert [(it.start - start, it.date) for it in parts_of(rates, A, start, start + HOUR, zone)] == [
        (0, "2026-03-10"), (HOUR // 2, "2026-03-11"),
    ]  # fmt: skip


def test_a_later_rate_ends_the_one_before() -> None:
    rates = HardwareRates([rate(id=2, valid_from=START + 60, valid_until=START + 90), rate()])
    parts = parts_of(rates, A, START, START + HOUR, UTC_ZONE)
    assert [(it.rate.id, it.start - START, it.end - START) for it in parts] == [(1, 0, 60), (2, 60, 90)]


def test_work_is_that_of_all_attempts_where_there_is_a_rate() -> None:
    entry = request(
        duration_us=5_000_000, attempts=(attempt(record.FAILED, A), attempt(record.OK, B), attempt(record.OK, A)),
        input_tokens=10, cached_tokens=20, output_tokens=7,
    )  # fmt: skip
    last = msgspec.structs.replace(entry.attempts[-1], at_us=3_000_000)
    entry = msgspec.structs.replace(entry, attempts=(*entry.attempts[:-1], last))
    first, second = work_of([entry], HardwareRates([rate()]))
    assert (first.attempt, first.end_us - first.start_us, first.requests) == (0, 2_000_000, 0)
    assert (second.attempt, second.end_us, second.requests) == (2, entry.completed_us, 1)
    assert (second.input_tokens, second.cached_tokens, second.output_tokens) == (10, 10, 7)


def test_a_request_over_several_hours_has_a_part_in_each() -> None:
    rates = HardwareRates([rate(valid_from=START - HOUR)])
    found = list(work_of([request(duration_us=3 * HOUR_US, input_tokens=1)], rates))
    assert [(it.hour - START // HOUR, it.requests) for it in found] == [(-1, 0), (0, 1)]  # no rate in the hours before
    assert found[0].end_us == found[1].start_us == START * 1_000_000


times = st.integers(0, HOUR_US)
works = st.lists(
    st.tuples(times, times, st.sampled_from(("tiny", "large"))).map(
        lambda it: RatedWork(
            0, A, "", 0, START * 10**6 + min(it[:2]), START * 10**6 + max(it[:2]), it[2], "chat", "", 1
        )
    ),
    max_size=12,
)


@given(
    works,
    st.integers(0, 10**15),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**10),
    st.lists(st.integers(1, HOUR - 1), max_size=3),
)
def test_lines_add_up_to_the_cost_and_none_is_negative(
    parts: list[RatedWork], per_hour: int, idle: int, more: int, per_kwh: int, cuts: list[int]
) -> None:
    priced = rate(valid_from=START - 1234, per_hour=per_hour, idle_watts=idle, busy_watts=idle + more, per_kwh=per_kwh)
    edges = [START, *sorted({START + it for it in cuts}), START + HOUR]
    total = requests = extra = 0
    for start, end in pairwise(edges):
        found = lines(priced, *parts, start=start, end=end)
        assert all(sums.cost >= 0 for sums in found.values())
        assert sum(sums.cost for sums in found.values()) == priced.cost(start, end, found[IDLE_LINE].busy_us)
        total += priced.cost(start, end, 0)
        requests += sum(sums.requests for sums in found.values())
        extra += found[IDLE_LINE].busy_us
    assert total == priced.cost(START, START + HOUR, 0)
    assert requests == len(parts)
    assert extra <= HOUR_US


@pytest.mark.parametrize("hours", [1, 7, 24 * 31])
def test_hours_cost_their_rate_exactly_wherever_the_rate_began(hours: int) -> None:
    priced = rate(valid_from=START - 777, per_hour=1_000_000_007)
    assert priced.cost(START, START + hours * HOUR, 0) == hours * 1_000_000_007
