"""Rules of counting; sums and averages do not depend on the order of records."""

from operator import attrgetter
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, OLLAMA_GENERATE, RESPONSES
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, Entry, RequestRecord, SegmentHead, Unrecorded
from gateway.prices.counts import part_of
from metrics.counting.cells import CELL_COLUMNS, Cell, Counters, Daily
from metrics.counting.fold import Fold
from metrics.counting.key_use import refusals
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.token_details import TokenDetails
from metrics.memory.trackers import Trackers
from tests.metrics.records import (
    AT,
    CLIENTS,
    ENDED,
    KEY,
    KINDS,
    MINUTE,
    A,
    B,
    attempt,
    request,
    split,
    uuid_of,
    with_details,
)
from tests.metrics.world import UTC_ZONE, reported


class FoldResult(NamedTuple):
    """The effect of a request on each figure."""

    counters: tuple[int, int, int, int] = (0, 0, 0, 0)  # total, successful, failed, cancelled
    daily: tuple[int, int, int] = (0, 0, 0)
    timeline: tuple[int, int] = (0, 0)
    average: float | None = None
    speed: float | None = None


EMPTY = FoldResult()


def fold(*entries: Entry, zone: ZoneInfo = UTC_ZONE) -> Fold:
    return Fold(zone).add_all(entries)


def fold_result(*entries: Entry) -> FoldResult:
    trackers = Trackers(UTC_ZONE)
    trackers.add(fold(*entries))
    figures = trackers.figures(AT)
    counters = figures.endpoints.get(A) or Counters()
    daily = figures.today.get((A, "tiny", CHAT)) or Daily()
    last = figures.timeline[-1]
    return FoldResult(
        (counters.total, counters.successful, counters.failed, counters.cancelled),
        (daily.total, daily.successful, daily.failed),
        (last.success, last.error),
        figures.average_response_time_ms,
        figures.speeds.get((A, "tiny", CHAT)),
    )


# The table of what is counted where, row by row. The history rows are in test_writer.

FAILED_ATTEMPT = FoldResult((1, 0, 1, 0), (1, 0, 1), (0, 1))


def test_a_complete_response_counts_in_every_figure() -> None:
    assert fold_result(request(output_tokens=100)) == FoldResult((1, 1, 0, 0), (1, 1, 0), (1, 0), 2000.0, 50.0)


def test_a_response_without_tokens_has_no_speed() -> None:
    assert fold_result(request(output_tokens=0)).speed is None
    assert fold_result(request(output_tokens=None)).speed is None


def test_a_refusal_of_the_upstream_fails_without_average_and_speed() -> None:
    assert fold_result(request(record.REFUSED, output_tokens=9)) == FAILED_ATTEMPT


@pytest.mark.parametrize("outcome", [record.FAILED, record.TRUNCATED])
def test_a_failure_counts_as_failed_attempt_and_error(outcome: str) -> None:
    assert fold_result(request(outcome, output_tokens=9)) == FAILED_ATTEMPT


def test_a_client_disconnect_counts_only_as_cancelled() -> None:
    assert fold_result(request(record.CANCELLED, output_tokens=9)) == FoldResult(counters=(0, 0, 0, 1))


@pytest.mark.parametrize("outcome", [record.NO_ENDPOINT, record.QUEUE])
def test_a_request_without_an_endpoint_is_an_error_of_the_timeline_only(outcome: str) -> None:
    assert fold_result(request(outcome)) == FoldResult(timeline=(0, 1))


def test_a_request_that_routerdash_answers_itself_is_a_success_of_no_endpoint() -> None:
    entry = request(attempts=(), kind=OLLAMA_GENERATE)
    assert fold_result(entry) == FoldResult(timeline=(1, 0), average=2000.0)
    cells = fold(entry).cells
    assert [key[1] for key in cells] == [NO_ENDPOINT]


def test_a_disconnect_in_the_queue_after_an_attempt_has_no_endpoint() -> None:
    entry = request(record.QUEUE, attempts=(attempt(record.FAILED, A),))
    assert entry.endpoint_id is None
    cells = fold(entry).cells
    assert cells[MINUTE, NO_ENDPOINT, "tiny", CHAT, ""] == Cell(requests_failed=1)
    assert cells[MINUTE, A, "tiny", CHAT, ""] == Cell(attempts_failed=1)


