"""Rows by key, and grouped inserts."""

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from metrics.models import Total
from metrics.storage.bulk import (
    REST_PER_STATEMENT,
    ROWS_PER_STATEMENT,
    ROWS_PER_UPSERT,
    Columns,
    Group,
    Upsert,
    add,
    find,
    insert,
)
from tests.metrics.records import A, B
from tests.metrics.world import rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


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


def test_rows_are_found_by_numbers() -> None:
    insert_totals: list[tuple[Any, ...]] = [("one", 1), ("two", 2)]
    with connection.cursor() as cursor:
        insert(cursor, "metric_totals", TOTALS, [((), insert_totals)])
        assert find(cursor, "metric_totals", ("value",), ("name",), [(2,), (3,)]) == {(2,): ("two",)}


def test_keys_are_found_by_their_index() -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")  # as if there were many rows
        find(
            _Explaining(cursor), "moving_averages", ("endpoint_id", "model", "kind"), ("value",), [(A, "tiny", "chat")]
        )
        plan = str(cursor.fetchall())
    assert "SEARCH stored USING INDEX" in plan or "Index Scan using moving_averages_pkey" in plan


class _Explaining:
    """A cursor that returns the query plan and no rows."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, sql: str, values: Any) -> None:
        prefix = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
        self._cursor.execute(f"{prefix} {sql}", values)

    def fetchall(self) -> list[Any]:
        return []


def test_inserting_an_existing_row_is_an_error() -> None:
    with connection.cursor() as cursor:
        insert(cursor, "metric_totals", TOTALS, [((), [("one", 1)])])
        with pytest.raises(IntegrityError), transaction.atomic():
            insert(cursor, "metric_totals", TOTALS, [((), [("two", 2), ("one", 1)])])
    assert list(Total.objects.values_list("name", "value")) == [("one", 1)]


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (7, 8, 9), (64,), (3, 150, 1, 65)])
def test_every_row_of_every_group_is_inserted_once(sizes: tuple[int, ...]) -> None:
    columns = Columns(common=("endpoint_id", "value"), own=("model", "samples"), copies={"kind": "model"})
    groups: list[Group] = []
    for number, size in enumerate(sizes):
        own = [(f"{number}-{row}", f"{number}:{row}".encode()) for row in range(size)]
        groups.append(((A, number / 2), own))
    with connection.cursor() as cursor:
        insert(cursor, "moving_averages", columns, groups)
    stored = rows("SELECT value, model, samples, kind FROM moving_averages")
    assert sorted((value, model, bytes(samples), kind) for value, model, samples, kind in stored) == sorted(
        (value, model, samples, model) for (_, value), own in groups for model, samples in own
    )


@pytest.mark.parametrize("count", [*ROWS_PER_STATEMENT, *REST_PER_STATEMENT])
def test_a_statement_inserts_all_rows_or_none(count: int) -> None:
    several = [(f"name {number}", number) for number in range(max(count, 2))]
    with connection.cursor() as cursor, pytest.raises(IntegrityError), transaction.atomic():
        insert(cursor, "metric_totals", TOTALS, [((), [*several[:-1], several[0]])])
    assert not Total.objects.exists()


# Upserts

AVERAGES = Upsert("moving_averages", ("endpoint_id", "model", "kind"), added=["value"], replaced=["samples"])
STRANGE = ["it's", 'a "name"', "back\\slash", "\\", "{a,b}", "NULL", "", "ü 🙂", "line\nbreak", "%s"]


def written(*values: tuple[Any, ...]) -> list[Any]:
    with connection.cursor() as cursor:
        AVERAGES.write(cursor, values)
    return [(model, value, bytes(samples)) for model, value, samples in rows(_STORED)]


_STORED = "SELECT model, value, samples FROM moving_averages ORDER BY model"


def test_new_rows_are_added_and_stored_ones_increased() -> None:
    assert written((A, "a", "chat", 1.5, b"x")) == [("a", 1.5, b"x")]
    stored = written((A, "a", "chat", 0.25, b"y\0\xff"), (A, "b", "chat", 1e-9, b""))
    assert stored == [("a", 1.75, b"y\0\xff"), ("b", 1e-9, b"")]
    assert written() == stored


@pytest.mark.parametrize("models", [STRANGE, *([name] for name in STRANGE)])
def test_any_text_is_stored_as_it_is(models: list[str]) -> None:
    for _ in range(2):
        stored = written(*((A, model, "chat", 1, b"") for model in models))
    assert sorted(stored) == sorted((model, 2, b"") for model in models)


def test_a_row_that_occurs_twice_is_added_twice() -> None:
    assert written((A, "a", "chat", 1, b"x"), (A, "a", "chat", 2, b"y")) == [("a", 3, b"y")]
    many = [(A, "b", "chat", number, bytes([number])) for number in range(1, ROWS_PER_UPSERT + 1)]
    assert written(*many) == [("a", 3, b"y"), ("b", 36, many[-1][-1])]


@pytest.mark.parametrize("count", [ROWS_PER_UPSERT - 1, ROWS_PER_UPSERT, 2 * ROWS_PER_UPSERT + 3])
def test_every_row_is_written_once(count: int) -> None:
    for times in (1, 2):
        stored = written(*((A, f"{number:02}", "chat", number, b"") for number in range(count)))
        assert stored == [(f"{number:02}", times * number, b"") for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, ROWS_PER_UPSERT + 1])
def test_columns_are_written_as_their_rows_are(count: int) -> None:
    names, values = [f"name {number}" for number in range(count)], [number - 2**62 for number in range(count)]
    totals = Upsert("metric_totals", ["name"], added=["value"])
    with connection.cursor() as cursor:
        totals.write_columns(cursor, [names, values])
        totals.write_columns(cursor, [names[:1], [5] * len(names[:1])])
    expected = dict(zip(names, values, strict=True))
    assert dict(Total.objects.values_list("name", "value")) == {
        name: value + 5 * (name == "name 0") for name, value in expected.items()
    }


def test_only_new_rows_are_added() -> None:
    with connection.cursor() as cursor:
        add(cursor, "metric_totals", ("name", "value"), [("one", 1), ("two", 2)])
        add(cursor, "metric_totals", ("name", "value"), [("two", 3), ("three", 3)], new_only=True)
        add(cursor, "metric_totals", ("name", "value"), [])
        with pytest.raises(IntegrityError), transaction.atomic():
            add(cursor, "metric_totals", ("name", "value"), [("four", 4), ("one", 5)])
    assert dict(Total.objects.values_list("name", "value")) == {"one": 1, "two": 2, "three": 3}


def test_rows_may_have_null_beside_values() -> None:
    columns = ("requests_ok", "requests_failed", "requests_cancelled", "attempts_ok", "attempts_failed")
    sums = (*columns, "input_tokens", "output_tokens", "ok_duration_us")
    days = Upsert(
        "rollup_days", ("date", "endpoint_id", "model", "kind", "api_key_id"), added=sums, replaced=["durations"]
    )
    with connection.cursor() as cursor:
        days.write(
            cursor, [("2026-03-10", A, name, "", "", *[7] * 8, text) for name, text in (("a", None), ("b", "{}"))]
        )
    assert rows("SELECT model, durations, ok_duration_us FROM rollup_days ORDER BY model") == [
        ("a", None, 7),
        ("b", "{}", 7),
    ]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite gets no arrays")
def test_a_text_with_nul_does_not_shift_the_others() -> None:
    with pytest.raises(ValueError, match="NUL"):
        written((A, "a\0b", "chat", 1, b""), (A, "c", "chat", 1, b""))


def test_postgresql_gets_one_statement() -> None:
    with CaptureQueriesContext(connection) as queries:
        written((A, "a", "chat", 1, b""), (A, "b", "chat", 1, b""))
    if connection.vendor == "postgresql":
        assert len(queries) == 2  # the other one reads the rows
