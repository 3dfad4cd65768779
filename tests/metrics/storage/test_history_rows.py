"""Rows of the history: creating many at once gives the same rows as creating each."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from endpoints.fields import iso
from gateway.ipc import record
from gateway.ipc.record import RequestRecord, Work
from gateway.routing.balancer import LEAST, ONLY
from metrics.counting.cells import milliseconds
from metrics.counting.plausibility import MAX_DURATION_US
from metrics.counting.stored_attempt import StoredAttempt, stored_attempts
from metrics.storage import history_rows
from metrics.storage.history_rows import COLUMNS, EndpointName, rows
from tests.metrics.records import AT, ENDED, KEY, A, B, attempt, request

pytestmark = pytest.mark.every_database


def place(endpoint_id: str) -> EndpointName:
    return EndpointName(f"name of {endpoint_id}", "192.0.2.1")


def whole(entries: list[RequestRecord]) -> list[dict[str, Any]]:
    """Return each row, created alone, by columns."""
    return [
        dict(zip((*COLUMNS.common, *COLUMNS.own), (*common, *row), strict=True))
        for common, own in rows(entries, place)
        for row in own
    ]


def counted(whole_rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(row) for row in whole_rows)


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


def test_an_attempt_is_stored_without_what_it_lacks() -> None:
    text = history_rows._attempts(request(duration_us=7), None)
    assert text == f'[{{"endpoint_id":"{A}","outcome":"ok","status":200,"duration_us":7}}]'
    assert history_rows._attempts(request(attempts=()), (3, "USD", 17)) == "[]"


def test_the_last_attempt_has_the_facts_and_the_cost_of_its_request() -> None:
    first = structs.replace(attempt(record.FAILED, B, error="e"), said="no", scores=((A, 1), (B, 0)), reason=LEAST)
    last = structs.replace(
        attempt(), reason="\0", work=WORK, costs=((A, 1), ("\0", 0)), at_us=9, connect_us=0, served="a",
        canonical="b", step=2,
    )  # fmt: skip
    facts = {
        "input_tokens": 8, "output_tokens": 6, "cached_tokens": 9, "reasoning_tokens": 5, "cache_write_tokens": 4,
        "long_write_tokens": 3, "body_bytes": 5, "finish_reason": "stop", "left_steps": ((1, "a"),),
        "service_tier": "fl\0ex", "images": 1, "audio_ms": -1,
    }  # fmt: skip
    entry = structs.replace(request(attempts=(first, last)), **facts)
    stored_first, stored_last = stored_attempts(history_rows._attempts(entry, (3, "USD", 17)))
    assert stored_first == StoredAttempt(
        B, record.FAILED, 502, 2_000_000, "e", reason=LEAST, scores={A: 1, B: 0}, said="no"
    )
    assert stored_last == StoredAttempt(
        A, record.OK, 200, 2_000_000, at_us=9, reason="\ufffd", costs={A: 1, "\ufffd": 0}, work=WORK, connect_us=0,
        cached_tokens=8, body_bytes=5, served="a", canonical="b", step=2, cache_write_tokens=4, reasoning_tokens=5,
        finish_reason="stop", left_steps=((1, "a"),), cost=17, currency="USD", price_id=3, long_write_tokens=3,
        service_tier="fl\ufffdex", images=1, audio_ms=None,
    )  # fmt: skip
    only = structs.replace(entry, attempts=(structs.replace(last, reason=ONLY, scores=((A, 1),)),))
    assert stored_attempts(history_rows._attempts(only, None))[0].scores == {}


def test_similar_requests_are_one_group() -> None:
    entries = [request(output_tokens=number, ago=number) for number in range(5)]
    ((common, own),) = rows(entries, place)
    assert len(common) == len(COLUMNS.common)
    assert [row[0] for row in own] == [entry.id for entry in entries]


def test_requests_of_other_seconds_and_endpoints_are_separate_groups() -> None:
    whole_rows = whole([request(), request(ago=1), request(endpoint=B), request(ago=0.5)])
    assert [(row["endpoint_name"], row["completed_at"][17:]) for row in whole_rows] == [
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
    groups = rows(entries, place, successes=False)
    assert sorted(own[0][0] for _, own in groups) == sorted([entries[1].id, entries[3].id])
