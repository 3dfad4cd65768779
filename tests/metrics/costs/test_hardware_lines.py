"""Cost of an hour of own hardware, and its shares. No database."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.costs.hardware_lines import (
    IDLE_LINE,
    HardwareSums,
    HourPart,
    busy_time,
    lines_of,
    parts_of,
)
from metrics.costs.hardware_rates import HOUR, HOUR_US, HardwareRate, HardwareRates
from metrics.costs.hardware_work import TIME_BITS, TIME_MASK, LineKey, LineWork, Place, pack, unpack, work_of
from metrics.counting.fold import Fold
from tests.metrics.records import AT, A, B, attempt, request

NANO = 10**9
UTC_ZONE = ZoneInfo("UTC")
START = int(AT) // HOUR * HOUR
KEY: LineKey = ("tiny", "chat", "")


def rate(**fields: int | str | None) -> HardwareRate:
    values = {"id": 1, "endpoint_id": A, "valid_from": START, "valid_until": None, "currency": "USD", **fields}
    return HardwareRate(**values)  # type: ignore[arg-type]


def work(start: float, end: float, *, model: str = "tiny", requests: int = 0) -> LineWork:
    """Return an attempt between two moments in minutes of the hour."""
    made = LineWork(model, "chat", "")
    made.add(round(start * 60_000_000), round(end * 60_000_000), (requests, 0, 0, 0, 0, 0, 0) if requests else None)
    return made


def times(work: LineWork) -> list[tuple[int, int]]:
    """Return starts and ends."""
    return [(both & TIME_MASK, both >> TIME_BITS) for both in work.times]


def work_in(*entries: RequestRecord, rates: HardwareRates) -> dict[Place, list[LineWork]]:
    return work_of(Fold(UTC_ZONE).add_all(entries), rates)


def lines(
    rate: HardwareRate, *parts: LineWork, start: int = START, end: int = START + HOUR
) -> dict[LineKey, HardwareSums]:
    return lines_of(HourPart(start, end, rate, ""), parts)


def test_an_idle_hour_costs_its_rate() -> None:
    assert lines(rate(per_hour=3 * NANO)) == {IDLE_LINE: HardwareSums(seconds=HOUR, cost=3 * NANO)}


def test_requests_at_the_same_time_share_the_busy_time() -> None:
    by_line = lines(rate(per_hour=60 * NANO), work(0, 20), work(0, 10, model="large"))
    assert by_line["tiny", "chat", ""].cost == 20 * NANO * 2 // 3
    assert by_line["large", "chat", ""].cost == 20 * NANO // 3
    idle = by_line[IDLE_LINE]
    assert (idle.busy_us, idle.cost) == (HOUR_US // 3, 40 * NANO + 1)  # the remainder of both divisions


def test_energy_depends_on_what_runs() -> None:
    priced = rate(idle_watts=100 * NANO, busy_watts=500 * NANO, per_kwh=NANO)  # 1 per kWh
    by_line = lines(priced, work(0, 15))
    assert (by_line[KEY].cost, by_line[IDLE_LINE].cost) == (125_000_000, 75_000_000)


def test_only_the_part_of_a_request_within_the_time_counts() -> None:
    whole = work(0, 60, requests=1)
    by_line = lines(rate(per_hour=60 * NANO), whole, end=START + HOUR // 2)
    assert (by_line[KEY].cost, by_line[KEY].requests, by_line[IDLE_LINE].cost) == (30 * NANO, 0, 0)
    assert lines(rate(per_hour=60 * NANO), whole, start=START + HOUR // 2)[KEY].requests == 1


def test_midnight_within_an_hour_divides_it() -> None:
    zone, rates = ZoneInfo("Asia/Kolkata"), HardwareRates([rate()])
    start = int(datetime(2026, 3, 10, 18, tzinfo=UTC).timestamp())
    assert [(part.start - start, part.date) for part in parts_of(rates, A, start, start + HOUR, zone)] == [
        (0, "2026-03-10"), (HOUR // 2, "2026-03-11"),
    ]  # fmt: skip


def test_a_later_rate_ends_the_one_before() -> None:
    rates = HardwareRates([rate(id=2, valid_from=START + 60, valid_until=START + 90), rate()])
    parts = parts_of(rates, A, START, START + HOUR, UTC_ZONE)
    assert [(part.rate.id, part.start - START, part.end - START) for part in parts] == [(1, 0, 60), (2, 60, 90)]


def test_work_is_that_of_all_attempts_where_there_is_a_rate() -> None:
    entry = request(
        duration_us=5_000_000, attempts=(attempt(record.FAILED, A), attempt(record.OK, B), attempt(record.OK, A)),
        input_tokens=10, cached_tokens=20, output_tokens=7,
    )  # fmt: skip
    last = msgspec.structs.replace(entry.attempts[-1], at_us=3_000_000)
    entry = msgspec.structs.replace(entry, attempts=(*entry.attempts[:-1], last))
    ((place, place_lines),) = work_in(entry, rates=HardwareRates([rate()])).items()
    (line,) = place_lines
    ended = entry.completed_us - START * 1_000_000
    assert place == (START // HOUR, A)
    assert times(line) == [(ended - 5_000_000, ended - 3_000_000), (ended - 2_000_000, ended)]
    assert line.counts == [(ended - 1, (1, 10, 7, 10, 0, 0, 0))]


def test_a_request_over_several_hours_has_a_part_in_each() -> None:
    rates = HardwareRates([rate(valid_from=START - HOUR)])
    by_place = work_in(request(duration_us=3 * HOUR_US, input_tokens=1), rates=rates)
    assert sorted(by_place) == [(START // HOUR - 1, A), (START // HOUR, A)]  # no rate in the hours before
    (before,), (last,) = (by_place[place] for place in sorted(by_place))
    assert (times(before)[0][1], before.counts, times(last)[0][0]) == (HOUR_US, [], 0)
    assert [counts[:2] for _, counts in last.counts] == [(1, 1)]


offsets = st.integers(-30_000_000, 90_000_000)
entries = st.lists(
    st.builds(
        lambda ended, duration, offset, model, tokens, cached: request(
            completed_us=START * 1_000_000 + HOUR_US // 2 + ended, duration_us=duration, model=model,
            attempts=(msgspec.structs.replace(attempt(record.OK, A), at_us=offset, duration_us=duration),),
            input_tokens=tokens, output_tokens=tokens, cached_tokens=cached,
        ),
        offsets, st.integers(0, HOUR_US), st.integers(0, 1000), st.sampled_from(("tiny", "large")),
        st.none() | st.integers(-5, 1 << 41), st.none() | st.integers(-5, 1 << 41),
    ),
    max_size=12,
)  # fmt: skip


@given(entries, st.integers(0, 59))
def test_requests_of_one_minute_count_as_they_do_alone(made: list[RequestRecord], second: int) -> None:
    edge = START + HOUR // 2 + second  # within the minute in which most of them end
    rates = HardwareRates([rate(valid_from=START - HOUR), rate(id=2, valid_from=edge)])

    def counted(batches: list[dict[Place, list[LineWork]]]) -> list[dict[LineKey, HardwareSums]]:
        work: dict[Place, list[LineWork]] = {}
        for each in batches:
            for place, of_place in each.items():
                work.setdefault(place, []).extend(unpack(pack(of_place)))
        hours = (START // HOUR - 1, START // HOUR)
        parts = [part for hour in hours for part in parts_of(rates, A, hour * HOUR, (hour + 1) * HOUR, UTC_ZONE)]
        assert len(parts) == 3
        return [lines_of(part, work.get((part.start // HOUR, A), [])) for part in parts]

    together = counted([work_in(*made, rates=rates)])
    assert together == counted([work_in(entry, rates=rates) for entry in made])
    assert sum(sums.requests for of_part in together for sums in of_part.values()) == len(made)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted), max_size=8))
def test_busy_time_is_the_union_of_all_times(spans: list[list[int]]) -> None:
    made = LineWork(*KEY)
    for start, end in spans:
        made.add(start, end, None)
    assert busy_time([made]) == len({moment for start, end in spans for moment in range(start, end)})


moments = st.integers(0, HOUR_US)
works = st.lists(
    st.tuples(moments, moments, st.sampled_from(("tiny", "large"))).map(
        lambda drawn: work(min(drawn[:2]) / 60e6, max(drawn[:2]) / 60e6, model=drawn[2], requests=1)
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
    parts: list[LineWork], per_hour: int, idle: int, more: int, per_kwh: int, cuts: list[int]
) -> None:
    priced = rate(valid_from=START - 1234, per_hour=per_hour, idle_watts=idle, busy_watts=idle + more, per_kwh=per_kwh)
    edges = [START, *sorted({START + cut for cut in cuts}), START + HOUR]
    total = requests = extra = 0
    for start, end in pairwise(edges):
        by_line = lines(priced, *parts, start=start, end=end)
        assert all(sums.cost >= 0 for sums in by_line.values())
        assert sum(sums.cost for sums in by_line.values()) == priced.cost(start, end, by_line[IDLE_LINE].busy_us)
        total += priced.cost(start, end, 0)
        requests += sum(sums.requests for sums in by_line.values())
        extra += by_line[IDLE_LINE].busy_us
    assert total == priced.cost(START, START + HOUR, 0)
    assert requests == len(parts)
    assert extra <= HOUR_US


@pytest.mark.parametrize("hours", [1, 7, 24 * 31])
def test_hours_cost_their_rate_exactly_wherever_the_rate_began(hours: int) -> None:
    priced = rate(valid_from=START - 777, per_hour=1_000_000_007)
    assert priced.cost(START, START + hours * HOUR, 0) == hours * 1_000_000_007
