"""Which database this is, and reading it at one moment."""

import threading
from typing import Any

import pytest
from django.db import Error, connection

from metrics.database import database_id, read_moment
from metrics.models import Installation, Total
from tests.metrics.world import without

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
