"""Conversations of the history: each one once, by its last request, with the figures of its latest requests."""

import importlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import connection
from msgspec.structs import replace

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.routing.adaptive import FASTEST
from metrics.models import RequestHistory
from metrics.queries.requests import conversations, history
from metrics.queries.requests.filters import Cursor, RequestFilter
from metrics.queries.requests.lookups import conversation, conversation_page
from metrics.queries.requests.statements import HistoryStatements
from metrics.queries.stored import run_sql
from metrics.storage.database import vendor
from tests.metrics.records import KEY, NOW, A, B, attempt, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

ONE, TWO, THREE = "00000000000000a1", "00000000000000a2", "00000000000000a3"


def turn(key: str | None, ago: float, endpoint: str = A, **fields: Any) -> RequestRecord:
    return request(ago=ago, endpoint=endpoint, conversation=key, **fields)


def written(world: World, *records: RequestRecord) -> None:
    world.gateway(*records)
    world.write()


def pages(size: int, wanted: RequestFilter | None = None) -> list[list[str]]:
    """Return the keys on each page of the list."""
    keys, cursor = [], None
    while True:
        page = conversation_page(wanted or RequestFilter(), cursor, size)
        keys.append([row["conversation"] for row in page.conversations])
        if page.page.next is None:
            return keys
        cursor = page.page.next.encode()


def test_each_conversation_is_listed_once_by_its_last_request(world: World) -> None:
    written(world, turn(ONE, 50), turn(TWO, 40), turn(ONE, 30), turn(None, 20), turn(THREE, 10), turn(TWO, 5))
    assert pages(10) == [[TWO, THREE, ONE]]
    assert pages(2) == [[TWO, THREE], [ONE]]
    assert pages(1) == [[TWO], [THREE], [ONE]]


def test_requests_of_one_moment_are_one_row(world: World) -> None:
    written(world, turn(ONE, 5), turn(ONE, 5), turn(TWO, 5), turn(TWO, 5))
    assert sorted(key for page in pages(1) for key in page) == [ONE, TWO]


def test_the_page_before_is_found_again(world: World) -> None:
    written(world, *(turn(key, ago) for ago, key in enumerate((ONE, TWO, THREE), 1)))
    first = conversation_page(RequestFilter(), None, 2).page
    assert first.next is not None
    second = conversation_page(RequestFilter(), first.next.encode(), 2).page
    assert second.previous is not None
    back = conversation_page(RequestFilter(), second.previous.encode(), 2)
    assert [row["conversation"] for row in back.conversations] == [ONE, TWO]


def test_filters_apply_to_the_last_request(world: World) -> None:
    written(
        world,
        turn(ONE, 50, A, api_key_id=KEY),
        turn(ONE, 40, B, api_key_id=KEY),
        turn(TWO, 30, A, model="large"),
    )
    assert pages(9, RequestFilter(endpoint_id=A)) == [[TWO]]
    assert pages(9, RequestFilter(endpoint_id=B)) == [[ONE]]
    assert pages(9, RequestFilter(api_key_id=KEY)) == [[ONE]]
    assert pages(9, RequestFilter(model="large")) == [[TWO]]


def test_figures_of_a_conversation(world: World) -> None:
    written(
        world,
        turn(ONE, 60, A, input_tokens=100, output_tokens=10, cached_tokens=0, first_token_us=90_000, api_key_id=KEY),
        turn(ONE, 50, B, input_tokens=200, output_tokens=20, cached_tokens=50, api_key_id=KEY),
        turn(ONE, 40, A, input_tokens=400, output_tokens=30, api_key_id=KEY),  # its endpoint reports no cached tokens
        request(record.QUEUE, ago=30, conversation=ONE, api_key_id=KEY),
        turn(ONE, 20, A, api_key_id=KEY),
    )
    whole = conversation(ONE)
    assert whole is not None
    payload = whole.payload
    assert (payload["turns"], payload["is_cut"], payload["moves"], payload["api_key_id"]) == (5, False, 2, KEY)
    assert (payload["input_tokens"], payload["output_tokens"], payload["cached_tokens"]) == (700, 60, 50)
    assert payload["cached_share"] == pytest.approx(50 / 300)
    assert [(one["endpoint_id"], one["turns"]) for one in payload["endpoints"]] == [(A, 3), (B, 1)]
    assert (payload["first_at"], payload["last_at"]) == ("2026-03-10T11:59:30.000Z", "2026-03-10T12:00:10.000Z")
    assert [one["moved"] for one in whole.turns] == [False, True, True, False, False]
    assert [one["endpoint_id"] for one in whole.turns] == [A, B, A, None, A]
    assert (whole.turns[0]["first_token_ms"], whole.turns[1]["cached_tokens"]) == (90.0, 50)


