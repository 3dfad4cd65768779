import threading

import pytest
from django.db import connection

from endpoints.changes import counters as change_counters
from tests.endpoints.conftest import rolled_back

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def test_counters_start_empty() -> None:
    assert change_counters.read() == {}


def test_each_bump_increments() -> None:
    for _ in range(3):
        change_counters.bump(change_counters.ENDPOINTS)
    assert change_counters.read() == {"endpoints": 3}


def test_counters_are_independent() -> None:
    change_counters.bump(change_counters.ENDPOINTS)
    change_counters.bump(change_counters.ACCESS)
    change_counters.bump(change_counters.ACCESS)
    assert change_counters.read() == {"endpoints": 1, "access": 2}


def test_a_rollback_undoes_the_count() -> None:
    change_counters.bump(change_counters.ENDPOINTS)
    with rolled_back():
        change_counters.bump(change_counters.ENDPOINTS)
    assert change_counters.read() == {"endpoints": 1}


@pytest.mark.django_db(transaction=True)
def test_concurrent_bumps_are_all_counted() -> None:
    change_counters.bump(change_counters.ENDPOINTS)
    together = threading.Barrier(3)

    def bump() -> None:
        together.wait()
        change_counters.bump(change_counters.ENDPOINTS)
        connection.close()

    threads = [threading.Thread(target=bump) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert change_counters.read() == {"endpoints": 4}
