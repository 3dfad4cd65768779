"""What is counted where, the sums that do not depend on order, and the averages that do not either."""

import re
from datetime import UTC, datetime
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import record
from gateway.kinds import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES
from gateway.record import Attempt, Entry, RequestRecord, SegmentHead, Unrecorded
from metrics.fold import (
    CELL_COLUMNS,
    NO_ENDPOINT,
    WINDOW,
    Cell,
    Counters,
    Daily,
    Fold,
    Sample,
    local_date,
    merge_samples,
    milliseconds,
    moving_average,
    pack_samples,
    sound,
    unpack_samples,
)
from metrics.trackers import Trackers
from tests.metrics.records import AT, CLIENTS, ENDED, KEY, KINDS, MINUTE, A, B, attempt, request, uuid_of
from tests.metrics.world import UTC_ZONE, told


class Told(NamedTuple):
    """What one request does to each figure."""

    counters: tuple[int, int, int, int] = (0, 0, 0, 0)  # total, successful, failed, cancelled
    daily: tuple[int, int, int] = (0, 0, 0)
    timeline: tuple[int, int] = (0, 0)
    average: float | None = None
    speed: float | None = None


NOTHING = Told()


def fold(*entries: Entry, zone: ZoneInfo = UTC_ZONE) -> Fold:
    return Fold(zone).add_all(entries)


def tell(*entries: Entry) -> Told:
    trackers = Trackers(UTC_ZONE)
    trackers.add(fold(*entries))
    figures = trackers.figures(AT)
    counters = figures.endpoints.get(A) or Counters()
    daily = figures.today.get((A, "tiny", CHAT)) or Daily()
    last = figures.timeline[-1]
    return Told(
        (counters.total, counters.successful, counters.failed, counters.cancelled),
        (daily.total, daily.successful, daily.failed),
        (last.success, last.error),
        figures.average_response_time_ms,
        figures.speeds.get((A, "tiny", CHAT)),
    )


# The table of what is counted where, row by row. The history rows of each are in test_writer.

FAILED_ATTEMPT = Told((1, 0, 1, 0), (1, 0, 1), (0, 1))


def test_a_whole_answer_counts_in_every_figure() -> None:
    assert tell(request(output_tokens=100)) == Told((1, 1, 0, 0), (1, 1, 0), (1, 0), 2000.0, 50.0)


def test_an_answer_without_tokens_has_no_speed() -> None:
    assert tell(request(output_tokens=0)).speed is None
    assert tell(request(output_tokens=None)).speed is None


def test_a_refusal_of_the_upstream_fails_without_average_and_speed() -> None:
    assert tell(request(record.REFUSED, output_tokens=9)) == FAILED_ATTEMPT


@pytest.mark.parametrize("outcome", [record.FAILED, record.TRUNCATED])
def test_a_failure_counts_as_failed_attempt_and_error(outcome: str) -> None:
    assert tell(request(outcome, output_tokens=9)) == FAILED_ATTEMPT


def test_a_client_that_left_counts_as_cancelled_alone() -> None:
    assert tell(request(record.CANCELLED, output_tokens=9)) == Told(counters=(0, 0, 0, 1))


@pytest.mark.parametrize("outcome", [record.NO_ENDPOINT, record.QUEUE])
def test_a_request_that_reached_no_endpoint_is_an_error_of_the_timeline_alone(outcome: str) -> None:
    assert tell(request(outcome)) == Told(timeline=(0, 1))


def test_who_gives_up_in_the_queue_after_an_attempt_has_no_endpoint() -> None:
    entry = request(record.QUEUE, attempts=(attempt(record.FAILED, A),))
    assert entry.endpoint_id is None
    cells = fold(entry).cells
    assert cells[MINUTE, NO_ENDPOINT, "tiny", CHAT, ""] == Cell(requests_failed=1)
    assert cells[MINUTE, A, "tiny", CHAT, ""] == Cell(attempts_failed=1)


def test_a_rejection_counts_by_its_reason_alone() -> None:
    entries = [request(record.REJECTED, error=code) for code in ("unknown_key", "unknown_key", "too_large")]
    assert tell(*entries) == NOTHING
    assert fold(*entries).totals == {"rejected:unknown_key": 2, "rejected:too_large": 1}


