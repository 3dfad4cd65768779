"""Roll-ups are updated row by row: sums by the database, histograms by the one writer."""

from typing import Any

import pytest
from django.db import connection

from gateway.ipc import record
from metrics.counting.cells import Cell
from metrics.models import MinuteRollUp
from metrics.storage import rollups
from metrics.storage.rollups import DAYS, MINUTES, RollUpTable
from tests.metrics.records import A, request
from tests.metrics.world import World, restored, rows, same

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

KEY = (7, A, "tiny", "chat_completions", "")
DAY = ("2026-03-10", *KEY[1:])


def response(*durations: int, first_token: int | None = None) -> Cell:
    cell = Cell()
    for duration in durations:
        cell.add_success(duration, first_token)
    return cell


def write(table: RollUpTable, *cells: Cell) -> Any:
    """Write each request in its own batch; return the row of all of them."""
    for cell in cells:
        with connection.cursor() as cursor:
            rollups.upsert(cursor, table, {KEY if table is MINUTES else DAY: cell})
    (row,) = rows(f"SELECT requests_ok, first_token_us, durations, first_tokens FROM {table.name}")
    return row


@pytest.mark.parametrize("table", [MINUTES, DAYS])
def test_batches_add_up(table: RollUpTable) -> None:
    row = write(table, response(40, 99, first_token=7), response(41, first_token=9))
    assert row == (3, 23, '{"36":2,"56":1}', '{"7":2,"9":1}')


def test_a_batch_without_responses_keeps_the_histograms() -> None:
    assert write(MINUTES, response(40, first_token=7), Cell(requests_failed=1)) == (1, 7, '{"36":1}', '{"7":1}')


def test_a_batch_without_first_tokens_keeps_their_histogram() -> None:
    assert write(MINUTES, response(40, first_token=7), response(40)) == (2, 7, '{"36":2}', '{"7":1}')


def test_rows_of_an_older_release_are_continued() -> None:
    sums = "requests_ok, requests_failed, requests_cancelled, attempts_ok, attempts_failed, input_tokens, output_tokens"
    rows(
        f"INSERT INTO rollup_minutes (minute, endpoint_id, model, kind, api_key_id, {sums}, ok_duration_us) "
        f"VALUES (7, '{A}', 'tiny', 'chat_completions', '', 2, 0, 0, 2, 0, 0, 0, 80)"
    )
    assert write(MINUTES, response(40, first_token=7)) == (3, 7, '{"36":1}', '{"7":1}')


def test_a_damaged_histogram_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    write(MINUTES, response(40))
    rows("UPDATE rollup_minutes SET durations = 'nonsense'")
    assert write(MINUTES, response(40)) == (2, 0, '{"36":1}', None)
    assert "damaged" in caplog.text


def test_names_that_the_database_cannot_store_are_one_row() -> None:
    for _ in range(2):
        with connection.cursor() as cursor:
            rollups.upsert(cursor, MINUTES, {(7, A, "ti\0ny", "", ""): response(40)})
    assert [(row.model, row.durations) for row in MinuteRollUp.objects.all()] == [("ti\ufffdny", '{"36":2}')]


def test_the_writer_fills_the_roll_ups(world: World) -> None:
    world.gateway(request(duration_us=40, first_token_us=7), request(record.REJECTED, error="too_large"))
    world.write()
    columns = "model, requests_ok, requests_rejected, durations, first_tokens"
    for table in (MINUTES, DAYS):
        stored = rows(f"SELECT {columns} FROM {table.name} ORDER BY model")
        assert stored == [("", 0, 1, None, None), ("tiny", 1, 0, '{"36":1}', '{"7":1}')]


def test_percentiles_are_restored(world: World, endpoints: object) -> None:
    world.gateway(
        *(request(duration_us=1000 * milliseconds, first_token_us=10 * milliseconds) for milliseconds in range(1, 100))
    )
    world.write()
    assert same(restored(), world.figures())
    assert restored().durations.p95 == pytest.approx(95, rel=1 / 16)
    assert restored().first_tokens.p50 == pytest.approx(0.5, rel=1 / 16)
