"""The paginated history: each row once and in order for any filter, and a bounded number of rows read."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection

from gateway.base.queue_class import BULK, INTERACTIVE
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord, Work
from gateway.routing import adaptive, balancer
from metrics.costs.price_cache import price_cache
from metrics.models import RequestHistory
from metrics.queries.requests import history
from metrics.queries.requests.filters import ERROR, BadCursor, Cursor, RequestFilter
from metrics.queries.requests.history import RequestPage, row_of
from metrics.queries.requests.lookups import request_page
from metrics.queries.requests.payload import FIELDS, AttemptPayload, request_payload
from metrics.queries.requests.statements import HistoryStatements
from metrics.queries.stored import run_sql
from tests.metrics.costs.pricing import add_price
from tests.metrics.records import KEY, NOW, A, B, load, request
from tests.metrics.storage.test_seeding import adopted
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def written(world: World, *records: RequestRecord) -> None:
    world.gateway(*records)
    world.write()


def all_pages(wanted: RequestFilter, size: int) -> list[RequestPage]:
    pages = [request_page(wanted, None, size)]
    while pages[-1].next is not None:
        pages.append(request_page(wanted, pages[-1].next.encode(), size))
    return pages


def ids(*pages: RequestPage) -> list[str]:
    return [str(row[0]) for page in pages for row in page.rows]


def expected(records: Sequence[RequestRecord]) -> list[str]:
    return [entry.id for entry in sorted(records, key=lambda entry: (entry.completed_us, entry.id), reverse=True)]


WANTED: dict[str, tuple[RequestFilter, Any]] = {
    "everything": (RequestFilter(), lambda entry: True),
    "since": (RequestFilter(since=NOW - timedelta(minutes=20)), lambda entry: entry.completed_us >= _us(20)),
    "until": (RequestFilter(until=NOW - timedelta(minutes=20)), lambda entry: entry.completed_us < _us(20)),
    "endpoint": (RequestFilter(endpoint_id=A), lambda entry: entry.endpoint_id == A),
    "failed": (RequestFilter(outcome=record.FAILED), lambda entry: entry.outcome == record.FAILED),
    "ok": (RequestFilter(outcome=record.OK), lambda entry: entry.outcome == record.OK),
    "queue": (RequestFilter(outcome=record.QUEUE), lambda entry: entry.outcome == record.QUEUE),
    "no endpoint": (RequestFilter(outcome=record.NO_ENDPOINT), lambda entry: entry.outcome == record.NO_ENDPOINT),
    "model": (RequestFilter(model="tiny"), lambda entry: entry.model == "tiny"),
    "key": (RequestFilter(api_key_id=KEY), lambda entry: entry.api_key_id == KEY),
    "duration": (RequestFilter(min_duration_ms=5000), lambda entry: entry.duration_us >= 5_000_000),
    "any error": (RequestFilter(outcome=ERROR), lambda entry: entry.outcome != record.OK),
    "status code": (RequestFilter(status_code=422), lambda entry: entry.status == 422),
    "bulk": (RequestFilter(queue_class=BULK), lambda entry: entry.queue_class == BULK),
    "interactive": (RequestFilter(queue_class=INTERACTIVE), lambda entry: entry.queue_class is None),
    "tokens": (
        RequestFilter(min_tokens=500),
        lambda entry: (entry.input_tokens or 0) + (entry.output_tokens or 0) >= 500,
    ),
    "retried": (RequestFilter(retried=True), lambda entry: len(entry.attempts) > 1),
    "not retried": (RequestFilter(retried=False), lambda entry: len(entry.attempts) <= 1),
    "request id": (RequestFilter(request_id="of-the-client"), lambda entry: entry.request_id == "of-the-client"),
    "request id and endpoint": (
        RequestFilter(request_id="of-the-client", endpoint_id=A, outcome=ERROR),
        lambda entry: entry.request_id == "of-the-client" and entry.endpoint_id == A and entry.outcome != record.OK,
    ),
    "text": (RequestFilter(text="INY"), lambda entry: entry.model == "tiny"),
    "endpoint and failed": (
        RequestFilter(endpoint_id=B, outcome=record.FAILED),
        lambda entry: entry.endpoint_id == B and entry.outcome == record.FAILED,
    ),
    "failed of a model": (
        RequestFilter(outcome=record.CANCELLED, model="large"),
        lambda entry: entry.outcome == record.CANCELLED and entry.model == "large",
    ),
}


def _us(minutes: int) -> int:
    return round((NOW - timedelta(minutes=minutes)).timestamp() * 1e6)


@pytest.mark.parametrize("look", [3, 40, 10_000])
@pytest.mark.parametrize("name", WANTED)
def test_each_row_is_found_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, look: int
) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", look)
    monkeypatch.setattr(history, "SCATTERED_ROWS", look)
    wanted, condition = WANTED[name]
    records = [entry for entry in load(4, 120) if entry.outcome != record.REJECTED]
    written(world, *records)
    pages = all_pages(wanted, 7)
    assert ids(*pages) == expected([entry for entry in records if condition(entry)])
    assert all(len(page.rows) == 7 or page.looked_back_to is not None for page in pages[:-1])


@pytest.mark.parametrize("look", [3, 40, 10_000])
@pytest.mark.parametrize("name", WANTED)
def test_newer_pages_have_each_row_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, look: int
) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", look)
    monkeypatch.setattr(history, "SCATTERED_ROWS", look)
    wanted, condition = WANTED[name]
    records = [entry for entry in load(4, 120) if entry.outcome != record.REJECTED]
    written(world, *records)
    cursor: Cursor | None = Cursor("2026-01-01T00:00:00.000000+00:00", None, newer=True)
    pages: list[RequestPage] = []
    while cursor is not None:
        pages.insert(0, request_page(wanted, cursor.encode(), 7))
        cursor = pages[0].previous
    assert ids(*pages) == expected([entry for entry in records if condition(entry)])
    assert all(len(page.rows) == 7 or page.cut for page in pages[1:])


def test_newer_returns_to_the_previous_page(world: World) -> None:
    written(world, *(request(ago=seconds) for seconds in (1, 2, 3, 3, 3, 3, 4, 5)))
    first, second, third = all_pages(RequestFilter(), 3)
    assert (first.previous, third.next) == (None, None)
    for page, before in ((second, first), (third, second)):
        assert page.previous is not None
        again = request_page(RequestFilter(), page.previous.encode(), 3)
        assert ids(again) == ids(before)
        assert again.next == before.next


def test_an_empty_page_has_links_in_both_directions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", 2)
    written(world, *(request(ago=second, model=model) for second, model in enumerate("a--c--b")))
    wanted = RequestFilter(model="c")
    _, empty, *_ = pages = all_pages(RequestFilter(model="b"), 3)
    assert [len(page.rows) for page in pages] == [0, 0, 1]
    assert (empty.cut, empty.previous is not None) == (True, True)
    assert empty.previous is not None
    back = request_page(wanted, empty.previous.encode(), 3)
    assert back.cut
    assert back.next is not None
    assert len(request_page(wanted, back.next.encode(), 3).rows) == 1


def test_damaged_attempts_are_empty(world: World) -> None:
    written(world, request())
    for text in ("'1'", "NULL", "'{}'", "'null'"):
        rows(f"UPDATE request_history SET attempts = {text}")
        assert ids(request_page(RequestFilter(retried=True), None, 5)) == []
        assert len(ids(request_page(RequestFilter(retried=False), None, 5))) == 1


def test_rows_with_equal_times_are_paginated_correctly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", 3)
    records = [request(ago=seconds) for seconds in (1, 5, 5, 5, 5, 5, 5, 9)]
    written(world, *records)
    for wanted in (RequestFilter(), RequestFilter(model="tiny"), RequestFilter(model="none")):
        pages = all_pages(wanted, 2)
        assert ids(*pages) == ([] if wanted.model == "none" else expected(records))


def test_new_rows_do_not_shift_pages(world: World) -> None:
    records = [request(ago=seconds) for seconds in range(10, 16)]
    written(world, *records)
    first = request_page(RequestFilter(), None, 3)
    written(world, request(ago=1))
    assert first.next is not None
    assert ids(request_page(RequestFilter(), first.next.encode(), 3)) == expected(records)[3:]


def test_a_search_reports_how_far_it_has_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", 5)
    written(world, *(request(ago=minute * 60) for minute in range(20)))
    page = request_page(RequestFilter(model="none"), None, 10)
    assert (page.rows, page.looked_back_to) == ([], NOW - timedelta(minutes=5))
    assert page.next == Cursor(page.next.moment, None)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", WANTED)
def test_number_of_queries_does_not_grow_with_rows(world: World, name: str, django_assert_max_num_queries: Any) -> None:
    wanted = WANTED[name][0]
    for count in (20, 200):
        written(world, *load(count, count))
        with django_assert_max_num_queries(2):
            request_page(wanted, None, 10)


@pytest.mark.parametrize("name", WANTED)
def test_every_page_is_read_by_an_index(world: World, name: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("plans of PostgreSQL depend on its statistics")
    wanted = replace(WANTED[name][0], since=NOW)
    cursor = Cursor("2026-03-10T12:00:00.000000+00:00", "x")
    query = HistoryStatements("sqlite", wanted, cursor)
    back = HistoryStatements("sqlite", wanted, replace(cursor, newer=True))
    edge = "2026-03-10T11:00:00"
    for sql, values in (query.scan_limit(5), query.rows(edge, 5), back.scan_limit(5), back.rows(edge, 5)):
        with connection.cursor() as db:
            db.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            plan = [row[3] for row in db.fetchall()]
        assert plan[0].startswith("SEARCH request_history USING ")
        assert query.index in plan[0]


def test_adopted_rows_are_found_by_their_status(world: World) -> None:
    adopted("error", ago=5)
    adopted("success", ago=6, number=2)
    written(world, request(record.FAILED, ago=1), request(ago=2))
    failed = request_page(RequestFilter(outcome=record.FAILED), None, 10)
    served = request_page(RequestFilter(outcome=record.OK), None, 10)
    assert [request_payload(row)["outcome"] for row in failed.rows] == [record.FAILED] * 2
    assert [request_payload(row)["outcome"] for row in served.rows] == [record.OK] * 2
    assert ids(failed, served) == [ids(failed)[0], ids(failed)[1], *ids(served)]
    assert len(RequestHistory.objects.all()) == 4


@pytest.mark.parametrize("text", ["29", "29.000", "29.000000000"])
def test_time_bounds_hold_for_any_number_of_digits(world: World, text: str) -> None:
    row = adopted("success", ago=1)
    if connection.vendor == "sqlite":
        rows("UPDATE request_history SET completed_at = %s", f"2026-03-10T12:00:{text}+00:00")
    since = NOW - timedelta(seconds=1)
    assert ids(request_page(RequestFilter(since=since), None, 10)) == [str(row.pk)]
    assert ids(request_page(RequestFilter(until=since), None, 10)) == []
    assert ids(request_page(RequestFilter(until=NOW, model="tiny"), None, 10)) == [str(row.pk)]


def test_a_row_has_all_fields(world: World) -> None:
    expected_record = request(
        record.FAILED,
        error="timed out",
        api_key_id=KEY,
        client_ip="192.0.2.1",
        streamed=True,
        first_token_us=1500,
        duration_us=2_500_500,
        input_tokens=3,
        output_tokens=4,
        queue_us=250,
        request_id="client-7",
        cached_tokens=2,
        cache_write_tokens=1,
        reasoning_tokens=4,
        finish_reason="length",
        left_steps=((1, "full"), (2, "failed")),
        body_bytes=120,
        conversation="00ff00ff00ff00ff",
        queue_class=BULK,
        long_write_tokens=1,
        service_tier="flex",
        images=2,
        audio_ms=1500,
    )
    price = add_price("tiny:*", input=250_333_333)
    price_cache.forget()
    (tried,) = expected_record.attempts
    tried = msgspec.structs.replace(tried, served="tiny:q4", canonical="maker/tiny", step=3)
    expected_record = msgspec.structs.replace(expected_record, attempts=(tried,))
    written(world, expected_record)
    (row,) = request_page(RequestFilter(), None, 1).rows
    assert request_payload(row) == {
        "id": expected_record.id,
        "completed_at": "2026-03-10T12:00:30.000Z",
        "model": "tiny",
        "kind": "chat_completions",
        "endpoint_id": A,
        "endpoint_name": "a",
        "client_ip": "192.0.2.1",
        "api_key_id": KEY,
        "outcome": "failed",
        "status_code": 502,
        "error": "timed out",
        "streamed": True,
        "duration_ms": 2500.5,
        "first_token_ms": 1.5,
        "input_tokens": 3,
        "output_tokens": 4,
        "total_tokens": 7,
        "tokens_estimated": False,
        "attempts": [
            {
                "endpoint_id": A,
                "endpoint_name": "a",
                "outcome": "failed",
                "status_code": 502,
                "at_ms": 0.0,
                "duration_ms": 2500.5,
                "error": None,
                "reason": None,
                "scores": [],
                "costs": [],
                "connect_ms": None,
                "work": None,
                "served_model": "tiny:q4",
                "canonical_name": "maker/tiny",
                "step": 3,
            }
        ],
        "queue_ms": 0.25,
        "request_id": "client-7",
        "tokens_per_second": None,
        "cached_tokens": 2,
        "body_bytes": 120,
        "conversation": "00ff00ff00ff00ff",
        "queue_class": BULK,
        "cache_write_tokens": 1,
        "reasoning_tokens": 4,
        "finish_reason": "length",
        "served_model": "tiny:q4",
        "canonical_name": "maker/tiny",
        "step": 3,
        "left_steps": [{"step": 1, "reason": "full"}, {"step": 2, "reason": "failed"}],
        "long_cache_write_tokens": 1,
        "service_tier": "flex",
        "cost": "0.000000751",
        "currency": "USD",
        "price_id": price.pk,
        "images": 2,
        "audio_ms": 1500,
    }
    assert tuple(request_payload(row)) == FIELDS


NAMES = {A: "a", B: "b"}.get


def attempts_of(world: World, *tries: AttemptRecord) -> list[AttemptPayload]:
    """Return the attempts of a request as the API shows them."""
    written(world, request(attempts=tries))
    (row,) = request_page(RequestFilter(), None, 1).rows
    return request_payload(row, NAMES)["attempts"]


def test_a_routing_decision_is_shown_with_its_scores(world: World) -> None:
    tried = AttemptRecord(B, record.OK, 200, 5000, at_us=1500, reason=balancer.LEAST, scores=((A, 3), (B, 1)))
    (reported,) = attempts_of(world, tried)
    assert (reported["at_ms"], reported["reason"]) == (1.5, "least")
    assert [(score["endpoint_name"], score["in_flight"]) for score in reported["scores"]] == [("b", 1), ("a", 3)]


def test_a_single_candidate_has_no_scores(world: World) -> None:
    (reported,) = attempts_of(world, AttemptRecord(A, record.OK, 200, 5, reason=balancer.ONLY, scores=((A, 3),)))
    assert (reported["reason"], reported["scores"]) == ("only", [])


WORK = Work(1000, 200, 400, 1, 1_900_000, 30, 70, 9_000_000, was_idle=False)


def test_an_adaptive_decision_is_shown_with_its_costs_and_work(world: World) -> None:
    tried = AttemptRecord(
        A, record.OK, 200, 3_000_000, reason=adaptive.FASTEST, costs=((A, 1900), (B, 2400)), work=WORK
    )
    (reported,) = attempts_of(world, tried)
    assert reported["costs"] == [
        {"endpoint_id": A, "endpoint_name": "a", "cost_ms": 1900},
        {"endpoint_id": B, "endpoint_name": "b", "cost_ms": 2400},
    ]
    assert reported["work"] == {
        "prompt_tokens": 1000,
        "output_tokens": 200,
        "prefix_tokens": 400,
        "expected_ms": 1900.0,
        "pending_tokens": 30,
        "read_tokens": 70,
        "mean_in_flight": 3.0,
        "was_idle": False,
        "is_cold": False,
    }


@pytest.mark.parametrize("cached", [-1, 1 << 62])
def test_an_implausible_number_of_cached_tokens_is_not_stored(world: World, cached: int) -> None:
    written(world, request(cached_tokens=cached))
    (row,) = request_page(RequestFilter(), None, 1).rows
    assert request_payload(row)["cached_tokens"] is None


def test_work_of_a_newer_release_is_shown_as_far_as_it_is_known(world: World) -> None:
    written(world, request())
    work = [*msgspec.to_builtins(Work(10, 20, 0, 0, 5000, 0, 0, 5000, was_idle=True)), "new"]
    RequestHistory.objects.update(attempts=[{**FORMER[0], "work": work, "newer": 1}])
    (row,) = request_page(RequestFilter(), None, 1).rows
    (reported,) = request_payload(row)["attempts"]
    assert reported["work"] is not None
    assert reported["work"]["prompt_tokens"] == 10


FORMER = [{"endpoint_id": A, "outcome": "ok", "status": 200, "duration_us": 5000, "error": None}]


@pytest.mark.parametrize(
    ("stored", "reported"), [(FORMER, 1), ([], 0), (None, 0), ({"a": 1}, 0), ([{"x": 1}], 0), ("x", 0)]
)
def test_attempts_of_any_row_can_be_shown(world: World, stored: Any, reported: int) -> None:
    written(world, request())
    RequestHistory.objects.update(attempts=stored)
    (row,) = request_page(RequestFilter(), None, 1).rows
    assert len(request_payload(row)["attempts"]) == reported


def test_a_row_of_an_older_release_has_no_reasons(world: World) -> None:
    written(world, request())
    RequestHistory.objects.update(attempts=FORMER)
    (row,) = request_page(RequestFilter(), None, 1).rows
    (reported,) = request_payload(row)["attempts"]
    assert (reported["duration_ms"], reported["at_ms"], reported["reason"], reported["scores"]) == (5.0, 0.0, None, [])


def test_one_row_is_found_by_its_id(world: World) -> None:
    records = [request(ago=seconds) for seconds in range(3)]
    written(world, *records)
    row = row_of(run_sql, records[1].id)
    assert row is not None
    assert request_payload(row)["id"] == records[1].id
    assert row_of(run_sql, A) is None


def test_a_row_without_an_endpoint_shows_none(world: World) -> None:
    written(world, request(record.NO_ENDPOINT))
    (row,) = request_page(RequestFilter(), None, 1).rows
    assert (request_payload(row)["endpoint_id"], request_payload(row)["endpoint_name"]) == (None, None)


def test_cursors_survive_a_round_trip() -> None:
    rng = random.Random(1)
    for _ in range(50):
        made = Cursor(NOW.isoformat(), rng.choice((None, A, B)))
        assert Cursor.decode(made.encode(), "postgresql") == made


@pytest.mark.parametrize("text", ["", "x", "%%%", "ä", "MTIz", Cursor("yesterday", A).encode(), "A" * 5000])
def test_a_malformed_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.decode(text, "sqlite")


def test_an_id_that_postgresql_cannot_store_is_refused() -> None:
    odd = Cursor(NOW.isoformat(), "not-a-uuid")
    assert Cursor.decode(odd.encode(), "sqlite") == odd
    with pytest.raises(BadCursor):
        Cursor.decode(odd.encode(), "postgresql")