def test_a_rejection_stands_in_the_roll_ups_by_its_key() -> None:
    entries = [request(record.REJECTED, error="unknown_key", model=name) for name in ("made up", "made up, too")]
    cells = fold(*entries, request(record.REJECTED, error="too_large", api_key_id=KEY)).cells
    assert {key[1:]: cell for key, cell in cells.items()} == {
        (NO_ENDPOINT, "", "", ""): Cell(requests_rejected=2),
        (NO_ENDPOINT, "", "", KEY): Cell(requests_rejected=1),
    }


def test_answers_stand_in_the_histograms() -> None:
    answered = request(duration_us=40, first_token_us=7)
    failed = request(record.FAILED, duration_us=50, first_token_us=8)
    (cell,) = fold(answered, request(duration_us=41), failed).cells.values()
    assert (cell.durations, cell.first_tokens, cell.first_token_us) == ({36: 2}, {7: 1}, 7)


def test_a_failed_over_attempt_counts_on_its_endpoint_and_the_request_once() -> None:
    entry = request(attempts=(attempt(record.FAILED, B), attempt(record.OK, A)), output_tokens=100)
    found = fold(entry)
    assert found.endpoints == {A: Counters(1, 1, 0), B: Counters(1, 0, 1)}
    assert {key[0]: (it.total, it.failed) for key, it in found.daily.items()} == {A: (1, 0), B: (1, 1)}
    assert found.totals["requests_ok"] == 1
    assert tell(entry).timeline == (1, 0)


def test_attempts_before_the_client_left_count_as_failed() -> None:
    entry = request(record.CANCELLED, attempts=(attempt(record.FAILED, B), attempt(record.CANCELLED, A)))
    found = fold(entry)
    assert found.endpoints == {A: Counters(cancelled=1), B: Counters(1, 0, 1)}
    assert found.totals["requests_failed"] == 0
    assert found.totals["requests_cancelled"] == 1


def test_a_client_that_left_before_any_attempt_blames_no_endpoint() -> None:
    found = fold(request(record.CANCELLED, attempts=()))
    assert found.endpoints == {}
    assert found.totals["requests_cancelled"] == 1


def test_what_was_not_recorded_is_counted_by_its_number() -> None:
    found = fold(Unrecorded(3), Unrecorded(4), SegmentHead("db"))
    assert dict(found.totals) == {"unrecorded": 7}


# Details of the sums


def test_tokens_add_up_over_all_outcomes() -> None:
    found = fold(request(input_tokens=3, output_tokens=5), request(record.TRUNCATED, input_tokens=1, output_tokens=2))
    assert (found.totals["input_tokens"], found.totals["output_tokens"]) == (4, 7)


def test_speed_is_that_of_the_attempt_that_answered() -> None:
    entry = request(attempts=(attempt(record.FAILED, B, duration_us=1), attempt(duration_us=500_000)), output_tokens=10)
    assert tell(entry).speed == 20


