"""Reading the change log, and forgetting what was read."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from django.db import DatabaseError, connection, connections, transaction

from access.models import ApiKey
from endpoints.changes import log, triggers
from endpoints.changes.log import ChangeBatch
from endpoints.changes.models import RegistryChange
from endpoints.changes.watched import ENDPOINT, KEY, USER
from tests.access.people import make_admin
from tests.endpoints.conftest import make_endpoint, meanwhile, sql

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("logged")]

EMPTY = ChangeBatch((), {}, more=False)
NIL = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def _committed(transactional_db: None) -> Iterator[None]:
    """Let other connections see the rows of a test."""
    yield
    RegistryChange.objects.all().delete()


def test_an_empty_log() -> None:
    assert log.read() == EMPTY
    assert log.token() is None
    assert log.count(10) == 0


def test_objects_are_named_once_and_rows_each() -> None:
    admin = make_admin()
    key = ApiKey.issue(admin, "script", ())[0]
    endpoint = make_endpoint()
    for number in range(3):
        endpoint.set_options(max_concurrency=number + 1)
    batch = log.read()
    assert batch.of(USER) == {str(admin.pk)}
    assert batch.of(KEY) == {key.key_hash}
    assert batch.of(ENDPOINT) == {str(endpoint.pk)}
    assert len(batch.ids) == 6
    assert not batch.more


def test_a_batch_has_a_limit() -> None:
    endpoints = [make_endpoint(f"e{number}") for number in range(5)]
    batch = log.read(limit=3)
    assert batch.of(ENDPOINT) == {str(endpoint.pk) for endpoint in endpoints[:3]}
    assert batch.more
    assert log.forget(batch.ranges, token_before=None, token="one")
    batch = log.read(limit=2)
    assert batch.of(ENDPOINT) == {str(endpoint.pk) for endpoint in endpoints[3:]}
    assert not batch.more


def test_a_count_has_a_limit() -> None:
    for number in range(4):
        make_endpoint(f"e{number}")
    assert (log.count(3), log.count(4), log.count(10)) == (3, 4, 4)


def test_forgetting_deletes_the_batch_and_sets_the_token() -> None:
    make_endpoint("one")
    batch = log.read()
    late = make_endpoint("two")
    assert log.forget(batch.ranges, token_before=None, token="first")
    assert log.token() == "first"
    batch = log.read()
    assert batch.of(ENDPOINT) == {str(late.pk)}
    assert log.forget(batch.ranges, token_before="first", token="second")
    assert log.token() == "second"
    assert log.read() == EMPTY


def test_an_empty_batch_sets_the_token() -> None:
    assert log.forget((), token_before=None, token="first")
    assert log.token() == "first"


@pytest.mark.parametrize("before", [None, "other"])
def test_nothing_is_forgotten_at_another_position(before: str | None) -> None:
    assert log.forget((), token_before=None, token="first")
    make_endpoint()
    batch = log.read()
    assert not log.forget(batch.ranges, token_before=before, token="second")
    assert log.token() == "first"
    assert log.read() == batch


def test_nothing_is_forgotten_without_the_position_that_was_read() -> None:
    make_endpoint()
    batch = log.read()
    assert not log.forget(batch.ranges, token_before="first", token="second")
    assert log.token() is None
    assert log.read() == batch


def made_rows(number: int) -> None:
    RegistryChange.objects.bulk_create(
        [RegistryChange(kind="key", object_id=str(uuid.uuid4())) for _ in range(number)], batch_size=400
    )


def test_a_large_batch_is_forgotten() -> None:
    number = 1501
    made_rows(number)
    batch = log.read()
    assert len(batch.of(KEY)) == number
    assert log.forget(batch.ranges, token_before=None, token="first")
    assert log.read() == EMPTY


def test_ids_of_the_whole_log_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "IDS", 4)
    made_rows(11)
    ids = log.read().ids
    assert log.read_ids() == [(ids[0], ids[-1])]
    RegistryChange.objects.filter(pk__in=(ids[3], ids[4], ids[9])).delete()
    assert log.read_ids() == log.read().ranges == [(ids[0], ids[2]), (ids[5], ids[8]), (ids[10], ids[10])]


def test_an_empty_log_has_no_ids() -> None:
    assert log.read_ids() == EMPTY.ranges == []


def test_rows_between_those_that_were_read_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL they may commit later than rows of a greater id."""
    monkeypatch.setattr(log, "RANGES", 2)
    made_rows(12)
    ids = log.read().ids
    late = list(RegistryChange.objects.filter(pk__in=ids[::2]))
    RegistryChange.objects.filter(pk__in=ids[::2]).delete()
    read = log.read_ids()
    assert len(read) == 6
    RegistryChange.objects.bulk_create(late)
    assert log.forget(read, token_before=None, token="first")
    assert log.read().ids == ids[::2]