def test_a_rejection_counts_only_by_its_reason() -> None:
    entries = [request(record.REJECTED, error=code) for code in ("unknown_key", "unknown_key", "too_large")]
    assert fold_result(*entries) == EMPTY
    assert fold(*entries).totals == {"rejected:unknown_key": 2, "rejected:too_large": 1}


def test_a_record_may_stand_for_several_rejections() -> None:
    entries = [request(record.REJECTED, error="unknown_key", count=count) for count in (1, 1_600)]
    counted = fold(*entries, request(record.REJECTED, error="unknown_key", count=0))  # which is impossible
    assert counted.totals == {"rejected:unknown_key": 1_601, "unrecorded": 1}
    assert counted.cells == {(MINUTE, NO_ENDPOINT, "", "", ""): Cell(requests_rejected=1_601)}
    assert list(refusals(counted).values()) == [1_601]


def test_a_rejection_is_in_the_roll_ups_by_its_key() -> None:
    entries = [request(record.REJECTED, error="unknown_key", model=name) for name in ("made up", "made up, too")]
    cells = fold(*entries, request(record.REJECTED, error="too_large", api_key_id=KEY)).cells
    assert {key[1:]: cell for key, cell in cells.items()} == {
        (NO_ENDPOINT, "", "", ""): Cell(requests_rejected=2),
        (NO_ENDPOINT, "", "", KEY): Cell(requests_rejected=1),
    }


def test_responses_are_in_the_histograms() -> None:
    served = request(duration_us=40, first_token_us=7)
    failed = request(record.FAILED, duration_us=50, first_token_us=8)
    (cell,) = fold(served, request(duration_us=41), failed).cells.values()
    assert (cell.durations, cell.first_tokens, cell.first_token_us) == ({36: 2}, {7: 1}, 7)


def test_a_failed_over_attempt_counts_on_its_endpoint_and_the_request_once() -> None:
    entry = request(attempts=(attempt(record.FAILED, B), attempt(record.OK, A)), output_tokens=100)
    folded = fold(entry)
    assert folded.endpoints == {A: Counters(1, 1, 0), B: Counters(1, 0, 1)}
    assert {key[0]: (day.total, day.failed) for key, day in folded.daily.items()} == {A: (1, 0), B: (1, 1)}
    assert folded.totals["requests_ok"] == 1
    assert fold_result(entry).timeline == (1, 0)


def test_attempts_before_a_client_disconnect_count_as_failed() -> None:
    entry = request(record.CANCELLED, attempts=(attempt(record.FAILED, B), attempt(record.CANCELLED, A)))
    folded = fold(entry)
    assert folded.endpoints == {A: Counters(cancelled=1), B: Counters(1, 0, 1)}
    assert folded.totals["requests_failed"] == 0
    assert folded.totals["requests_cancelled"] == 1


def test_a_client_disconnect_before_any_attempt_counts_at_no_endpoint() -> None:
    folded = fold(request(record.CANCELLED, attempts=()))
    assert folded.endpoints == {}
    assert folded.totals["requests_cancelled"] == 1


def test_unrecorded_requests_are_counted_as_a_number() -> None:
    folded = fold(Unrecorded(3), Unrecorded(4), SegmentHead("db"))
    assert dict(folded.totals) == {"unrecorded": 7}


# Details of the sums


def test_tokens_add_up_over_all_outcomes() -> None:
    folded = fold(request(input_tokens=3, output_tokens=5), request(record.TRUNCATED, input_tokens=1, output_tokens=2))
    assert (folded.totals["input_tokens"], folded.totals["output_tokens"]) == (4, 7)


def test_speed_is_that_of_the_successful_attempt() -> None:
    entry = request(attempts=(attempt(record.FAILED, B, duration_us=1), attempt(duration_us=500_000)), output_tokens=10)
    assert fold_result(entry).speed == 20