@pytest.mark.parametrize("kind", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_kinds_that_speak_have_a_speed(kind: str) -> None:
    assert list(fold(request(kind=kind, output_tokens=1)).samples) == [(A, "tiny", kind)]


def test_embeddings_have_no_speed() -> None:
    found = fold(request(kind=EMBEDDINGS, output_tokens=9))
    assert found.samples == {}
    assert found.daily[A, "tiny", "2026-03-10", EMBEDDINGS] == Daily(1, 1, 0, 0, 0)


def test_an_attempt_that_took_no_time_has_no_speed() -> None:
    assert fold(request(attempts=(attempt(duration_us=0),), output_tokens=9)).samples == {}


def test_daily_tokens_and_time_are_those_with_a_speed() -> None:
    found = fold(request(output_tokens=100), request(output_tokens=0), request(record.FAILED, output_tokens=7))
    assert found.daily[A, "tiny", "2026-03-10", CHAT] == Daily(3, 2, 1, 100, 2000)


def test_the_average_leaves_failures_out() -> None:
    assert tell(request(duration_us=100_000), request(record.FAILED, duration_us=900_000)).average == 100


def test_cells_know_minute_endpoint_model_kind_and_key() -> None:
    found = fold(request(api_key_id=KEY, ago=60), request(record.NO_ENDPOINT))
    assert set(found.cells) == {(MINUTE - 1, A, "tiny", CHAT, KEY), (MINUTE, NO_ENDPOINT, "tiny", CHAT, "")}


def test_cells_of_a_failed_over_attempt_stand_under_its_endpoint() -> None:
    cells = fold(request(attempts=(attempt(record.FAILED, B), attempt()), output_tokens=5)).cells
    by_endpoint = {key[1]: cell for key, cell in cells.items()}
    assert by_endpoint[B] == Cell(attempts_failed=1)
    whole = Cell(attempts_ok=1, output_tokens=5)
    whole.answered(2_000_000, None)
    assert by_endpoint[A] == whole


def test_days_are_the_cells_summed() -> None:
    days = fold(request(ago=600), request(), request(ago=86_400)).days
    assert {key[0]: cell.requests_ok for key, cell in days.items()} == {"2026-03-10": 2, "2026-03-09": 1}


def test_only_a_refused_connection_asks_for_a_look() -> None:
    def failing(error: str | None, outcome: str = record.FAILED) -> RequestRecord:
        return request(outcome, attempts=(record.Attempt(A, outcome, 0, 5, error),))

    assert fold(failing("connection refused")).refused_connections == {A}
    others = (failing("timeout"), failing(None), failing("connection refused", record.CANCELLED))
    assert fold(*others).refused_connections == set()


# Durations and dates


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
        ("Europe/Berlin", "2026-03-28T23:00", "2026-03-29"),  # the day on which clocks go forward begins in winter
        ("Europe/Berlin", "2026-03-29T22:00", "2026-03-30"),  # and ends an hour early
        ("Europe/Berlin", "2026-10-24T22:00", "2026-10-25"),  # the day on which they go back begins in summer
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
def test_a_local_day_has_as_many_hours_as_the_clocks_say(zone: str, day: str, hours: int) -> None:
    start = minute_of(f"{day}T00:00") - 24 * 60
    dates = [local_date(start + 60 * hour, ZoneInfo(zone)) for hour in range(72)]
    assert dates.count(day) == hours


def test_daily_rows_are_of_the_local_date_of_completion() -> None:
    late = request(ago=0)  # 12:00:30 UTC
    assert {key[2] for key in fold(late, zone=ZoneInfo("Pacific/Auckland")).daily} == {"2026-03-11"}
    assert {key[2] for key in fold(late, zone=ZoneInfo("America/New_York")).daily} == {"2026-03-10"}


# Moving averages


def samples_of(speeds: list[float], start: int = 0) -> list[Sample]:
    return [(start + at, at, speed) for at, speed in enumerate(speeds)]


def plain(speeds: list[float]) -> float:
    """The recursion as the contract has it, over everything there ever was."""
    value = speeds[0]
    for speed in speeds[1:]:
        value = 0.2 * speed + 0.8 * value
    return value


SPEEDS = st.floats(1, 1000)


def test_the_average_of_nothing_is_none() -> None:
    assert moving_average([]) is None


def test_the_first_sample_is_taken_as_it_is() -> None:
    assert moving_average(samples_of([50.0])) == 50


def test_a_new_sample_weighs_a_fifth() -> None:
    assert moving_average(samples_of([50.0, 100.0])) == pytest.approx(60)


@given(st.lists(SPEEDS, min_size=1, max_size=500))
def test_the_window_is_as_good_as_all_of_the_past(speeds: list[float]) -> None:
    kept: list[Sample] = []
    for sample in samples_of(speeds):
        kept = merge_samples(kept, [sample])
    assert len(kept) <= WINDOW
    assert moving_average(kept) == pytest.approx(plain(speeds), rel=1e-9)


SAMPLES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), SPEEDS), max_size=300, unique_by=lambda it: it[:2])


@given(SAMPLES, st.randoms(use_true_random=False))
def test_samples_merge_to_the_same_bits_in_any_order(samples: list[Sample], rng: Any) -> None:
    shuffled = list(samples)
    rng.shuffle(shuffled)
    kept: list[Sample] = []
    for part in split(shuffled, rng):
        kept = merge_samples(kept, part)
    assert kept == sorted(samples)[-WINDOW:] == merge_samples([], samples)
    assert moving_average(kept) == moving_average(merge_samples([], samples))


@given(SAMPLES, SAMPLES)
def test_samples_merged_twice_count_once(one: list[Sample], other: list[Sample]) -> None:
    kept = merge_samples(merge_samples([], one), other)
    assert merge_samples(kept, other) == kept
    assert merge_samples(kept, kept) == kept


def test_a_late_sample_takes_its_place() -> None:
    early, late, middle = (1, 0, 10.0), (3, 0, 30.0), (2, 0, 20.0)
    assert merge_samples([early, late], [middle]) == [early, middle, late]


def test_samples_survive_packing_bit_by_bit() -> None:
    samples = samples_of([0.1, 1 / 3, 12345.678])
    assert unpack_samples(pack_samples(samples)) == samples


# Any order, any split


