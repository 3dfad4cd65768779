"""The text of SQL statements: parameters in order, no values in the text."""

import pytest
from django.db import connection

from metrics import sql
from metrics.storage import database

pytestmark = pytest.mark.every_database

TABLE = "rollup_all_clients"


def test_a_select_has_its_clauses_in_order() -> None:
    statement = sql.select(["a", "b"], "t", where=["a > %s", "b < %s"], group_by="a", order_by="b", limit=3, offset=2)
    assert statement == "SELECT a, b FROM t WHERE a > %s AND b < %s GROUP BY a ORDER BY b LIMIT 3 OFFSET 2"


def test_an_insert_has_a_parameter_for_each_column() -> None:
    assert sql.insert("t", ["a", "b"]) == "INSERT INTO t (a, b) VALUES (%s, %s)"


def test_an_insert_takes_the_rows_of_a_statement() -> None:
    assert sql.insert("t", ["a"], "SELECT b FROM s") == "INSERT INTO t (a) SELECT b FROM s"


def test_a_delete_returns_columns() -> None:
    assert sql.delete("t", "a = %s", ["a", "b"]) == "DELETE FROM t WHERE a = %s RETURNING a, b"


def test_conditions_are_written_like_assignments() -> None:
    assert sql.update("t", sql.equal(["a", "b"]), sql.equal(["c", "d"])) == (
        "UPDATE t SET a = %s, b = %s WHERE c = %s AND d = %s"
    )


@pytest.mark.django_db
def test_an_upsert_adds_replaces_and_computes() -> None:
    statement = sql.upsert(
        TABLE,
        ["hour"],
        added=["requests_ok", "requests_failed", "requests_cancelled", "input_tokens"],
        replaced=["output_tokens"],
        expressions={"clients": f"{TABLE}.clients * 10 + excluded.clients"},
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, (7, 1, 2, 3, 4, 5, 6))
        cursor.execute(statement, (7, 10, 20, 30, 40, 50, 9))
        cursor.execute(sql.select("*", TABLE))
        columns = [column[0] for column in cursor.description]
        (row,) = [dict(zip(columns, values, strict=True)) for values in cursor.fetchall()]
    assert row == {
        "hour": 7, "requests_ok": 11, "requests_failed": 22, "requests_cancelled": 33, "input_tokens": 44,
        "output_tokens": 50, "clients": 69,
    }  # fmt: skip


@pytest.mark.django_db
def test_an_upsert_with_a_condition_leaves_other_rows_alone() -> None:
    statement = sql.upsert("metric_totals", ["name"], replaced=["value"], where="metric_totals.value = %s")
    with connection.cursor() as cursor:
        changed = []
        for parameters in (("a", 1, 0), ("a", 2, 1), ("a", 3, 1)):
            cursor.execute(statement, parameters)
            changed.append(cursor.rowcount)
        cursor.execute(sql.select("value", "metric_totals", where="name = 'a'"))
        assert (changed, cursor.fetchall()) == ([1, 1, 0], [(2,)])


@pytest.mark.django_db
@pytest.mark.parametrize(("value", "expected"), [("5", 5), ("-5", -5), ("9000", 0), ("NULL", 0)])
def test_an_impossible_count_is_zero(value: str, expected: int) -> None:
    column = sql.whole_number("listed.value", 1000, database.vendor())
    with connection.cursor() as cursor:
        cursor.execute(sql.select(column, sql.subquery(f"SELECT CAST({value} AS bigint) AS value", "listed")))
        assert cursor.fetchone() == (expected,)


@pytest.mark.django_db
def test_rows_are_read_as_a_table() -> None:
    rows = [("a", 1), ("b", 2**62)]
    beginning, values = sql.with_rows("given", {"name": "text", "number": "bigint"}, rows, database.vendor())
    with connection.cursor() as cursor:
        cursor.execute(f"{beginning} SELECT name, number FROM given ORDER BY name", values)
        assert cursor.fetchall() == rows


@pytest.mark.django_db
@pytest.mark.parametrize("where", ["date > '2026'", "date IN ('2026-01-01', '2026-01-02') AND kind = 'a'"])
def test_a_join_with_rows_does_not_compare_each_with_all(where: str) -> None:
    beginning, values = sql.with_rows("given", {"name": "text"}, [("a",)], database.vendor())
    statement = f"{beginning} SELECT * FROM rollup_cost_days LEFT JOIN given ON name = date WHERE {where}"
    with connection.cursor() as cursor:
        explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        cursor.execute(f"{explain} {statement}", values)
        plan = " ".join(str(row[-1]) for row in cursor.fetchall())
    assert "SCAN given" not in plan
