"""Closed connections to PostgreSQL are used again, unless the server has closed them or they are old."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from tests.endpoints.conftest import sql
from tests.router import until

pytestmark = [
    pytest.mark.every_database,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="it is the backend for PostgreSQL"),
]


@pytest.fixture
def idle() -> Iterator[Any]:
    from routerdash.postgresql.base import idle_connections

    connection.close()
    idle_connections.limit = 2
    yield idle_connections
    connection.close()
    idle_connections.limit = 0
    idle_connections.close()


def backend() -> int:
    """Return the number of the server's process behind this thread's connection."""
    ((number,),) = sql("SELECT pg_backend_pid()")
    return int(number)


def in_thread() -> int:
    numbers: list[int] = []

    def run() -> None:
        numbers.append(backend())
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return numbers[0]


def test_a_closed_connection_serves_the_next_thread(idle: Any) -> None:
    first = in_thread()
    assert in_thread() == first
    assert backend() == first


def test_connections_are_not_shared(idle: Any) -> None:
    mine = backend()
    assert in_thread() != mine
    assert backend() == mine


def test_without_a_limit_each_is_closed(idle: Any) -> None:
    idle.limit = 0
    assert in_thread() != in_thread()


def test_no_more_than_the_limit_stay_open(idle: Any) -> None:
    idle.limit = 1
    mine = backend()
    other = in_thread()
    connection.close()  # the place is taken
    assert in_thread() == other != mine


def test_a_connection_that_the_server_has_closed_is_not_used(idle: Any) -> None:
    from psycopg import connect

    first = in_thread()
    parameters = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    with connect(**{name: value for name, value in parameters.items() if name in names}, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [first])
        running = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
        until(lambda: other.execute(running, [first]).fetchone() is None)
    assert backend() != first


@pytest.mark.parametrize("limit", ["IDLE_SECONDS", "LIFETIME_SECONDS"])
def test_an_old_connection_is_not_used(idle: Any, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    first = in_thread()
    monkeypatch.setattr(f"routerdash.postgresql.base.{limit}", -1.0)
    assert in_thread() != first


def test_an_open_transaction_is_not_passed_on(idle: Any) -> None:
    connection.ensure_connection()
    connection.set_autocommit(False)
    first = backend()
    connection.close()
    assert in_thread() != first