def test_a_move_has_its_reason(world: World) -> None:
    failed, served = attempt(record.FAILED, A), replace(attempt(record.OK, B), reason=FASTEST)
    written(
        world,
        turn(ONE, 9, A),
        turn(ONE, 8, B, attempts=(served,)),  # chosen although the endpoint before works
        turn(ONE, 7, A),
        turn(ONE, 6, B, attempts=(failed, served)),
        turn(ONE, 5, B, attempts=(failed, served)),  # it failed elsewhere, but did not move
    )
    whole = conversation(ONE)
    assert whole is not None
    assert [(row["moved"], row["failed_over"], row["reason"]) for row in whole.turns] == [
        (False, False, None),
        (True, False, FASTEST),
        (True, False, None),
        (True, True, FASTEST),
        (False, False, FASTEST),
    ]


def test_nothing_reported_is_not_a_share_of_zero(world: World) -> None:
    written(world, turn(ONE, 2, input_tokens=100), turn(TWO, 1, input_tokens=100, cached_tokens=0))
    shares = {
        row["conversation"]: row["cached_share"] for row in conversation_page(RequestFilter(), None, 9).conversations
    }
    assert shares == {ONE: None, TWO: 0.0}


def test_of_a_long_conversation_the_latest_requests_are_read(world: World) -> None:
    written(world, *(turn(ONE, ago, input_tokens=ago) for ago in range(1, 8)))
    latest = conversations.conversations(run_sql, vendor(), [ONE], turns=3)[ONE]
    assert (latest.payload["turns"], latest.payload["is_cut"], latest.payload["input_tokens"]) == (3, True, 1 + 2 + 3)
    whole = conversations.conversations(run_sql, vendor(), [ONE], turns=7)[ONE]
    assert (whole.payload["turns"], whole.payload["is_cut"]) == (7, False)


@pytest.mark.parametrize("key", ["", "0", ONE.upper(), "00000000000000a\0", "g" * 16, ONE])
def test_an_unknown_or_impossible_key_finds_nothing(world: World, key: str) -> None:
    assert conversation(key) is None


def test_all_requests_of_a_conversation_are_a_filter_of_the_history(world: World) -> None:
    mine = [turn(ONE, ago) for ago in (9, 8)]
    written(world, *mine, turn(TWO, 7), turn(None, 6))
    page = history.page(run_sql, vendor(), RequestFilter(conversation=ONE), None, 10)
    assert [str(row[0]) for row in page.rows] == [mine[1].id, mine[0].id]


def test_a_conversation_whose_rows_are_damaged_is_still_shown(world: World) -> None:
    written(world, turn(ONE, 1))
    RequestHistory.objects.update(attempts=["damaged"], input_tokens=None)
    whole = conversation(ONE)
    assert whole is not None
    assert whole.payload["turns"] == 1


# Cost


def scanned(world: World, monkeypatch: pytest.MonkeyPatch, records: Sequence[RequestRecord]) -> list[list[str]]:
    monkeypatch.setattr(history, "SCANNED_ROWS", 3)
    written(world, *records)
    return pages(5)


def test_a_page_scans_a_bounded_number_of_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [turn(None, ago) for ago in range(10, 20)]
    assert scanned(world, monkeypatch, [turn(ONE, 5), *others, turn(TWO, 30)])[0] == [ONE]
    assert [key for page in pages(5) for key in page] == [ONE, TWO]


def test_indexes_lead_to_requests_and_turns() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("plans of PostgreSQL depend on its statistics")
    cursor = Cursor("2026-03-10T12:00:00.000000+00:00", "x")
    listed, values = HistoryStatements("sqlite", RequestFilter(last_turns=True, since=NOW), cursor).rows("2026", 5)
    plan = explained(listed, values)
    assert plan[0].startswith("SEARCH request_history USING INDEX history_completed")
    assert any("SEARCH later USING" in step and "history_conversation (conversation=?)" in step for step in plan)
    latest = explained(conversations._latest("sqlite", 2, 5), [ONE, TWO])
    assert (
        sum("SEARCH request_history USING INDEX history_conversation (conversation=?)" in step for step in latest) == 2
    )
    assert not [step for step in (*plan, *latest) if "SCAN request_history" in step]


def explained(statement: str, values: Sequence[Any]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        return [row[3] for row in cursor.fetchall()]


def test_a_list_takes_the_same_number_of_queries_for_any_number_of_conversations(
    world: World, django_assert_max_num_queries: object
) -> None:
    written(world, *(turn(f"{number:016x}", number, api_key_id=KEY) for number in range(1, 30)))
    with django_assert_max_num_queries(4):  # type: ignore[operator]
        assert len(conversation_page(RequestFilter(), None, 25).conversations) == 25


# The record and the migration


def test_the_row_has_the_conversation_of_its_record(world: World) -> None:
    written(world, replace(request(), conversation=ONE), request(ago=1))
    assert list(RequestHistory.objects.values_list("conversation", flat=True)) == [ONE, None]


def test_a_long_migration_reports_how_long_it_has_been_running(caplog: pytest.LogCaptureFixture) -> None:
    migration = importlib.import_module("metrics.migrations.0013_conversations")
    done = threading.Event()
    reports = threading.Thread(target=migration.report, args=(done, "an_index", 0.001))
    with caplog.at_level("INFO"):
        reports.start()
        while not caplog.messages:
            assert reports.is_alive()
        done.set()
        reports.join()
    assert caplog.messages[0] == "the index an_index is being created: 0 s so far"