@pytest.mark.parametrize("kind", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_kinds_that_generate_text_have_a_speed(kind: str) -> None:
    assert list(fold(request(kind=kind, output_tokens=1)).samples) == [(A, "tiny", kind)]


def test_embeddings_have_no_speed() -> None:
    folded = fold(request(kind=EMBEDDINGS, output_tokens=9))
    assert folded.samples == {}
    assert folded.daily[A, "tiny", "2026-03-10", EMBEDDINGS] == Daily(1, 1, 0, 0, 0)


def test_an_attempt_of_zero_duration_has_no_speed() -> None:
    assert fold(request(attempts=(attempt(duration_us=0),), output_tokens=9)).samples == {}


def test_daily_tokens_and_time_are_those_with_a_speed() -> None:
    folded = fold(request(output_tokens=100), request(output_tokens=0), request(record.FAILED, output_tokens=7))
    assert folded.daily[A, "tiny", "2026-03-10", CHAT] == Daily(3, 2, 1, 100, 2000)


def test_the_average_excludes_failures() -> None:
    assert fold_result(request(duration_us=100_000), request(record.FAILED, duration_us=900_000)).average == 100


def test_cells_have_minute_endpoint_model_kind_and_key() -> None:
    folded = fold(request(api_key_id=KEY, ago=60), request(record.NO_ENDPOINT))
    assert set(folded.cells) == {(MINUTE - 1, A, "tiny", CHAT, KEY), (MINUTE, NO_ENDPOINT, "tiny", CHAT, "")}


def test_cells_of_a_failed_over_attempt_belong_to_its_endpoint() -> None:
    cells = fold(request(attempts=(attempt(record.FAILED, B), attempt()), output_tokens=5)).cells
    by_endpoint = {key[1]: cell for key, cell in cells.items()}
    assert by_endpoint[B] == Cell(attempts_failed=1)
    whole = Cell(attempts_ok=1, output_tokens=5)
    whole.add_success(2_000_000, None)
    assert by_endpoint[A] == whole


def test_days_are_the_cells_summed() -> None:
    days = fold(request(ago=600), request(), request(ago=86_400)).days
    assert {key[0]: cell.requests_ok for key, cell in days.items()} == {"2026-03-10": 2, "2026-03-09": 1}


def test_only_a_refused_connection_requests_a_health_check() -> None:
    def failing(error: str | None, outcome: str = record.FAILED) -> RequestRecord:
        return request(outcome, attempts=(record.AttemptRecord(A, outcome, 0, 5, error),))

    assert fold(failing("connection refused")).refused_connections == {A}
    others = (failing("timeout"), failing(None), failing("connection refused", record.CANCELLED))
    assert fold(*others).refused_connections == set()


def test_daily_rows_are_of_the_local_date_of_completion() -> None:
    late = request(ago=0)  # 12:00:30 UTC
    assert {key[2] for key in fold(late, zone=ZoneInfo("Pacific/Auckland")).daily} == {"2026-03-11"}
    assert {key[2] for key in fold(late, zone=ZoneInfo("America/New_York")).daily} == {"2026-03-10"}


# Any order, any split


@st.composite
def any_request(draw: st.DrawFn) -> RequestRecord:
    outcome = draw(st.sampled_from((*ENDED, record.REJECTED)))
    before = draw(st.lists(st.sampled_from((A, B)), max_size=2))
    duration = draw(st.integers(1, 10**7))
    last = attempt(outcome, draw(st.sampled_from((A, B))), duration_us=duration)
    failed = tuple(attempt(record.FAILED, endpoint) for endpoint in before)
    made = request(
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
    return with_details(made, draw(st.integers(0, 1000))) if made.attempts else made


def _attempts(outcome: str, failed: tuple[AttemptRecord, ...], last: AttemptRecord) -> tuple[AttemptRecord, ...]:
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
    assert reported(parts.figures(AT)) == reported(whole.figures(AT))


@given(REQUESTS, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_order(entries: list[RequestRecord], rng: Any) -> None:
    shuffled = list(entries)
    rng.shuffle(shuffled)
    one, other = fold(*entries), fold(*shuffled)
    assert in_order(one) == in_order(other)


def in_order(folded: Fold) -> Fold:
    for sums in folded.speed_sums.values():
        sums.entries.sort(key=attrgetter("id"))
    folded.counted.sort(key=attrgetter("id"))
    return folded


@given(REQUESTS, REQUESTS)
def test_folds_add_up(some: list[RequestRecord], others: list[RequestRecord]) -> None:
    one, other = fold(*some, Unrecorded(2)), fold(*others, Unrecorded(3))
    assert in_order(one + other) == in_order(fold(*some, Unrecorded(2), *others, Unrecorded(3)))
    assert (one, other) == (fold(*some, Unrecorded(2)), fold(*others, Unrecorded(3)))


@given(REQUESTS)
def test_folding_many_records_equals_folding_each(entries: list[RequestRecord]) -> None:
    alone = sum((fold(entry) for entry in entries), start=fold())
    assert in_order(fold(*entries)) == in_order(alone)


@given(REQUESTS)
def test_days_equal_the_sums_of_cells(entries: list[RequestRecord]) -> None:
    folded = fold(*entries, zone=ZoneInfo("Europe/Berlin"))
    for name in CELL_COLUMNS:
        assert sum(getattr(cell, name) for cell in folded.days.values()) == sum(
            getattr(cell, name) for cell in folded.cells.values()
        )


# Tokens that only some servers report, and the model that served a request


def details(*entries: Entry) -> TokenDetails | None:
    (cell,) = fold(*entries).cells.values()
    return cell.details


def test_tokens_that_nobody_reported_are_not_zero() -> None:
    assert details(request(input_tokens=10, output_tokens=5), request()) is None
    assert details(request(input_tokens=10, cached_tokens=0)) == TokenDetails(0, 10, 1, 0)


@pytest.mark.parametrize("count", [1, 3])
def test_details_are_counted_beside_what_they_are_part_of(count: int) -> None:
    reported = [
        request(input_tokens=10, output_tokens=8, cached_tokens=4, cache_write_tokens=6, reasoning_tokens=5),
        request(record.FAILED, input_tokens=3, cached_tokens=0),
    ]
    silent = [request(input_tokens=100, output_tokens=100)]
    assert details(*reported * count, *silent * count) == TokenDetails._make(
        count * figure for figure in (4, 13, 2, 1, 6, 1, 5, 8, 1)
    )


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(3, 10, 3), (11, 10, 10), (0, 10, 0), (-1, 10, None), (1 << 41, 10, None), (3, None, None), (None, 10, None)],
)
def test_a_part_is_no_more_than_the_whole(part: int | None, whole: int | None, expected: int | None) -> None:
    assert part_of(part, whole) == expected
    token_details = details(request(input_tokens=whole, cached_tokens=part))
    assert (None if token_details is None else token_details.cached_tokens) == expected


def served(model: str | None, canonical: str | None = None, step: int = 0, **fields: Any) -> RequestRecord:
    made = request(**fields)
    last = msgspec.structs.replace(made.attempts[-1], served=model, canonical=canonical, step=step)
    return msgspec.structs.replace(made, attempts=(*made.attempts[:-1], last))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (served(None), None),
        (served("tiny"), None),
        (served("tiny", "tiny"), None),
        (served("tiny:q4"), ("tiny:q4", "tiny:q4", 0)),
        (served(None, "maker/tiny"), ("tiny", "maker/tiny", 0)),
        (served("tiny:q4", "maker/tiny", 2), ("tiny:q4", "maker/tiny", 2)),
        (served(None, step=1), ("tiny", "tiny", 1)),
        (served("tiny:q4", outcome=record.FAILED), ("tiny:q4", "tiny:q4", 0)),
    ],
)
def test_requests_that_another_model_served_are_counted_by_it(
    entry: RequestRecord, expected: tuple[str, str, int] | None, count: int
) -> None:
    entry = msgspec.structs.replace(entry, input_tokens=7, cached_tokens=2)
    folded = fold(*[entry] * count)
    assert [key[5:] for key in folded.served] == ([] if expected is None else [expected])
    for cell in folded.served.values():
        (asked,) = folded.cells.values()
        assert (cell.requests_ok, cell.requests_failed) == (asked.requests_ok, asked.requests_failed)
        assert (cell.input_tokens, cell.details, cell.ok_duration_us) == (
            7 * count,
            asked.details,
            asked.ok_duration_us,
        )


def test_no_model_served_a_request_that_ended_in_the_queue() -> None:
    tried = msgspec.structs.replace(attempt(record.FAILED, A), served="tiny:q4", step=1)
    assert fold(request(record.QUEUE, attempts=(tried,))).served == {}


def test_the_totals_have_all_details() -> None:
    entry = request(input_tokens=10, output_tokens=8, cached_tokens=4, cache_write_tokens=6, reasoning_tokens=5)
    totals = fold(entry, request()).totals
    assert [totals[name] for name in TokenDetails._fields] == [4, 10, 1, 1, 6, 1, 5, 8, 1]
