"""Rows of the history: creating many at once gives the same rows as creating each."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from endpoints.fields import iso
from gateway.ipc import record
from gateway.ipc.record import RequestRecord, Work
from gateway.prices.costs import RequestCost
from gateway.routing.balancer import LEAST, ONLY
from metrics.counting.cells import milliseconds
from metrics.counting.fold import Fold
from metrics.counting.plausibility import MAX_DURATION_US
from metrics.storage import history_rows
from metrics.storage.history_rows import COLUMNS, MANY, PLAIN_COLUMNS, EndpointName, rows
from tests.metrics.records import AT, ENDED, KEY, A, B, attempt, request
from tests.metrics.world import UTC_ZONE


def place(endpoint_id: str) -> EndpointName:
    return EndpointName(f"name of {endpoint_id}", "192.0.2.1")


def whole(entries: list[RequestRecord]) -> list[dict[str, Any]]:
    """Return each row, created alone, by columns."""
    return [
        dict.fromkeys((*COLUMNS.common, *COLUMNS.own))
        | dict(zip((*columns.common, *columns.own), (*common, *row), strict=True))
        for columns, groups in rows(alike(entries), place)
        for common, own in groups
        for row in own
    ]


def alike(entries: list[RequestRecord]) -> list[list[RequestRecord]]:
    return Fold(UTC_ZONE).add_all(entries).alike


def counted(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(row) for row in found)


texts = st.sampled_from((None, "", "a", "\0", "ü\n"))
bodies = st.sampled_from((None, "", "{}", '{"a": "\\u0000"}', '{"cut'))
numbers = st.sampled_from((None, -1, 0, 7, 1 << 40, (1 << 40) + 1))


@st.composite
def any_request(draw: st.DrawFn) -> RequestRecord:
    outcome = draw(st.sampled_from((*ENDED, record.REJECTED)))
    tries = [attempt(outcome, draw(st.sampled_from((A, B))), error=draw(texts)) for _ in range(draw(st.integers(0, 2)))]
    return request(
        outcome,
        ago=draw(st.sampled_from((0, 0.000001, 1, 86_400))),
        model=draw(st.sampled_from(("tiny", "\0"))),
        kind=draw(st.sampled_from(("chat_completions", "of a later release"))),
        attempts=tuple(tries),
        status=draw(st.sampled_from((200, 500))),
        duration_us=draw(st.sampled_from((0, 499, 1500, 2500))),
        first_token_us=draw(st.none() | st.just(5)),
        input_tokens=draw(numbers),
        output_tokens=draw(numbers),
        estimated=draw(st.booleans()),
        streamed=draw(st.booleans()),
        api_key_id=draw(st.sampled_from((None, KEY))),
        client_ip=draw(texts),
        error=draw(texts),
        request_body=draw(bodies),
        response_body=draw(bodies),
        queue_us=draw(st.none() | st.just(9)),
        request_id=draw(texts),
        queue_class=draw(st.none() | st.just("bulk")),
    )


@given(st.lists(any_request(), max_size=30))
def test_rows_equal_those_created_one_by_one(entries: list[RequestRecord]) -> None:
    alone = [row for entry in entries for row in whole([entry])]
    assert counted(whole(entries)) == counted(alone)
    assert len(alone) == sum(entry.outcome != record.REJECTED for entry in entries)


WORK = Work(9, 8, 7, 0, 5, 4, 3, 2, was_idle=True)


RARE_FACTS = st.fixed_dictionaries({
    "cached_tokens": numbers,
    "body_bytes": st.sampled_from((0, 5)),
    "finish_reason": st.sampled_from((None, "stop")),
}) | st.fixed_dictionaries({}, optional={
    "reasoning_tokens": st.sampled_from((0, 5)),
    "cache_write_tokens": st.just(5),
    "left_steps": st.just(((1, "a"),)),
    "long_write_tokens": st.just(5),
    "service_tier": st.just("flex"),
    "images": st.just(1),
    "audio_ms": st.just(1),
})  # fmt: skip
OF_ATTEMPT = st.fixed_dictionaries({
    "reason": st.sampled_from((ONLY, LEAST, "", "\0")),
    "work": st.sampled_from((None, WORK)),
    "costs": st.sampled_from(((), ((A, 1), ("\0", 0)))),
    "at_us": st.sampled_from((0, 9)),
    "connect_us": st.sampled_from((None, 0, 9)),
}, optional={
    "scores": st.just(((A, 1), (B, 0))),
    "error": texts,
    "said": st.just("no"),
    "served": st.just("a"),
    "canonical": st.just("b"),
    "step": st.just(2),
})  # fmt: skip
COSTS = st.sampled_from((None, (3, "USD", 17), (-1, "EUR", 0)))


@given(any_request(), COSTS, RARE_FACTS, OF_ATTEMPT)
def test_a_usual_attempt_is_stored_as_any_other(
    entry: RequestRecord, cost: RequestCost | None, facts: dict[str, Any], of_attempt: dict[str, Any]
) -> None:
    """An attempt without rare facts is written by a shorter way."""
    tried = structs.replace(attempt(), **of_attempt)
    entry = structs.replace(entry, attempts=(tried,), **facts)
    assert history_rows._attempts(entry, cost) == history_rows.attempts_text([history_rows._stored(tried, entry, cost)])


def test_similar_requests_are_one_group() -> None:
    entries = [request(output_tokens=number, ago=number) for number in range(5)]
    ((_, ((common, own),)),) = rows(alike(entries), place)
    assert len(common) == len(COLUMNS.common)
    assert [row[0] for row in own] == [entry.id for entry in entries]


def test_many_plain_requests_of_a_client_are_rows_without_columns_that_are_null() -> None:
    plain = [request(output_tokens=number, client_ip="192.0.2.7") for number in range(MANY)]
    others = [*[request(client_ip="192.0.2.8") for _ in range(MANY - 1)], request(record.FAILED)]
    streams = [request(first_token_us=5, client_ip="192.0.2.9") for _ in range(MANY)]
    waited = [request(api_key_id=KEY, queue_us=5 if number == 3 else None) for number in range(MANY)]
    mixed = [request(api_key_id="" if number == 3 else None, client_ip="192.0.2.10") for number in range(MANY)]
    entries = [*plain, *others, *streams, *waited, *mixed]
    found = rows(alike(entries), place)
    assert [columns for columns, _ in found] == [COLUMNS, PLAIN_COLUMNS]
    assert {row[0] for _, own in found[1][1] for row in own} == {entry.id for entry in plain}
    assert counted(whole(entries)) == counted([row for entry in entries for row in whole([entry])])


def test_requests_of_other_seconds_and_endpoints_are_separate_groups() -> None:
    found = whole([request(), request(ago=1), request(endpoint=B), request(ago=0.5)])
    assert [(row["endpoint_name"], row["completed_at"][17:]) for row in found] == [
        (f"name of {A}", "30.000000+00:00"),
        (f"name of {A}", "29.000000+00:00"),
        (f"name of {A}", "29.500000+00:00"),
        (f"name of {B}", "30.000000+00:00"),
    ]
    assert round(AT) % 60 == 30


@given(st.integers(0, MAX_DURATION_US), st.integers(0, 999_999))
def test_durations_and_times_are_those_of_the_record(duration_us: int, fraction_us: int) -> None:
    entry = structs.replace(request(duration_us=duration_us), completed_us=1_700_000_000_000_000 + fraction_us)
    (row,) = whole([entry])
    assert row["duration_ms"] == milliseconds(duration_us)
    assert row["completed_at"] == iso(datetime.fromtimestamp(1_700_000_000, UTC).replace(microsecond=fraction_us))


def test_without_successes_the_other_rows_remain() -> None:
    entries = [request(), request(record.FAILED), request(record.REJECTED), request(record.CANCELLED)]
    found = rows(alike(entries), place, successes=False)
    ((_, groups),) = found
    assert sorted(own[0][0] for _, own in groups) == sorted([entries[1].id, entries[3].id])