def test_an_id_is_never_used_again() -> None:
    make_endpoint("one")
    batch = log.read()
    assert log.forget(batch.ranges, token_before=None, token="first")
    late = make_endpoint("two")
    assert log.forget(batch.ranges, token_before="first", token="second")
    assert log.read().of(ENDPOINT) == {str(late.pk)}


@pytest.mark.parametrize("value", ["", "no id", "é" * 40])
def test_an_unreadable_id_is_nil(value: str) -> None:
    RegistryChange.objects.create(kind="user", object_id=value)
    assert log.read().of(USER) == {NIL}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL stores only valid text")
def test_an_id_that_is_no_text_is_nil() -> None:
    sql("INSERT INTO registry_changes (kind, object_id) VALUES ('user', CAST(x'ff00' AS TEXT)), ('user', x'fe')")
    assert log.read().of(USER) == {NIL}


def test_an_unknown_kind_is_forgotten() -> None:
    """A later release may have logged it before a downgrade."""
    RegistryChange.objects.create(kind="weather", object_id=str(uuid.uuid4()))
    batch = log.read()
    assert (batch.of(ENDPOINT), batch.of(KEY), batch.of(USER)) == (frozenset(),) * 3
    assert log.forget(batch.ranges, token_before=None, token="first")
    assert log.read() == EMPTY


def test_ids_have_the_form_of_the_registry() -> None:
    unique = uuid.uuid4()
    RegistryChange.objects.create(kind="endpoint", object_id=unique.hex.upper())
    assert log.read().of(ENDPOINT) == {str(unique)}


def test_an_unavailable_log_raises() -> None:
    with transaction.atomic():
        triggers.remove()
        sql("ALTER TABLE registry_changes RENAME TO gone")
        for call in (log.read, lambda: log.count(1)):
            with pytest.raises(DatabaseError), transaction.atomic():
                call()
        transaction.set_rollback(True)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
@pytest.mark.usefixtures("_committed")
def test_a_change_that_commits_late_is_not_lost() -> None:
    """Its row has a smaller id than a row that was read and forgotten before it became visible."""
    slow, quick = make_endpoint("slow"), make_endpoint("quick")
    RegistryChange.objects.all().delete()
    with closing(connections.create_connection("default")) as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("UPDATE endpoints SET notes = 'n' WHERE name = 'slow'")
            sql("UPDATE endpoints SET notes = 'n' WHERE name = 'quick'")
            batch = log.read()
            assert batch.of(ENDPOINT) == {str(quick.pk)}
            cursor.execute("SELECT min(id) FROM registry_changes")
            assert cursor.fetchone()[0] < batch.ids[0]
        assert log.forget(batch.ranges, token_before=None, token="first")
        other.commit()
    assert log.read().of(ENDPOINT) == {str(slow.pk)}


@pytest.mark.parametrize("before", [None, "zero"])
@pytest.mark.usefixtures("_committed")
def test_only_one_of_several_readers_forgets(before: str | None) -> None:
    if before:
        assert log.forget((), token_before=None, token=before)
    make_endpoint("one")
    batch = log.read()
    late = make_endpoint("two")
    together, won = threading.Barrier(4), []

    def forget(name: str) -> None:
        together.wait()
        if log.forget(batch.ranges, token_before=before, token=name):
            won.append(name)

    threads = [threading.Thread(target=meanwhile, args=(lambda n=n: forget(n),)) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [log.token()] == won
    assert log.read().of(ENDPOINT) == {str(late.pk)}
