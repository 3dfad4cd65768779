"""Roll-ups are stored in the order of their keys."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.db import connection

from metrics.models import ClientHourRollUp

pytestmark = [
    pytest.mark.every_database,
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has no tables without row ids"),
]
migration = import_module("metrics.migrations.0009_roll_ups_in_order")


def with_row_ids(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = %s AND sql NOT LIKE '%% WITHOUT ROWID'", [table])
        return len(cursor.fetchall())


@pytest.mark.parametrize("table", migration.TABLES)
def test_roll_ups_have_no_row_ids(table: str) -> None:
    assert not with_row_ids(table)


def test_rows_and_indexes_of_older_releases_are_kept() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE tbl_name = 'rollup_client_hours' AND sql IS NOT NULL")
        table, index = (sql.removesuffix(" WITHOUT ROWID") for (sql,) in cursor.fetchall())
        cursor.execute("DROP TABLE rollup_client_hours")
        cursor.execute(table)
        cursor.execute(index)
        cursor.execute("INSERT INTO rollup_client_hours VALUES ('b', 1, 2, 3, 4, 5, 6, 7), ('a', 1, 2, 3, 4, 5, 6, 8)")
    migration.put_in_order(None, SimpleNamespace(connection=connection))
    assert not with_row_ids("rollup_client_hours")
    clients = ClientHourRollUp.objects.order_by("client_ip").values_list("client_ip", "requests_cancelled", "last_us")
    assert list(clients) == [("a", 3, 8), ("b", 3, 7)]
    assert "client_hours_client" in connection.introspection.get_constraints(connection.cursor(), "rollup_client_hours")