def split(entries: list[Any], rng: Any) -> list[list[Any]]:
    """Cut into batches at random places."""
    cuts = sorted(rng.randrange(len(entries) + 1) for _ in range(3)) if entries else []
    edges = [0, *cuts, len(entries)]
    return [entries[start:end] for start, end in pairwise(edges)]


@st.composite
def any_request(draw: st.DrawFn) -> RequestRecord:
    outcome = draw(st.sampled_from((*ENDED, record.REJECTED)))
    before = draw(st.lists(st.sampled_from((A, B)), max_size=2))
    duration = draw(st.integers(1, 10**7))
    last = attempt(outcome, draw(st.sampled_from((A, B))), duration_us=duration)
    failed = tuple(attempt(record.FAILED, endpoint) for endpoint in before)
    return request(
        outcome,
        id=uuid_of(draw(st.integers(0, 10**6))),
        ago=draw(st.integers(0, 3 * 86_400)),
        kind=draw(st.sampled_from(KINDS)),
        model=draw(st.sampled_from(("tiny", "large"))),
        attempts=_attempts(outcome, failed, last),
        duration_us=duration,
        output_tokens=draw(st.none() | st.integers(0, 500)),
        input_tokens=draw(st.none() | st.integers(0, 500)),
        first_token_us=draw(st.none() | st.integers(0, 10**7)),
        api_key_id=draw(st.sampled_from((None, KEY))),
        client_ip=draw(st.sampled_from(CLIENTS)),
        error="a_reason",
    )


def _attempts(outcome: str, failed: tuple[Attempt, ...], last: Attempt) -> tuple[Attempt, ...]:
    if outcome == record.QUEUE:
        return failed
    return () if outcome in (record.NO_ENDPOINT, record.REJECTED) else (*failed, last)


REQUESTS = st.lists(any_request(), max_size=40, unique_by=lambda entry: entry.id)


@given(REQUESTS, st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_order_or_batches(entries: list[RequestRecord], rng: Any) -> None:
    whole, parts = Trackers(UTC_ZONE), Trackers(UTC_ZONE)
    whole.add(fold(*entries))
    shuffled = list(entries)
    rng.shuffle(shuffled)
    for part in split(shuffled, rng):
        parts.add(fold(*part))
    assert told(parts.figures(AT)) == told(whole.figures(AT))


@given(REQUESTS, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_order(entries: list[RequestRecord], rng: Any) -> None:
    shuffled = list(entries)
    rng.shuffle(shuffled)
    one, other = fold(*entries), fold(*shuffled)
    assert in_order(one) == in_order(other)


def in_order(found: Fold) -> Fold:
    for spoken in found.spoken.values():
        spoken.entries.sort(key=attrgetter("id"))
    found.counted.sort(key=attrgetter("id"))
    return found


@given(REQUESTS, REQUESTS)
def test_folds_add_up(some: list[RequestRecord], others: list[RequestRecord]) -> None:
    one, other = fold(*some, Unrecorded(2)), fold(*others, Unrecorded(3))
    assert in_order(one + other) == in_order(fold(*some, Unrecorded(2), *others, Unrecorded(3)))
    assert (one, other) == (fold(*some, Unrecorded(2)), fold(*others, Unrecorded(3)))


@given(REQUESTS)
def test_many_at_once_are_those_that_each_is_alone(entries: list[RequestRecord]) -> None:
    alone = sum((fold(entry) for entry in entries), start=fold())
    assert in_order(fold(*entries)) == in_order(alone)


@given(
    st.from_regex(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", fullmatch=True)
    | st.text(alphabet="0123456789abcdefABCDEFgx-\n \u0661\u00e9\ud800", max_size=37)
)
@example("00000000-0000-0000-0000-000000000000")
@example("00000000-0000-0000-0000-00000000000g")
@example("00000000-0000-0000-0000-00000000000A")
@example("00000000-0000-0000-0000-00000000000\u0661")
@example("00000000-0000-0000-0000-0000000000000")
@example("000000000000-0000-0000-0000-00000000")
@example("00000000-0000-0000-0000-000000000000\n")
def test_an_id_is_hyphenated_lower_case(text: str) -> None:
    right = re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None
    assert sound(request(id=text)) == right


@given(REQUESTS)
def test_days_hold_what_the_cells_hold(entries: list[RequestRecord]) -> None:
    found = fold(*entries, zone=ZoneInfo("Europe/Berlin"))
    for name in CELL_COLUMNS:
        assert sum(getattr(cell, name) for cell in found.days.values()) == sum(
            getattr(cell, name) for cell in found.cells.values()
        )
