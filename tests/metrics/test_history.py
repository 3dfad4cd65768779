"""The history a page at a time: every row once, in order, whatever is wanted, and never more than so many looked at."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from gateway import balancer, record
from gateway.record import Attempt, RequestRecord
from metrics import history, queries
from metrics.history import BadCursor, Cursor, Page, Wanted
from metrics.models import RequestHistory
from tests.metrics.records import KEY, NOW, A, B, load, request
from tests.metrics.test_seeding import adopted
from tests.metrics.world import World, rows

pytestmark = pytest.mark.django_db


def written(world: World, *records: RequestRecord) -> None:
    world.gateway(*records)
    world.write()


def all_pages(wanted: Wanted, size: int) -> list[Page]:
    found = [queries.requests(wanted, None, size)]
    while found[-1].next is not None:
        found.append(queries.requests(wanted, found[-1].next.encode(), size))
    return found


def ids(*pages: Page) -> list[str]:
    return [str(row[0]) for page in pages for row in page.rows]


def expected(records: Sequence[RequestRecord]) -> list[str]:
    return [it.id for it in sorted(records, key=lambda it: (it.completed_us, it.id), reverse=True)]


WANTED: dict[str, tuple[Wanted, Any]] = {
    "everything": (Wanted(), lambda it: True),
    "since": (Wanted(since=NOW - timedelta(minutes=20)), lambda it: it.completed_us >= _us(20)),
    "until": (Wanted(until=NOW - timedelta(minutes=20)), lambda it: it.completed_us < _us(20)),
    "endpoint": (Wanted(endpoint_id=A), lambda it: it.endpoint_id == A),
    "failed": (Wanted(outcome=record.FAILED), lambda it: it.outcome == record.FAILED),
    "ok": (Wanted(outcome=record.OK), lambda it: it.outcome == record.OK),
    "queue": (Wanted(outcome=record.QUEUE), lambda it: it.outcome == record.QUEUE),
    "no endpoint": (Wanted(outcome=record.NO_ENDPOINT), lambda it: it.outcome == record.NO_ENDPOINT),
    "model": (Wanted(model="tiny"), lambda it: it.model == "tiny"),
    "key": (Wanted(api_key_id=KEY), lambda it: it.api_key_id == KEY),
    "duration": (Wanted(min_duration_ms=5000), lambda it: it.duration_us >= 5_000_000),
    "any error": (Wanted(outcome=history.ERROR), lambda it: it.outcome != record.OK),
    "status code": (Wanted(status_code=422), lambda it: it.status == 422),
    "tokens": (Wanted(min_tokens=500), lambda it: (it.input_tokens or 0) + (it.output_tokens or 0) >= 500),
    "retried": (Wanted(retried=True), lambda it: len(it.attempts) > 1),
    "not retried": (Wanted(retried=False), lambda it: len(it.attempts) <= 1),
    "request id": (Wanted(request_id="of-the-client"), lambda it: it.request_id == "of-the-client"),
    "request id and endpoint": (
        Wanted(request_id="of-the-client", endpoint_id=A, outcome=history.ERROR),
        lambda it: it.request_id == "of-the-client" and it.endpoint_id == A and it.outcome != record.OK,
    ),
    "text": (Wanted(text="INY"), lambda it: it.model == "tiny"),
    "endpoint and failed": (
        Wanted(endpoint_id=B, outcome=record.FAILED),
        lambda it: it.endpoint_id == B and it.outcome == record.FAILED,
    ),
    "failed of a model": (
        Wanted(outcome=record.CANCELLED, model="large"),
        lambda it: it.outcome == record.CANCELLED and it.model == "large",
    ),
}


def _us(minutes: int) -> int:
    return round((NOW - timedelta(minutes=minutes)).timestamp() * 1e6)


@pytest.mark.parametrize("look", [3, 40, 10_000])
@pytest.mark.parametrize("name", WANTED)
def test_each_row_is_found_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, look: int
) -> None:
    monkeypatch.setattr(history, "LOOK", look)
    monkeypatch.setattr(history, "LOOK_SCATTERED", look)
    wanted, condition = WANTED[name]
    records = [it for it in load(4, 120) if it.outcome != record.REJECTED]
    written(world, *records)
    pages = all_pages(wanted, 7)
    assert ids(*pages) == expected([it for it in records if condition(it)])
    assert all(len(page.rows) == 7 or page.looked_back_to is not None for page in pages[:-1])


@pytest.mark.parametrize("look", [3, 40, 10_000])
@pytest.mark.parametrize("name", WANTED)
def test_newer_pages_have_each_row_once_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, look: int
) -> None:
    monkeypatch.setattr(history, "LOOK", look)
    monkeypatch.setattr(history, "LOOK_SCATTERED", look)
    wanted, condition = WANTED[name]
    records = [it for it in load(4, 120) if it.outcome != record.REJECTED]
    written(world, *records)
    cursor: Cursor | None = Cursor("2026-01-01T00:00:00.000000+00:00", None, newer=True)
    pages: list[Page] = []
    while cursor is not None:
        pages.insert(0, queries.requests(wanted, cursor.encode(), 7))
        cursor = pages[0].previous
    assert ids(*pages) == expected([it for it in records if condition(it)])
    assert all(len(page.rows) == 7 or page.cut for page in pages[1:])


def test_newer_leads_back_to_the_page_before(world: World) -> None:
    written(world, *(request(ago=seconds) for seconds in (1, 2, 3, 3, 3, 3, 4, 5)))
    first, second, third = all_pages(Wanted(), 3)
    assert (first.previous, third.next) == (None, None)
    for page, before in ((second, first), (third, second)):
        assert page.previous is not None
        again = queries.requests(Wanted(), page.previous.encode(), 3)
        assert ids(again) == ids(before)
        assert again.next == before.next


def test_a_page_of_nothing_leads_both_ways(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LOOK", 2)
    written(world, *(request(ago=second, model=model) for second, model in enumerate("a--c--b")))
    wanted = Wanted(model="c")
    _, empty, *_ = pages = all_pages(Wanted(model="b"), 3)
    assert [len(page.rows) for page in pages] == [0, 0, 1]
    assert (empty.cut, empty.previous is not None) == (True, True)
    assert empty.previous is not None
    back = queries.requests(wanted, empty.previous.encode(), 3)
    assert back.cut
    assert back.next is not None
    assert len(queries.requests(wanted, back.next.encode(), 3).rows) == 1


def test_attempts_that_were_damaged_by_hand_are_none(world: World) -> None:
    written(world, request())
    for text in ("'1'", "NULL", "'{}'", "'null'"):
        rows(f"UPDATE request_history SET attempts = {text}")
        assert ids(queries.requests(Wanted(retried=True), None, 5)) == []
        assert len(ids(queries.requests(Wanted(retried=False), None, 5))) == 1


def test_equal_moments_are_no_trap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LOOK", 3)
    records = [request(ago=seconds) for seconds in (1, 5, 5, 5, 5, 5, 5, 9)]
    written(world, *records)
    for wanted in (Wanted(), Wanted(model="tiny"), Wanted(model="none")):
        pages = all_pages(wanted, 2)
        assert ids(*pages) == ([] if wanted.model == "none" else expected(records))


def test_what_comes_meanwhile_shifts_no_page(world: World) -> None:
    records = [request(ago=seconds) for seconds in range(10, 16)]
    written(world, *records)
    first = queries.requests(Wanted(), None, 3)
    written(world, request(ago=1))
    assert first.next is not None
    assert ids(queries.requests(Wanted(), first.next.encode(), 3)) == expected(records)[3:]


def test_it_says_how_far_it_has_looked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LOOK", 5)
    written(world, *(request(ago=minute * 60) for minute in range(20)))
    page = queries.requests(Wanted(model="none"), None, 10)
    assert (page.rows, page.looked_back_to) == ([], NOW - timedelta(minutes=5))
    assert page.next == Cursor(page.next.moment, None)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", WANTED)
def test_pages_cost_as_many_queries_whatever_there_is(
    world: World, name: str, django_assert_max_num_queries: Any
) -> None:
    wanted = WANTED[name][0]
    for count in (20, 200):
        written(world, *load(count, count))
        with django_assert_max_num_queries(2):
            queries.requests(wanted, None, 10)


@pytest.mark.parametrize("name", WANTED)
def test_every_page_is_read_by_an_index(world: World, name: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("plans of PostgreSQL follow its statistics")
    wanted = replace(WANTED[name][0], since=NOW)
    cursor = Cursor("2026-03-10T12:00:00.000000+00:00", "x")
    query = history._Query("sqlite", wanted, cursor)
    back = history._Query("sqlite", wanted, replace(cursor, newer=True))
    edge = "2026-03-10T11:00:00"
    for sql, values in (query.edge(5), query.rows(edge, 5), back.edge(5), back.rows(edge, 5)):
        with connection.cursor() as db:
            db.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            plan = [row[3] for row in db.fetchall()]
        assert plan[0].startswith("SEARCH request_history USING ")
        assert query.index in plan[0]


def test_adopted_rows_are_found_by_their_status(world: World) -> None:
    adopted("error", ago=5)
    adopted("success", ago=6, number=2)
    written(world, request(record.FAILED, ago=1), request(ago=2))
    failed = queries.requests(Wanted(outcome=record.FAILED), None, 10)
    served = queries.requests(Wanted(outcome=record.OK), None, 10)
    assert [history.told(row)["outcome"] for row in failed.rows] == [record.FAILED] * 2
    assert [history.told(row)["outcome"] for row in served.rows] == [record.OK] * 2
    assert ids(failed, served) == [ids(failed)[0], ids(failed)[1], *ids(served)]
    assert len(RequestHistory.objects.all()) == 4


@pytest.mark.parametrize("text", ["29", "29.000", "29.000000000"])
def test_bounds_hold_for_any_number_of_digits(world: World, text: str) -> None:
    row = adopted("success", ago=1)
    if connection.vendor == "sqlite":
        rows("UPDATE request_history SET completed_at = %s", f"2026-03-10T12:00:{text}+00:00")
    since = NOW - timedelta(seconds=1)
    assert ids(queries.requests(Wanted(since=since), None, 10)) == [str(row.pk)]
    assert ids(queries.requests(Wanted(until=since), None, 10)) == []
    assert ids(queries.requests(Wanted(until=NOW, model="tiny"), None, 10)) == [str(row.pk)]


def test_a_row_is_told_whole(world: World) -> None:
    told_as = request(
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
    )
    written(world, told_as)
    (row,) = queries.requests(Wanted(), None, 1).rows
    assert history.told(row) == {
        "id": told_as.id,
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
            }
        ],
        "queue_ms": 0.25,
        "request_id": "client-7",
        "tokens_per_second": None,
    }
    assert tuple(history.told(row)) == history.FIELDS


NAMES = {A: "a", B: "b"}.get


def attempts_of(world: World, *tries: Attempt) -> list[dict[str, Any]]:
    """As they are told of a request with these."""
    written(world, request(attempts=tries))
    (row,) = queries.requests(Wanted(), None, 1).rows
    found: list[dict[str, Any]] = history.told(row, NAMES)["attempts"]
    return found


def test_a_choice_is_told_with_what_it_was_made_of(world: World) -> None:
    tried = Attempt(B, record.OK, 200, 5000, at_us=1500, reason=balancer.LEAST, scores=((A, 3), (B, 1)))
    (told,) = attempts_of(world, tried)
    assert (told["at_ms"], told["reason"]) == (1.5, "least")
    assert [(it["endpoint_name"], it["in_flight"]) for it in told["scores"]] == [("b", 1), ("a", 3)]


def test_the_only_one_is_compared_with_nobody(world: World) -> None:
    (told,) = attempts_of(world, Attempt(A, record.OK, 200, 5, reason=balancer.ONLY, scores=((A, 3),)))
    assert (told["reason"], told["scores"]) == ("only", [])


FORMER = [{"endpoint_id": A, "outcome": "ok", "status": 200, "duration_us": 5000, "error": None}]


@pytest.mark.parametrize(
    ("stored", "told"), [(FORMER, 1), ([], 0), (None, 0), ({"a": 1}, 0), ([{"x": 1}], 0), ("x", 0)]
)
def test_attempts_of_any_row_can_be_told(world: World, stored: Any, told: int) -> None:
    written(world, request())
    RequestHistory.objects.update(attempts=stored)
    (row,) = queries.requests(Wanted(), None, 1).rows
    assert len(history.told(row)["attempts"]) == told


def test_a_former_row_has_no_reasons(world: World) -> None:
    written(world, request())
    RequestHistory.objects.update(attempts=FORMER)
    (row,) = queries.requests(Wanted(), None, 1).rows
    (told,) = history.told(row)["attempts"]
    assert (told["duration_ms"], told["at_ms"], told["reason"], told["scores"]) == (5.0, 0.0, None, [])


def test_one_row_is_found_by_its_id(world: World) -> None:
    records = [request(ago=seconds) for seconds in range(3)]
    written(world, *records)
    row = history.one(queries._run, records[1].id)
    assert row is not None
    assert history.told(row)["id"] == records[1].id
    assert history.one(queries._run, A) is None


def test_a_row_without_an_endpoint_names_none(world: World) -> None:
    written(world, request(record.NO_ENDPOINT))
    (row,) = queries.requests(Wanted(), None, 1).rows
    assert (history.told(row)["endpoint_id"], history.told(row)["endpoint_name"]) == (None, None)


def test_cursors_come_back_as_they_went() -> None:
    rng = random.Random(1)
    for _ in range(50):
        made = Cursor(NOW.isoformat(), rng.choice((None, A, B)))
        assert Cursor.decode(made.encode(), "postgresql") == made


@pytest.mark.parametrize("text", ["", "x", "%%%", "ä", "MTIz", Cursor("yesterday", A).encode(), "A" * 5000])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.decode(text, "sqlite")


def test_an_id_that_postgresql_does_not_take_is_refused() -> None:
    odd = Cursor(NOW.isoformat(), "not-a-uuid")
    assert Cursor.decode(odd.encode(), "sqlite") == odd
    with pytest.raises(BadCursor):
        Cursor.decode(odd.encode(), "postgresql")
