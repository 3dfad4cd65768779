"""The ID of the database, and consistent reads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import Error, connection

from metrics.models import Installation, Total
from metrics.storage import database
from metrics.storage.database import database_id, read_moment
from tests.metrics.world import without

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def test_a_database_gets_its_id_at_the_first_read() -> None:
    identity = database_id()
    assert len(identity) == 32
    assert Installation.objects.get().database_id == identity


def test_the_id_stays() -> None:
    assert database_id() == database_id()


@pytest.mark.django_db(transaction=True)
def test_an_unavailable_database_has_no_id() -> None:
    with without("installation"), pytest.raises(Error):
        database_id()


def in_a_thread(work: Any) -> None:
    """Call the function in a thread with its own connection, like another process."""

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
def test_a_snapshot_does_not_see_later_commits() -> None:
    note(1)
    with read_moment():
        assert Total.objects.get().value == 1
        in_a_thread(lambda: note(2))
        assert Total.objects.get().value == 1
    assert Total.objects.get().value == 2


@pytest.mark.django_db(transaction=True)
def test_a_snapshot_needs_no_lock() -> None:
    with read_moment():
        list(Total.objects.all())
        in_a_thread(lambda: note(1))
    assert Total.objects.get().value == 1


@pytest.mark.django_db(transaction=True)
def test_a_snapshot_ends_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), read_moment():
        assert 1 // Total.objects.count()
    note(1)
    assert Total.objects.get().value == 1


def test_a_snapshot_inside_a_transaction_is_that_of_the_transaction() -> None:
    note(1)
    with read_moment():
        assert Total.objects.get().value == 1
    assert Total.objects.get().value == 1


@pytest.mark.skipif(connection.vendor != "sqlite", reason="settings of SQLite")
def test_a_thread_that_writes_has_a_larger_cache_and_does_not_check_its_json() -> None:
    def settings() -> list[tuple[int, int]]:
        of_connections = []
        database.set_up_writer()
        for _ in range(2):
            with connection.cursor() as cursor:
                ((size,),) = cursor.execute("PRAGMA cache_size").fetchall()
                ((unchecked,),) = cursor.execute("PRAGMA ignore_check_constraints").fetchall()
            of_connections.append((size, unchecked))
            connection.close()  # as when the database was away
        return of_connections

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(settings).result() == [(-database.WRITER_CACHE_KIB, 1)] * 2
