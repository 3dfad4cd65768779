import threading

import pytest
from django.db import connection

from endpoints import changes
from tests.endpoints.conftest import rolled_back

pytestmark = pytest.mark.django_db


def test_nothing_is_counted_at_first() -> None:
    assert changes.read() == {}


def test_every_bump_counts() -> None:
    for _ in range(3):
        changes.bump(changes.ENDPOINTS)
    assert changes.read() == {"endpoints": 3}


def test_counters_are_apart() -> None:
    changes.bump(changes.ENDPOINTS)
    changes.bump(changes.ACCESS)
    changes.bump(changes.ACCESS)
    assert changes.read() == {"endpoints": 1, "access": 2}


def test_a_rollback_takes_the_count_along() -> None:
    changes.bump(changes.ENDPOINTS)
    with rolled_back():
        changes.bump(changes.ENDPOINTS)
    assert changes.read() == {"endpoints": 1}


@pytest.mark.django_db(transaction=True)
def test_bumps_at_once_all_count() -> None:
    changes.bump(changes.ENDPOINTS)
    together = threading.Barrier(3)

    def bump() -> None:
        together.wait()
        changes.bump(changes.ENDPOINTS)
        connection.close()

    threads = [threading.Thread(target=bump) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changes.read() == {"endpoints": 4}
