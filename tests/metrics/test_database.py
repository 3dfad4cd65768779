"""Which database this is, and reading it at one moment."""

import threading
from typing import Any

import pytest
from django.db import Error, IntegrityError, connection, transaction

from metrics.database import TOGETHER, Columns, Group, database_id, find, insert, read_moment
from metrics.models import Installation, Total
from tests.metrics.records import A, B
from tests.metrics.world import rows, without

pytestmark = pytest.mark.django_db


def test_a_database_gets_its_id_when_first_asked() -> None:
    found = database_id()
    assert len(found) == 32
    assert Installation.objects.get().database_id == found


def test_the_id_stays() -> None:
    assert database_id() == database_id()


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_has_no_id() -> None:
    with without("installation"), pytest.raises(Error):
        database_id()


def in_a_thread(work: Any) -> None:
    """On a connection of its own, as another process has it."""

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def note(value: int) -> None:
    Total.objects.update_or_create(name="requests_ok", defaults={"value": value})


@pytest.mark.django_db(transaction=True)
def test_a_moment_does_not_see_what_is_committed_later() -> None:
    note(1)
    with read_moment():
        assert Total.objects.get().value == 1
        in_a_thread(lambda: note(2))
        assert Total.objects.get().value == 1
    assert Total.objects.get().value == 2


@pytest.mark.django_db(transaction=True)
def test_a_moment_takes_no_lock() -> None:
    with read_moment():
        list(Total.objects.all())
        in_a_thread(lambda: note(1))
    assert Total.objects.get().value == 1


@pytest.mark.django_db(transaction=True)
def test_a_moment_ends_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), read_moment():
        assert 1 // Total.objects.count()
    note(1)
    assert Total.objects.get().value == 1


def test_inside_a_transaction_the_moment_is_the_transactions() -> None:
    note(1)
    with read_moment():
        assert Total.objects.get().value == 1
    assert Total.objects.get().value == 1


# Many rows at once


def test_rows_are_found_by_their_keys() -> None:
    keys = ("endpoint_id", "model", "kind")
    for endpoint_id, model, value in ((A, "tiny", 1.0), (A, 'it\'s "ü"', 2.0), (B, "tiny", 3.0)):
        rows("INSERT INTO moving_averages VALUES (%s, %s, 'chat', %s, %s)", endpoint_id, model, value, b"x")
    wanted = [(B, "tiny", "chat"), (A, 'it\'s "ü"', "chat"), (B, "large", "chat")]
    with connection.cursor() as cursor:
        assert find(cursor, "moving_averages", keys, ("value",), wanted) == {wanted[0]: (3.0,), wanted[1]: (2.0,)}
        assert find(cursor, "moving_averages", keys, ("value",), []) == {}


TOTALS = Columns(common=(), own=("name", "value"))


def test_numbers_are_keys_too() -> None:
    insert_totals: list[tuple[Any, ...]] = [("one", 1), ("two", 2)]
    with connection.cursor() as cursor:
        insert(cursor, "metric_totals", TOTALS, [((), insert_totals)])
        assert find(cursor, "metric_totals", ("value",), ("name",), [(2,), (3,)]) == {(2,): ("two",)}


def test_keys_are_looked_up_in_their_index() -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")  # as if there were many rows
        find(
            _Explaining(cursor), "moving_averages", ("endpoint_id", "model", "kind"), ("value",), [(A, "tiny", "chat")]
        )
        plan = str(cursor.fetchall())
    assert "SEARCH found USING INDEX" in plan or "Index Scan using moving_averages_pkey" in plan


class _Explaining:
    """A cursor that says how it would find, and finds nothing."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, sql: str, values: Any) -> None:
        prefix = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
        self._cursor.execute(f"{prefix} {sql}", values)

    def fetchall(self) -> list[Any]:
        return []


def test_a_row_that_is_there_already_is_an_error() -> None:
    with connection.cursor() as cursor:
        insert(cursor, "metric_totals", TOTALS, [((), [("one", 1)])])
        with pytest.raises(IntegrityError), transaction.atomic():
            insert(cursor, "metric_totals", TOTALS, [((), [("two", 2), ("one", 1)])])
    assert list(Total.objects.values_list("name", "value")) == [("one", 1)]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only there they are turned off")
def test_json_is_checked_again_after_an_insert() -> None:
    with connection.cursor() as cursor:
        insert(cursor, "metric_totals", TOTALS, [((), [("one", 1)])])
        cursor.execute("PRAGMA ignore_check_constraints")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (7, 8, 9), (64,), (3, 150, 1, 65)])
def test_every_row_of_every_group_is_there_once(sizes: tuple[int, ...]) -> None:
    columns = Columns(common=("endpoint_id", "value"), own=("model", "samples"), copies={"kind": "model"})
    groups: list[Group] = []
    for number, size in enumerate(sizes):
        own = [(f"{number}-{row}", f"{number}:{row}".encode()) for row in range(size)]
        groups.append(((A, number / 2), own))
    with connection.cursor() as cursor:
        insert(cursor, "moving_averages", columns, groups)
    found = rows("SELECT value, model, samples, kind FROM moving_averages")
    assert sorted((value, model, bytes(samples), kind) for value, model, samples, kind in found) == sorted(
        (value, model, samples, model) for (_, value), own in groups for model, samples in own
    )


def test_of_a_statement_for_many_rows_all_or_none_are_there() -> None:
    several = [(f"name {number}", number) for number in range(TOGETHER[0])]
    with connection.cursor() as cursor, pytest.raises(IntegrityError), transaction.atomic():
        insert(cursor, "metric_totals", TOTALS, [((), [*several[:-1], several[0]])])
    assert not Total.objects.exists()
